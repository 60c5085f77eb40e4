"""The listwise prompt for users of Pyserini's searchers: as a pseudo-relevance-feedback rule, and on hit objects."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from e2rank_pyserini import java
from e2rank_pyserini.choices import DEPTH
from e2rank_pyserini.corpus import lucene_document, parse_document
from e2rank_pyserini.prompts import RERANK_TASK, document_text
from e2rank_pyserini.reranking import rerank, texts_needed, window_of
from e2rank_pyserini.types import E2RankError, Encoder, Hit, ListwisePrompt, Vectors, VectorStore

java.start()
from pyserini.search.faiss._prf import DenseVectorPrf  # noqa: E402

_JAVA = threading.Lock()  # two threads at once in a document of Lucene's, and pyjnius calls one's method on the other's


class Scored(Protocol):
    """A hit of LuceneSearcher or FaissSearcher, or our own `Hit`."""

    @property
    def docid(self) -> str: ...

    @property
    def score(self) -> float: ...


class E2RankPrf(DenseVectorPrf):  # type: ignore[misc]
    """The model as a PRF rule, with the interface of Pyserini's `DenseVectorAncePrf`: it reads queries and texts.

    `texts` gives a document's text by docid, as a dict or a Series of pandas does, or is a LuceneSearcher on an index
    with raw texts, which is asked by one thread at a time. The vector that comes back is the enhanced query, for
    another search of the same FaissSearcher. All candidates that come are read: give no more than the model's window.
    `encoder`: an E2RankEncoder, or a searcher's `query_encoder` that holds one.
    """

    def __init__(
        self,
        encoder: Any,
        texts: Mapping[str, str] | Any,
        *,
        task: str = RERANK_TASK,
        noun: str = "Documents",
    ) -> None:
        super().__init__()
        _by_docid(texts)  # refused here, not at the first query
        self.encoder, self.texts, self.task, self.noun = _model(encoder), texts, task, noun

    def get_prf_q_emb(self, query: str, prf_candidates: Sequence[Scored]) -> Vectors:
        """One query and its first hits -> (1, dim)."""
        return self.encoder.encode_prompts([self._prompt(query, prf_candidates)])

    def get_batch_prf_q_emb(
        self, topics: Sequence[str], topic_ids: Sequence[str], prf_candidates: Mapping[str, Sequence[Scored]]
    ) -> Vectors:
        """n queries, their ids, and the first hits by id -> (n, dim)."""
        prompts = [self._prompt(query, prf_candidates[qid]) for query, qid in zip(topics, topic_ids, strict=True)]
        return self.encoder.encode_prompts(prompts)

    def _prompt(self, query: str, hits: Sequence[Scored]) -> ListwisePrompt:
        return ListwisePrompt(query, tuple(_text(self.texts, hit) for hit in hits), self.task, self.noun)


def rerank_hits(
    query: str,
    hits: Sequence[Scored],
    index: VectorStore,
    encoder: Any,
    texts: Mapping[str, str] | Any = None,
    *,
    task: str = RERANK_TASK,
    noun: str = "Documents",
    depth: int = DEPTH,
    window: int | None = None,
    cut: bool = False,
) -> list[Hit]:
    """Pyserini's hits of one query, reranked; `reranking.rerank` says what it promises and raises.

    `texts` and `encoder` as for E2RankPrf. Hits of a LuceneSearcher on an index with raw texts carry their own.
    `window`: the model's by default, at most `depth`.
    """
    if not hasattr(index, "stored"):
        raise E2RankError(
            f"expected an index that gives vectors back, DenseIndex(directory), got {type(index).__name__}"
        )
    encoder, hits = _model(encoder), list(hits)
    run = {"": [Hit(hit.docid, float(hit.score)) for hit in hits]}
    window = min(window_of(encoder) if window is None else window, depth)
    wanted = texts_needed(run, index, depth=depth, window=window)
    read = {hit.docid: _text(texts, hit) for hit in hits if hit.docid in wanted}
    return rerank(run, {"": query}, read, index, encoder, task=task, noun=noun, depth=depth, window=window, cut=cut)[""]


def _model(encoder: Any) -> Encoder:
    """The model itself, of an encoder as Pyserini's searchers hold it too."""
    found: Encoder = encoder if hasattr(encoder, "encode_prompts") else getattr(encoder, "encoder", encoder)
    if not hasattr(found, "encode_prompts"):
        raise E2RankError(f"expected an E2RankEncoder, which reads prompts, got {type(encoder).__name__}")
    return found


def _by_docid(texts: Any) -> bool:
    """Whether `texts` gives texts by docid; else it is a searcher or None. E2RankError for what is none of these."""
    if texts is None or (not isinstance(texts, Mapping) and callable(getattr(texts, "doc", None))):
        return False
    if isinstance(texts, Sequence) or not (hasattr(texts, "__getitem__") and hasattr(texts, "__contains__")):
        raise E2RankError(f"texts: expected a mapping docid -> text or a LuceneSearcher, got {type(texts).__name__}")
    return True


def _text(texts: Any, hit: Scored) -> str:
    """A hit's text: by its docid, from the searcher's stored document, or from the hit's own."""
    if _by_docid(texts):
        if hit.docid not in texts:
            raise E2RankError(f"document {hit.docid}: among the hits but not among the texts")
        text: str = texts[hit.docid]
        return text
    with _JAVA:
        stored = texts.doc(hit.docid) if texts is not None else None
        if stored is not None:
            document = lucene_document(stored, "the index of the hits")
        elif (raw := _own_raw(hit)) is not None:
            document = parse_document(raw, f"document {hit.docid}", hit.docid)
        else:
            raise E2RankError(f"document {hit.docid}: neither the hit nor the index holds its text (-storeRaw)")
    return document_text(document.title, document.text)


def _own_raw(hit: Any) -> str | None:
    document = getattr(hit, "lucene_document", None)
    raw: str | None = document.get("raw") if document is not None else None
    return raw
