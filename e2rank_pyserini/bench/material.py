"""What is measured on: a Qwen3 of real width with random weights, and texts of mixed lengths."""

import itertools
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from e2rank_pyserini import corpus as corpora
from e2rank_pyserini.inference.pieces import QWEN
from e2rank_pyserini.prompts import document_text
from e2rank_pyserini.types import Document, E2RankError

EOS = "<|endoftext|>"
_SPECIAL = [EOS, "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# words a passage: quartiles of about 130, 190 and 275, as in collections of abstracts and web passages
_MEDIAN_WORDS, _SPREAD, _MOST_WORDS = 190, 0.55, 1500


def qwen3(place: Path, texts: Iterable[str], *, layers: int, width: int = 1024) -> Path:
    """Write a Qwen3 with random weights (bfloat16), and a BPE tokenizer trained on `texts`; returns `place`.

    At width 1024 its layers are those of Qwen3-0.6B, which has 28. Raises E2RankError where the disk does not take it.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = _tokenizer(texts)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=width // 8,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
    )
    try:
        Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(place)
        tokenizer.save_pretrained(place)
    except (OSError, SafetensorError) as error:
        raise E2RankError(f"{place}: the random model cannot be written: {error}") from error
    return place


def _tokenizer(texts: Iterable[str]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(QWEN), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=16000, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=EOS, pad_token=EOS)
    tokenizer.chat_template = _CHAT
    return tokenizer


def passages(data: str | None) -> Iterator[Document]:
    """The documents of a corpus (a BEIR folder, say), or without one endless synthetic ones of mixed lengths."""
    return corpora.documents(data) if data is not None else synthetic()


def synthetic() -> Iterator[Document]:
    """Endless passages of invented words, Zipf's law over the words and a log-normal law over the lengths."""
    draw = random.Random(0)
    syllables = [first + vowel for first in "bdfgklmnprstv" for vowel in "aeiou"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(8000)]
    sums = list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))
    for number in itertools.count():
        length = min(_MOST_WORDS, max(5, round(_MEDIAN_WORDS * draw.lognormvariate(0, _SPREAD))))
        yield Document(str(number), "", " ".join(draw.choices(words, cum_weights=sums, k=length)))


def as_text(document: Document) -> str:
    """What is encoded of a document: title and text."""
    return document_text(document.title, document.text)


def of_length(texts: Iterable[str], tokenizer: Any, tokens: int) -> Iterator[str]:
    """Passages of `tokens` tokens each: texts one after another, joined until they are long enough and cut there.

    Tokenised again, one may have a token more or less. What is left of a text after the cut goes; so does the last
    passage when it stays short.
    """
    parts: list[str] = []
    for text in texts:
        parts.append(text)
        joined = " ".join(parts)
        ends = tokenizer(joined, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        if len(ends) >= tokens:
            yield joined[: ends[tokens - 1][1]]
            parts = []
