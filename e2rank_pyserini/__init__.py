"""E2Rank for Pyserini: one embedding model retrieves and reranks.

The public names are loaded when first used: importing the package costs nothing and starts nothing.
"""

from importlib import import_module
from typing import Any

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
