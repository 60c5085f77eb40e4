#!/usr/bin/env bash
# What e2rank-smollm2-135m learns from: texts.jsonl for the teacher's vectors, lists of 16 for the listwise prompt. DATA
# holds the BEIR folders named below, WORDNET WordNet's data files, PYSERINI the wheel that texts.py reads topics from,
# TEACHER gte-small. A tenth of the topics (by their qid's hash) is not read, nor anything of DL19, DL20, SciFact's test
# claims, Cranfield, semanlink or the NIST topics of trec-rag24.
set -euo pipefail
OUT=${1:?usage: data.sh OUT}; DATA=${DATA:?}; WORDNET=${WORDNET:?}; PYSERINI=${PYSERINI:?}; TEACHER=${TEACHER:?}; BIN=${BIN:-.venv/bin}
here=$(cd "$(dirname "$0")" && pwd)
E2RANK=$BIN/e2rank
mkdir -p "$OUT"
DL=$DATA/msmarco-v2-dl21-22; ANTIQUE=$DATA/antique-train; SCIFACT=$DATA/scifact
RAG=${E2RANK_CACHE:-$HOME/.cache/e2rank}/trec-rag24-1.2.5/runs

dense() { # NAME DATASET SPLIT: the teacher's own first stage, deep enough to rank the others' hits
    [ -e "$OUT/$1.index" ] || "$E2RANK" index --dataset "$2" --split "$3" --encoder "$TEACHER" --output "$OUT/$1.index"
    [ -e "$OUT/$1.dense.trec" ] || "$E2RANK" search --dataset "$2" --split "$3" --index "$OUT/$1.index" --hits 1000 \
        --output "$OUT/$1.dense.trec"
}
bm25() { # NAME DATASET SPLIT
    [ -e "$OUT/$1.bm25.trec" ] || "$E2RANK" bm25 --dataset "$2" --split "$3" --index "$OUT/$1.lucene" --hits 100 --output "$OUT/$1.bm25.trec"
}
lists() { # NAME OPTIONS…
    local name=$1; shift
    [ -e "$OUT/$name.train.jsonl" ] || "$E2RANK" data "$@" --source "$name" --labels scores --fold train --documents 16 \
        --keep-top 10 --output "$OUT/$name.train.jsonl"
}

[ -e "$OUT/texts.jsonl" ] || "$BIN/python" "$here/texts.py" "$DATA" "$WORDNET" "$PYSERINI" "$OUT/texts.jsonl"
dense dl21 "$DL" train-dl21
[ -e "$OUT/dl22.dense.trec" ] || "$E2RANK" search --topics "$DL/queries.jsonl" --index "$OUT/dl21.index" --hits 1000 \
    --output "$OUT/dl22.dense.trec"
dense antique "$ANTIQUE" train
dense scifact "$SCIFACT" train
dense rag24 trec-rag24 llm
bm25 antique "$ANTIQUE" train
bm25 scifact "$SCIFACT" train

lists dl21 --dataset "$DL" --split train-dl21 --run "$DL/runs/dl21.bm25.top100.trec" --run "$DL/runs/dl21.splade_pp.top100.trec" \
    --run "$OUT/dl21.dense.trec" --lists 6 --scorer "run:$OUT/dl21.dense.trec" --scorer "run:$DL/runs/dl21.splade_pp.top100.trec" --with-qrels 1.5
lists dl22 --dataset "$DL" --run "$DL/runs/dl22.bm25.top100.trec" --run "$DL/runs/dl22.splade_pp.top100.trec" \
    --lists 5 --scorer "run:$OUT/dl22.dense.trec" --scorer "run:$DL/runs/dl22.splade_pp.top100.trec"
lists antique --dataset "$ANTIQUE" --split train --run "$OUT/antique.bm25.trec" --run "$OUT/antique.dense.trec" --lists 2 \
    --scorer "run:$OUT/antique.dense.trec" --with-qrels 1.5
lists rag24 --dataset trec-rag24 --split llm --run "$RAG/llm.references.trec" --run "$RAG/llm.shuffled.trec" \
    --run "$OUT/rag24.dense.trec" --lists 2 --scorer "run:$OUT/rag24.dense.trec" --with-qrels 1.5
lists scifact --dataset "$SCIFACT" --split train --run "$OUT/scifact.bm25.trec" --run "$OUT/scifact.dense.trec" --lists 1 \
    --scorer "run:$OUT/scifact.dense.trec" --scorer "run:$OUT/scifact.bm25.trec" --with-qrels 3

# MS MARCO's topics over DL21's passages, where one is near: MiniLM's order, ranked by the teacher's feedback
if [ ! -e "$OUT/web.train.jsonl" ]; then
    "$E2RANK" search --topics "$OUT/texts.jsonl.web.tsv" --index "$OUT/dl21.index" --hits 100 --output "$OUT/web.all.trec"
    awk '$4 == 1 && $5 > 0.86 {print $1}' "$OUT/web.all.trec" > "$OUT/web.qids"
    awk 'NR == FNR {near[$1]; next} $1 in near' "$OUT/web.qids" "$OUT/web.all.trec" > "$OUT/web.near.trec"
    awk -F '\t' 'NR == FNR {near[$1]; next} $1 in near' "$OUT/web.qids" "$OUT/texts.jsonl.web.tsv" > "$OUT/web.tsv"
    "$E2RANK" feedback --by rocchio --topics "$OUT/web.tsv" --run "$OUT/web.near.trec" --index "$OUT/dl21.index" --hits 1000 \
        --output "$OUT/web.rocchio.trec"
    [ -e "$OUT/minilm.index" ] || "$E2RANK" index --corpus "$DL/corpus.jsonl" --encoder minilm --output "$OUT/minilm.index"
    "$E2RANK" search --topics "$OUT/web.tsv" --index "$OUT/minilm.index" --hits 100 --output "$OUT/web.minilm.trec"
    lists web --topics "$OUT/web.tsv" --corpus "$DL/corpus.jsonl" --run "$OUT/web.minilm.trec" --scorer "run:$OUT/web.rocchio.trec"
fi
