"""Runs and qrels: read strictly, written atomically. Every error names file and line."""

import contextlib
import csv
import gzip
import io
import math
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

import numpy as np

from e2rank_pyserini.numerals import real
from e2rank_pyserini.storage import lines
from e2rank_pyserini.types import E2RankError, Hit, Qrels, Run, is_text, shown

STEP = 1e-6  # one unit of the last printed digit of a score
BEIR_QRELS = ("query-id", "corpus-id", "score")  # the header of its TSV
_LARGEST = 1e38  # trec_eval holds scores as float32
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_HIGHEST = 10**7  # trec_eval keeps 8 bytes for each grade up to the highest, and where it gets no memory gives zeros


def read_run(path: Path | str) -> Run:
    """A TREC run (`qid Q0 docid rank score tag`, .gz too). Hits are ordered by score, then rank, then line.

    Raises E2RankError for a line that is not six columns, a score that is not a finite number, a rank that is not an
    integer, and a docid twice under one qid.
    """
    rows: dict[str, dict[str, tuple[float, int]]] = {}  # qid -> docid -> what its place is by
    for number, line in enumerate(read_lines(path), start=1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) != 6:
            raise E2RankError(f"{path}:{number}: expected 6 columns (qid Q0 docid rank score tag), got {len(columns)}")
        qid, _, docid, rank, score, _ = columns
        found = rows.setdefault(qid, {})
        if docid in found:
            raise E2RankError(f"{path}:{number}: document {docid} appears twice for query {qid}")
        found[docid] = -_number(score, path, number), _integer(rank, "rank", path, number)
    if not rows:
        raise E2RankError(f"{path}: the run is empty")
    return {
        qid: [Hit(docid, -found[docid][0]) for docid in sorted(found, key=found.__getitem__)]
        for qid, found in rows.items()
    }


def write_run(path: Path | str, run: Run, tag: str) -> None:
    """Write `run` as Pyserini does (packed where `path` ends in .gz), with scores that strictly decrease as printed.

    A hit whose score would print equal to (or above) the one before is lowered by the least step that trec_eval sees:
    it ignores ranks, breaks ties by docid, and holds scores as float32. A query without hits leaves no line. Raises
    E2RankError for what could not be read again: a score that float32 cannot hold, a docid that a query has twice, and
    a qid, docid or tag that is no text, has blanks or no character.
    """
    with atomic(path) as file:
        check_word(tag, "tag", path)
        for qid, hits in run.items():
            check_word(qid, "query id", path)
            if len({hit.docid for hit in hits}) < len(hits):
                raise E2RankError(f"{path}: query {qid}: a document appears twice")
            ceiling = math.inf
            for rank, hit in enumerate(hits, start=1):
                check_word(hit.docid, "docid", path)
                score = score_of(hit, f"{path}: query {qid}: document {hit.docid}")
                units = min(round(score / STEP), ceiling)
                file.write(f"{qid} Q0 {hit.docid} {rank} {units * STEP:.6f} {tag}\n")
                ceiling = units - _float32_gap(units * STEP)


def check_word(word: str, what: str, where: Path | str) -> None:
    """Refuse what would not be one column of a run."""
    if not is_text(word):
        raise E2RankError(f"{where}: expected a {what} as text, got {shown(word)}")
    if word.split() != [word]:
        raise E2RankError(f"{where}: expected a {what} without blanks, got {shown(word)}")
    if "\0" in word or word[0] == "\ufeff":  # where C's strings end; what readers drop
        raise E2RankError(f"{where}: expected a {what} without NUL or a byte order mark before it, got {shown(word)}")


def read_qrels(path: Path | str) -> Qrels:
    """TREC qrels (`qid 0 docid grade`) or BEIR's TSV with its header (`query-id corpus-id score`), .gz too."""
    qrels: Qrels = {}
    width, headed = None, False
    for number, line in enumerate(read_lines(path), start=1):
        columns = line.split()
        if not columns:
            continue
        if number == 1 and columns[0] == BEIR_QRELS[0]:
            width, headed = 3, True  # a docid with a blank must not make it TREC's form
            continue
        if headed and '"' in line:  # BEIR's loader reads csv
            columns = _csv_columns(line, f"{path}:{number}")
        width = width or len(columns)
        if len(columns) not in (3, 4):
            raise E2RankError(
                f"{path}:{number}: expected 4 columns (qid 0 docid grade) or 3 (BEIR), got {len(columns)}"
            )
        if len(columns) != width:  # a line that has lost a column may still look like one of the other form
            raise E2RankError(f"{path}:{number}: expected {width} columns as in the lines before, got {len(columns)}")
        qid, docid = columns[0], columns[-2]
        grade = graded(_integer(columns[-1], "grade", path, number), f"{path}:{number}")
        judged = qrels.setdefault(qid, {})
        if judged.get(docid, grade) != grade:
            raise E2RankError(
                f"{path}:{number}: document {docid} is judged twice for query {qid}, {judged[docid]} and {grade}"
            )
        judged[docid] = grade
    if not qrels:
        raise E2RankError(f"{path}: no judgments found")
    if width == 3 and not headed and _are_ranks(qrels):
        raise E2RankError(
            f"{path}: its third column counts 1, 2, 3, … for every query, as a run of MS MARCO's form (qid docid rank) "
            "does; pyserini.eval.convert_msmarco_run_to_trec_run makes TREC's form of it"
        )
    return qrels


