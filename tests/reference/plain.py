"""The E2Rank method, plain and slow: one text at a time, float32, no padding, no batches, no cache.

Written from the method (Liu et al. 2025, arXiv 2510.22733) and not from the package, so that every fast path can be
held against it. A model is a transformers base model (its output has `last_hidden_state`), a tokenizer a fast one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel as Model
from transformers import PreTrainedTokenizerBase as Tokenizer

Vector = NDArray[np.float32]  # (dim,), length 1
EOS = "<|endoftext|>"


def token_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Text -> its token ids (T,), with nothing added and nothing cut off."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def hidden_states(model: Model, ids: Sequence[int]) -> Vector:
    """Token ids (T,) -> last hidden states (T, dim)."""
    model.train(False)
    with torch.no_grad():
        states = model(input_ids=torch.tensor([list(ids)])).last_hidden_state[0]  # (1, T, dim) -> (T, dim)
    assert states.dtype == torch.float32, f"the reference runs in float32, the model gave {states.dtype}"
    return np.asarray(states.numpy(), dtype=np.float32)


def normalised(vector: Vector) -> Vector:
    """(dim,) -> (dim,) of length 1."""
    return np.divide(vector, np.sqrt(np.sum(vector * vector, dtype=np.float32)), dtype=np.float32)


def document_vector(model: Model, tokenizer: Tokenizer, text: str, *, eos: str = EOS, max_length: int) -> Vector:
    """Text -> (dim,): the last hidden state of the EOS that follows the first max_length - 1 tokens."""
    assert max_length >= 1, "the EOS alone takes one token"
    ids = [*token_ids(tokenizer, text)[: max_length - 1], tokenizer.get_vocab()[eos]]
    return normalised(hidden_states(model, ids)[-1])


def query_vector(
    model: Model, tokenizer: Tokenizer, query: str, *, task: str, eos: str = EOS, max_length: int
) -> Vector:
    """Query -> (dim,): its text with the instruction in front, encoded as a document is."""
    return document_vector(model, tokenizer, f"Instruct: {task}\nQuery:{query}", eos=eos, max_length=max_length)


def user_turn(
    query: str, documents: Sequence[str], *, task: str, noun: str = "Documents", variant: str, eos: str = EOS
) -> str:
    """The user turn of the listwise prompt; variant is "paper", "card" or "train"."""
    end_of_document = {"paper": "", "card": eos, "train": ""}[variant]
    tail = {"paper": f"\nSearch Query: {query}", "card": f"Search Query:{query}", "train": f"\nQuery: {query}{eos}"}
    lines = [f"[{number}] {document}{end_of_document}" for number, document in enumerate(documents, start=1)]
    return f"{task}:\n{noun}:\n" + "\n".join(lines) + tail[variant]


def chat(turn: str) -> str:
    """User turn -> the text that reaches the tokenizer: Qwen3's chat template, thinking off, no EOS after it."""
    return f"<|im_start|>user\n{turn}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def cut(tokenizer: Tokenizer, text: str, n: int) -> str:
    """The text if it has at most n tokens, else its prefix up to the end of its n-th token; "" for n <= 0."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]  # (T, 2)
    if n <= 0:
        return ""
    if len(offsets) <= n:
        return text
    _, end = offsets[n - 1]
    return text[:end]


def fit(
    tokenizer: Tokenizer,
    query: str,
    documents: Sequence[str],
    *,
    task: str,
    noun: str = "Documents",
    variant: str,
    eos: str = EOS,
    document_length: int,
    query_length: int,
    prompt_length: int,
) -> tuple[str, list[str]]:
    """(query, n documents) -> (query, n documents), cut so that the wrapped prompt has at most prompt_length tokens.

    Where even empty documents do not fit, the documents come back empty and the prompt stays too long.
    """

    def size(query: str, documents: Sequence[str]) -> int:
        turn = user_turn(query, documents, task=task, noun=noun, variant=variant, eos=eos)
        return len(token_ids(tokenizer, chat(turn)))

    whole = [cut(tokenizer, document, document_length) for document in documents]
    if size(cut(tokenizer, query, query_length), whole) <= prompt_length:
        return cut(tokenizer, query, query_length), whole
    nothing = ["" for _ in documents]
    space = prompt_length - size("", nothing)
    query = cut(tokenizer, query, min(query_length, space // 2))
    room = prompt_length - size(query, nothing)
    tokens = [len(token_ids(tokenizer, document)) for document in documents]  # (n,)
    budget = 0
    while budget + 1 <= document_length and sum(min(count, budget + 1) for count in tokens) <= room:
        budget += 1
    shortened = [cut(tokenizer, document, budget) for document in documents]
    while size(query, shortened) > prompt_length and budget > 0:  # joining texts can make more tokens than their sum
        budget -= 1
        shortened = [cut(tokenizer, document, budget) for document in documents]
    return query, shortened


def prompt_vector(
    model: Model,
    tokenizer: Tokenizer,
    query: str,
    documents: Sequence[str],
    *,
    task: str,
    noun: str = "Documents",
    variant: str,
    eos: str = EOS,
    document_length: int,
    query_length: int,
    prompt_length: int,
) -> Vector:
    """(query, n documents) -> (dim,): the last hidden state of the last token of the wrapped listwise prompt."""
    lengths = {"document_length": document_length, "query_length": query_length, "prompt_length": prompt_length}
    query, texts = fit(tokenizer, query, documents, task=task, noun=noun, variant=variant, eos=eos, **lengths)
    turn = user_turn(query, texts, task=task, noun=noun, variant=variant, eos=eos)
    return normalised(hidden_states(model, token_ids(tokenizer, chat(turn)))[-1])


def rerank(prompt: Vector, docids: Sequence[str], vectors: Mapping[str, Vector], depth: int) -> list[tuple[str, float]]:
    """(dim,) and docids in first-stage order -> the first `depth` of them by cosine; ties keep first-stage order."""
    scored = [(docid, float(np.sum(prompt * vectors[docid], dtype=np.float32))) for docid in docids[:depth]]
    return sorted(scored, key=lambda hit: -hit[1])  # sorted() is stable


def mean_document_vector(model: Model, tokenizer: Tokenizer, text: str, *, max_length: int) -> Vector:
    """Text -> (dim,): mean last hidden state over all tokens, the tokenizer's own special tokens among them (BERT)."""
    ids = tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
    return normalised(np.mean(hidden_states(model, ids), axis=0, dtype=np.float32))


def ndcg(qrels: Mapping[str, int], ranking: Sequence[str], k: int) -> float:
    """trec_eval's nDCG at k of one topic: linear gain, log2(rank + 1) discount, ideal over all judged documents."""

    def dcg(grades: Sequence[int]) -> float:
        return sum(max(grade, 0) / math.log2(rank + 1) for rank, grade in enumerate(grades[:k], start=1))

    ideal = dcg(sorted(qrels.values(), reverse=True))
    return dcg([qrels.get(docid, 0) for docid in ranking]) / ideal if ideal > 0 else 0.0
