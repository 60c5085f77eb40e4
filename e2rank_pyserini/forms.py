"""Runs and qrels as other programs write them, read strictly and written atomically; trec.py has TREC's own forms.

ranx: one object `{qid: {docid: score or grade}}`, of its `Run.save` and `Qrels.save`, and the dict of dicts that
ir-measures takes. rank_llm (0.25, its data.py): requests and results, an object a line or one array of them,
`{"query": {"text", "qid"}, "candidates": [{"docid", "score", "doc"}]}`, ids as text or whole numbers. beir: a TSV of
qrels with a header.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from e2rank_pyserini.topics import parse_object, unique
from e2rank_pyserini.trec import BEIR_QRELS, atomic, finite, graded, read_lines, read_qrels, read_run
from e2rank_pyserini.types import Document, E2RankError, Hit, Qrels, Run, Topics, is_text, shown

Requests = list[tuple[str, Any]]  # where each one stands, and what stands there
_WANTED = "a run (six columns, ranx's JSON or rank_llm's JSON lines) or qrels (four or three columns, or ranx's JSON)"


def tell(path: Path, kind: str | None) -> tuple[str, str]:
    """The form of a file and its kind (`run` or `qrels`), by its content; a `kind` that is given is believed.

    Raises E2RankError for what is neither, and for ranx's JSON of whole numbers alone, which may be either.
    """
    if path.is_fifo() or path.is_char_device():
        raise E2RankError(f"{path}: expected a file, which can be read twice, got a pipe")
    first = next((line.strip() for line in read_lines(path) if line.strip()), "")
    if first.startswith(("{", "[")) and first.split()[1:2] not in (["Q0"], ["0"]):  # a qid may begin so too
        found = _json(path)
        if isinstance(found, list):
            if kind == "qrels":
                raise E2RankError(f"{path}: rank_llm's requests are a run, not qrels")
            return "rank_llm", "run"
        return "ranx", kind or _kind_of(found, path)
    columns = len(first.split())
    if kind is None and columns not in (3, 4, 6):
        raise E2RankError(f"{path}: expected {_WANTED}, got {columns} columns")
    kind = kind or ("run" if columns == 6 else "qrels")
    return ("beir" if kind == "qrels" and columns == 3 else "trec"), kind


def run_of(path: Path, form: str) -> Run:
    """The run in a file of this form, its hits as they are listed (TREC: by score, then rank, then line).

    Raises E2RankError, with its place, for an id that is no word, a score that is no finite number, and a docid twice
    under one qid. A query may have no hits.
    """
    if form == "trec":
        return read_run(path)
    found = _json(path)
    listed = dict(_requests(found) if isinstance(found, list) else _scores(found, path))
    if not any(listed.values()):
        raise E2RankError(f"{path}: the run is empty")
    return listed


def in_order(run: Run) -> Run:
    """The hits by score; ties keep their order."""
    return {qid: sorted(hits, key=lambda hit: -hit.score) for qid, hits in run.items()}


def untied(run: Run) -> Run:
    """Ordered hits with scores that strictly decrease in float32, in which trec_eval and ir-measures hold them.

    A score that would tie with the one before is lowered to the next float32; every other is kept to its last bit.
    """
    return {qid: list(_untied(hits)) for qid, hits in run.items()}


def _untied(hits: list[Hit]) -> Iterator[Hit]:
    ceiling = np.float32(math.inf)
    for docid, score in hits:
        if np.float32(score) >= ceiling:
            score = float(np.nextafter(ceiling, np.float32(-math.inf)))
        ceiling = np.float32(score)
        yield Hit(docid, score)


def qrels_of(path: Path, form: str) -> Qrels:
    """The qrels in a file of this form. Raises E2RankError, with its place, for what is no judgment."""
    if form != "ranx":
        return read_qrels(path)
    qrels: Qrels = {}
    for qid, docid, grade, where in _entries(_json(path), path):
        if type(grade) is not int:
            raise E2RankError(f"{where}: expected an integer grade, got {shown(grade)}")
        qrels.setdefault(qid, {})[docid] = graded(grade, where)
    if not qrels:
        raise E2RankError(f"{path}: no judgments found")
    return qrels


def write_trec_run(path: Path, run: Run, tag: str) -> None:
    """TREC's six columns, the scores in all their digits (`trec.write_run` prints six of them, as Pyserini does)."""
    with atomic(path) as file:
        for qid, hits in run.items():
            for rank, hit in enumerate(hits, start=1):
                file.write(f"{qid} Q0 {hit.docid} {rank} {hit.score!r} {tag}\n")


def write_ranx(path: Path, values: Mapping[str, Mapping[str, float]]) -> None:
    """Scores or grades by qid and docid as one JSON object, laid out as ranx does."""
    with atomic(path) as file:
        json.dump(values, file, indent=2, ensure_ascii=False)
        file.write("\n")


