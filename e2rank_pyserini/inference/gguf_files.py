"""GGUF files as Transformers reads them: whole weights, the tokenizer's normalisation, and their fields parsed once."""

import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import Any

from tokenizers import normalizers

_COMPOSING = ("qwen2", "qwen3")  # whose tokenizers compose characters (NFC), which their GGUF files do not say


def plain_weights() -> dict[str, Any]:
    """What from_pretrained takes for plain weights: newer Transformers may compute on the packed blocks, in float32."""
    try:
        from transformers import GgufConfig
    except ImportError:  # older ones always unpack
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def normalise(tokenizer: Any, model_type: str) -> None:
    """Have the tokenizer of a GGUF file normalise characters as the model's own does."""
    if model_type in _COMPOSING:
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """Within it Transformers parses a GGUF file's fields once, and draws its bar where there is a terminal.

    It parses them for the configuration, for the tokenizer and for the weights, seconds each time for a vocabulary of
    49,152 words. The caller sees to it that one thread at a time is within.
    """
    try:
        gguf: Any = importlib.import_module("gguf")
    except ImportError:  # Transformers says what is to be installed
        yield
        return
    from transformers import modeling_gguf_pytorch_utils as reading

    reader, bar = gguf.GGUFReader, reading.tqdm
    gguf.GGUFReader = functools.lru_cache(maxsize=1)(reader)
    reading.tqdm = functools.partial(bar, disable=None)
    try:
        yield
    finally:
        gguf.GGUFReader, reading.tqdm = reader, bar
