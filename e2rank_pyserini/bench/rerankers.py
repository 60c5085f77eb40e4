"""Who reranks 100 passages: our one prompt, and what a user would run instead on the same backbone."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.index import DenseIndex
from e2rank_pyserini.inference.forward import batches, padded
from e2rank_pyserini.inference.loading import quiet
from e2rank_pyserini.reranking import WINDOW, rerank
from e2rank_pyserini.types import Hit, Run, Topics

STRIDE = 10
_QUERY_WORDS = 12
Rerank = Callable[[str, int], list[int]]  # told the qid and how many candidates; tells the tokens of each text it read


class Candidates(NamedTuple):
    """Topics, a first-stage run of the same DEPTH passages in another order for each, their texts by docid."""

    topics: Topics
    run: Run
    texts: dict[str, str]


def candidates(passages: Sequence[str], queries: int) -> Candidates:
    """`queries` topics of 12 words of a passage each, and DEPTH `passages` as everyone's candidates."""
    draw = random.Random(0)
    texts = {f"p{number}": passage for number, passage in enumerate(passages)}
    topics = {str(number): " ".join(draw.choice(passages).split()[:_QUERY_WORDS]) for number in range(queries)}
    run = {
        qid: [Hit(docid, 1 - place / 1000) for place, docid in enumerate(draw.sample(list(texts), len(texts)))]
        for qid in topics
    }
    return Candidates(topics, run, texts)


def ours(given: Candidates, encoder: E2RankEncoder, index: DenseIndex) -> Rerank:
    """One prompt of the first 20 passages, and the stored vectors of all candidates rescored."""

    def run(qid: str, depth: int) -> list[int]:
        before = encoder.tally.tokens
        rerank({qid: given.run[qid]}, given.topics, given.texts, index, encoder, depth=depth, window=WINDOW)
        return [encoder.tally.tokens - before]

    return run


def pointwise(given: Candidates, encoder: E2RankEncoder, model: Any) -> Rerank:
    """Query and passage in a prompt each; the score is the logit of yes less that of no after its last token.

    Batches hold prompts of like length within our token budget; only the last token's logits are computed.
    """
    tokenizer = encoder.tokens.tokenizer
    words = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("yes", "no")]

    @torch.inference_mode()
    def run(qid: str, depth: int) -> list[int]:
        prompts = [_yes_or_no(given.topics[qid], given.texts[hit.docid]) for hit in given.run[qid][:depth]]
        rows = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        scores = np.zeros(len(rows))
        for group in batches([len(row) for row in rows], encoder.batch_tokens):
            ids, mask = (part.to(encoder.device) for part in padded([rows[number] for number in group]))
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state  # (B, T, D); pads come last
            last = hidden[torch.arange(len(group), device=ids.device), mask.sum(dim=1) - 1]
            logits = model.lm_head(last)[:, words].float().cpu()
            scores[group] = (logits[:, 0] - logits[:, 1]).numpy()
        np.argsort(-scores, kind="stable")
        return [len(row) for row in rows]

    return run


def listwise(given: Candidates, encoder: E2RankEncoder, model: Any) -> Rerank:
    """RankGPT's sliding windows (Sun et al. 2023): 20 passages, stride 10, from the end to the front.

    Each generates as many tokens as a permutation of 20 has, greedily, with the cache of keys and values. Random
    weights say nothing that could be read as one, so the order stays as it is.
    """
    tokenizer = encoder.tokens.tokenizer
    answer = " > ".join(f"[{number}]" for number in range(1, WINDOW + 1))
    length = len(tokenizer(answer, add_special_tokens=False)["input_ids"])

    @torch.inference_mode()
    def run(qid: str, depth: int) -> list[int]:
        docids, read = [hit.docid for hit in given.run[qid][:depth]], []
        for start in range(depth - WINDOW, -1, -STRIDE):
            window = [given.texts[docid] for docid in docids[start : start + WINDOW]]
            text = _in_order(given.topics[qid], window)
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"].to(encoder.device)
            found = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=length,
                max_new_tokens=length,
                pad_token_id=tokenizer.pad_token_id,
            )
            read.append(found.shape[1] - 1)  # the last token is written, not read
        return read

    return run


def _yes_or_no(query: str, passage: str) -> str:
    asked = f"Query: {query}\nDocument: {passage}\nIs the document relevant to the query? Answer yes or no."
    return _turn(asked)


def _in_order(query: str, passages: Sequence[str]) -> str:
    listed = "\n".join(f"[{number}] {passage}" for number, passage in enumerate(passages, start=1))
    return _turn(
        f"Rank the {len(passages)} passages by their relevance to the query: {query}\n{listed}\nAnswer with the "
        "identifiers alone, such as [2] > [1]."
    )


def _turn(asked: str) -> str:
    """In Qwen3's form, thinking off."""
    return f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def makers(given: Candidates, encoder: E2RankEncoder, place: Path) -> dict[str, Callable[[], Rerank]]:
    """The peers by name, each made when called, over one language model of the weights in `place`."""
    models: list[Any] = []

    def model() -> Any:
        from transformers import AutoModelForCausalLM

        if not models:
            with quiet():  # it would warn of a head that an encoder's weights lack: it is random
                found = AutoModelForCausalLM.from_pretrained(place, dtype=encoder.dtype)
            models.append(found.to(encoder.device).eval())
        return models[0]

    return {
        "pointwise": lambda: pointwise(given, encoder, model()),
        "listwise": lambda: listwise(given, encoder, model()),
    }
