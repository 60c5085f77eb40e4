"""E2Rank behind the interface of the `rerankers` library: all candidates are encoded, the first ones also read.

python examples/rerankers_listwise.py
"""

from typing import Any

from rerankers.models.ranker import BaseRanker
from rerankers.results import RankedResults, Result
from rerankers.utils import prep_docs

from e2rank_pyserini import E2RankEncoder, ListwisePrompt
from e2rank_pyserini.prompts import RERANK_TASK
from e2rank_pyserini.reranking import order


class E2RankRanker(BaseRanker):
    def __init__(self, model_name_or_path: str = "e2rank-minilm", verbose: int = 0, **options: Any) -> None:
        self.encoder = E2RankEncoder.load(model_name_or_path, **options)

    def rank(self, query: str, docs: Any, doc_ids: Any = None, metadata: Any = None) -> RankedResults:
        documents = prep_docs(docs, doc_ids, metadata)
        texts = [document.text for document in documents]
        prompt = ListwisePrompt(query, tuple(texts[: self.encoder.spec.window]), RERANK_TASK)
        (vector,) = self.encoder.encode_prompts([prompt])
        hits = order([str(row) for row in range(len(texts))], self.encoder.encode_documents(texts), vector)
        results = [Result(documents[int(hit.docid)], hit.score, rank) for rank, hit in enumerate(hits, start=1)]
        return RankedResults(results, query, has_scores=True)

    def score(self, query: str, doc: str) -> float:
        return float(self.rank(query, [doc])[0].score)


if __name__ == "__main__":
    found = E2RankRanker().rank(
        "how long do fleas live", ["A jaguar hunts.", "A flea can live for a year."], ["a", "b"]
    )
    for result in found:
        print(f"{result.rank} {result.score:.4f} {result.doc_id} {result.text}")
