"""Runs, topics and qrels: read strictly, written atomically. Every error names file and line."""

import contextlib
import gzip
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from e2rank_pyserini.types import E2RankError, Hit, Qrels, Run, Topics

STEP = 1e-6  # one unit of the last printed digit of a score


def read_run(path: Path) -> Run:
    """A TREC run (`qid Q0 docid rank score tag`, .gz too). Hits are ordered by score, then rank, then line.

    Raises E2RankError for a line that is not six columns, a score that is not a finite number, a rank that is not an
    integer, and a docid twice under one qid.
    """
    rows: dict[str, list[tuple[float, int, str]]] = {}
    seen: set[tuple[str, str]] = set()
    for number, line in enumerate(read_lines(path), start=1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) != 6:
            raise E2RankError(f"{path}:{number}: expected 6 columns (qid Q0 docid rank score tag), got {len(columns)}")
        qid, _, docid, rank, score, _ = columns
        if (qid, docid) in seen:
            raise E2RankError(f"{path}:{number}: document {docid} appears twice for query {qid}")
        seen.add((qid, docid))
        rows.setdefault(qid, []).append((-_number(score, path, number), _integer(rank, "rank", path, number), docid))
    if not rows:
        raise E2RankError(f"{path}: the run is empty")
    return {
        qid: [Hit(docid, -score) for score, _, docid in sorted(found, key=lambda row: row[:2])]
        for qid, found in rows.items()
    }


def write_run(path: Path, run: Run, tag: str) -> None:
    """Write `run` as Pyserini does, with scores that strictly decrease as printed.

    A hit whose score would print equal to (or above) the one before is lowered by the least step that trec_eval sees:
    it ignores ranks, breaks ties by docid, and holds scores as float32.
    """
    with atomic(path) as file:
        for qid, hits in run.items():
            ceiling = math.inf
            for rank, hit in enumerate(hits, start=1):
                units = min(round(hit.score / STEP), ceiling)
                file.write(f"{qid} Q0 {hit.docid} {rank} {units * STEP:.6f} {tag}\n")
                ceiling = units - _float32_gap(units * STEP)


def read_topics(path: Path) -> Topics:
    """Topics in any form Pyserini reads, told apart by their content: TSV, JSON, JSONL (BEIR's too), TREC or web XML.

    qids stay strings. The query of a TREC topic is its title, as in Pyserini.
    """
    text = "\n".join(read_lines(path))
    start = text.lstrip()[:1]
    if start == "<" and re.search(r"<(top|topic|doc)[\s>]", text, re.I):
        pairs = _markup_topics(text, path)
    elif start == "{":
        pairs = _json_topics(text, path)
    else:
        pairs = _tsv_topics(text, path)
    topics: Topics = {}
    for number, qid, query in pairs:
        where = f"{path}:{number}" if number else f"{path}"
        if not qid or qid.split() != [qid]:
            raise E2RankError(f"{where}: expected a query id without blanks, got {qid!r}")
        if not query.strip():
            raise E2RankError(f"{where}: the query of topic {qid} is empty")
        if qid in topics:
            raise E2RankError(f"{where}: topic {qid} appears twice")
        topics[qid] = query.strip()
    if not topics:
        raise E2RankError(f"{path}: no topics found")
    return topics


