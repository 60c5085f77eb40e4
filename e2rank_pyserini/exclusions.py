"""Documents that a query must not be given (BRIGHT's excluded ids), taken out of a run before it is cut by rank."""

from collections.abc import Iterable
from pathlib import Path

from e2rank_pyserini.topics import parse_object
from e2rank_pyserini.trec import check_word, read_lines
from e2rank_pyserini.types import E2RankError, Qrels, Run, shown

Exclusions = dict[str, frozenset[str]]  # qid -> docids
_NONE = "N/A"  # how BRIGHT says that a query excludes nothing


def read_exclusions(path: Path) -> Exclusions:
    """`qid docid` a line, between blanks or a tab, or BRIGHT's examples (JSONL with `id`, `excluded_ids`); .gz too.

    The first is the form of Anserini's `exclude.bright-*.txt`; BEIR's header `query-id corpus-id` may stand over it.
    A query may have any number of lines; `N/A` in the place of a docid means none. Raises E2RankError with file and
    line for any other line, a docid with a blank, and a file without a line.
    """
    found: dict[str, set[str]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path}:{number}"
        if not line.strip() or (number == 1 and line.split() == ["query-id", "corpus-id"]):
            continue
        qid, docids = _example(line, where) if line.lstrip().startswith("{") else _pair(line, where)
        found.setdefault(qid, set()).update(docid for docid in docids if docid != _NONE)
    if not found:
        raise E2RankError(f"{path}: no exclusions found")
    return {qid: frozenset(docids) for qid, docids in found.items() if docids}


def admitted(run: Run, excluded: Exclusions, hits: int | None = None) -> tuple[Run, int]:
    """The run without its excluded hits, then cut to `hits` a query, and how many were excluded.

    Order and scores stay as they were; a query that has no hit left goes.
    """
    kept = {qid: [hit for hit in found if hit.docid not in excluded.get(qid, ())] for qid, found in run.items()}
    removed = sum(map(len, run.values())) - sum(map(len, kept.values()))
    return {qid: found[:hits] for qid, found in kept.items() if found}, removed


def most_excluded(excluded: Exclusions, qids: Iterable[str]) -> int:
    """How many more hits to ask for, so that enough are left once any of these queries has lost its excluded ones."""
    return max((len(excluded.get(qid, ())) for qid in qids), default=0)


def check_disjoint(excluded: Exclusions, qrels: Qrels) -> None:
    """Refuse exclusions of a document that is relevant to the same query: they are of another data set."""
    for qid, docids in excluded.items():
        for docid in sorted(docids):
            if qrels.get(qid, {}).get(docid, 0) > 0:
                raise E2RankError(f"query {qid}: document {docid} is excluded, yet the qrels call it relevant")


def _pair(line: str, where: str) -> tuple[str, list[str]]:
    columns = line.split()
    if len(columns) != 2:
        raise E2RankError(f"{where}: expected 2 columns (qid docid), got {len(columns)}")
    return columns[0], [columns[1]]


def _example(line: str, where: str) -> tuple[str, list[str]]:
    row = parse_object(line, where)
    qid, docids = row.get("id"), row.get("excluded_ids")
    if not isinstance(qid, str | int) or isinstance(qid, bool):
        raise E2RankError(f"{where}: expected a query id under id, got {shown(qid)}")
    if not isinstance(docids, list) or not all(isinstance(docid, str) for docid in docids):
        raise E2RankError(f"{where}: expected a list of docids under excluded_ids, got {shown(docids)}")
    for docid in docids:
        check_word(docid, "docid", where)
    return str(qid), docids
