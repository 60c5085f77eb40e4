"""GGUF files as Transformers reads them: whole weights, the tokenizer's normalisation, and their fields parsed once."""

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

from tokenizers import normalizers

_COMPOSING = ("qwen2", "qwen3")  # whose tokenizers compose characters (NFC), which their GGUF files do not say

_CHANGED: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("gguf", "GGUFReader", functools.lru_cache(maxsize=1)),
    ("gguf", "get_tensor_name_map", functools.lru_cache(maxsize=1)),
    ("transformers.modeling_gguf_pytorch_utils", "tqdm", lambda bar: functools.partial(bar, disable=None)),
)


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
    49,152 words, and makes the table of weights' names anew for each module. The caller sees to it that one thread at
    a time is within.
    """
    with contextlib.ExitStack() as after:
        for name, attribute, changed in _CHANGED:
            with contextlib.suppress(ImportError, AttributeError):  # another release has it elsewhere: as it is there
                module = importlib.import_module(name)
                before = getattr(module, attribute)
                setattr(module, attribute, changed(before))
                after.callback(setattr, module, attribute, before)
        yield
