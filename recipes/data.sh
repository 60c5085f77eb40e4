#!/usr/bin/env bash
# What both models learn from, in OUT: the teacher; texts.jsonl for its vectors; lists of 16 for the listwise prompt; judged
# lists of 40 to look at on the way (dev.jsonl). Half an hour on two cores; goes on where it was stopped.
#   COLLECTIONS=DIR recipes/data.sh OUT
# COLLECTIONS holds BEIR folders: msmarco-v2-dl21-22 (with runs/), antique-train, scifact. trec-rag24 comes from its package,
# WordNet, FOLDOC and GCIDE from Debian's (or name the folders of their files in WORDNET and DICTD), topics from an old
# Pyserini's, the teacher from npm's. A tenth of the topics (by their qid's hash) is dev. Nothing is read of DL19, DL20,
# SciFact's test claims, Cranfield, semanlink or the NIST topics of trec-rag24.
set -euo pipefail
OUT=${1:?usage: data.sh OUT}; BIN=${BIN:-.venv/bin}
: "${COLLECTIONS:?name the folder of the collections}"
here=$(cd "$(dirname "$0")" && pwd)
E2RANK=$BIN/e2rank
mkdir -p "$OUT"
TEACHER=$OUT/gte-small
BIN=$BIN "$here/gte-small.sh" "$OUT"
[ -e "$OUT"/pyserini-0.21.0-*.whl ] || "$BIN/pip" download --quiet --no-deps --dest "$OUT" pyserini==0.21.0
unpacked() ( # FOLDER PACKAGE…: Debian's packages, all of them or none
    cd "$OUT"
    rm -rf "$1.new" "$1"
    for package in "${@:2}"; do
        rm -f "$package"_*.deb
        apt-get download "$package"
        dpkg-deb -x "$package"_*.deb "$1.new"
    done
    mv "$1.new" "$1"
)
if [ -z "${WORDNET:-}" ]; then
    WORDNET=$OUT/wordnet/usr/share/wordnet
    [ -d "$WORDNET" ] || unpacked wordnet wordnet-base
fi
if [ -z "${DICTD:-}" ]; then
    DICTD=$OUT/dictd/usr/share/dictd
    [ -d "$DICTD" ] || unpacked dictd dict-foldoc dict-gcide
fi
DL=$COLLECTIONS/msmarco-v2-dl21-22; ANTIQUE=$COLLECTIONS/antique-train; SCIFACT=$COLLECTIONS/scifact
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
dev() { # NAME OPTIONS…: of held-out topics
    local name=$1; shift
    [ -e "$OUT/$name.dev.jsonl" ] || "$E2RANK" data "$@" --source "$name" --labels qrels --fold dev --documents 40 \
        --output "$OUT/$name.dev.jsonl"
}

[ -e "$OUT/texts.jsonl" ] || "$BIN/python" "$here/texts.py" "$COLLECTIONS" "$WORDNET" "$DICTD" \
    "$OUT"/pyserini-0.21.0-*.whl "$OUT/texts.jsonl"
dense dl21 "$DL" train-dl21
[ -e "$OUT/dl22.dense.trec" ] || "$E2RANK" search --topics "$DL/queries.jsonl" --index "$OUT/dl21.index" --hits 1000 \
    --output "$OUT/dl22.dense.trec"
dense antique "$ANTIQUE" train
dense scifact "$SCIFACT" train
dense rag24 trec-rag24 llm
bm25 antique "$ANTIQUE" train
bm25 scifact "$SCIFACT" train

dl21=(--dataset "$DL" --split train-dl21 --run "$DL/runs/dl21.bm25.top100.trec" --run "$DL/runs/dl21.splade_pp.top100.trec"
    --run "$OUT/dl21.dense.trec")
antique=(--dataset "$ANTIQUE" --split train --run "$OUT/antique.bm25.trec" --run "$OUT/antique.dense.trec")
rag24=(--dataset trec-rag24 --split llm --run "$RAG/llm.references.trec" --run "$RAG/llm.shuffled.trec" --run "$OUT/rag24.dense.trec")
scifact=(--dataset "$SCIFACT" --split train --run "$OUT/scifact.bm25.trec" --run "$OUT/scifact.dense.trec")
lists dl21 "${dl21[@]}" --lists 6 --scorer "run:$OUT/dl21.dense.trec" --scorer "run:$DL/runs/dl21.splade_pp.top100.trec" --with-qrels 1.5
lists dl22 --dataset "$DL" --run "$DL/runs/dl22.bm25.top100.trec" --run "$DL/runs/dl22.splade_pp.top100.trec" \
    --lists 5 --scorer "run:$OUT/dl22.dense.trec" --scorer "run:$DL/runs/dl22.splade_pp.top100.trec"
lists antique "${antique[@]}" --lists 2 --scorer "run:$OUT/antique.dense.trec" --with-qrels 1.5
lists rag24 "${rag24[@]}" --lists 2 --scorer "run:$OUT/rag24.dense.trec" --with-qrels 1.5
lists scifact "${scifact[@]}" --lists 1 --scorer "run:$OUT/scifact.dense.trec" --scorer "run:$OUT/scifact.bm25.trec" --with-qrels 3
dev dl21 "${dl21[@]}"
dev antique "${antique[@]}"
dev rag24 "${rag24[@]}"
dev scifact "${scifact[@]}"
(cat "$OUT/dl21.dev.jsonl"; for set in antique rag24 scifact; do awk 'NR % 4 == 1' "$OUT/$set.dev.jsonl"; done) > "$OUT/dev.jsonl"

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