def read_qrels(path: Path) -> Qrels:
    """TREC qrels (`qid 0 docid grade`) or BEIR's TSV with its header (`query-id corpus-id score`), .gz too."""
    qrels: Qrels = {}
    for number, line in enumerate(read_lines(path), start=1):
        columns = line.split()
        if not columns or (number == 1 and columns[0] == "query-id"):
            continue
        if len(columns) not in (3, 4):
            raise E2RankError(
                f"{path}:{number}: expected 4 columns (qid 0 docid grade) or 3 (BEIR), got {len(columns)}"
            )
        qid, docid, grade = columns[0], columns[-2], _integer(columns[-1], "grade", path, number)
        judged = qrels.setdefault(qid, {})
        if judged.get(docid, grade) != grade:
            raise E2RankError(
                f"{path}:{number}: document {docid} is judged twice for query {qid}, {judged[docid]} and {grade}"
            )
        judged[docid] = grade
    if not qrels:
        raise E2RankError(f"{path}: no judgments found")
    return qrels


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file, without their ends; `.gz` is unpacked."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for line in file:
                yield line.rstrip("\r\n")
    except FileNotFoundError as error:
        raise E2RankError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise E2RankError(f"{path}: not UTF-8: {error}") from error
    except (OSError, EOFError) as error:
        raise E2RankError(f"{path}: cannot be read: {error}") from error


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[str]]:
    """A text file that exists under its name only once it is complete and on disk."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise E2RankError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _tsv_topics(text: str, path: Path) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        qid, tab, query = line.partition("\t")
        if not tab:
            raise E2RankError(f"{path}:{number}: expected `qid<TAB>query`, got no tab")
        if number == 1 and qid in ("query-id", "qid", "_id"):
            continue
        yield number, qid.strip(), query


def _json_topics(text: str, path: Path) -> Iterator[tuple[int, str, str]]:
    """One object `{qid: {"title": …}}`, or a line a topic: `{"_id"|"qid"|"id": …, "text"|"query"|"title": …}`."""
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if isinstance(whole, dict) and whole and all(isinstance(value, dict) for value in whole.values()):
        for qid, fields in whole.items():
            yield 0, qid, _field(fields, ("title", "text", "query"), f"{path}: topic {qid}")
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise E2RankError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise E2RankError(f"{path}:{number}: expected an object, got {type(row).__name__}")
        where = f"{path}:{number}"
        query = _field(row, ("text", "query", "title", "input"), where)
        yield number, _field(row, ("_id", "qid", "id", "query_id"), where), query


def _field(row: dict[str, Any], names: tuple[str, ...], where: str) -> str:
    for name in names:
        if isinstance(row.get(name), str | int) and not isinstance(row[name], bool):
            return str(row[name])
    raise E2RankError(f"{where}: expected one of the fields {', '.join(names)} as text, got {', '.join(row) or 'none'}")


_NUMBER = re.compile(r"<num>\s*(?:Number:)?\s*([^\s<]+)", re.I)
_TITLE = re.compile(r"<title>\s*(?:Topic:)?\s*(.*?)\s*(?=<|\Z)", re.I | re.S)
_WEB = re.compile(r"<topic[^>]*\bnumber=[\"']?([^\"'\s>]+)[^>]*>(.*?)</topic>", re.I | re.S)
_CACM = re.compile(r"<DOC>\s*<DOCNO>\s*(\S+?)\s*</DOCNO>(.*?)</DOC>", re.I | re.S)
_WEB_QUERY = re.compile(r"<query>\s*(.*?)\s*</query>", re.I | re.S)


def _markup_topics(text: str, path: Path) -> Iterator[tuple[int, str, str]]:
    """TREC's `<top><num><title>`, `<topic number=…><query>` of the web and COVID tracks, CACM's `<DOC><DOCNO>`."""
    for match in re.finditer(r"<top>(.*?)(?=</top>|<top>|\Z)", text, re.I | re.S):
        line = text.count("\n", 0, match.start()) + 1
        number, title = _NUMBER.search(match[1]), _TITLE.search(match[1])
        if number is None or title is None:
            raise E2RankError(f"{path}:{line}: expected <num> and <title> in the topic")
        yield line, number[1], " ".join(title[1].split())
    for match in _CACM.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match[1], " ".join(match[2].split())
    for match in _WEB.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        query = _WEB_QUERY.search(match[2])
        if query is None:
            raise E2RankError(f"{path}:{line}: expected <query> in topic {match[1]}")
        yield line, match[1], " ".join(query[1].split())


def _float32_gap(score: float) -> int:
    """The least number of printed units (at least one) that tells a score from the next one in float32."""
    return max(1, math.ceil(float(np.spacing(np.float32(abs(score)))) / STEP))


def _number(word: str, path: Path, line: int) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise E2RankError(f"{path}:{line}: expected a finite score, got {word!r}")
    return value


def _integer(word: str, what: str, path: Path, line: int) -> int:
    try:
        return int(word)
    except ValueError as error:
        raise E2RankError(f"{path}:{line}: expected an integer {what}, got {word!r}") from error
