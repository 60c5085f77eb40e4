"""What the benchmarks of speed share: the machine and its matmul peak, a random Qwen3 of real width, texts, the FLOPs
of a forward pass, and peers that are timed in turn."""

import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from e2rank_pyserini import corpus as corpora
from e2rank_pyserini import provenance
from e2rank_pyserini.prompts import document_text
from e2rank_pyserini.types import Document

EOS = "<|endoftext|>"
SPECIAL = [EOS, "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# words a passage: quartiles of about 120, 190 and 270, as in collections of abstracts and web passages
_MEDIAN_WORDS, _SPREAD, _MOST_WORDS = 190, 0.55, 1500


def qwen3(place: Path, texts: Sequence[str], *, layers: int, width: int = 1024) -> Path:
    """Write a Qwen3 with random weights (bfloat16), and a BPE tokenizer trained on `texts`.

    At width 1024 its layers are those of Qwen3-0.6B.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

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
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def _tokenizer(texts: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=16000, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=EOS, pad_token=EOS)
    tokenizer.chat_template = CHAT
    return tokenizer


def passages(data: Path | None, count: int) -> list[Document]:
    """The first `count` documents of a BEIR folder, or as many synthetic ones of mixed lengths."""
    found = corpora.documents(str(data)) if data is not None else synthetic()
    return list(islice(found, count))


def synthetic(seed: int = 0) -> Iterable[Document]:
    """Endless passages of invented words, Zipf's law over the words and a log-normal law over the lengths."""
    draw = random.Random(seed)
    syllables = [first + vowel for first in "bdfgklmnprstv" for vowel in "aeiou"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(8000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    sums = [0.0]
    for weight in weights:
        sums.append(sums[-1] + weight)
    number = 0
    while True:
        length = min(_MOST_WORDS, max(5, round(_MEDIAN_WORDS * draw.lognormvariate(0, _SPREAD))))
        yield Document(str(number), "", " ".join(draw.choices(words, cum_weights=sums[1:], k=length)))
        number += 1


def as_text(document: Document) -> str:
    """What is encoded of a document: title and text."""
    return document_text(document.title, document.text, "{title} {text}")


class Work:
    """The arithmetic of one decoder: floating-point operations of its matrix products, nothing else counted."""

    def __init__(self, config: Any) -> None:
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        width, inner, head = config.hidden_size, config.intermediate_size, _head_dim(config)
        self.shapes = [  # (inputs, outputs) of one layer's linear maps
            (width, heads * head),
            (width, groups * head),
            (width, groups * head),
            (heads * head, width),
            (width, inner),
            (width, inner),
            (inner, width),
        ]
        self.layers, self.attended = config.num_hidden_layers, heads * head

    def flops(self, lengths: Iterable[int]) -> float:
        """Texts of these many tokens, each read once: 2 a weight and token, and causal attention's two products."""
        linear = 2 * sum(inputs * outputs for inputs, outputs in self.shapes)
        return float(sum(self.layers * (linear * n + 2 * self.attended * n * (n + 1)) for n in lengths))


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def matmul_peak(shapes: Sequence[tuple[int, int]], device: str, dtype: torch.dtype, rounds: int = 7) -> float:
    """FLOP/s of a layer's linear maps one after another, at the row count (256 to 8192) where they are quickest."""
    maps = [torch.randn(inputs, outputs, device=device, dtype=dtype) for inputs, outputs in shapes]
    best = 0.0
    for rows in (256, 1024, 2048, 4096, 8192):
        given = {inputs: torch.randn(rows, inputs, device=device, dtype=dtype) for inputs, _ in shapes}
        work = 2 * rows * sum(inputs * outputs for inputs, outputs in shapes)
        for _ in range(rounds):
            started = time.perf_counter()
            for one in maps:
                given[one.shape[0]] @ one
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            best = max(best, work / (time.perf_counter() - started))
    return best


def interleaved(peers: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every peer in every round, A B C A B C …, so that what else the machine does hits all alike.

    What warms up (memory, kernels that are chosen at first use) must have happened before.
    """
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, run in peers.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratios(slower: Sequence[float], quicker: Sequence[float]) -> dict[str, float]:
    """min, median and max over the rounds of slower / quicker, each of one round."""
    each = [one / other for one, other in zip(slower, quicker, strict=True)]
    return {"min": min(each), "median": statistics.median(each), "max": max(each)}


def setting(device: str) -> dict[str, Any]:
    """Machine, versions, threads, and the load that other processes make at the start."""
    found = {**provenance.machine(), "threads": torch.get_num_threads(), "device": device}
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    return {**found, "load": [round(one, 1) for one in os.getloadavg()], "versions": provenance.versions()}


def announce(found: Mapping[str, Any]) -> None:
    """The setting in three lines."""
    versions = " ".join(f"{name} {version}" for name, version in found["versions"].items())
    print(
        f"{found.get('gpu', found['processor'])}, {found['cores']} cores, {found['threads']} threads, {found['device']}"
    )
    print(f"load at the start (1, 5, 15 minutes): {' '.join(map(str, found['load']))}\n{versions}")


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def write_json(path: Path | None, found: Mapping[str, Any]) -> None:
    """All that was measured, where asked for."""
    if path is not None:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
