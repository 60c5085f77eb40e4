"""models.yaml and datasets.yaml as frozen records; an unknown key is an error that names the near miss."""

import dataclasses
import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin

import yaml

from e2rank_pyserini.choices import DTYPES, VARIANTS
from e2rank_pyserini.declared import adapter_folder, check_declared, file_of, json_of
from e2rank_pyserini.prompts import RERANK_TASK, RETRIEVAL_TASK, TITLE_AND_TEXT
from e2rank_pyserini.types import E2RankError, first_line, shown

POOLINGS = ("last", "mean", "cls")
OWN = "e2rank:"  # what an adapter inside this package begins with
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")  # YAML 1.1 takes 5e-4 for text
OWN_FILE = "e2rank.yaml"  # beside the weights: the record of a model that is not in models.yaml


Record = TypeVar("Record")


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Token limits, everything counted: a document, a retrieval query, a listwise prompt."""

    document: int
    query: int
    prompt: int


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """How a model's vectors are made. The fields are explained at the head of models.yaml."""

    name: str
    source: str
    pooling: str
    eos: str | None
    query: str
    prompt: str
    chat: str
    lengths: Lengths
    window: int
    dtype: str = "auto"
    adapter: str | None = None
    revision: str | None = None
    layers: int | None = None

    def __post_init__(self) -> None:
        one_of(f"model {self.name}: pooling", self.pooling, POOLINGS)
        one_of(f"model {self.name}: prompt", self.prompt, VARIANTS)
        one_of(f"model {self.name}: dtype", self.dtype, DTYPES)
        if "{query}" not in self.query:
            raise E2RankError(f"model {self.name}: query: expected a template with {{query}}, got {self.query!r}")
        if min(dataclasses.astuple(self.lengths)) < 2 or self.window < 1:
            raise E2RankError(f"model {self.name}: lengths must be at least 2 tokens and window at least 1")
        if self.layers is not None and self.layers < 1:
            raise E2RankError(f"model {self.name}: layers: expected at least 1, got {self.layers}")


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """Where a data set's parts are and what its tasks say. The fields are explained at the head of datasets.yaml."""

    name: str
    corpus: str
    topics: tuple[str, ...] = ()
    qrels: tuple[str, ...] = ()
    retrieval_task: str = RETRIEVAL_TASK
    rerank_task: str = RERANK_TASK
    noun: str = "Documents"
    document: str = TITLE_AND_TEXT
    relevance: int = 1
    excluded: str | None = None
    query_length: int | None = None
    mteb: tuple[str, ...] = ()
    package: str | None = None
    sha256: str | None = None


def dataset_names() -> list[str]:
    return list(_datasets())


def model_names() -> list[str]:
    return list(_models()["models"])


def dataset(name: str) -> DatasetSpec:
    """The data set of this name; raises E2RankError with the nearest names when there is none."""
    if name not in _datasets():
        raise E2RankError(
            f"data set {name!r}: expected a folder or one of the named data sets"
            f"{near_miss(name, dataset_names())} (all: {', '.join(dataset_names())})"
        )
    return record(DatasetSpec, {"name": name, **_datasets()[name]}, f"datasets.yaml: {name}")


def dataset_of_mteb_task(task: str, subset: str) -> DatasetSpec | None:
    """The named data set that a task (or one subset of it) of the mteb library is; None where there is none."""
    wanted = {task, f"{task}/{subset}"}
    return next((dataset(name) for name in _datasets() if wanted & set(_datasets()[name].get("mteb", ()))), None)


def model(name: str, like: str | None = None, *, kept: Mapping[str, Any] | None = None) -> ModelSpec:
    """The record of a named model, of a local directory, or of a hub name.

    A directory may carry its own `e2rank.yaml`. Otherwise `like` (a named model) says how the vectors are made, and
    without it the `model_type` of the model's config.json decides (models.yaml, families); a model whose own files
    say otherwise is refused. Of a hub repository the newest commit is read, but that of `kept`, the record of a model
    that was used before, where this is of the same repository and asks for no other.
    """
    kept = kept or {}
    at = kept.get("revision") if kept.get("source") == name else None
    found = _model(name, like, at)
    if found.revision is None and found.source == kept.get("source"):
        found = dataclasses.replace(found, revision=kept.get("revision"))
    return found


def _model(name: str, like: str | None, commit: str | None) -> ModelSpec:
    """As `model`; `commit` is that of a hub repository of this name that is read."""
    records: dict[str, Any] = _models()["models"]
    by_source = {record["source"]: key for key, record in reversed(records.items())}  # the first one, untrained, wins
    if like is not None and like not in records:
        raise E2RankError(f"like {like!r}: expected a named model{near_miss(like, records)}")
    key = name if name in records else by_source.get(name)
    if key is not None and not Path(name).is_dir():
        if like is not None:
            raise E2RankError(f"model {name!r}: is a named one; --like goes with a directory or a hub name")
        return record(ModelSpec, {"name": key, **records[key]}, f"models.yaml: {key}")
    if not Path(name).is_dir() and not re.fullmatch(r"[\w.-]*\w[\w.-]*/[\w.-]+", name):
        raise E2RankError(
            f"model {name!r}: expected a named model, a directory or a hub name (owner/name)"
            f"{near_miss(name, records)} (named: {', '.join(records)})"
        )
    own = None if like else file_of(name, OWN_FILE, commit)
    if own is not None:
        fields = {"name": name, "source": name, **yaml_file(own)}
        beside = Path(name) / str(fields["source"])
        if beside.exists() and not Path(str(fields["source"])).exists():  # the base came along
            fields["source"] = str(beside)
        if fields.get("adapter") is not None and not str(fields["adapter"]).startswith(OWN):
            fields["adapter"] = str(adapter_folder(name, str(fields["adapter"]), _commit_of(name, own)))
        if fields["source"] == name:
            fields["revision"] = fields.get("revision") or _commit_of(name, own)
        return record(ModelSpec, fields, str(own))
    commit = _commit_of(name, file_of(name, "config.json", commit))
    config = _config(name, commit)
    key = like or _by_type(config.get("model_type"), name)
    fields = {**records[key], "name": name, "source": name, "revision": commit}
    found = record(ModelSpec, fields, f"model {name}")
    check_declared(name, config, found.pooling, found.query, commit)
    return found


