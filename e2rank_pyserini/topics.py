"""Topics in every form that Pyserini reads, and BEIR's. Told apart by content; ids stay strings."""

import collections
import json
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from e2rank_pyserini.trec import check_word, read_lines
from e2rank_pyserini.types import E2RankError, Topics, is_text

Rows = Iterator[tuple[int, str, str]]  # line (0: unknown), qid, query


def read_topics(path: Path | str, asked: Container[str] | None = None) -> Topics:
    """Topics from TSV, JSON, JSONL (BEIR's too), TREC `<top>`, track XML `<topic>` or CACM `<DOC>`; `.gz` too.

    The query is the one that Pyserini takes: the second column, the title. Raises E2RankError with file and line for
    a topic without id or query, for an id with a blank or twice, and for a file that is none of these. With `asked`
    those topics alone are given, and the others may be empty.
    """
    path = Path(path)
    text = "\n".join(read_lines(path))
    if kind := re.search(r"<(top|topic|doc)[\s>]", text, re.I) if text.lstrip().startswith("<") else None:
        rows = {"top": _trec, "topic": _xml, "doc": _cacm}[kind[1].lower()](text, path)
    elif text.lstrip().startswith("{"):
        rows = _json(text, path)
    elif text.lstrip().startswith("["):
        raise E2RankError(
            f'{path}:1: expected an object `{{qid: {{"title": …}}}}` or one of a topic a line, got a list'
        )
    else:
        rows = _tsv(text, path)
    topics: Topics = {}
    for number, qid, query in rows:
        where = f"{path}:{number}" if number else f"{path}"
        _check_unicode(qid + query, where)
        check_word(qid, "query id", where)
        if asked is not None and qid not in asked:
            continue
        if not query.strip():
            raise E2RankError(f"{where}: the query of topic {qid} is empty")
        if qid in topics:
            raise E2RankError(f"{where}: topic {qid} appears twice")
        topics[qid] = query.strip()
    if not topics and asked is None:
        raise E2RankError(f"{path}: no topics found")
    return topics


_HEADS = ("qid", "id", "queryid", "topicid", "topic")  # what the first column of a header says


def _tsv(text: str, path: Path) -> Rows:
    """`qid<TAB>query`; further columns are left out, as Pyserini does."""
    lines = ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
    for place, (number, line) in enumerate(lines):
        qid, *columns = line.split("\t")
        if not columns:
            raise E2RankError(f"{path}:{number}: expected `qid<TAB>query`, got no tab")
        if place == 0 and re.sub(r"[ _\"#-]", "", qid.lower()) in _HEADS:
            continue
        yield number, qid.strip(), columns[0]


def _json(text: str, path: Path) -> Rows:
    """One object `{qid: {"title": …}}`, or a line a topic: `{"_id"|"qid"|"id": …, "title"|"text"|"query": …}`."""
    try:
        whole = json.loads(text, object_pairs_hook=list)  # a list of pairs, so that an id that comes twice is seen
    except (ValueError, RecursionError):
        whole = None
    if whole and all(isinstance(value, list) and all(isinstance(pair, tuple) for pair in value) for _, value in whole):
        for qid, fields in whole:
            where = f"{path}: topic {qid}"
            try:
                yield 0, qid, _field(unique(fields), ("title", "text", "query"), where)
            except ValueError as error:
                raise E2RankError(f"{where}: {error}") from error
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        row = parse_object(line, where)
        # BEIR's query is its text, whatever title stands beside it
        names = ("text", "title") if "_id" in row else ("title", "text")
        query = _field(row, (*names, "query", "input"), where)
        yield number, _field(row, ("_id", "qid", "id", "query_id"), where), query


