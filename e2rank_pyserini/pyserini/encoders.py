"""Our model behind Pyserini's two encoder interfaces. Importing this room imports Pyserini (and starts the JVM)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2rank_pyserini import java
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.pyserini.options import Asked, check_dimension, document_spec, put_first, query_spec
from e2rank_pyserini.types import E2RankError, Vectors

java.start()
from pyserini.encode import (  # noqa: E402
    DocumentEncoder,
    QueryEncoder,
    document_encoder_class_map,
    query_encoder_class_map,
)


class E2RankDocumentEncoder(DocumentEncoder):  # type: ignore[misc]
    """What `pyserini.encode` constructs as `cls(model_name=, device=)`.

    `asked` holds what the user typed and Pyserini does not hand on; other keywords that Pyserini passes for other
    classes (it matches substrings of the path) say nothing that the user chose and are not read. `prefix` is one of
    them: to put one before every text, a script of your own gives `asked=Asked(prefix="passage: ")`, the Asked of
    e2rank_pyserini.pyserini.options.
    """

    def __init__(self, model_name: str, device: str = "cpu", asked: Asked | None = None, **_: Any) -> None:
        asked = asked or Asked()
        self.prefix = asked.prefix or ""
        dtype = "bfloat16" if asked.bfloat16 else None
        self.encoder = E2RankEncoder.load(document_spec(model_name, asked), device=device, dtype=dtype)
        check_dimension(model_name, self.encoder.dim, asked)

    def encode(self, texts: Sequence[str | None], titles: Sequence[str | None] | None = None, **more: Any) -> Vectors:
        """n texts (and, where Pyserini was given `--fields title text`, titles) -> (n, dim).

        A missing text is the empty text; title and text are joined as `e2rank index` joins them. Pyserini's fp16,
        max_length and add_sep are not read: see `asked`. Raises E2RankError for another field (`expands`).
        """
        if isinstance(texts, str):
            raise E2RankError("expected a list of texts, got a single one")
        others = [name for name, value in more.items() if isinstance(value, Sequence) and any(value)]
        if others:
            raise E2RankError(f"{', '.join(others)}: E2Rank encodes titles and texts alone")
        given = [None] * len(texts) if titles is None or not len(titles) else titles
        rows = zip(given, texts, strict=True)
        parts = [[part.strip() for part in row if part and part.strip()] for row in rows]
        return self.encoder.encode_documents([self.prefix + " ".join(row) for row in parts])


class E2RankQueryEncoder(QueryEncoder):  # type: ignore[misc]
    """What Pyserini's searchers construct as `cls(encoder_dir=, device=, prefix=, fp16=, …)`.

    `prefix`, as in Pyserini, is put before the query; it replaces the instruction. `task` (default: web search) is
    the retrieval task of the instruction, which a model whose query template has none does not read.
    """

    def __init__(
        self,
        encoder_dir: str,
        tokenizer_name: str | None = None,
        device: str = "cpu",
        prefix: str | None = None,
        task: str | None = None,
        fp16: bool = False,
        asked: Asked | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        asked = asked or Asked(prefix=prefix, bfloat16=fp16, refused=_no_tokenizer(tokenizer_name))
        self.task = task
        dtype = "bfloat16" if asked.bfloat16 else None
        self.encoder = E2RankEncoder.load(query_spec(encoder_dir, asked), device=device, dtype=dtype)
        self.has_model = True

    def encode(self, query: str, **_: Any) -> NDArray[np.float32]:
        """One query -> (dim,)."""
        vector: NDArray[np.float32] = self.encode_batch([query])[0]
        return vector

    def encode_batch(self, queries: Sequence[str | dict[str, str]], **_: Any) -> Vectors:
        """n queries -> (n, dim). Of topics in Pyserini's `raw_jsonl` the whole object comes: its `query` is read."""
        if isinstance(queries, str):
            raise E2RankError("expected a list of queries, got a single one")
        texts = [query["query"] if isinstance(query, dict) else query for query in queries]
        return self.encoder.encode_queries(texts, self.task)


def _no_tokenizer(name: str | None) -> str | None:
    return None if name is None else f"--tokenizer {name}: the tokenizer comes with the model"


def register() -> None:
    """Put our classes first in Pyserini's two maps. Doing it again changes nothing."""
    put_first(document_encoder_class_map, E2RankDocumentEncoder)
    put_first(query_encoder_class_map, E2RankQueryEncoder)
