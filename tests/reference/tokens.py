"""Text to token ids, plain and slow: through Transformers' own call, one text and one prompt at a time.

What `e2rank_pyserini.inference.tokens` does in batches, without offsets and without Transformers, must equal this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase as Tokenizer

from e2rank_pyserini.types import ListwisePrompt


def framed(tokenizer: Tokenizer, text: str, length: int, eos_id: int | None) -> tuple[list[int], bool]:
    """The ids of a text with its EOS (or the tokenizer's own special tokens), and whether it was cut."""
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    if eos_id is not None:
        return [*bare[: length - 1], eos_id], len(bare) > length - 1
    whole = tokenizer(text, truncation=True, max_length=length)["input_ids"]
    return whole, len(tokenizer(text)["input_ids"]) > length


def fit(
    tokenizer: Tokenizer,
    prompt: ListwisePrompt,
    text_of: Callable[[ListwisePrompt], str],
    lengths: Any,
    *,
    special: bool,
) -> tuple[ListwisePrompt, list[int]] | None:
    """The prompt cut to its lengths, and its ids; None where not even empty documents fit."""

    def ids_of(one: ListwisePrompt) -> list[int]:
        return list(tokenizer(text_of(one), add_special_tokens=special)["input_ids"])

    query_ends, *document_ends = [_ends(tokenizer, text) for text in (prompt.query, *prompt.documents)]

    def cut(query: int, document: int) -> ListwisePrompt:
        documents = zip(prompt.documents, document_ends, strict=True)
        return prompt._replace(
            query=_cut(prompt.query, query_ends, query),
            documents=tuple(_cut(text, ends, document) for text, ends in documents),
        )

    whole = cut(lengths.query, lengths.document)
    if len(ids_of(whole)) <= lengths.prompt:
        return whole, ids_of(whole)
    query = min(lengths.query, max(0, lengths.prompt - len(ids_of(cut(0, 0)))) // 2)
    room = lengths.prompt - len(ids_of(cut(query, 0)))
    budget = lengths.document
    while budget > 0 and sum(min(len(ends), budget) for ends in document_ends) > room:
        budget -= 1
    for fewer in range(budget, -1, -1):
        fitted = cut(query, fewer)
        if len(ids_of(fitted)) <= lengths.prompt:
            return fitted, ids_of(fitted)
    return None


def _ends(tokenizer: Tokenizer, text: str) -> list[int]:
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [end for _, end in offsets]


def _cut(text: str, ends: Sequence[int], budget: int) -> str:
    if len(ends) <= budget:
        return text
    return text[: ends[budget - 1]] if budget > 0 else ""