def parse_object(line: str, where: str) -> dict[str, Any]:
    """A line of JSON as an object; E2RankError when it is none."""
    try:
        row = json.loads(line, object_pairs_hook=unique)
        if not isinstance(row, dict):
            raise E2RankError(f"{where}: expected an object, got {type(row).__name__}")
        if "\\u" in line:  # only an escape can name half a surrogate pair
            _check_unicode(json.dumps(row, ensure_ascii=False), where)
    except (ValueError, RecursionError) as error:
        raise E2RankError(f"{where}: not JSON: {error}") from error
    return row


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; ValueError for a key that stands twice, whose first value would be lost."""
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(key for key, times in collections.Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"{twice!r} appears twice in one object")
    return row


def _check_unicode(text: str, where: str) -> None:
    if not is_text(text):
        raise E2RankError(f"{where}: holds half of a surrogate pair, which is no character")


def _field(row: dict[str, Any], names: tuple[str, ...], where: str) -> str:
    values = [row[name] for name in names if isinstance(row.get(name), str | int) and not isinstance(row[name], bool)]
    if not values:
        raise E2RankError(
            f"{where}: expected one of the fields {', '.join(names)} as text, got {', '.join(row) or 'none'}"
        )
    return str(next((value for value in values if str(value).strip()), values[0]))


# *+ gives nothing back: a page of blanks is read once. A title ends at a tag; another `<` is less than.
_NUMBER = re.compile(r"<num>\s*+(?:Number\s*+:\s*+)?([^\s<]+)", re.I)
_TITLE = re.compile(r"<title>\s*+(?:Topic:)?((?:[^<]++|<(?!/?[a-z][^<>]*+>))*+)", re.I)
_DOCNO = re.compile(r"\s*+<DOCNO>\s*+([^\s<]++)\s*+</DOCNO>(.*)", re.I | re.S)


def _trec(text: str, path: Path) -> Rows:
    """`<top><num> Number: …<title> …`, its tags rarely closed: not XML."""
    for line, body in _blocks(text, "top", "<num>", path):
        number, title = _NUMBER.search(body), _TITLE.search(body)
        if number is None or title is None:
            raise E2RankError(f"{path}:{line}: expected <num> and <title> in the topic")
        yield line, number[1], " ".join(title[1].split())


def _cacm(text: str, path: Path) -> Rows:
    for line, body in _blocks(text, "DOC", "<DOCNO>", path, closed=True):
        match = _DOCNO.fullmatch(body)
        if match is None:
            raise E2RankError(f"{path}:{line}: expected <DOCNO> and a query in the topic")
        yield line, match[1], " ".join(match[2].split())


def _blocks(text: str, tag: str, mark: str, path: Path, *, closed: bool = False) -> Iterator[tuple[int, str]]:
    """The line and the content of every `<tag>`, up to its end (or, unless it must be closed, to the next one).

    Raises E2RankError for a topic that has lost its `<tag>`: its `mark` is outside of any, or a second one inside.
    """
    openings = list(re.finditer(rf"<{tag}(?:\s[^<>]*+)?+>", text, re.I))
    if not openings:
        raise E2RankError(f"{path}: expected topics in <{tag}>, got none")
    line, counted = 1, 0
    for opening, end in zip(openings, [*(other.start() for other in openings[1:]), len(text)], strict=True):
        line += text.count("\n", counted, opening.start())
        body, *rest = re.split(rf"</{tag}\s*+>", text[opening.end() : end], maxsplit=1, flags=re.I)
        if closed and not rest:
            raise E2RankError(f"{path}:{line}: <{tag}> is not closed")
        before = text[: opening.start()] if opening is openings[0] else ""
        if len(re.findall(mark, f"{before}{body}{''.join(rest)}", re.I)) > 1:
            raise E2RankError(f"{path}:{line}: expected one {mark} in a <{tag}>, got more: a <{tag}> is missing")
        counted = opening.start()
        yield line, body


def _xml(text: str, path: Path) -> Rows:
    """`<topic number="…"><query>` (or `<title>`) of the web, COVID and other tracks: real XML, topic by topic."""
    topics, broken = _xml_topics(text, path)
    for line, number, fields in topics:
        query = fields.get("query", fields.get("title"))
        if number is None:
            raise E2RankError(f"{path}:{line}: expected a number in <topic>")
        if query is None:
            raise E2RankError(f"{path}:{line}: expected <query> or <title> in topic {number}")
        yield line, number.strip(), " ".join(query.split())
    if broken is not None:
        line, reason = broken
        raise E2RankError(f"{path}:{line}: not XML: {reason}")


def _xml_topics(text: str, file: Path) -> tuple[list[tuple[int, str | None, dict[str, str]]], tuple[int, str] | None]:
    """(line, number, the texts of its children) of every whole topic; line and reason where the XML breaks off.

    Raises E2RankError for a topic of two queries or titles.
    """
    topics: list[tuple[int, str | None, dict[str, str]]] = []
    opened: list[tuple[int, str | None, dict[str, str]]] = []
    path: list[str] = []
    parser = expat.ParserCreate()
    parser.buffer_text = True  # or a long text comes, and is copied, line by line

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == "topic":
            opened.append((parser.CurrentLineNumber, attributes.get("number"), {}))
            path.clear()
        path.append(tag)
        if opened and len(path) == 2 and tag in ("query", "title"):
            if tag in opened[-1][2]:
                raise E2RankError(f"{file}:{parser.CurrentLineNumber}: expected one <{tag}> in a <topic>, got more")
            opened[-1][2][tag] = ""

    def data(characters: str) -> None:
        if opened and len(path) > 1:
            fields = opened[-1][2]
            fields[path[1]] = fields.get(path[1], "") + characters

    def end(tag: str) -> None:
        if path:
            path.pop()
        if tag == "topic":
            topics.append(opened.pop())

    parser.StartElementHandler, parser.CharacterDataHandler, parser.EndElementHandler = start, data, end
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        return topics, (opened[-1][0] if opened else error.lineno, expat.ErrorString(error.code))
    return topics, None
