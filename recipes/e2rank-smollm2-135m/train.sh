#!/usr/bin/env bash
# e2rank-smollm2-135m from data alone: a teacher's vectors, then the listwise prompt. The data takes half an hour on two cores,
# training some minutes on one GPU; where there is none, a shorter run of hours on the CPU.
#   COLLECTIONS=DIR recipes/e2rank-smollm2-135m/train.sh [OUT]
# Goes on where it was stopped. See ../data.sh for what COLLECTIONS holds and what is fetched.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
OUT=${1:-indexes/train.e2rank-smollm2-135m}
export BIN=${BIN:-.venv/bin}
"$here/../data.sh" "$OUT"
train=("$BIN/python" -m e2rank_pyserini train --teacher "$OUT/gte-small")
first=()
if ! "$BIN/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    # two processes of one thread are quicker than one of two; glibc keeps the memory that every step needs again
    export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=8589934592
    train=("$BIN/python" -m torch.distributed.run --nproc_per_node 2 -m e2rank_pyserini train --teacher "$OUT/gte-small")
    first=(--batch 64 --steps 3000)
fi
[ -d "$OUT/distilled" ] || "${train[@]}" --encoder "$here" --recipe e2rank-smollm2-135m-distil "${first[@]}" \
    --data "$OUT/texts.jsonl" --output "$OUT/distilled"
"${train[@]}" --encoder "$OUT/distilled" --recipe e2rank-smollm2-135m \
    --data "$OUT"/{antique,dl21,dl22,rag24,scifact,web}.train.jsonl --output "$OUT/model"
