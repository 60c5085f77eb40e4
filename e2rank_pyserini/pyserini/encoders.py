"""Our model behind Pyserini's two encoder interfaces, and their registration."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2rank_pyserini import java
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.types import Vectors

java.start()
from pyserini.encode import DocumentEncoder, QueryEncoder, document_encoder_class_map, query_encoder_class_map  # noqa: E402  # noqa: E402

KEY = "e2rank"


class E2RankDocumentEncoder(DocumentEncoder):  # type: ignore[misc]
    """What `pyserini.encode` constructs as `cls(model_name=, device=)`."""

    def __init__(self, model_name: str, device: str = "cpu", **options: Any) -> None:
        self.encoder = E2RankEncoder.load(model_name, device=device, **options)

    def encode(self, texts: Sequence[str | None], **_: Any) -> Vectors:
        """n texts -> (n, dim); a missing text is the empty text."""
        return self.encoder.encode_documents([text or "" for text in texts])


class E2RankQueryEncoder(QueryEncoder):  # type: ignore[misc]
    """What Pyserini's searchers construct as `cls(encoder_dir=, device=, prefix=, …)`.

    `task` (or Pyserini's `prefix`) is the retrieval task of the query prompt; default: the web search task.
    """

    def __init__(
        self,
        encoder_dir: str,
        tokenizer_name: str | None = None,
        device: str = "cpu",
        prefix: str | None = None,
        task: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        options.pop("fp16", None)
        self.task = task or prefix
        self.encoder = E2RankEncoder.load(encoder_dir, device=device, **options)
        self.has_model = True

    def encode(self, query: str, **_: Any) -> NDArray[np.float32]:
        """One query -> (dim,)."""
        vector: NDArray[np.float32] = self.encode_batch([query])[0]
        return vector

    def encode_batch(self, queries: Sequence[str], **_: Any) -> Vectors:
        """n queries -> (n, dim)."""
        return self.encoder.encode_queries(list(queries), self.task)


def register() -> None:
    """Put our classes first in Pyserini's two maps, in place: the first key that is a substring of a path wins."""
    for classes, ours in (
        (document_encoder_class_map, E2RankDocumentEncoder),
        (query_encoder_class_map, E2RankQueryEncoder),
    ):
        others = {key: value for key, value in classes.items() if key != KEY}
        classes.clear()
        classes.update({KEY: ours, **others})
