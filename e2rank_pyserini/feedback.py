"""Pseudo-relevance feedback around the listwise prompt: what is read and in which order, the cheap rules that need no
model, the whole index searched again, sliding windows, and several scores in one.

The cheap rules are those of Pyserini's DenseVectorAveragePrf and DenseVectorRocchioPrf (Li et al. 2022, "Pseudo
Relevance Feedback with Deep Language Models and Dense Retrievers", TOIS), on the same stored vectors.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from e2rank_pyserini.choices import ORDERS
from e2rank_pyserini.reranking import gathered
from e2rank_pyserini.timing import timed
from e2rank_pyserini.types import E2RankError, Encoder, Hit, Run, Vectors, VectorStore

Rule = Callable[[Vectors, Vectors], Vectors]  # the query's vector (dim,), documents' (n, dim) -> a vector (dim,)
Queries = Mapping[str, Vectors]  # qid -> (dim,), length 1


def average(query: Vectors, documents: Vectors) -> Vectors:
    """The mean of the query's and the documents' vectors: (dim,) and (n, dim) -> (dim,)."""
    mean: Vectors = np.vstack([query, documents]).mean(axis=0)
    return mean


def rocchio(query: Vectors, documents: Vectors, *, alpha: float = 1.0, beta: float = 0.5) -> Vectors:
    """alpha · query + beta · mean of the documents, without negative feedback: (dim,) and (n, dim) -> (dim,)."""
    mean: Vectors = alpha * query + beta * documents.mean(axis=0)
    return mean


def prf_vectors(
    read: Run,
    queries: Queries,
    texts: Mapping[str, str],
    index: VectorStore,
    encoder: Encoder,
    rule: Rule,
    *,
    encoded: dict[str, Vectors] | None = None,
) -> dict[str, Vectors]:
    """qid -> (dim,) of length 1: `rule` on each query's vector and those of the documents in `read`.

    Documents that the index lacks are encoded from `texts`, as `reranking.gathered` does. Raises E2RankError for a
    query without documents, and when a sum is zero.
    """
    depth = max(map(len, read.values()), default=0)
    found: dict[str, Vectors] = {}
    for qid, _, vectors in gathered(read, texts, index, encoder, depth=depth, encoded=encoded):
        if not len(vectors):
            raise E2RankError(f"query {qid}: no documents to feed back")
        vector = rule(queries[qid], vectors)
        length = np.linalg.norm(vector)
        if not length:
            raise E2RankError(f"query {qid}: its vector and its feedback documents cancel out")
        found[qid] = (vector / length).astype(np.float32)
    return found


def reading(
    run: Run, *, window: int, order: str = "initial", seed: int = 0, share: float | None = None, depth: int = 100
) -> Run:
    """What is read of each ranking: its first `window` hits, in this order (choices.ORDERS).

    `shuffle` draws from `seed` and the qid, so that a query's order does not depend on the other queries. With `share`
    the window is adaptive: it ends before the first hit whose score, on a scale from 1 (the first hit) to 0 (the last
    of the first `depth`), is less than `share`. Raises E2RankError for an unknown order and a window below 1.
    """
    if order not in ORDERS:
        raise E2RankError(f"order {order!r}: expected one of {', '.join(ORDERS)}")
    if window < 1:
        raise E2RankError(f"window {window}: expected at least 1")
    read: Run = {}
    for qid, hits in run.items():
        most = window if share is None else min(window, near_first(hits[:depth], share))
        first = hits[:most]
        if order == "shuffle":
            first = random.Random(f"{seed} {qid}").sample(first, len(first))
        read[qid] = first[::-1] if order == "reverse" else first
    return read


def near_first(hits: Sequence[Hit], share: float) -> int:
    """How many hits come before the first whose score is below `share` of the way from the last to the first."""
    scaled = _min_max(hits)
    return next((number for number, hit in enumerate(hits) if scaled[hit.docid] < share), len(hits))


def search_again(queries: Queries, index: VectorStore, *, hits: int) -> Run:
    """The `hits` documents of the whole index nearest to each query's vector, in the order of `queries`."""
    if not queries:
        return {}
    with timed("search"):
        return dict(zip(queries, index.search(np.stack(list(queries.values())), hits), strict=True))


def slide(run: Run, reranked: Callable[[Run], Run], *, depth: int, window: int, stride: int) -> Run:
    """Sliding windows from the last of the first `depth` hits to the first (Sun et al. 2023, RankGPT; rank_llm).

    `reranked` orders the hits of one window of every query; a document that is good moves `window - stride` places up
    with each. Hits carry the score of the last window that read them, lowered to the one before where that is less
    (cosines with different prompts do not compare); those below `depth` are dropped. Raises E2RankError unless
    1 <= stride <= window.
    """
    if not 1 <= stride <= window:
        raise E2RankError(f"stride {stride}: expected 1 to window ({window})")
    current = {qid: list(hits[:depth]) for qid, hits in run.items()}
    spans = {qid: windows(len(hits), window, stride) for qid, hits in current.items()}
    for step in range(max(map(len, spans.values()), default=0)):
        now = {qid: places[step] for qid, places in spans.items() if step < len(places)}
        ordered = reranked({qid: current[qid][place] for qid, place in now.items()})
        for qid, place in now.items():
            current[qid][place] = ordered[qid]
    return {qid: list(_descending(hits)) for qid, hits in current.items()}


def windows(count: int, window: int, stride: int) -> list[slice]:
    """The windows over `count` hits, the last one first; the one that reaches the first hit may be shorter."""
    if not count:
        return []
    ends = range(count, 0, -stride)
    below_top = [slice(end - window, end) for end in ends if end > window]
    return [*below_top, slice(0, ends[len(below_top)])]


class Part(NamedTuple):
    """One of the scores that are added: its weight, and the run that holds it."""

    weight: float
    run: Run


def interpolate(parts: Sequence[Part], *, hits: int) -> Run:
    """The weighted sum of several runs' scores, each brought to [0, 1] by query (min-max, as pyserini.fusion does).

    A document that a run lacks has 0 there. Ties go to the first run's order. The first `hits` of each query of the
    first run are kept.
    """
    mixed: Run = {}
    for qid in parts[0].run:
        sums: dict[str, float] = {}
        for weight, run in parts:
            for docid, score in _min_max(run.get(qid, [])).items():
                sums[docid] = sums.get(docid, 0.0) + weight * score
        ordered = sorted(sums.items(), key=lambda one: -one[1])
        mixed[qid] = [Hit(docid, score) for docid, score in ordered[:hits]]
    return mixed


def _min_max(hits: Sequence[Hit]) -> dict[str, float]:
    """docid -> score on the scale from the lowest (0) to the highest (1); all 1 where they are equal."""
    if not hits:
        return {}
    scores = [hit.score for hit in hits]
    low, span = min(scores), max(scores) - min(scores)
    return {hit.docid: (hit.score - low) / span if span else 1.0 for hit in hits}


def _descending(hits: Sequence[Hit]) -> Iterator[Hit]:
    ceiling = float("inf")
    for hit in hits:
        ceiling = min(ceiling, hit.score)
        yield Hit(hit.docid, ceiling)