def write_requests(path: Path, run: Run, topics: Topics, documents: Mapping[str, Document]) -> None:
    """rank_llm's requests: every query with its hits in order, ids as text, documents as title and text."""
    with atomic(path) as file:
        for qid, hits in run.items():
            candidates = [
                {
                    "docid": docid,
                    "score": score,
                    "doc": {"title": documents[docid].title, "text": documents[docid].text},
                }
                for docid, score in hits
            ]
            row = {"query": {"text": topics[qid], "qid": qid}, "candidates": candidates}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_qrels(path: Path, qrels: Qrels, form: str) -> None:
    """TREC's qrels (`qid 0 docid grade`) or BEIR's, which its loader reads as csv."""
    rows = [(qid, docid, grade) for qid, judged in qrels.items() for docid, grade in judged.items()]
    with atomic(path) as file:
        if form == "beir":
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows([BEIR_QRELS, *rows])
        else:
            file.writelines(f"{qid} 0 {docid} {grade}\n" for qid, docid, grade in rows)


def _json(path: Path) -> Requests | dict[str, Any]:
    """rank_llm's requests, or the object of ranx."""
    lines = list(read_lines(path))
    if _is_request(next((line for line in lines if line.strip()), "")):
        places = [(f"{path}:{number}", line) for number, line in enumerate(lines, start=1) if line.strip()]
        return [(where, parse_object(line, where)) for where, line in places]
    try:
        whole = json.loads("\n".join(lines), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise E2RankError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise E2RankError(f"{path}: not readable as JSON: {error}") from error
    if isinstance(whole, list):
        return [(f"{path}: request {number}", row) for number, row in enumerate(whole, start=1)]
    return dict(whole)


def _is_request(line: str) -> bool:
    """Whether a line by itself is an object with a request's keys; as qids of ranx's, they have scores."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and any(key in row and not _are_scores(row[key]) for key in ("query", "candidates"))


def _are_scores(value: Any) -> bool:
    return isinstance(value, dict) and all(type(score) in (int, float) for score in value.values())


def _kind_of(found: dict[str, Any], path: Path) -> str:
    """ranx writes the scores of a run with a point (1.0) and the grades of qrels without."""
    values = [value for _, _, value, _ in _entries(found, path)]
    if not values:
        raise E2RankError(f"{path}: holds no scores and no grades")
    if all(type(value) is int for value in values):
        raise E2RankError(f"{path}: a run or qrels? all its values are whole numbers; say --kind")
    return "run"


def _entries(found: Any, path: Path) -> Iterator[tuple[str, str, Any, str]]:
    """(qid, docid, value, where) of ranx's object."""
    for qid, values in found.items():
        if not isinstance(values, dict):
            raise E2RankError(f"{path}: query {qid}: expected an object of docids, got {type(values).__name__}")
        _word(qid, "query id", str(path))
        for docid, value in values.items():
            where = f"{path}: query {qid}, document {docid}"
            yield qid, _word(docid, "docid", f"{path}: query {qid}"), value, where


def _scores(found: dict[str, Any], path: Path) -> Run:
    run: Run = {qid: [] for qid in found}
    for qid, docid, score, where in _entries(found, path):
        run[qid].append(Hit(docid, _score(score, where)))
    return run


def _requests(found: Requests) -> Iterator[tuple[str, list[Hit]]]:
    """qid and candidates, in the order in which they are listed."""
    seen: set[str] = set()
    for where, row in found:
        query, candidates = (row.get("query"), row.get("candidates")) if isinstance(row, dict) else (None, None)
        if not isinstance(query, dict) or not isinstance(candidates, list):
            raise E2RankError(f"{where}: expected an object with a query (an object) and candidates (a list)")
        qid = _word(query.get("qid"), "query id", where)
        if qid in seen:
            raise E2RankError(f"{where}: query {qid} appears twice")
        seen.add(qid)
        yield qid, _candidates(candidates, f"{where}: query {qid}")


def _candidates(candidates: list[Any], where: str) -> list[Hit]:
    hits: dict[str, Hit] = {}
    for number, candidate in enumerate(candidates, start=1):
        if not isinstance(candidate, dict):
            raise E2RankError(f"{where}, candidate {number}: expected an object, got {type(candidate).__name__}")
        docid = _word(candidate.get("docid"), "docid", f"{where}, candidate {number}")
        if docid in hits:
            raise E2RankError(f"{where}: document {docid} appears twice")
        hits[docid] = Hit(docid, _score(candidate.get("score"), f"{where}, document {docid}"))
    return list(hits.values())


def _word(value: Any, what: str, where: str) -> str:
    """An id as text: a word, or a whole number. Half of a surrogate pair is no character."""
    word = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if word.split() != [word] or not is_text(word):
        raise E2RankError(f"{where}: expected a {what} without blanks, got {shown(value)}")
    return word


def _score(value: Any, where: str) -> float:
    if type(value) not in (int, float):
        raise E2RankError(f"{where}: expected a finite score, got {shown(value)}")
    return finite(float(value) if abs(value) < 1e300 else math.inf, value, where)
