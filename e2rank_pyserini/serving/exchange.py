"""Requests and answers of the HTTP interface, and the questions that they mean.

`/rerank` takes and gives what Cohere's rerank endpoint does (docs.cohere.com/reference/rerank, v1 and v2).
"""

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, model_validator

from e2rank_pyserini.catalog import ModelSpec
from e2rank_pyserini.choices import WITHOUT_TASK
from e2rank_pyserini.prompts import document_text
from e2rank_pyserini.serving.answering import Answer, Candidate, Listwise, Rerank, Search
from e2rank_pyserini.types import Document, E2RankError, is_text

_HITS = 10  # of a search that asks for no number
_UNREAD = ("max_tokens_per_doc", "max_chunks_per_doc", "rank_fields", "priority")  # of Cohere's request


def _unicode(text: str) -> str:
    if not is_text(text):
        raise ValueError("holds half of a surrogate pair, which is no character")
    return text


Count = Annotated[int, Field(strict=True, ge=1)]
Text = Annotated[str, AfterValidator(_unicode)]


@dataclass(frozen=True)
class Service:
    """What a server answers with and within which limits.

    `listwise` is how it reranks unless a request says otherwise, `task` the retrieval task (None: the model's),
    `template` what makes a document's text. `documents` bounds what a request may send or ask for, `query` the
    characters of a query or task, `body` is in bytes, `timeout` in seconds.
    """

    spec: ModelSpec
    listwise: Listwise
    task: str | None
    template: str
    has_texts: bool
    documents: int
    query: int
    body: int
    timeout: float
    token: str | None = None


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Refusal(BaseModel):
    """Whatever is no answer: why, in one line."""

    message: str


class SearchRequest(_Request):
    """`task` is the retrieval task, `rerank_task` that of the prompt; one that is not read is named in a warning."""

    query: Text
    hits: Count | None = None
    rerank: StrictBool = False
    depth: Count | None = None
    window: Count | None = None
    task: Text | None = None
    rerank_task: Text | None = None
    return_documents: StrictBool = False


class FoundDocument(BaseModel):
    docid: str
    score: float
    title: str | None = None
    text: str | None = None


class SearchAnswer(BaseModel):
    hits: list[FoundDocument]
    warnings: list[str] | None = None


class GivenDocument(_Request):
    """A text (a bare string is one), or a `docid` of the index and the corpus."""

    text: Text | None = None
    title: Text = ""
    docid: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.text is None) == (self.docid is None):
            raise ValueError("expected a text or a docid")
        return self


class RerankRequest(_Request):
    """Cohere's request; `window`, `task` and documents by `docid` are ours. What is not read is named in a warning."""

    query: Text
    documents: Annotated[list[GivenDocument], Field(min_length=1)]
    model: Text | None = None
    top_n: Count | None = None
    return_documents: StrictBool = False
    window: Count | None = None
    task: Text | None = None
    max_tokens_per_doc: Any = None
    max_chunks_per_doc: Any = None
    rank_fields: Any = None
    priority: Any = None


class RerankedDocument(BaseModel):
    index: int
    relevance_score: float
    document: dict[str, str] | None = None


class RerankAnswer(BaseModel):
    id: str
    results: list[RerankedDocument]
    meta: dict[str, Any]


def search_question(asked: SearchRequest, service: Service) -> Search:
    """What a request to /search asks; E2RankError where it goes beyond a limit or contradicts itself."""
    query = _query(asked.query, service)
    for name, task in (("task", asked.task), ("rerank_task", asked.rerank_task)):
        _limit(name, len(task or ""), service.query, " characters")
    hits = asked.hits or min(_HITS, service.documents)
    _limit("hits", hits, service.documents)
    given = {"depth": asked.depth, "window": asked.window, "rerank_task": asked.rerank_task}
    idle = [name for name, value in given.items() if value is not None and not asked.rerank]
    if idle:
        raise E2RankError(f"{idle[0]}: goes with rerank")
    if (asked.rerank or asked.return_documents) and not service.has_texts:
        raise E2RankError(f"{'rerank' if asked.rerank else 'return_documents'}: this server has no corpus open")
    listwise = None
    if asked.rerank:
        depth = asked.depth or service.listwise.depth
        _limit("depth", depth, service.documents)
        window = asked.window or min(service.listwise.window, depth)
        _limit("window", window, depth)
        listwise = service.listwise._replace(
            depth=depth, window=window, task=asked.rerank_task or service.listwise.task
        )
    return Search(query, hits, asked.task or service.task, listwise, asked.return_documents)