def _csv_columns(line: str, where: str) -> list[str]:
    try:
        columns = next(csv.reader([line], delimiter="\t"))
    except csv.Error as error:
        raise E2RankError(f"{where}: not csv: {error}") from error
    for column in columns:
        check_word(column, "column", where)
    return columns


def _are_ranks(qrels: Qrels) -> bool:
    """Whether the grades of each query count its lines from 1, those of one query to 5 at least."""
    counted = all(list(judged.values()) == list(range(1, len(judged) + 1)) for judged in qrels.values())
    return counted and max(map(len, qrels.values())) >= 5


def read_lines(path: Path | str) -> Iterator[str]:
    """The lines of a text file, without their ends and without a byte order mark; `.gz` is unpacked."""
    return lines(lambda: _opened(Path(path)), str(path))


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def check_writable(path: Path) -> None:
    """Refuse an output that could not be written, before the work for it is done."""
    if path.exists() and not path.is_file():
        raise E2RankError(f"{path}: cannot be written: it is {'a directory' if path.is_dir() else 'no file'}")
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise E2RankError(f"{path}: cannot be written: {parent} is not a directory that may be written")


@contextlib.contextmanager
def atomic(path: Path | str) -> Iterator[IO[str]]:
    """A text file that exists under its name only once it is complete and on disk. A link keeps pointing at it.

    Where its name ends in `.gz` it is packed, the same text to the same bytes.
    """
    path = Path(path).resolve()
    check_writable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise E2RankError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as raw:
            with _text(raw, packed=path.suffix == ".gz") as file:
                yield file
            raw.flush()
            os.fsync(raw.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise E2RankError(f"{path}: cannot be written: {error.strerror}") from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _text(raw: BinaryIO, *, packed: bool) -> Iterator[IO[str]]:
    """Text into an open file, which stays open; packed without the time and the name that gzip would note."""
    with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if packed else contextlib.nullcontext(raw) as binary:
        file = io.TextIOWrapper(cast(BinaryIO, binary), encoding="utf-8")
        try:
            yield file
        finally:
            file.detach()  # with what it holds written


def _float32_gap(score: float) -> int:
    """The least number of printed units (at least one) that tells a score from the next one in float32.

    They are more than the spacing: of two scores half way between two of float32's both may become the one between.
    """
    if abs(score) < 8:  # its steps there are less than one unit: cosines, and fused ranks
        return 1
    return math.floor(float(np.spacing(np.float32(abs(score)))) / STEP) + 1


def _number(word: str, path: Path | str, line: int) -> float:
    return finite(real(word), word, f"{path}:{line}")


def score_of(hit: Hit, where: str) -> float:
    """The hit's score, of Python's or numpy's, if it is a number that a run can hold."""
    score = hit[1]
    try:
        number = math.nan if isinstance(score, str) else float(score)
    except (TypeError, ValueError):
        number = math.nan
    return finite(number, score, where)


def finite(score: float, said: object, where: str) -> float:
    """The score, if it is a number that float32 holds, as trec_eval does; `said` is what the file says."""
    if not math.isfinite(score):
        raise E2RankError(f"{where}: expected a finite score, got {shown(said)}")
    if abs(score) > _LARGEST:
        raise E2RankError(
            f"{where}: expected a score of at most {_LARGEST:g} (trec_eval holds float32), got {shown(said)}"
        )
    return score


def graded(grade: int, where: str) -> int:
    """The grade, if trec_eval can hold it."""
    if abs(grade) > _HIGHEST:
        raise E2RankError(f"{where}: expected a grade of at most {_HIGHEST} (trec_eval's memory), got {shown(grade)}")
    return grade


def _integer(word: str, what: str, path: Path | str, line: int) -> int:
    if not _INTEGER.fullmatch(word):
        raise E2RankError(f"{path}:{line}: expected an integer {what}, got {shown(word)}")
    return int(word)
