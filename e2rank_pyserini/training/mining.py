"""Which documents go together: lists and (positive, hard negatives) pairs drawn from a first-stage run.

Every draw is seeded by the seed, the run's number and the qid, so that it does not depend on the other topics.
"""

import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from e2rank_pyserini.types import Hit, Qrels, Run

Dropped = Counter[str]  # reason -> how many lines it cost
NO_TEXT = "positives not in the corpus"
_TRIES = 20  # draws a list may cost before it is given up: few candidates have few different lists


class Drawn(NamedTuple):
    """The documents of one example: in first-stage order, or the positive first and then its negatives."""

    qid: str
    docids: tuple[str, ...]


class Draw(NamedTuple):
    """How examples are drawn: `documents` each, from the first `depth` hits, up to `lists` different ones.

    Every list but a pair's holds the first `keep` hits: those that the listwise prompt reads when it reranks.
    """

    documents: int = 16
    depth: int = 100
    lists: int = 1
    seed: int = 0
    keep: int = 0


def draw_lists(
    run: Run,
    qids: Iterable[str],
    how: Draw,
    *,
    number: int,
    qrels: Qrels | None,
    relevance: int,
    judged_only: bool,
) -> tuple[list[Drawn], Dropped]:
    """For each topic its first `documents` candidates, then samples of the candidates, all in first-stage order.

    With `qrels` a sample holds at least one document of grade `relevance` where the candidates do; with `judged_only`
    the unjudged are no candidates. `number` is the run's, for the seed.
    """
    drawn: list[Drawn] = []
    dropped: Dropped = Counter()
    for qid in qids:
        judged = (qrels or {}).get(qid, {})
        docids = [hit.docid for hit in run.get(qid, [])[: how.depth]]
        candidates = [docid for docid in docids if docid in judged] if judged_only else docids
        if not docids or (qrels is not None and not judged):
            dropped["topics without judgments" if docids else "topics without hits"] += 1
        elif len(candidates) < 2:
            dropped["topics with fewer than 2 candidates"] += 1
        else:
            wanted = {docid for docid in candidates if judged.get(docid, relevance - 1) >= relevance}
            draw = random.Random(f"{how.seed} {number} {qid}")
            found = _samples(candidates, how.documents, how.lists, draw, wanted, how.keep)
            dropped["lists that would repeat one"] += how.lists - len(found)
            drawn += [Drawn(qid, docids) for docids in found]
    return drawn, dropped


def draw_pairs(
    run: Run,
    qids: Iterable[str],
    qrels: Qrels,
    how: Draw,
    *,
    number: int,
    relevance: int,
    skip_top: int,
    likeness: Mapping[str, Mapping[str, float]] | None,
    margin: float,
) -> tuple[list[Drawn], Dropped]:
    """For each positive of each topic: the positive, then `documents` - 1 negatives in first-stage order.

    Positives are the documents of grade `relevance`, in the run or not; negatives the other hits from rank
    `skip_top` + 1 to `depth`: the first of them, then with `lists` > 1 samples. With `likeness` (qid -> docid -> dense
    score) a negative that scores above `margin` x the positive's score goes: it may be an unjudged positive
    (NV-Retriever, arXiv 2407.15831). A positive without a score has no text and is dropped.
    """
    drawn: list[Drawn] = []
    dropped: Dropped = Counter()
    for qid in qids:
        positives = positives_of(qrels, qid, relevance)
        hits = run.get(qid, [])
        if not hits or not positives:
            dropped["topics without positives" if hits else "topics without hits"] += 1
            continue
        candidates = negatives_of(hits, positives, skip_top, how.depth)
        for positive in positives:
            negatives = candidates
            if likeness is not None:
                scores = likeness.get(qid, {})
                if positive not in scores:
                    dropped[NO_TEXT] += 1
                    continue
                negatives = [docid for docid in candidates if scores[docid] <= margin * scores[positive]]
            if not negatives:
                dropped["positives without negatives"] += 1
                continue
            draw = random.Random(f"{how.seed} {number} {qid} {positive}")
            found = _samples(negatives, how.documents - 1, how.lists, draw, ())
            dropped["lists that would repeat one"] += how.lists - len(found)
            drawn += [Drawn(qid, (positive, *docids)) for docids in found]
    return drawn, dropped


def positives_of(qrels: Qrels, qid: str, relevance: int) -> list[str]:
    """The documents judged at least `relevance`, in the order of the qrels."""
    return [docid for docid, grade in qrels.get(qid, {}).items() if grade >= relevance]


def negatives_of(hits: Sequence[Hit], positives: Collection[str], skip_top: int, depth: int) -> list[str]:
    """The docids of ranks `skip_top` + 1 to `depth` that are no positives, in their order."""
    return [hit.docid for hit in hits[skip_top:depth] if hit.docid not in positives]


def _samples(
    candidates: Sequence[str], size: int, lists: int, draw: random.Random, wanted: Collection[str], keep: int = 0
) -> list[tuple[str, ...]]:
    """Up to `lists` different selections of `size` candidates in their order: the first ones, then random ones.

    A random one holds the first `keep` too, and a document of `wanted`, if there is any.
    """
    found = {tuple(candidates[:size]): None}
    keep = min(keep, len(candidates))
    kept, rows = list(range(keep)), range(keep, len(candidates))
    needed = (
        [] if any(candidates[row] in wanted for row in kept) else [row for row in rows if candidates[row] in wanted]
    )
    for _ in range(_TRIES * (lists - 1) if size < len(candidates) else 0):
        if len(found) == lists:
            break
        chosen = draw.sample(rows, size - keep)  # in random order, so that the first may go for a wanted one
        if needed and not any(candidates[row] in wanted for row in chosen):
            chosen[0] = draw.choice(needed)
        found[tuple(candidates[row] for row in (*kept, *sorted(chosen)))] = None
    return list(found)
