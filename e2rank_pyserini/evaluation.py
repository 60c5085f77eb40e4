"""Runs against qrels: trec_eval's values, by ir-measures, over all judged topics."""

import operator
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from e2rank_pyserini.choices import MEASURES
from e2rank_pyserini.trec import graded, score_of
from e2rank_pyserini.types import E2RankError, Hit, Qrels, Run, is_text, shown

Found = dict[str, dict[str, float]]  # qid -> docid -> score


def evaluate(run: Run, qrels: Qrels, *, relevance: int = 1, measures: Iterable[str] = MEASURES) -> dict[str, float]:
    """The mean of each measure, in [0, 1], over every judged topic; one without hits counts 0 (trec_eval -c).

    `relevance` is the least grade that counts as relevant for the binary measures (trec_eval -l). Raises E2RankError
    when the run and the qrels share no topic, for an unknown measure, for a mapping in place of a query's list of hits,
    and for what no TREC file could hold: ids that are no text, a document twice, a score that is not finite, a grade
    that is no integer.
    """
    scores = per_topic(run, qrels, relevance=relevance, measures=measures)
    return {measure: sum(values.values()) / len(qrels) for measure, values in scores.items()}


def per_topic(
    run: Run, qrels: Qrels, *, relevance: int = 1, measures: Iterable[str] = MEASURES
) -> dict[str, dict[str, float]]:
    """measure -> qid -> value in [0, 1], for every judged topic (0 where the run has no hits). Raises as `evaluate`."""
    try:
        import ir_measures
        from ir_measures import AP, MRR, Judged, R, nDCG
    except ImportError as error:
        raise E2RankError("evaluation needs ir-measures; pip install 'e2rank-pyserini[eval]'") from error
    try:
        relevance = operator.index(relevance)
    except TypeError as error:
        raise E2RankError(f"relevance: expected an integer grade, got {shown(relevance)}") from error
    if relevance < 1:
        raise E2RankError(f"relevance {relevance}: expected a grade of at least 1")
    measures = list(measures)
    known = {
        "nDCG@10": nDCG @ 10,
        "MAP": AP(rel=relevance),
        "R@100": R(rel=relevance) @ 100,
        "MRR@10": MRR(rel=relevance),
        "judged@10": Judged @ 10,
    }
    unknown = [measure for measure in measures if measure not in known]
    if unknown:
        raise E2RankError(f"measure {unknown[0]!r}: expected one of {', '.join(known)}")
    if not run.keys() & qrels.keys():
        raise E2RankError(
            f"the run and the qrels share no topic (run: {next(iter(run), 'none')} …, "
            f"qrels: {next(iter(qrels), 'none')} …)"
        )
    judged, found = _judged(qrels), _found(run)
    scores = {measure: dict.fromkeys(qrels, 0.0) for measure in measures}
    cut = {"MRR@10", "judged@10"}.intersection(measures)  # ir-measures would cut them in another order
    for names, read in ((scores.keys() - cut, found), (cut, _first(run, found, 10) if cut else {})):
        asked = {known[name]: name for name in names}
        for one in ir_measures.iter_calc(list(asked), judged, read) if asked else ():
            scores[asked[one.measure]][one.query_id] = one.value
    return scores


def ranked(hits: Sequence[Hit]) -> list[str]:
    """The docids in trec_eval's order: by score in float32, then docid, both descending."""
    scores = np.array([score for _, score in hits], np.float32).tolist()
    return [docid for _, docid in sorted(zip(scores, (docid for docid, _ in hits), strict=True), reverse=True)]


def _first(run: Run, found: Found, depth: int) -> Found:
    """Of the first `depth` hits as trec_eval orders them."""
    return {qid: {docid: scores[docid] for docid in ranked(run[qid])[:depth]} for qid, scores in found.items()}


def _found(run: Run) -> Found:
    _check_ids(run)
    return {qid: _scores(qid, hits) for qid, hits in run.items() if hits}


def _judged(qrels: Qrels) -> Qrels:
    """trec_eval's code can crash on a topic whose grades are all under -1, which are worth what -1 is."""
    _check_ids(qrels)
    for judged in qrels.values():
        _check_ids(judged)
    return {
        qid: {docid: max(_grade(grade, qid, docid), -1) for docid, grade in judged.items()}
        for qid, judged in qrels.items()
    }


def _scores(qid: str, hits: Sequence[Hit]) -> dict[str, float]:
    if isinstance(hits, Mapping):  # pytrec_eval's form
        raise E2RankError(f"query {qid}: expected a list of hits (docid, score), best first, got a mapping")
    scores = {hit[0]: score_of(hit, f"query {qid}: document {hit[0]}") for hit in hits}
    if len(scores) < len(hits):
        raise E2RankError(f"query {qid}: a document appears twice")
    _check_ids(scores)
    return scores


def _grade(grade: int, qid: str, docid: str) -> int:
    try:
        return graded(operator.index(grade), f"query {qid}: document {docid}")
    except TypeError as error:
        raise E2RankError(f"query {qid}: document {docid}: expected an integer grade, got {shown(grade)}") from error


def _check_ids(ids: Iterable[str]) -> None:
    """Refuse what trec_eval's code crashes on, half of a surrogate pair, and what ends a string for it, NUL."""
    for one in ids:
        if not is_text(one) or "\0" in one:
            raise E2RankError(f"expected ids of queries and documents as text without NUL, got {shown(one)}")


def table(rows: Sequence[tuple[str, dict[str, float]]]) -> str:
    """One line a run, one column a measure, values in percent as the papers print them."""
    measures = list(rows[0][1])
    width = max(len("run"), *(len(name) for name, _ in rows))
    head = "  ".join(["run".ljust(width), *(measure.rjust(8) for measure in measures)])
    lines = [
        "  ".join([name.ljust(width), *(f"{100 * values[measure]:8.2f}" for measure in measures)])
        for name, values in rows
    ]
    return "\n".join([head, *lines])
