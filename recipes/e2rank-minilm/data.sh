#!/usr/bin/env bash
# Lists of the first run, and dev lists. COLLECTIONS holds the BEIR-form folders named below; TEACHER is made by ../gte-small.sh.
# Of the topics a tenth (by their qid's hash) is dev. Nothing of DL19, DL20, SciFact test, Cranfield, semanlink or the
# NIST topics of trec-rag24 is read.
set -euo pipefail
OUT=${1:?usage: data.sh OUT}; DATA=${COLLECTIONS:?}; TEACHER=${TEACHER:?}; E2RANK=${E2RANK:-e2rank}
mkdir -p "$OUT"
DL=$DATA/msmarco-v2-dl21-22; ANTIQUE=$DATA/antique-train; SCIFACT=$DATA/scifact

dense() { # NAME DATASET SPLIT: MiniLM's own first stage
    [ -e "$OUT/$1.index" ] || $E2RANK index --dataset "$2" --split "$3" --encoder minilm --output "$OUT/$1.index"
    [ -e "$OUT/$1.dense.trec" ] || $E2RANK search --dataset "$2" --split "$3" --index "$OUT/$1.index" --hits 100 --output "$OUT/$1.dense.trec"
}
lists() { # NAME OPTIONS…: a training and a dev file
    local name=$1; shift
    [ -e "$OUT/$name.train.jsonl" ] || $E2RANK data "$@" --source "$name" --labels scores --scorer "$TEACHER" --fold train --keep-top 8 --output "$OUT/$name.train.jsonl"
}
dev() { # NAME OPTIONS…: judged lists of 40 from held-out topics
    local name=$1; shift
    [ -e "$OUT/$name.dev.jsonl" ] || $E2RANK data "$@" --source "$name" --labels qrels --fold dev --documents 40 --output "$OUT/$name.dev.jsonl"
}

dense dl21 "$DL" train-dl21
dense antique "$ANTIQUE" train
dense scifact "$SCIFACT" train
dense rag24 trec-rag24 llm
for set in antique scifact; do
    folder=$([ $set = antique ] && echo "$ANTIQUE" || echo "$SCIFACT")
    [ -e "$OUT/$set.bm25.trec" ] || $E2RANK bm25 --dataset "$folder" --split train --index "$OUT/$set.lucene" --hits 100 --output "$OUT/$set.bm25.trec"
done

dl21=(--dataset "$DL" --split train-dl21 --run "$DL/runs/dl21.bm25.top100.trec" --run "$DL/runs/dl21.splade_pp.top100.trec" --run "$OUT/dl21.dense.trec")
dl22=(--dataset "$DL" --run "$DL/runs/dl22.bm25.top100.trec" --run "$DL/runs/dl22.splade_pp.top100.trec")
rag=(--dataset trec-rag24 --split llm)
cache=${E2RANK_CACHE:-$HOME/.cache/e2rank}/trec-rag24-1.2.5/runs
rag+=(--run "$cache/llm.references.trec" --run "$cache/llm.shuffled.trec" --run "$OUT/rag24.dense.trec")
antique=(--dataset "$ANTIQUE" --split train --run "$OUT/antique.bm25.trec" --run "$OUT/antique.dense.trec")
scifact=(--dataset "$SCIFACT" --split train --run "$OUT/scifact.bm25.trec" --run "$OUT/scifact.dense.trec")

dev dl21 "${dl21[@]}"
dev rag24 "${rag[@]}"
dev antique "${antique[@]}"
dev scifact "${scifact[@]}"
for set in rag24 antique scifact; do awk 'NR % 3 == 1' "$OUT/$set.dev.jsonl"; done | cat "$OUT/dl21.dev.jsonl" - > "$OUT/dev.jsonl"
lists antique "${antique[@]}" --lists 2 --with-qrels 1.5
lists dl21 "${dl21[@]}" --lists 6 --scorer "run:$DL/runs/dl21.splade_pp.top100.trec" --with-qrels 1.5
lists dl22 "${dl22[@]}" --lists 5 --scorer "run:$DL/runs/dl22.splade_pp.top100.trec"
lists rag24 "${rag[@]}" --lists 2 --with-qrels 1.5
lists scifact "${scifact[@]}" --lists 1 --scorer "run:$OUT/scifact.bm25.trec" --with-qrels 3
