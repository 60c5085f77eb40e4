"""Training examples: a query, its documents in first-stage order and their ranking; read strictly, written atomically.

One JSON object a line, the form of the authors' released data: `query`, `document` (a list), `ranking` (1-based
document numbers, best first), `source`. Ours is the optional `relevance`, a number a document, in which equal numbers
are ties. The forms of FlagEmbedding (`query`, `pos`, `neg`) and llm4ranking (`messages`, or `query`,
`positive_passages`, `negative_passages`) are read too, told apart by their keys.
"""

import itertools
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from e2rank_pyserini.prompts import document_text
from e2rank_pyserini.topics import parse_object
from e2rank_pyserini.trec import atomic, check_writable, read_lines
from e2rank_pyserini.types import E2RankError

UNKNOWN = "unknown"  # the source of a line that names none
FORMS = (
    ("query", "document", "ranking"),
    ("query", "pos", "neg"),
    ("query", "positive_passages", "negative_passages"),
    ("messages",),
)

_ORDER = re.compile(r"\[[0-9]{1,6}\](?:\s*>\s*\[[0-9]{1,6}\])*")
# what RankGPT's and RankZephyr's user message looks like: passages by number, then the query again, a full stop added
_FIRST, _AGAIN = "\n[1] ", "\nSearch Query: "


class Example(NamedTuple):
    """One query with n >= 2 documents in first-stage order.

    `ranking` holds 0-based document numbers, best first (the file's are 1-based); `relevance` a number a document,
    higher is better, equal is tied: n - position in `ranking` (n, n - 1, …, 1) where the file has none.
    """

    query: str
    documents: tuple[str, ...]
    ranking: tuple[int, ...]
    source: str
    relevance: tuple[float, ...]


def read_examples(path: Path) -> list[Example]:
    """The examples of a `.jsonl` or `.jsonl.gz` file, in its order.

    Raises E2RankError with file and line for a line that is none of the four forms, for a ranking that is no
    permutation, a relevance that is not finite or contradicts the ranking, fewer than two documents, an empty query;
    and for a file without examples.
    """
    examples = []
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            where = f"{path}:{number}"
            examples.append(_example(parse_object(line, where), where))
    if not examples:
        raise E2RankError(f"{path}: no training examples found")
    return examples


def write_examples(path: Path | str, examples: Iterable[Example]) -> int:
    """Write the examples, one a line, and return how many. `relevance` is written where the ranking does not say it."""
    path = Path(path)
    check_output(path)
    count = 0
    with atomic(path) as file:
        for count, example in enumerate(examples, start=1):
            row: dict[str, Any] = {
                "query": example.query,
                "document": example.documents,
                "ranking": [number + 1 for number in example.ranking],
                "source": example.source,
            }
            if example.relevance != positions(example.ranking):
                row["relevance"] = example.relevance
            try:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            except UnicodeEncodeError as error:
                raise E2RankError(
                    f"{path}: example {count}: holds half of a surrogate pair, which is no character"
                ) from error
    return count


def check_output(path: Path) -> None:
    """Refuse an output that could not be written, before the work for it is done."""
    if path.suffix == ".gz":
        raise E2RankError(f"{path}: examples are written as plain JSONL; name the file without .gz")
    check_writable(path)


def permutation(text: str, count: int) -> tuple[int, ...] | None:
    """`[2] > [1] > …` as 0-based numbers, best first; None unless it is exactly an order of all of 1 to `count`."""
    if not _ORDER.fullmatch(text.strip()):
        return None
    numbers = tuple(int(word) - 1 for word in re.findall(r"[0-9]+", text))
    return numbers if sorted(numbers) == list(range(count)) else None


def ranked(relevance: Sequence[float]) -> tuple[int, ...]:
    """Document numbers by relevance, best first; ties keep first-stage order."""
    return tuple(sorted(range(len(relevance)), key=lambda number: (-relevance[number], number)))


def positions(ranking: Sequence[int]) -> tuple[float, ...]:
    """What a ranking alone says of its n documents: the first one's relevance is n, the last one's 1."""
    relevance = [0.0] * len(ranking)
    for position, number in enumerate(ranking):
        relevance[number] = float(len(ranking) - position)
    return tuple(relevance)


def _example(row: dict[str, Any], where: str) -> Example:
    form = next((keys for keys in FORMS if row.keys() >= set(keys)), None)
    if form is None:
        known = "; or ".join(", ".join(keys) for keys in FORMS)
        raise E2RankError(f"{where}: expected the keys {known}; got {_shown(list(row))}")
    source = row.get("source", UNKNOWN)
    if not isinstance(source, str):
        raise E2RankError(f"{where}: source: expected text, got {_shown(source)}")
    if form == FORMS[0]:
        return _listed(row, source, where)
    if form == FORMS[3]:
        return _chat(row["messages"], source, where)
    read = _texts if form == FORMS[1] else _passages
    positives, negatives = (read(row[key], key, where) for key in form[1:])
    return _pair(row["query"], positives, negatives, source, where)


