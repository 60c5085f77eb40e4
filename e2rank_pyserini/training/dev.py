"""A look at the dev lists while a model is trained."""

from collections.abc import Sequence

import numpy as np

from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.reranking import cosines
from e2rank_pyserini.training.examples import Example
from e2rank_pyserini.training.recipe import Recipe, Tasks
from e2rank_pyserini.types import ListwisePrompt, Vectors


def look(encoder: E2RankEncoder, dev: Sequence[Example], window: int, recipe: Recipe) -> dict[str, float]:
    """Mean nDCG@10 of the dev lists: by the query's vector `dev_query`, by the prompt's `dev_prompt` (stage rank)."""
    texts = list(dict.fromkeys(text for example in dev for text in example.documents))
    row = {text: number for number, text in enumerate(texts)}
    documents = encoder.encode_documents(texts)
    tasks = [recipe.tasks.get(example.source, Tasks()) for example in dev]
    queries = np.empty((len(dev), documents.shape[1]), dtype=np.float32)
    for told in dict.fromkeys(task.retrieval for task in tasks):
        members = [number for number, task in enumerate(tasks) if task.retrieval == told]
        queries[members] = encoder.encode_queries([dev[number].query for number in members], told)
    readers = {"dev_query": queries}
    if recipe.stage == "rank":
        prompts = [
            ListwisePrompt(example.query, example.documents[:window], task.rerank, task.noun)
            for example, task in zip(dev, tasks, strict=True)
        ]
        readers["dev_prompt"] = encoder.encode_prompts(prompts)
    return {
        name: float(
            np.mean(
                [
                    ndcg(cosines(documents[[row[text] for text in example.documents]], reader), example.relevance)
                    for example, reader in zip(dev, vectors, strict=True)
                ]
            )
        )
        for name, vectors in readers.items()
    }


def ndcg(scores: Vectors, relevance: Sequence[float], cut: int = 10) -> float:
    """nDCG of one list, linear gain as in trec_eval, negative relevance as 0; 0 where nothing is relevant."""
    gains = np.maximum(np.asarray(relevance, dtype=np.float64), 0)
    discounts = 1 / np.log2(np.arange(2, cut + 2))
    found = gains[np.argsort(-scores, kind="stable")][:cut]
    best = np.sort(gains)[::-1][:cut]
    ideal = float(best @ discounts[: len(best)])
    return float(found @ discounts[: len(found)]) / ideal if ideal > 0 else 0.0
