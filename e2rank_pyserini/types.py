"""The vocabulary: what a document, a hit, a run is, and what every encoder promises."""

import re
import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:  # every command begins with these words, `e2rank --help` too
    import numpy as np
    from numpy.typing import NDArray

Vectors: TypeAlias = "NDArray[np.float32]"  # (n, dim), rows of length 1


_LONGEST = 1500  # characters of an error
_SHORT = reprlib.Repr()
_SHORT.maxlevel = _SHORT.maxlist = _SHORT.maxdict = 3
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100


class E2RankError(Exception):
    """Something the user can mend: one line that says what was expected, what came, and where.

    What a file holds may be in it, so it is kept to one line of a length that can be read.
    """

    def __init__(self, message: str) -> None:
        line = message if message.isprintable() else "".join(map(_printed, message))
        super().__init__(line if len(line) <= _LONGEST else f"{line[: _LONGEST - 300]} … {line[-290:]}")


def first_line(error: Exception) -> str:
    """The first line of what a library's error says, or its kind where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def kind_and_line(error: Exception) -> str:
    """The kind of a library's error, and the first line of what it says, if anything."""
    line = first_line(error)
    return line if line == type(error).__name__ else f"{type(error).__name__}: {line}"


def shown(value: object) -> str:
    """A value that a file holds, for an error: of any depth and size."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return f"a {type(value).__name__} too large to show"


def is_text(value: object) -> bool:
    """Whether it is text of whole characters: no None or NaN, as pandas has them, and no half of a surrogate pair."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def clean(text: str) -> str:
    """`text` as one line that a terminal, UTF-8, HTML and a font can take: controls and lone surrogates become U+FFFD.

    Those that turn the direction of writing are among them: a name with one would mirror the words beside it.
    """
    return re.sub("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", "\ufffd", " ".join(text.split()))


def _printed(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


class Document(NamedTuple):
    """A document of the corpus; `title` may be empty."""

    docid: str
    title: str
    text: str


class Hit(NamedTuple):
    """A scored document of a run."""

    docid: str
    score: float


Topics = dict[str, str]  # qid -> query; ids stay strings
Qrels = dict[str, dict[str, int]]  # qid -> docid -> grade
Run = dict[str, list[Hit]]  # qid -> hits, best first


class ListwisePrompt(NamedTuple):
    """What the listwise prompt of one query says, before anything is cut to fit.

    `task` is the instruction, `noun` what the list is called (Documents, Arguments, …); the variants `pair` and `tail`
    say neither.
    """

    query: str
    documents: tuple[str, ...]
    task: str
    noun: str = "Documents"


class Encoder(Protocol):
    """n texts -> (n, dim) float32 rows of length 1, in the order given."""

    @property
    def dim(self) -> int: ...

    def encode_documents(self, texts: Sequence[str]) -> Vectors: ...

    def encode_queries(self, texts: Sequence[str], task: str | None = None) -> Vectors: ...

    def encode_prompts(self, prompts: Sequence[ListwisePrompt]) -> Vectors: ...


class VectorStore(Protocol):
    """An index as search and rerank see it."""

    def search(self, vectors: Vectors, hits: int) -> list[list[Hit]]:
        """(n, dim) -> for each row its best `hits` documents by cosine, best first."""
        ...

    def stored(self, docids: Sequence[str]) -> "NDArray[np.bool_]":
        """(n,) whether each docid is stored."""
        ...

    def vectors(self, docids: Sequence[str]) -> "tuple[Vectors, NDArray[np.bool_]]":
        """The stored unit vectors, (n, dim), and (n,) whether each docid is stored; absent rows are zero."""
        ...


def check_same_model(index: VectorStore, encoder: Encoder) -> None:
    """Raise E2RankError where both say which model they are of, as DenseIndex and E2RankEncoder do, and they differ."""
    check, record = getattr(index, "check_model", None), getattr(encoder, "record", None)
    if check is not None and record is not None:
        check(record, encoder.dim)
