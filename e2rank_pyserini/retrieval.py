"""Topics -> run: dense first-stage retrieval."""

from e2rank_pyserini.timing import timed
from e2rank_pyserini.types import Encoder, Run, Topics, VectorStore, check_same_model


def search(topics: Topics, index: VectorStore, encoder: Encoder, *, hits: int = 1000, task: str | None = None) -> Run:
    """The `hits` documents nearest to each topic by cosine, in the order of `topics`.

    `task` is the retrieval task of the query prompt (default: the encoder's own). Raises E2RankError for an index of
    another model, and what `encode_queries` and the index's `search` raise.
    """
    check_same_model(index, encoder)
    vectors = encoder.encode_queries(list(topics.values()), task)
    with timed("search"):
        return dict(zip(topics, index.search(vectors, hits), strict=True))