def _commit_of(name: str, file: Path | None) -> str | None:
    """The commit that a file of a hub repository is of, by its folder in the hub's cache."""
    return None if file is None or Path(name).is_dir() else file.parent.name


def model_of_sidecar(kept: Mapping[str, Any], where: str) -> ModelSpec:
    """The record that an index was built with, as its sidecar holds it."""
    fields = {key: value for key, value in kept.items() if key != "identity"}
    return record(ModelSpec, fields, f"{where}: the sidecar's model")


def near_miss(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` or nothing."""
    close = difflib.get_close_matches(str(word), list(known), n=2)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _config(name: str, commit: str | None) -> dict[str, Any]:
    config = json_of(name, "config.json", commit)
    if config is None:
        there = "its directory" if Path(name).is_dir() else "no directory of this name, and the hub's cache"
        raise E2RankError(f"model {name}: {there} has no config.json")
    if not isinstance(config, dict):
        raise E2RankError(f"model {name}: its config.json is not readable: expected an object, got {shown(config)}")
    return config


def _by_type(model_type: object, name: str) -> str:
    families: dict[str, str] = _models()["families"]
    if not isinstance(model_type, str) or model_type not in families:
        raise E2RankError(
            f"model {name}: its model_type {shown(model_type)} is not one of {', '.join(families)}; "
            f"say which named model it is like (--like), or write {OWN_FILE} beside its weights"
        )
    return families[model_type]


def record(kind: type[Record], fields: Mapping[str, Any], where: str) -> Record:
    """`fields` as the frozen dataclass `kind`; unknown, missing and ill-typed keys are errors."""
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in fields:
        if key not in known:
            raise E2RankError(f"{where}: unknown key {shown(key)}{near_miss(key, known)}")
    for key, field in known.items():
        if key not in fields and field.default is field.default_factory is dataclasses.MISSING:
            raise E2RankError(f"{where}: key {key!r} is missing")
    return kind(**{key: _value(known[key].type, value, f"{where}: {key}") for key, value in fields.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    """`value` as the field's type: a record, records by name, a tuple of strings, a scalar, or null where allowed."""
    allowed = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if value is None and NoneType in allowed:
        return None
    first = allowed[0]
    if dataclasses.is_dataclass(first) or get_origin(first) is dict:
        if not isinstance(value, dict):
            raise E2RankError(f"{where}: expected a mapping, got {shown(value)}")
        if get_origin(first) is dict:
            for key in value:
                if not isinstance(key, str):  # YAML reads 007 as 7
                    raise E2RankError(f"{where}: expected text as a key (in quotes), got {shown(key)}")
            return {key: _value(get_args(first)[1], item, f"{where}: {key}") for key, item in value.items()}
        return record(first, value, where)
    if get_origin(first) is tuple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise E2RankError(f"{where}: expected a list of strings, got {shown(value)}")
        return tuple(value)
    if float in allowed and (type(value) is int or (isinstance(value, str) and _EXPONENT.fullmatch(value))):
        return float(value)
    if type(value) not in allowed:
        names = " or ".join("null" if one is NoneType else one.__name__ for one in allowed)
        raise E2RankError(f"{where}: expected {names}, got {shown(value)}")
    return value


def one_of(where: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise E2RankError, which begins with `where`, for a value that is not among those."""
    if value not in allowed:
        raise E2RankError(f"{where}: expected one of {', '.join(allowed)}, got {value!r}")


class _Loader(yaml.SafeLoader):
    """YAML of plain values in which a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.MarkedYAMLError(problem=f"key {twice!r} appears twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def yaml_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; E2RankError with file and line for anything else, and for a key that stands twice."""
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        reason = ", ".join(filter(None, (error.context, error.problem)))
        raise E2RankError(f"{path}{line}: not readable as YAML: {reason}") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: a date, a number
        raise E2RankError(f"{path}: not readable as YAML: {first_line(error)}") from error
    if not isinstance(loaded, dict):
        raise E2RankError(f"{path}: expected a mapping")
    return loaded


@functools.cache
def _models() -> dict[str, Any]:
    return yaml_file(Path(str(resources.files("e2rank_pyserini") / "models.yaml")))


@functools.cache
def _datasets() -> dict[str, Any]:
    return yaml_file(Path(str(resources.files("e2rank_pyserini") / "datasets.yaml")))
