#!/usr/bin/env bash
# What e2rank-smollm2-135m learns from: texts.jsonl for the teacher's vectors, lists of 8 for the listwise prompt. DATA
# holds the BEIR folders named below, WORDNET WordNet's data files. A tenth of the topics (by their qid's hash) is not
# read, nor anything of DL19, DL20, SciFact's test claims, Cranfield, semanlink or the NIST topics of trec-rag24.
set -euo pipefail
OUT=${1:?usage: data.sh OUT}; DATA=${DATA:?}; WORDNET=${WORDNET:?}; BIN=${BIN:-.venv/bin}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$OUT"
DL=$DATA/msmarco-v2-dl21-22; RAG=${E2RANK_CACHE:-$HOME/.cache/e2rank}/trec-rag24-1.2.5/runs

lists() { # NAME OPTIONS…
    local name=$1; shift
    [ -e "$OUT/$name.train.jsonl" ] || "$BIN/e2rank" data "$@" --source "$name" --labels scores --scorer e2rank-minilm --fold train \
        --documents 8 --keep-top 5 --max-words 60 --output "$OUT/$name.train.jsonl"
}

[ -e "$OUT/texts.jsonl" ] || "$BIN/python" "$here/texts.py" "$DATA" "$WORDNET" "$OUT/texts.jsonl"
[ -e "$OUT/antique.bm25.trec" ] || "$BIN/e2rank" bm25 --dataset "$DATA/antique-train" --split train --index "$OUT/antique.lucene" \
    --hits 100 --output "$OUT/antique.bm25.trec"
lists dl21 --dataset "$DL" --split train-dl21 --run "$DL/runs/dl21.bm25.top100.trec" --run "$DL/runs/dl21.splade_pp.top100.trec" \
    --lists 6 --scorer "run:$DL/runs/dl21.splade_pp.top100.trec" --with-qrels 1.5
lists dl22 --dataset "$DL" --run "$DL/runs/dl22.bm25.top100.trec" --run "$DL/runs/dl22.splade_pp.top100.trec" \
    --lists 5 --scorer "run:$DL/runs/dl22.splade_pp.top100.trec"
lists antique --dataset "$DATA/antique-train" --split train --run "$OUT/antique.bm25.trec" --lists 2 --with-qrels 1.5
lists rag24 --dataset trec-rag24 --split llm --run "$RAG/llm.references.trec" --run "$RAG/llm.shuffled.trec" --lists 2 --with-qrels 1.5
