"""E2Rank for Pyserini: one embedding model retrieves and reranks.

The public names are loaded when first used: importing the package costs nothing and starts nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "DenseIndex": "index",
    "Document": "types",
    "E2RankEncoder": "encoder",
    "E2RankError": "types",
    "Hit": "types",
    "ListwisePrompt": "types",
    "build_index": "indexing",
    "documents": "corpus",
    "evaluate": "evaluation",
    "read_qrels": "trec",
    "read_run": "trec",
    "read_topics": "topics",
    "rerank": "reranking",
    "search": "retrieval",
    "write_run": "trec",
}
__all__ = sorted(_HOMES)

if TYPE_CHECKING:  # the same for type checkers and editors, which do not run what is below
    from e2rank_pyserini.corpus import documents as documents
    from e2rank_pyserini.encoder import E2RankEncoder as E2RankEncoder
    from e2rank_pyserini.evaluation import evaluate as evaluate
    from e2rank_pyserini.index import DenseIndex as DenseIndex
    from e2rank_pyserini.indexing import build_index as build_index
    from e2rank_pyserini.reranking import rerank as rerank
    from e2rank_pyserini.retrieval import search as search
    from e2rank_pyserini.topics import read_topics as read_topics
    from e2rank_pyserini.trec import read_qrels as read_qrels
    from e2rank_pyserini.trec import read_run as read_run
    from e2rank_pyserini.trec import write_run as write_run
    from e2rank_pyserini.types import Document as Document
    from e2rank_pyserini.types import E2RankError as E2RankError
    from e2rank_pyserini.types import Hit as Hit
    from e2rank_pyserini.types import ListwisePrompt as ListwisePrompt
else:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})
