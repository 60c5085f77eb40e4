"""The losses of E2Rank's training, plain and slow: one text at a time, explicit loops over pairs, float32.

Written from the method (Liu et al. 2025, arXiv 2510.22733, sections 3.1 and 3.3) and not from the package. The texts
are those of plain.py; here they keep their graph, so that autograd gives the gradients that every fast path must equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel as Model
from transformers import PreTrainedTokenizerBase as Tokenizer

from tests.reference import plain

RETRIEVAL = "Given a web search query, retrieve relevant passages that answer the query"
RERANK = "Given a web search query and some relevant documents, rerank the documents that answer the query"


def info_nce(scores: Sequence[Sequence[float]], positives: Sequence[int], temperature: float) -> float:
    """-log softmax of each row's positive, averaged, in exact loops; a score of None is no candidate."""
    total = 0.0
    for row, positive in zip(scores, positives, strict=True):
        candidates = [score / temperature for score in row if score is not None]
        highest = max(candidates)
        mass = math.fsum(math.exp(score - highest) for score in candidates)
        total += highest + math.log(mass) - row[positive] / temperature
    return total / len(scores)


def ranknet(lists: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """Mean of log(1 + exp(worse - better)) over every (better, worse) pair of every (scores, relevance)."""
    terms = []
    for scores, relevance in lists:
        for i in range(len(scores)):
            for j in range(len(scores)):
                if relevance[i] > relevance[j]:
                    gap = scores[j] - scores[i]
                    terms.append(max(gap, 0.0) + math.log1p(math.exp(-abs(gap))))
    return math.fsum(terms) / len(terms) if terms else 0.0


def vector(model: Model, ids: Sequence[int]) -> torch.Tensor:
    """Token ids (T,) -> (dim,) of length 1, with its graph: the last token's hidden state."""
    state = model(input_ids=torch.tensor([list(ids)])).last_hidden_state[0, -1]  # (dim,)
    return state / torch.sqrt((state * state).sum())


def document_ids(tokenizer: Tokenizer, text: str, max_length: int) -> list[int]:
    """Cut to max_length - 1, then the EOS."""
    return [*plain.token_ids(tokenizer, text)[: max_length - 1], tokenizer.get_vocab()[plain.EOS]]


def query_ids(tokenizer: Tokenizer, query: str, max_length: int, task: str = RETRIEVAL) -> list[int]:
    return document_ids(tokenizer, f"Instruct: {task}\nQuery:{query}", max_length)


def prompt_ids(
    tokenizer: Tokenizer,
    query: str,
    documents: Sequence[str],
    lengths: dict[str, int],
    task: str = RERANK,
    noun: str = "Documents",
) -> list[int]:
    """The wrapped listwise prompt of the paper's variant."""
    fitted, texts = plain.fit(
        tokenizer,
        query,
        documents,
        task=task,
        noun=noun,
        variant="paper",
        document_length=lengths["document"],
        query_length=lengths["query"],
        prompt_length=lengths["prompt"],
    )
    turn = plain.user_turn(fitted, texts, task=task, noun=noun, variant="paper")
    return plain.token_ids(tokenizer, plain.chat(turn))


def batch_loss(
    model: Model,
    tokenizer: Tokenizer,
    batch: Sequence[tuple[str, Sequence[str], Sequence[float]]],
    *,
    stage: str,
    listwise: str = "prompt",
    window: int,
    lengths: dict[str, int],
    temperature: float = 0.03,
    scale: float = 10.0,
    weight: float = 2.0,
    tasks: tuple[str, str, str] = (RETRIEVAL, RERANK, "Documents"),
) -> dict[str, torch.Tensor]:
    """(query, documents, relevance) each, the most relevant one being the positive -> infonce, ranknet, loss.

    The candidates of a query are all texts of the batch, each once, without its positives in this and in any other
    list of the same query, and without what is as relevant as the positive of its list.
    """
    model.train(False)
    retrieval, rerank, noun = tasks
    texts: list[str] = []
    for _, documents, _ in batch:
        for text in documents:
            if text not in texts:
                texts.append(text)
    stored = {text: vector(model, document_ids(tokenizer, text, lengths["document"])) for text in texts}
    tied: dict[str, set[str]] = {}
    for query, documents, relevance in batch:
        best = max(relevance)
        tied.setdefault(query, set()).update(
            text for text, value in zip(documents, relevance, strict=True) if value == best
        )
    contrastive, pairs = [], []
    for query, documents, relevance in batch:
        reader = vector(model, query_ids(tokenizer, query, lengths["query"], retrieval))
        best = max(range(len(documents)), key=lambda number: relevance[number])
        candidates = [documents[best], *(text for text in texts if text not in tied[query])]
        logits = torch.stack([(reader * stored[text]).sum() / temperature for text in candidates])
        contrastive.append(torch.log(torch.exp(logits - logits.max()).sum()) + logits.max() - logits[0])
        if listwise == "prompt" and stage == "rank":
            reader = vector(model, prompt_ids(tokenizer, query, documents[:window], lengths, rerank, noun))
        scores = [scale * (reader * stored[text]).sum() for text in documents]
        for i in range(len(documents)):
            for j in range(len(documents)):
                if relevance[i] > relevance[j]:  # cross-entropy of "i before j" under sigmoid(s_i - s_j)
                    pairs.append(-torch.log(torch.sigmoid(scores[i] - scores[j])))
    infonce = torch.stack(contrastive).mean()
    if stage == "embed":
        return {"infonce": infonce, "loss": infonce}
    ranking = torch.stack(pairs).mean() if pairs else torch.zeros(())
    return {"infonce": infonce, "ranknet": ranking, "loss": infonce + weight * ranking}
