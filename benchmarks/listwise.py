"""Does the listwise prompt help? One model, several collections, nDCG@10, with paired tests.

    python benchmarks/listwise.py e2rank-minilm --data DIR [--work DIR] [--sets dl19 cranfield …] [--windows] [--orders]
    python benchmarks/listwise.py e2rank-minilm OTHER … --data DIR        # others against the first, with paired tests

DIR holds BEIR folders (msmarco-dl-pool with its runs, scifact, cranfield); semanlink and trec-rag24 come from their
packages. Columns: the first stage (for DL19 and DL20 BM25's top 100, else the model's own dense run), rescored by the
query's vector, by average and Rocchio feedback on the stored vectors (the first 3, as Pyserini's DenseVectorAveragePrf
and DenseVectorRocchioPrf with alpha 1, beta 0.5), by the listwise prompt. `p` and `p rocchio` are paired t-tests of the
prompt against the query's vector and against Rocchio over the topics.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

from e2rank_pyserini import DenseIndex, E2RankEncoder
from e2rank_pyserini import corpus as corpora
from e2rank_pyserini.comparison import p_value
from e2rank_pyserini.datasets import Dataset, dataset
from e2rank_pyserini.evaluation import per_topic
from e2rank_pyserini.feedback import Rule, average, prf_vectors, reading, rocchio
from e2rank_pyserini.indexing import build_index
from e2rank_pyserini.prompts import document_text
from e2rank_pyserini.reranking import prompt_vectors, rescore
from e2rank_pyserini.retrieval import search
from e2rank_pyserini.trec import read_run
from e2rank_pyserini.types import Qrels, Run, Topics, Vectors

WINDOWS = (1, 2, 3, 5, 8, 12, 16, 20)
FEEDBACK = 3
SETS = {  # folder or name, split, first stage (None: the model's own dense run)
    "dl19": ("msmarco-dl-pool", "test-dl19", "runs/dl19.bm25.top100.trec"),
    "dl20": ("msmarco-dl-pool", "test-dl20", "runs/dl20.bm25.top100.trec"),
    "scifact": ("scifact", "test", None),
    "cranfield": ("cranfield", "test", None),
    "semanlink": ("semanlink", "demo", None),
    "trec-rag24": ("trec-rag24", "test", None),
}
Scores = dict[str, float]  # qid -> nDCG@10


class Collection:
    """One data set with its index by this model, its first stage and what the prompt reads."""

    def __init__(self, name: str, data: Path, work: Path, encoder: E2RankEncoder) -> None:
        place, split, first = SETS[name]
        found = dataset(str(data / place) if (data / place).is_dir() else place, split)
        self.topics: Topics = found.topics()
        self.qrels: Qrels = found.qrels()
        self.relevance, self.encoder = found.spec.relevance, encoder
        self.index = self._index(found, work / f"{place}.{Path(encoder.spec.name).name}.{encoder.identity}")
        if first is None:
            self.run = search(self.topics, self.index, encoder, hits=100)
        else:
            self.run = {qid: hits for qid, hits in read_run(data / place / first).items() if qid in self.qrels}
        wanted = {hit.docid for hits in self.run.values() for hit in hits}
        self.texts = {
            docid: document_text(document.title, document.text, found.spec.document)
            for docid, document in corpora.find(found.corpus(), wanted).items()
        }
        qids = list(self.run)
        self.queries: dict[str, Vectors] = dict(
            zip(qids, encoder.encode_queries([self.topics[qid] for qid in qids]), strict=True)
        )

    def _index(self, found: Dataset, place: Path) -> DenseIndex:
        if not place.exists():
            build_index(corpora.documents(found.corpus()), self.encoder, place, template=found.spec.document)
        return DenseIndex(place, self.encoder)

    def scores(self, run: Run) -> Scores:
        return per_topic(run, self.qrels, relevance=self.relevance, measures=["nDCG@10"])["nDCG@10"]

    def rescored(self, vectors: dict[str, Vectors]) -> Scores:
        return self.scores(rescore(self.run, vectors, self.texts, self.index, self.encoder))

    def feedback(self, rule: Rule) -> Scores:
        read = reading(self.run, window=FEEDBACK)
        return self.rescored(prf_vectors(read, self.queries, self.texts, self.index, self.encoder, rule))

    def prompted(self, window: int, order: str = "initial") -> Scores:
        read = reading(self.run, window=window, order=order)
        return self.rescored(prompt_vectors(read, self.topics, self.texts, self.encoder, window=window))


def mean(scores: Scores) -> float:
    return 100 * sum(scores.values()) / len(scores)


def compared(new: Scores, old: Scores) -> float:
    """p of a paired two-sided t-test; 1 where nothing differs."""
    return p_value(np.array([new[qid] for qid in old]), np.array(list(old.values())), "t", 0)


def measure(collection: Collection, windows: bool, orders: bool) -> tuple[dict[str, float], dict[str, Scores]]:
    """The row of the table, and the scores by topic of what other models are compared by."""
    window = collection.encoder.spec.window
    query, prompt = collection.rescored(collection.queries), collection.prompted(window)
    by_rocchio = collection.feedback(rocchio)
    found = {
        "first": mean(collection.scores(collection.run)),
        "query": mean(query),
        "average": mean(collection.feedback(average)),
        "rocchio": mean(by_rocchio),
        "prompt": mean(prompt),
        "p": compared(prompt, query),
        "p rocchio": compared(prompt, by_rocchio),
    }
    if windows:
        found |= {f"window {size}": mean(collection.prompted(size)) for size in WINDOWS}
    if orders:
        for order in ("shuffle", "reverse"):
            scores = collection.prompted(window, order)
            found |= {order: mean(scores), f"p {order}": compared(scores, prompt)}
    return found, {"query": query, "prompt": prompt}


def loaded(name: str, prompt: str | None, dtype: str | None, like: str | None) -> E2RankEncoder:
    encoder = E2RankEncoder.load(name, dtype=dtype, like=like)
    if prompt is None:
        return encoder
    spec = dataclasses.replace(encoder.spec, prompt=prompt)
    return E2RankEncoder(spec, encoder.network, encoder.tokens.tokenizer, encoder.identity)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="+", metavar="ENCODER")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("indexes/benchmark"))
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--prompt", help="variant of the listwise prompt (default: the model's)")
    parser.add_argument("--dtype")
    parser.add_argument("--like")
    parser.add_argument("--windows", action="store_true", help="also with 1 to 20 documents in the prompt")
    parser.add_argument("--orders", action="store_true", help="also with the prompt's documents shuffled and reversed")
    arguments = parser.parse_args()
    encoders = [loaded(name, arguments.prompt, arguments.dtype, arguments.like) for name in arguments.encoders]
    for name in arguments.sets:
        place = SETS[name][0]
        if place not in ("semanlink", "trec-rag24") and not (arguments.data / place).is_dir():
            print(f"{name}: skipped, {arguments.data / place} is not there", file=sys.stderr)
            continue
        first: dict[str, Scores] = {}
        for model, encoder in zip(arguments.encoders, encoders, strict=True):
            collection = Collection(name, arguments.data, arguments.work, encoder)
            found, by_topic = measure(collection, arguments.windows, arguments.orders)
            found |= {f"p {key} of the first": compared(by_topic[key], first[key]) for key in first}
            first = first or by_topic
            row = {"model": model, "set": name, **{key: round(value, 4) for key, value in found.items()}}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
