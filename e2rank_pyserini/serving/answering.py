"""Questions -> answers: dense search and listwise reranking for many at once, as a server needs them.

What `e2rank search` and `e2rank rerank` do for the topics of a file is done here for the questions that wait together:
the queries in one call of the encoder, the prompts in one, the documents that no index holds in one.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from e2rank_pyserini.catalog import Lengths, ModelSpec
from e2rank_pyserini.inference.tally import Tally
from e2rank_pyserini.inference.tokens import tokens_of
from e2rank_pyserini.prompts import document_text
from e2rank_pyserini.reranking import below, order
from e2rank_pyserini.types import Document, E2RankError, Encoder, Hit, ListwisePrompt, Vectors, VectorStore

Key = TypeVar("Key")


class Listwise(NamedTuple):
    """How a first stage is reranked: the `depth` first by the prompt of the `window` first, under a task."""

    depth: int
    window: int
    task: str
    noun: str


class Search(NamedTuple):
    """A query for the whole index, its first stage reranked where `listwise` says how.

    `task` is the retrieval task (None: the encoder's own); `documents`: give the hits' documents too.
    """

    query: str
    hits: int
    task: str | None = None
    listwise: Listwise | None = None
    documents: bool = False


class Candidate(NamedTuple):
    """A document to rerank: one of the index and the corpus by its docid, or a text that came with the question."""

    docid: str | None
    text: str = ""


class Rerank(NamedTuple):
    """Candidates in the order of their first stage; `listwise.depth` is not read: all are scored.

    The hits of the answer carry each candidate's place, from 0, as their docid.
    """

    query: str
    candidates: tuple[Candidate, ...]
    listwise: Listwise
    documents: bool = False


Question = Search | Rerank


class Answer(NamedTuple):
    """Hits, best first, and the documents that were asked for, by docid."""

    hits: list[Hit]
    documents: dict[str, Document]


class _List(NamedTuple):
    """What is reranked for one question, and what its hits are called."""

    query: str
    candidates: Sequence[Candidate]
    names: Sequence[str]
    listwise: Listwise


class ModelEncoder(Encoder, Protocol):
    """An encoder that says what it is, what it has encoded, and how many tokens it takes at once."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def tally(self) -> Tally: ...

    @property
    def batch_tokens(self) -> int: ...


class Answering:
    """Model, index and, where a corpus is open, texts by docid. One thread at a time.

    `template` makes a document's text.
    """

    def __init__(
        self,
        index: VectorStore,
        encoder: ModelEncoder,
        texts: Mapping[str, Document] | None,
        template: str,
    ) -> None:
        self.index, self.encoder, self.texts, self.template = index, encoder, texts, template

    @property
    def batch_tokens(self) -> int:
        """How many tokens make a batch."""
        return self.encoder.batch_tokens

    def check(self, question: Question) -> None:
        """Raise E2RankError for a text by docid that the answer needs and no corpus gives. Nothing is encoded."""
        if not isinstance(question, Rerank):
            return
        docids = [one.docid for one in question.candidates if one.docid is not None]
        read = {one.docid for one in question.candidates[: question.listwise.window]}
        for docid, stored in zip(docids, self.index.stored(docids).tolist(), strict=True):
            if question.documents or docid in read or not stored:
                self.document(docid)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """An answer to each question, as it would be alone.

        Raises E2RankError where one of them cannot be answered: for a text by docid that no corpus gives, and for a
        window that does not fit into the prompt.
        """
        found = iter(self._found([question for question in questions if isinstance(question, Search)]))
        firsts = [next(found) if isinstance(question, Search) else [] for question in questions]
        lists = [_list(question, first) for question, first in zip(questions, firsts, strict=True)]
        reranked = iter(self._reranked([one for one in lists if one is not None]))
        answers = []
        for question, first, one in zip(questions, firsts, lists, strict=True):
            hits = first if one is None else next(reranked)
            if isinstance(question, Search):
                hits = [*hits, *below(first, len(hits))][: question.hits]
            docids = _docids(question, hits) if question.documents else []
            answers.append(Answer(hits, {docid: self.document(docid) for docid in docids}))
        return answers

    def document(self, docid: str) -> Document:
        """The document of the corpus; E2RankError when there is none."""
        if self.texts is None:
            raise E2RankError(f"document {docid}: no corpus is open, so its text is not here")
        document = self.texts.get(docid)
        if document is None:
            raise E2RankError(f"document {docid}: is not in the corpus")
        return document

    def _found(self, searches: Sequence[Search]) -> list[list[Hit]]:
        """The first stage of each search: as many hits as are wanted or reranked."""
        vectors: Vectors = np.empty((len(searches), self.encoder.dim), dtype=np.float32)
        for task, rows in _rows_by([search.task for search in searches]):
            vectors[rows] = self.encoder.encode_queries([searches[row].query for row in rows], task)
        found: list[list[Hit]] = [[] for _ in searches]
        # one call for each number of hits: what an approximate index finds depends on it
        for hits, rows in _rows_by([_depth(search) for search in searches]):
            for row, one in zip(rows, self.index.search(vectors[rows], hits), strict=True):
                found[row] = one
        return found

    def _reranked(self, lists: Sequence[_List]) -> list[list[Hit]]:
        """The candidates of each list by cosine with its listwise prompt, ties in the order given."""
        if not lists:
            return []
        prompts = []
        for query, candidates, _, how in lists:
            read = tuple(self._text(candidate) for candidate in candidates[: how.window])
            prompts.append(ListwisePrompt(query, read, how.task, how.noun))
        vectors = self._vectors(lists)
        queries = self.encoder.encode_prompts(prompts)
        return [order(one.names, rows, query) for one, rows, query in zip(lists, vectors, queries, strict=True)]

    def _vectors(self, lists: Sequence[_List]) -> list[Vectors]:
        """(n, dim) for each list: stored vectors, and what no index holds encoded, each text once."""
        together = [candidate for one in lists for candidate in one.candidates]
        vectors, stored = self.index.vectors([candidate.docid or "" for candidate in together])
        lacking = np.flatnonzero(~stored).tolist()
        texts = {row: self._text(together[row]) for row in lacking}
        distinct = list(dict.fromkeys(texts.values()))
        encoded = dict(zip(distinct, self.encoder.encode_documents(distinct), strict=True)) if distinct else {}
        for row, text in texts.items():
            vectors[row] = encoded[text]
        return np.split(vectors, np.cumsum([len(one.candidates) for one in lists])[:-1])

    def _text(self, candidate: Candidate) -> str:
        if candidate.docid is None:
            return candidate.text
        document = self.document(candidate.docid)
        return document_text(document.title, document.text, self.template)


def tokens_about(question: Question, lengths: Lengths) -> int:
    """How many tokens will be encoded for a question, estimated from its characters."""
    asked = tokens_of(question.query, lengths.query)
    if isinstance(question, Search):
        if question.listwise is None:
            return asked
        return asked + min(question.listwise.window * lengths.document, lengths.prompt)
    given = [tokens_of(one.text, lengths.document) for one in question.candidates]
    return sum(given) + min(asked + sum(given[: question.listwise.window]), lengths.prompt)


def _list(question: Question, first: Sequence[Hit]) -> _List | None:
    """What is reranked for a question whose first stage is `first`; None when nothing is."""
    if isinstance(question, Rerank):
        names = [str(place) for place in range(len(question.candidates))]
        return _List(question.query, question.candidates, names, question.listwise)
    if question.listwise is None or not first:
        return None
    docids = [hit.docid for hit in first[: question.listwise.depth]]
    return _List(question.query, [Candidate(docid) for docid in docids], docids, question.listwise)


def _depth(search: Search) -> int:
    """How many hits the first stage needs."""
    return max(search.hits, search.listwise.depth if search.listwise else 0)


def _docids(question: Question, hits: Sequence[Hit]) -> list[str]:
    """The documents of the corpus that an answer may show."""
    if isinstance(question, Search):
        return [hit.docid for hit in hits]
    return [one.docid for one in question.candidates if one.docid is not None]


def _rows_by(keys: Sequence[Key]) -> list[tuple[Key, list[int]]]:
    """Each key with the rows that have it."""
    return [(key, [row for row, one in enumerate(keys) if one == key]) for key in dict.fromkeys(keys)]
