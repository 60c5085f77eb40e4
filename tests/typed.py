"""A user's program that mypy reads, as `make lint` runs it; nothing runs it. The public names have types.

mypy reports a `type: ignore` that it did not need: a wrong call that it takes fails here too.
"""

from pathlib import Path
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import e2rank_pyserini
from e2rank_pyserini import (
    DenseIndex,
    E2RankEncoder,
    E2RankError,
    Hit,
    ListwisePrompt,
    build_index,
    documents,
    evaluate,
    read_qrels,
    read_run,
    read_topics,
    rerank,
    search,
    write_run,
)
from e2rank_pyserini.pyserini.feedback import E2RankPrf, Scored, rerank_hits

Hits = dict[str, list[Hit]]


class Mine(E2RankError):
    """An error of the user's own."""


def a_program(place: Path) -> None:
    """Index, search, rerank, evaluate."""
    encoder = assert_type(E2RankEncoder.load("e2rank-minilm", dtype="float32"), E2RankEncoder)
    build_index(documents(place), encoder, place / "idx", provenance={"corpus": "mine"})
    index = assert_type(DenseIndex(place / "idx", encoder), DenseIndex)
    topics = assert_type(read_topics(place / "queries.jsonl"), dict[str, str])
    run = assert_type(search(topics, index, encoder, hits=100), Hits)
    assert_type(read_run(place / "run.trec"), Hits)
    texts = {document.docid: document.text for document in documents(place)}
    assert_type(texts, dict[str, str])
    reranked = assert_type(rerank(run, topics, texts, index, encoder, window=20), Hits)
    write_run(place / "reranked.trec", reranked, "mine")
    assert_type(evaluate(reranked, read_qrels(place / "qrels.tsv")), dict[str, float])
    vectors = assert_type(encoder.encode_queries(["a query"]), NDArray[np.float32])
    assert_type(index.search(vectors, 10), list[list[Hit]])
    encoder.encode_prompts([ListwisePrompt("a query", ("a text",), "a task")])
    scored: Scored = run["q"][0]
    assert_type(scored.score, float)
    assert_type(rerank_hits("a query", run["q"], index, encoder, texts), list[Hit])
    assert_type(E2RankPrf(encoder, texts).get_prf_q_emb("a query", run["q"]), NDArray[np.float32])


def what_is_wrong(encoder: E2RankEncoder, index: DenseIndex, run: Hits) -> None:
    """Each would be taken if the public names were Any."""
    E2RankEncoder.load("e2rank-minilm", precision="float32")  # type: ignore[call-arg]
    DenseIndex(3)  # type: ignore[arg-type]
    index.search("a query", 10)  # type: ignore[arg-type]
    read_topics(7)  # type: ignore[arg-type]
    search("a query", index, encoder)  # type: ignore[arg-type]
    rerank(run, {"q": "a query"}, {}, index, encoder, nonsense=True)  # type: ignore[call-arg]
    evaluate({"q": {"d": 1.0}}, {"q": {"d": 1}})  # type: ignore[dict-item]
    write_run(Path("run.trec"), run, tag=3)  # type: ignore[arg-type]
    _ = e2rank_pyserini.nothing  # type: ignore[attr-defined]
