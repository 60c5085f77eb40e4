"""Run -> run: the query and its first documents become one listwise prompt, encoded once as an enhanced query.

The stored vectors of the candidates are rescored by their cosine with it (Liu et al. 2025, arXiv 2510.22733,
section 3.2). Documents are never encoded again; those that the index lacks are encoded on the fly.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

from e2rank_pyserini.choices import DEPTH
from e2rank_pyserini.prompts import RERANK_TASK
from e2rank_pyserini.timing import timed
from e2rank_pyserini.trec import STEP
from e2rank_pyserini.types import (
    E2RankError,
    Encoder,
    Hit,
    ListwisePrompt,
    Run,
    Topics,
    Vectors,
    VectorStore,
    check_same_model,
)

_QUERIES = 64  # prompts encoded together
WINDOW = 20


def rerank(
    run: Run,
    topics: Topics,
    texts: Mapping[str, str],
    index: VectorStore,
    encoder: Encoder,
    *,
    task: str = RERANK_TASK,
    noun: str = "Documents",
    depth: int = DEPTH,
    window: int | None = None,
    cut: bool = False,
) -> Run:
    """Rescore the first `depth` hits of every query by cosine with its listwise prompt of the first `window`.

    `window`: the model's by default, at most `depth`. The prompt variants `pair` and `tail` say neither `task` nor
    `noun`. `prompt_vectors` and `rescore` in one call; see there for what they promise and raise.
    """
    window = min(window_of(encoder), depth) if window is None else window
    if not 1 <= window <= depth:
        raise E2RankError(f"window {window}: expected 1 to depth ({depth})")
    check_same_model(index, encoder)
    queries = prompt_vectors(run, topics, texts, encoder, task=task, noun=noun, window=window)
    return rescore(run, queries, texts, index, encoder, depth=depth, cut=cut)


def prompt_vectors(
    run: Run,
    topics: Topics,
    texts: Mapping[str, str],
    encoder: Encoder,
    *,
    task: str = RERANK_TASK,
    noun: str = "Documents",
    window: int | None = None,
    done: Callable[[int], object] | None = None,
) -> dict[str, Vectors]:
    """qid -> (dim,): each query and its first `window` documents (the model's window by default) as one enhanced query.

    `done` is told how many queries were finished. Raises E2RankError for a query of the run that has no topic, and
    for a document without a text.
    """
    check_known(run, topics)
    window = window_of(encoder) if window is None else window
    if window < 1:
        raise E2RankError(f"window {window}: expected at least 1")
    vectors: dict[str, Vectors] = {}
    for qids in _groups(run):
        read = {qid: tuple(_text(texts, hit.docid) for hit in run[qid][:window]) for qid in qids}
        prompts = [ListwisePrompt(topics[qid], read[qid], task, noun) for qid in qids]
        vectors |= zip(qids, encoder.encode_prompts(prompts), strict=True)
        if done is not None:
            done(len(qids))
    return vectors


def window_of(encoder: Encoder) -> int:
    """How many documents a listwise prompt of this model reads: what its record says, else the paper's 20."""
    spec = getattr(encoder, "spec", None)
    return WINDOW if spec is None else int(spec.window)


def rescore(
    run: Run,
    queries: Mapping[str, Vectors],
    texts: Mapping[str, str],
    index: VectorStore,
    encoder: Encoder,
    *,
    depth: int = DEPTH,
    cut: bool = False,
    encoded: dict[str, Vectors] | None = None,
) -> Run:
    """The first `depth` hits of every query by cosine with its vector in `queries`, (dim,) of length 1.

    Scores are float32 cosines; ties keep the order of the run. Documents that the index lacks are encoded on the fly
    from `texts` (E2RankError when one is not there), unless they are in `encoded`, to which they are added. Hits below
    `depth` follow in their order under scores of at most -1, or go with `cut`. Raises E2RankError for an index of
    another model than the encoder's, and for a query's vector that is none of its width.
    """
    check_known(run, queries)
    check_same_model(index, encoder)
    if depth < 1:
        raise E2RankError(f"depth {depth}: expected at least 1")
    _check_vectors(run, queries, encoder.dim)
    rescored: Run = {}
    for qid, candidates, vectors in gathered(run, texts, index, encoder, depth=depth, encoded=encoded):
        with timed("score"):
            rescored[qid] = order(candidates, vectors, queries[qid])
        rescored[qid] += [] if cut else below(run[qid], depth)
    return rescored


def below(hits: Sequence[Hit], depth: int) -> list[Hit]:
    """The hits below `depth` in their order, under scores of at most -1: no cosine is lower."""
    return [Hit(hit.docid, -1 - number * STEP) for number, hit in enumerate(hits[depth:], start=1)]


def gathered(
    run: Run,
    texts: Mapping[str, str],
    index: VectorStore,
    encoder: Encoder,
    *,
    depth: int,
    encoded: dict[str, Vectors] | None = None,
) -> Iterator[tuple[str, list[str], Vectors]]:
    """(qid, docids, vectors) of every query's first `depth` hits, vectors (n, dim), unit rows.

    Stored vectors are read in one call for many queries; what the index and `encoded` lack is encoded from `texts`
    (E2RankError when one is not there), and added to `encoded`.
    """
    encoded = {} if encoded is None else encoded
    absent = [docid for docid in missing(run, index, depth=depth) if docid not in encoded]
    encoded |= zip(absent, encoder.encode_documents([_text(texts, docid) for docid in absent]), strict=True)
    for qids in _groups(run):
        docids = [[hit.docid for hit in run[qid][:depth]] for qid in qids]
        together = [docid for row in docids for docid in row]
        with timed("gather"):
            vectors, stored = index.vectors(together)
            for row in np.flatnonzero(~stored).tolist():
                vectors[row] = encoded[together[row]]
        parts = np.split(vectors, np.cumsum([len(row) for row in docids])[:-1])
        yield from zip(qids, docids, parts, strict=True)


def texts_needed(run: Run, index: VectorStore, *, depth: int, window: int) -> set[str]:
    """The docids whose texts `rerank` will read: each query's window, and candidates that the index lacks.

    With `window` 0, those that `rescore` alone will read.
    """
    windows = {hit.docid for hits in run.values() for hit in hits[:window]}
    return windows | set(missing(run, index, depth=depth))


def missing(run: Run, index: VectorStore, *, depth: int) -> list[str]:
    """The candidates that the index lacks, each once, in the order of the run."""
    candidates = list(dict.fromkeys(hit.docid for hits in run.values() for hit in hits[:depth]))
    stored = index.stored(candidates)
    return [docid for docid, is_stored in zip(candidates, stored, strict=True) if not is_stored]


def cosines(vectors: Vectors, query: Vectors) -> Vectors:
    """(n,): of vectors (n, dim) and a query (dim,), all of length 1.

    Summed in float64 and rounded to float32, so that one does not depend on how many were computed with it.
    """
    found: Vectors = (vectors.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    return found


def order(docids: Sequence[str], vectors: Vectors, query: Vectors) -> list[Hit]:
    """The docids by cosine with `query`, best first, ties in the order given.

    vectors: (n, dim) and query: (dim,), rows of length 1.
    """
    scores = cosines(vectors, query)
    return [Hit(docids[row], float(scores[row])) for row in np.argsort(-scores, kind="stable").tolist()]


def check_known(run: Run, queries: Mapping[str, object], whose: str = "the topics") -> None:
    """Raise E2RankError for a query of the run that `queries` (topics, vectors) lacks; `whose` says what they are."""
    unknown = [qid for qid in run if qid not in queries]
    if unknown:
        raise E2RankError(f"query {unknown[0]}: in the run but not in {whose} ({len(unknown)} such)")


def _check_vectors(run: Run, queries: Mapping[str, Vectors], dim: int) -> None:
    for qid in run:
        if np.shape(queries[qid]) != (dim,):
            raise E2RankError(f"query {qid}: expected a vector of {dim} numbers, got {np.shape(queries[qid])}")
        if not np.isfinite(queries[qid]).all():
            raise E2RankError(f"query {qid}: expected a vector of finite numbers, got others")


def check_texts(docids: Iterable[str], texts: Mapping[str, str]) -> None:
    """Raise E2RankError for a document without a text."""
    for docid in docids:
        _text(texts, docid)


def _text(texts: Mapping[str, str], docid: str) -> str:
    if docid not in texts:
        raise E2RankError(f"document {docid}: in the run but not in the corpus")
    return texts[docid]


def _groups(qids: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(qids)
    while group := list(islice(iterator, _QUERIES)):
        yield group
