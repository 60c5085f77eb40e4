"""From a model's record to a tokenizer and weights: hub, directory, GGUF in an installed package, adapter."""

import contextlib
import json
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from huggingface_hub.utils.tqdm import are_progress_bars_disabled
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from e2rank_pyserini.catalog import ModelSpec
from e2rank_pyserini.inference import gguf_files
from e2rank_pyserini.inference.delta import FILE, Delta
from e2rank_pyserini.inference.places import (
    AS_ADAPTER,
    adapter_of,
    identity_of,
    place,
    unreadable,
    weights_are_here,
    weights_of,
)
from e2rank_pyserini.types import E2RankError, first_line

_IN_A_LAYER = re.compile(
    r"(?:.*\.)?(?:\w*layers?|h|blocks?)\.(\d+)\."
    r"(?!.*\b(?:position_ids|inv_freq|masked_bias|attn\.bias|attention\.bias)$)"  # buffers of older versions
)
_one_at_a_time = threading.Lock()  # while Transformers loads, torch's default dtype is the model's, for all threads
_LACKING = "Found missing adapter keys"  # how peft's warning begins


def load(spec: ModelSpec, device: str, dtype: torch.dtype) -> tuple[Any, Any, str]:
    """The model in evaluation mode on `device`, its tokenizer, and an identity that changes when the weights do.

    Raises E2RankError, one line, when the weights cannot be found, reached or read.
    """
    with _one_at_a_time:
        return _load(spec, device, dtype)


def _load(spec: ModelSpec, device: str, dtype: torch.dtype) -> tuple[Any, Any, str]:
    where, options = place(spec)
    options["trust_remote_code"] = False  # Transformers would ask on the terminal
    if not weights_are_here(spec, where):
        print(f"model {spec.name}: {where} comes from the hub", file=sys.stderr)
    packed = "gguf_file" in options
    try:
        with quiet(), gguf_files.read_once() if packed else contextlib.nullcontext():
            # what it would warn of is checked below, and is an error here
            if spec.layers is not None:
                _check_layers(spec, AutoConfig.from_pretrained(where, **options))
            tokenizer = AutoTokenizer.from_pretrained(where, **options)
            model, report = AutoModel.from_pretrained(
                where,
                dtype=dtype if spec.adapter is None else torch.float32,  # an adapter is added before rounding
                output_loading_info=True,
                **options,
                **(gguf_files.plain_weights() if packed else {}),
                **({"num_hidden_layers": spec.layers} if spec.layers is not None else {}),
            )
    except E2RankError:
        raise
    except ImportError as error:  # gguf, sentencepiece
        raise E2RankError(f"model {spec.name}: {first_line(error)}") from error
    except Exception as error:
        raise E2RankError(unreadable(spec, where, error)) from error
    _check_whole(spec, where, model, tokenizer, report)
    if packed:
        gguf_files.normalise(tokenizer, model.config.model_type)
    if spec.layers is not None and getattr(model.config, "layer_types", None):  # else it could not be saved again
        model.config.layer_types = model.config.layer_types[: spec.layers]
    if spec.adapter is not None:
        check_base(spec)
        model = _merged(model, spec)
    for parameter in model.parameters():  # not `model.to(dtype)`: the angles of rotary embeddings stay float32
        if parameter.dtype in (torch.float32, torch.bfloat16, torch.float16):  # others are packed
            parameter.data = parameter.data.to(dtype)
    return model.to(device=device).eval(), tokenizer, identity_of(spec)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it Transformers draws no bars and warns of nothing."""
    bars = transformers_logging.is_progress_bar_enabled() and not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()  # and the hub's
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _check_layers(spec: ModelSpec, config: Any) -> None:
    found = getattr(config, "num_hidden_layers", None)
    if found is not None and spec.layers is not None and spec.layers > found:
        raise E2RankError(f"model {spec.name}: layers: expected at most the {found} that it has, got {spec.layers}")


def _check_whole(spec: ModelSpec, where: str, model: Any, tokenizer: Any, report: dict[str, Any]) -> None:
    """Refuse weights that lack a tensor (Transformers fills it with noise) and a tokenizer that does not fit them."""
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))  # no pooler is used
    if missing:
        raise E2RankError(
            f"model {spec.name}: {where} is not whole: its weights lack {missing[0]} ({len(missing)} such)"
        )
    if hasattr(model, "peft_config"):  # of which Transformers has loaded the base too, whatever that is by now
        raise E2RankError(f"model {spec.name}: {where} is an adapter; {AS_ADAPTER}")
    placed = {key: _IN_A_LAYER.match(key) for key in sorted(report["unexpected_keys"])}
    vain = [key for key, at in placed.items() if at and (spec.layers is None or int(at[1]) < spec.layers)]
    if vain:
        raise E2RankError(
            f"model {spec.name}: {where}: its configuration has no place for its weights {vain[0]} ({len(vain)} such)"
        )
    if not tokenizer("a text", add_special_tokens=False)["input_ids"]:
        raise E2RankError(f"model {spec.name}: {where} has no tokenizer that reads a text")
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise E2RankError(f"model {spec.name}: {where}: the tokenizer has {len(tokenizer)} tokens, the model {rows}")


def _merged(model: Any, spec: ModelSpec) -> Any:
    directory = adapter_of(spec)
    if not directory.is_dir():
        raise E2RankError(
            f"model {spec.name}: its adapter {directory} is not on this machine; name the model anew (--encoder), or "
            "put the folder there"
        )
    if (directory / FILE).exists():
        try:
            Delta.read(directory).add_to(model)
        except Exception as error:
            raise E2RankError(unreadable(spec, str(directory), error)) from error
        return model
    try:
        from peft import PeftModel
    except ImportError as error:
        raise E2RankError(f"model {spec.name}: its adapter needs peft; pip install 'e2rank-pyserini[train]'") from error
    try:
        with whole_adapter():
            return PeftModel.from_pretrained(model, str(directory)).merge_and_unload()
    except Exception as error:
        raise E2RankError(unreadable(spec, str(directory), error)) from error


@contextlib.contextmanager
def whole_adapter() -> Iterator[None]:
    """Within it, an adapter that lacks weights, or has them under other names, is an error: peft only warns."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", FutureWarning)  # peft reads an attribute that Transformers 5 deprecates
        yield
    for warning in told:
        if _LACKING not in str(warning.message):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
            continue
        lacking = re.findall(r"'([^']+)'", str(warning.message))
        if needed := [key for key in lacking if ".pooler." not in key]:  # no pooler is used
            raise E2RankError(f"it lacks {needed[0]} ({len(needed)} such)")


def check_base(spec: ModelSpec) -> None:
    """Refuse an adapter of `e2rank train` on other weights than those that it was trained on."""
    record = adapter_of(spec) / "training.json"
    try:
        trained_on = json.loads(record.read_text(encoding="utf-8")).get("base_weights")
    except (OSError, ValueError, AttributeError):  # another program's, or none
        return
    if trained_on is not None and weights_of(spec) not in (None, trained_on):
        raise E2RankError(
            f"model {spec.name}: its adapter was trained on other weights ({trained_on}) than those of {spec.source} "
            f"({weights_of(spec)})"
        )