def rerank_question(asked: RerankRequest, service: Service) -> Rerank:
    """What a request to /rerank asks; E2RankError as for a search."""
    query = _query(asked.query, service)
    _limit("task", len(asked.task or ""), service.query, " characters")
    _limit("documents", len(asked.documents), service.documents)
    candidates = []
    for one in asked.documents:
        text = document_text(one.title.strip(), one.text.strip(), service.template) if one.text is not None else ""
        candidates.append(Candidate(one.docid, text))
    listwise = service.listwise._replace(
        window=asked.window or service.listwise.window, task=asked.task or service.listwise.task
    )
    by_docid = any(one.docid is not None for one in asked.documents)
    if by_docid and asked.return_documents and not service.has_texts:
        raise E2RankError("return_documents: this server has no corpus open")
    return Rerank(query, tuple(candidates), listwise, asked.return_documents)


def search_answer(asked: SearchRequest, answer: Answer, service: Service) -> SearchAnswer:
    found = [_found(hit.docid, hit.score, answer.documents) for hit in answer.hits]
    unread = ["task"] if asked.task is not None and "{task}" not in service.spec.query else []
    if asked.rerank_task is not None and service.spec.prompt in WITHOUT_TASK:
        unread.append("rerank_task")
    return SearchAnswer(hits=found, warnings=_not_read(unread) or None)


def rerank_answer(asked: RerankRequest, answer: Answer, service: Service, version: str) -> RerankAnswer:
    """Cohere's answer, of its API's `version`."""
    results = []
    for hit in answer.hits[: asked.top_n]:
        shown = _shown(asked.documents[int(hit.docid)], answer.documents) if asked.return_documents else None
        results.append(RerankedDocument(index=int(hit.docid), relevance_score=hit.score, document=shown))
    never = (*_UNREAD, "task") if service.spec.prompt in WITHOUT_TASK else _UNREAD
    warnings = _not_read([name for name in never if getattr(asked, name) is not None])
    ours = Path(service.spec.name).name  # of a directory its path is nobody's business
    if asked.model not in (None, ours, service.spec.name):
        warnings.append(f"answered by the model of this server, {ours}")
    meta: dict[str, Any] = {"api_version": {"version": version}}
    return RerankAnswer(
        id=str(uuid.uuid4()), results=results, meta={**meta, "warnings": warnings} if warnings else meta
    )


def _not_read(names: list[str]) -> list[str]:
    return [f"not read: {', '.join(names)}"] if names else []


def _shown(given: GivenDocument, documents: dict[str, Document]) -> dict[str, str]:
    if given.docid is not None:
        _, title, text = documents[given.docid]
        return {"docid": given.docid, "title": title, "text": text}
    return {"text": given.text or "", **({"title": given.title} if given.title else {})}


def _found(docid: str, score: float, documents: dict[str, Document]) -> FoundDocument:
    one = documents.get(docid)
    return FoundDocument(docid=docid, score=score, title=one.title if one else None, text=one.text if one else None)


def _query(query: str, service: Service) -> str:
    """The query as the reader of topics leaves it."""
    if not query.strip():
        raise E2RankError("query: expected some text, got none")
    _limit("query", len(query), service.query, " characters")
    return query.strip()


def _limit(name: str, value: int, most: int, what: str = "") -> None:
    if value > most:
        raise E2RankError(f"{name}: expected at most {most}{what}, got {value}")
