#!/usr/bin/env bash
# e2rank-smollm2-135m from data alone: a teacher's vectors, then the listwise prompt. About an hour and ten minutes on two cores.
#   COLLECTIONS=DIR recipes/e2rank-smollm2-135m/train.sh [OUT]
# DIR holds BEIR folders: msmarco-v2-dl21-22 (with runs/), antique-train, scifact. trec-rag24 comes from its package,
# WordNet from Debian's (or name the folder of its data files in WORDNET). Goes on where it was stopped.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
OUT=${1:-indexes/train.e2rank-smollm2-135m}
BIN=${BIN:-.venv/bin}
: "${COLLECTIONS:?name the folder of the collections}"
mkdir -p "$OUT"
if [ -z "${WORDNET:-}" ]; then
    WORDNET=$OUT/wordnet/usr/share/wordnet
    [ -d "$WORDNET" ] || (cd "$OUT" && apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb wordnet)
fi
DATA=$COLLECTIONS WORDNET=$WORDNET BIN=$BIN "$here/data.sh" "$OUT"
# two processes of one thread are quicker than one of two; glibc keeps the memory that every step needs again
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=8589934592
train=("$BIN/python" -m torch.distributed.run --nproc_per_node 2 -m e2rank_pyserini train)
[ -d "$OUT/distilled" ] || "${train[@]}" --encoder "$here" --recipe e2rank-smollm2-135m-distil \
    --data "$OUT/texts.jsonl" --output "$OUT/distilled"
"${train[@]}" --encoder "$OUT/distilled" --recipe e2rank-smollm2-135m --data "$OUT"/{antique,dl21,dl22,rag24}.train.jsonl \
    --output "$OUT/model"
