"""The vocabulary: what a document, a hit, a run is, and what every encoder promises."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]  # (n, dim), rows of length 1


class E2RankError(Exception):
    """Something the user can mend: one line that says what was expected, what came, and where."""


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

    `task` is the instruction, `noun` what the list is called (Documents, Arguments, …).
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

    def stored(self, docids: Sequence[str]) -> NDArray[np.bool_]:
        """(n,) whether each docid is stored."""
        ...

    def vectors(self, docids: Sequence[str]) -> tuple[Vectors, NDArray[np.bool_]]:
        """The stored unit vectors, (n, dim), and (n,) whether each docid is stored; absent rows are zero."""
        ...
