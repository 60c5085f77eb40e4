"""What does another kind of index cost? Size on disk, recall, queries a second, and nDCG@10 after reranking with it.

    python benchmarks/search.py e2rank-minilm --data DIR [--kinds Flat SQ8 …] [--rounds N] [--json FILE] [--work DIR]

DIR is a BEIR folder (scifact, cranfield). The corpus is encoded once (Flat), every other kind is filled with the stored
vectors by the code of `e2rank index`. recall@100: how much of Flat's first 100 a kind finds, mean over the topics.
queries/s: all topics in one call, all threads, the kinds in turn. nDCG@10 of a kind's own dense run, and of *Flat's*
run reranked (depth 100, the model's window) with the vectors that the kind gives back: what quantised vectors cost.
`p` are paired t-tests of both against Flat's over the judged topics.
"""

import argparse
import math
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from e2rank_pyserini import DenseIndex, E2RankEncoder
from e2rank_pyserini import corpus as corpora
from e2rank_pyserini.bench import yardstick
from e2rank_pyserini.comparison import p_value
from e2rank_pyserini.datasets import Dataset, dataset
from e2rank_pyserini.evaluation import per_topic
from e2rank_pyserini.indexing import build_index, empty_index, fill
from e2rank_pyserini.prompts import document_text
from e2rank_pyserini.reranking import prompt_vectors, rescore
from e2rank_pyserini.types import Run, Vectors

HITS = 100
MEASURE = "nDCG@10"


def kinds_for(documents: int, dim: int) -> list[str]:
    """Factory strings that this many vectors can train: FAISS asks for 39 vectors a centroid."""
    bits = min(8, int(math.log2(documents / 39)))
    code, lists = f"x{bits}", 2**bits
    return [
        "Flat",
        "SQfp16",
        "SQ8",
        "HNSW32",
        f"IVF{lists},Flat",
        f"IVF{lists},PQ{dim // 8}{code}",
        f"PQ{dim // 4}{code}",
    ]


def built(flat: DenseIndex, vectors: Vectors, kind: str, place: Path) -> DenseIndex:
    """The vectors of `flat` in an index of another kind, with its docids and sidecar."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    index = empty_index(flat.dim, kind)
    fill(index, lambda: [vectors], kind)
    faiss.write_index(index, str(place / "index"))
    for name in ("docid", "e2rank.json"):
        shutil.copy(flat.directory / name, place / name)
    return DenseIndex(place)


def recall(found: list[list[Any]], exact: list[list[Any]]) -> float:
    shares = [
        len({hit.docid for hit in one} & {hit.docid for hit in other}) / len(other)
        for one, other in zip(found, exact, strict=True)
    ]
    return statistics.mean(shares)


class Topics:
    """The data set's topics with their vectors, Flat's run over them, and the prompts of that run."""

    def __init__(self, found: Dataset, flat: DenseIndex, encoder: E2RankEncoder) -> None:
        self.topics, self.qrels, self.relevance = found.topics(), found.qrels(), found.spec.relevance
        self.qids, self.encoder = list(self.topics), encoder
        self.vectors = encoder.encode_queries(list(self.topics.values()), found.spec.retrieval_task)
        self.first = self.run(flat)
        wanted = {hit.docid for hits in self.first.values() for hit in hits}
        self.texts = {
            docid: document_text(document.title, document.text, found.spec.document)
            for docid, document in corpora.find(found.corpus(), wanted).items()
        }
        window = encoder.spec.window
        self.prompts = prompt_vectors(self.first, self.topics, self.texts, encoder, window=window)

    def run(self, index: DenseIndex) -> Run:
        return dict(zip(self.qids, index.search(self.vectors, HITS), strict=True))

    def scores(self, run: Run) -> np.ndarray:
        """(topics,) of nDCG@10, in the qrels' order."""
        found = per_topic(run, self.qrels, relevance=self.relevance, measures=[MEASURE])[MEASURE]
        return np.array([found[qid] for qid in self.qrels])

    def reranked(self, index: DenseIndex) -> np.ndarray:
        return self.scores(rescore(self.first, self.prompts, self.texts, index, self.encoder, depth=HITS))


def compared(new: np.ndarray, old: np.ndarray) -> float:
    return 1.0 if np.array_equal(new, old) else p_value(new, old, "t", 0)


def measured(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    encoder = E2RankEncoder.load(name)
    found = dataset(str(arguments.data), arguments.split)
    place = arguments.work / f"{arguments.data.name}.{Path(name).name}.{encoder.identity}"
    if not (place / "Flat").exists():
        build_index(corpora.documents(found.corpus()), encoder, place / "Flat", template=found.spec.document)
    flat = DenseIndex(place / "Flat", encoder)
    vectors, _ = flat.vectors(flat.docids)
    kinds = arguments.kinds or kinds_for(len(flat), flat.dim)
    others = {kind: built(flat, vectors, kind, place / kind.replace(",", "-")) for kind in kinds if kind != "Flat"}
    indexes = {"Flat": flat, **others}
    asked = Topics(found, flat, encoder)
    seconds: dict[str, list[float]] = {kind: [] for kind in indexes}
    for index in indexes.values():
        index.search(asked.vectors[:1], HITS)  # the file's pages are read
    for _ in range(arguments.rounds):
        for kind, index in indexes.items():
            started = time.perf_counter()
            index.search(asked.vectors, HITS)
            seconds[kind].append(time.perf_counter() - started)
    exact = flat.search(asked.vectors, HITS)
    dense, again = asked.scores(asked.first), asked.reranked(flat)
    rows = {}
    for kind, index in indexes.items():
        own, reranked = asked.scores(asked.run(index)), asked.reranked(index)
        rows[kind] = {
            "bytes": (index.directory / "index").stat().st_size,
            "recall": recall(index.search(asked.vectors, HITS), exact),
            "queries/s": len(asked.qids) / statistics.median(seconds[kind]),
            "seconds": seconds[kind],
            "dense": float(own.mean()),
            "dense p": compared(own, dense),
            "reranked": float(reranked.mean()),
            "reranked p": compared(reranked, again),
        }
    return {"model": name, "documents": len(flat), "dim": flat.dim, "topics": len(asked.qids), "kinds": rows}


def shown(found: dict[str, Any]) -> str:
    head = (
        f"\n{found['model']}: {found['documents']} documents, {found['dim']} dimensions, {found['topics']} topics, "
        f"{HITS} hits\n\n"
    )
    heads = ["", "MB", "recall@100", "queries/s", "dense nDCG@10", "p", "reranked nDCG@10", "p"]
    rows = [
        [
            kind,
            f"{row['bytes'] / 1e6:.2f}",
            f"{row['recall']:.3f}",
            f"{row['queries/s']:,.0f}",
            *(f"{100 * row['dense']:.2f}", f"{row['dense p']:.2f}"),
            *(f"{100 * row['reranked']:.2f}", f"{row['reranked p']:.2f}"),
        ]
        for kind, row in found["kinds"].items()
    ]
    return head + yardstick.table(heads, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="+", metavar="ENCODER")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--kinds", nargs="+", metavar="FACTORY", help="FAISS factory strings (default: seven kinds)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", type=Path, default=Path("indexes/search"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    setting = yardstick.setting("cpu")
    yardstick.announce(setting)
    results = []
    for name in arguments.encoders:
        results.append(measured(name, arguments))
        print(shown(results[-1]), flush=True)
    yardstick.write_json(arguments.json, {"setting": setting, "results": results})


if __name__ == "__main__":
    main()
