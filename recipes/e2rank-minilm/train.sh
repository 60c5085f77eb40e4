#!/usr/bin/env bash
# e2rank-minilm from data alone: teacher, lists, a first model, and that one's prompts trained further. An hour and a half on
# two cores without a GPU.
#   COLLECTIONS=DIR recipes/e2rank-minilm/train.sh [OUT]
# Goes on where it was stopped. See ../data.sh for what COLLECTIONS holds and what is fetched.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
OUT=${1:-indexes/train.e2rank-minilm}
export BIN=${BIN:-.venv/bin}
"$here/../data.sh" "$OUT"
"$here/data.sh" "$OUT/lists" "$OUT"
# two processes of one thread are quicker than one of two; glibc keeps the memory that every step needs again
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=8589934592
train=("$BIN/python" -m torch.distributed.run --nproc_per_node 2 -m e2rank_pyserini train --dev "$OUT/dev.jsonl")
[ -d "$OUT/first" ] || "${train[@]}" --encoder minilm --prompt pair --recipe e2rank-minilm --output "$OUT/first" \
    --data "$OUT/lists"/{antique,dl21,dl22,rag24,scifact}.train.jsonl
"${train[@]}" --encoder "$OUT/first" --teacher "$OUT/first" --recipe e2rank-minilm-prompt --output "$OUT/model" \
    --data "$OUT"/{antique,dl21,dl22,rag24,scifact,web}.train.jsonl
