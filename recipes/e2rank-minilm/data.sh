#!/usr/bin/env bash
# Lists of the first run, in OUT: MiniLM's own hits in place of the teacher's. MADE is where ../data.sh has put the teacher and
# BM25's runs, COLLECTIONS as there; the topics that it keeps apart are kept apart here.
set -euo pipefail
OUT=${1:?usage: data.sh OUT MADE}; MADE=${2:?usage: data.sh OUT MADE}; E2RANK=${BIN:-.venv/bin}/e2rank; TEACHER=$MADE/gte-small
mkdir -p "$OUT"
DL=${COLLECTIONS:?}/msmarco-v2-dl21-22; ANTIQUE=$COLLECTIONS/antique-train; SCIFACT=$COLLECTIONS/scifact

dense() { # NAME DATASET SPLIT: MiniLM's own first stage
    [ -e "$OUT/$1.index" ] || "$E2RANK" index --dataset "$2" --split "$3" --encoder minilm --output "$OUT/$1.index"
    [ -e "$OUT/$1.dense.trec" ] || "$E2RANK" search --dataset "$2" --split "$3" --index "$OUT/$1.index" --hits 100 --output "$OUT/$1.dense.trec"
}
lists() { # NAME OPTIONS…
    local name=$1; shift
    [ -e "$OUT/$name.train.jsonl" ] || "$E2RANK" data "$@" --source "$name" --labels scores --scorer "$TEACHER" --fold train --keep-top 8 --output "$OUT/$name.train.jsonl"
}

dense dl21 "$DL" train-dl21
dense antique "$ANTIQUE" train
dense scifact "$SCIFACT" train
dense rag24 trec-rag24 llm

dl21=(--dataset "$DL" --split train-dl21 --run "$DL/runs/dl21.bm25.top100.trec" --run "$DL/runs/dl21.splade_pp.top100.trec" --run "$OUT/dl21.dense.trec")
dl22=(--dataset "$DL" --run "$DL/runs/dl22.bm25.top100.trec" --run "$DL/runs/dl22.splade_pp.top100.trec")
rag=(--dataset trec-rag24 --split llm)
cache=${E2RANK_CACHE:-$HOME/.cache/e2rank}/trec-rag24-1.2.5/runs
rag+=(--run "$cache/llm.references.trec" --run "$cache/llm.shuffled.trec" --run "$OUT/rag24.dense.trec")
antique=(--dataset "$ANTIQUE" --split train --run "$MADE/antique.bm25.trec" --run "$OUT/antique.dense.trec")
scifact=(--dataset "$SCIFACT" --split train --run "$MADE/scifact.bm25.trec" --run "$OUT/scifact.dense.trec")
lists antique "${antique[@]}" --lists 2 --with-qrels 1.5
lists dl21 "${dl21[@]}" --lists 6 --scorer "run:$DL/runs/dl21.splade_pp.top100.trec" --with-qrels 1.5
lists dl22 "${dl22[@]}" --lists 5 --scorer "run:$DL/runs/dl22.splade_pp.top100.trec"
lists rag24 "${rag[@]}" --lists 2 --with-qrels 1.5
lists scifact "${scifact[@]}" --lists 1 --scorer "run:$MADE/scifact.bm25.trec" --with-qrels 3