def _listed(row: dict[str, Any], source: str, where: str) -> Example:
    """The authors' form."""
    query, documents = _query(row["query"], where), _texts(row["document"], "document", where)
    _at_least_two(documents, where)
    count, ranking = len(documents), row["ranking"]
    whole = isinstance(ranking, list) and all(type(number) is int for number in ranking)
    if not whole or sorted(ranking) != list(range(1, count + 1)):
        raise E2RankError(f"{where}: ranking: expected each of 1 to {count} once, got {_shown(ranking)}")
    order = tuple(number - 1 for number in ranking)
    if "relevance" not in row:
        return Example(query, documents, order, source, positions(order))
    relevance = _numbers(row["relevance"], count, where)
    for better, worse in itertools.pairwise(order):
        if relevance[better] < relevance[worse]:
            raise E2RankError(
                f"{where}: relevance contradicts the ranking: document {better + 1} ({relevance[better]:g}) is ranked "
                f"before document {worse + 1} ({relevance[worse]:g})"
            )
    return Example(query, documents, order, source, relevance)


def _pair(query: Any, positives: Sequence[str], negatives: Sequence[str], source: str, where: str) -> Example:
    """The first positive, the negatives, then the other positives; a positive that is among the negatives is none."""
    if not positives:
        raise E2RankError(f"{where}: expected at least one positive, got none")
    negatives = [text for text in negatives if text not in positives]
    if not negatives:
        raise E2RankError(f"{where}: expected at least one negative that is no positive too, got none")
    others = [text for text in dict.fromkeys(positives) if text != positives[0]]
    relevance = (1.0, *[0.0] * len(negatives), *[1.0] * len(others))
    return Example(_query(query, where), (positives[0], *negatives, *others), ranked(relevance), source, relevance)


def _chat(messages: Any, source: str, where: str) -> Example:
    """A chat: the passages in the user's message, their order in the assistant's."""
    said: dict[str, str] = {}
    for message in messages if isinstance(messages, list) else ():
        match message:
            case {"role": str(role), "content": str(content)}:
                said[role] = content
            case _:
                raise E2RankError(f"{where}: messages: expected a role and a content each, got {_shown(message)}")
    passages, is_there, query = said.get("user", "").partition(_FIRST)[2].rpartition(_AGAIN)
    query = query.partition("\n")[0]
    if not is_there or not query or "assistant" not in said:
        raise E2RankError(
            f"{where}: messages: expected the user's to hold `[1] passage`, `[2] passage`, … and `Search Query: …`, a "
            "line each, and the assistant's to order them"
        )
    documents: list[str] = []
    start = end = 0
    while end >= 0:
        # the numbers come in turn, so that a line of a passage which happens to begin with a bracket stays in it
        mark = f"\n[{len(documents) + 2}] "
        end = passages.find(mark, start)
        documents.append(passages[start : end if end >= 0 else None])
        start = end + len(mark)
    _at_least_two(documents, where)
    order = permutation(said["assistant"], len(documents))
    if order is None:
        raise E2RankError(
            f"{where}: expected an order of the {len(documents)} passages ([2] > [1] > …), got "
            f"{_shown(said['assistant'])}"
        )
    return Example(_query(query.removesuffix("."), where), tuple(documents), order, source, positions(order))


def _query(query: Any, where: str) -> str:
    if not isinstance(query, str) or not query.strip():
        raise E2RankError(f"{where}: query: expected text, got {_shown(query)}")
    return query


def _texts(value: Any, key: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise E2RankError(f"{where}: {key}: expected a list of texts, got {_shown(value)}")
    return tuple(value)


def _passages(value: Any, key: str, where: str) -> tuple[str, ...]:
    """`[{"docid": …, "title": …, "text": …}, …]`, title and text joined as a corpus's are."""
    texts = []
    for passage in value if isinstance(value, list) else [value]:
        fields = passage if isinstance(passage, dict) else {}
        title, text = fields.get("title") or "", fields.get("text")
        if not isinstance(title, str) or not isinstance(text, str):
            raise E2RankError(f"{where}: {key}: expected passages with a title and a text, got {_shown(passage)}")
        texts.append(document_text(title.strip(), text.strip()))
    return tuple(texts)


def _numbers(value: Any, count: int, where: str) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != count:
        raise E2RankError(f"{where}: relevance: expected {count} numbers, one a document, got {_shown(value)}")
    numbers = []
    for number in value:
        try:
            numbers.append(float(number) if type(number) in (int, float) else math.nan)
        except OverflowError:  # an integer beyond the largest float
            numbers.append(math.inf)
        if not math.isfinite(numbers[-1]):
            raise E2RankError(f"{where}: relevance: expected finite numbers, got {_shown(number)}")
    return tuple(numbers)


def _at_least_two(documents: Sequence[str], where: str) -> None:
    if len(documents) < 2:
        raise E2RankError(f"{where}: expected at least two documents, got {len(documents)}")


def _shown(value: Any) -> str:
    """A value in an error: on one line, and not a page of it."""
    try:
        text = ("text " if isinstance(value, str) else "") + json.dumps(value, ensure_ascii=False)
    except RecursionError:  # it was read at a shallower depth of our own calls
        return f"a deeply nested {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}…"
