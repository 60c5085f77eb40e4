"""A training recipe as a frozen record, read from YAML as strictly as models and data sets are."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from e2rank_pyserini.catalog import ModelSpec, near_miss, one_of, record, yaml_file
from e2rank_pyserini.choices import STAGES
from e2rank_pyserini.prompts import RERANK_TASK, RETRIEVAL_TASK
from e2rank_pyserini.training.examples import Example
from e2rank_pyserini.types import E2RankError, shown

_OF_LISTS = (  # what stage embed does not read
    *("listwise", "infonce_weight", "ranknet_weight", "ranknet_scale"),
    *("order", "window", "prompt_length", "distil_prompt"),
)


@dataclasses.dataclass(frozen=True)
class Lora:
    """A low-rank adapter (Hu et al. 2022); `targets` are module names, or all linear layers when empty."""

    rank: int
    alpha: int
    targets: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Tasks:
    """What a source's queries and lists are told."""

    retrieval: str = RETRIEVAL_TASK
    rerank: str = RERANK_TASK
    noun: str = "Documents"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained. The fields are explained at the head of recipes.yaml."""

    stage: str
    learning_rate: float
    batch: int
    epochs: int = 1
    steps: int | None = None
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip: float = 1.0
    temperature: float = 0.03
    infonce_weight: float = 1.0
    ranknet_weight: float = 2.0
    ranknet_scale: float = 10.0
    teacher: str | None = None
    distil_weight: float = 0.0
    distil_prompt: str = "prompt"
    listwise: str = "prompt"
    order: str = "given"
    window: int | None = None
    documents: int | None = None
    document_length: int | None = None
    query_length: int | None = None
    prompt_length: int | None = None
    lora: Lora | None = None
    compress: int | str | None = None
    layers: int | None = None
    compile: bool = False
    dtype: str = "auto"
    chunk_tokens: int = 8192
    cached: bool = False
    checkpointing: bool = False
    seed: int = 0
    evaluate_every: int | None = None
    save_every: int | None = None
    tasks: dict[str, Tasks] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of("recipe: stage", self.stage, STAGES)
        one_of("recipe: listwise", self.listwise, ("prompt", "query"))
        one_of("recipe: order", self.order, ("given", "shuffle", "reverse"))
        one_of("recipe: distil_prompt", self.distil_prompt, ("prompt", "feedback"))
        one_of("recipe: dtype", self.dtype, ("auto", "bfloat16", "float32"))
        for name in ("batch", "epochs", "steps", "window", "chunk_tokens", "evaluate_every", "save_every", "layers"):
            self._at_least(name, 1)
        if isinstance(self.compress, str):
            one_of("recipe: compress", self.compress, ("int4",))
        else:
            self._at_least("compress", 1)
        for name in ("document_length", "query_length", "prompt_length"):
            self._at_least(name, 1)
        self._at_least("documents", 2)
        if not -(2**63) <= self.seed < 2**63:
            raise E2RankError(f"recipe: seed: expected a whole number of 64 bits, got {self.seed}")
        for name in ("learning_rate", "temperature", "ranknet_scale", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise E2RankError(f"recipe: {name}: expected a number above 0, got {getattr(self, name)}")
        for name in ("warmup", "weight_decay", "infonce_weight", "ranknet_weight", "distil_weight"):
            self._at_least(name, 0)
        for name in _OF_LISTS:
            if self.stage == "embed" and getattr(self, name) != getattr(type(self), name):
                raise E2RankError(f"recipe: {name}: stage embed knows no lists")
        if self.order != "given" and not self.prompts:
            raise E2RankError("recipe: order: no prompt is read")
        if self.distil_prompt != "prompt" and not (self.prompts and self.teacher):
            raise E2RankError("recipe: distil_prompt: no prompt is read, or there is no teacher")
        if self.warmup > 1:
            raise E2RankError(f"recipe: warmup: expected a share of at most 1, got {self.warmup}")
        if self.lora is not None and min(self.lora.rank, self.lora.alpha) < 1:
            raise E2RankError(f"recipe: lora: expected rank and alpha of at least 1, got {self.lora}")
        if self.lora is not None and self.compress is not None:
            raise E2RankError("recipe: lora and compress exclude each other: both make an adapter")
        if (self.teacher is not None) != (self.distil_weight > 0):
            raise E2RankError("recipe: teacher and distil_weight go together: one says what is learnt, one how much")
        if self.stage == "rank" and self.infonce_weight == self.ranknet_weight == self.distil_weight == 0:
            raise E2RankError(
                "recipe: infonce_weight, ranknet_weight and distil_weight are 0: there is nothing to train"
            )

    @property
    def prompts(self) -> bool:
        """Whether listwise prompts are encoded."""
        return self.stage == "rank" and self.listwise == "prompt" and self.ranknet_weight + self.distil_weight > 0

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if value is not None and not least <= value < float("inf"):
            raise E2RankError(f"recipe: {name}: expected at least {least}, got {value}")


def recipe(name: str | None, stage: str | None) -> Recipe:
    """The recipe of a YAML file, a named one of recipes.yaml, or the paper's for this stage.

    A file's keys replace those of the paper's recipe for its stage. Raises E2RankError for an unknown key or value.
    """
    named: dict[str, Any] = yaml_file(Path(str(resources.files("e2rank_pyserini") / "recipes.yaml")))["recipes"]
    if name is None:
        if stage is None:
            raise E2RankError("name the --stage (embed or rank) or a --recipe")
        return _recipe({}, stage, named, f"recipes.yaml: {stage}")
    if name in named:
        return _recipe(named[name], stage, named, f"recipes.yaml: {name}")
    if not Path(name).is_file():
        raise E2RankError(f"recipe {name!r}: expected a YAML file or one of {', '.join(named)}{near_miss(name, named)}")
    return _recipe(yaml_file(Path(name)), stage, named, name)


def fingerprint(identity: str, spec: ModelSpec, recipe: Recipe, *data: Sequence[Example]) -> str:
    """Of everything that decides the result; how memory is spent does not, nor where the weights lie."""
    chosen = dataclasses.asdict(recipe)
    for name in ("chunk_tokens", "cached", "checkpointing", "save_every"):
        del chosen[name]
    digest = hashlib.sha256(json.dumps([identity, settings(spec), chosen]).encode())
    for examples in data:
        digest.update(json.dumps([list(example) for example in examples]).encode())
    return digest.hexdigest()[:16]


def settings(spec: ModelSpec) -> dict[str, Any]:
    """What of a model's record decides its vectors and does not stand in its identity."""
    found = dataclasses.asdict(spec)
    for name in ("name", "source", "adapter", "revision", "dtype"):
        del found[name]
    return found


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """Linear warm-up over the first share of the steps, then linear decay that would reach 0 after the last."""
    warm = max(1, round(recipe.warmup * steps))
    share = (step + 1) / warm if step < warm else (steps - step) / max(1, steps - warm)
    return recipe.learning_rate * min(1.0, share)


def _recipe(fields: dict[str, Any], stage: str | None, named: dict[str, Any], where: str) -> Recipe:
    chosen = fields.get("stage", stage)
    if stage is not None and chosen != stage:
        raise E2RankError(f"{where}: is for stage {shown(chosen)}, not for --stage {stage}")
    if "recipes" in fields:
        raise E2RankError(f"{where}: expected the keys of one recipe (stage, batch, …), got a list of recipes")
    if chosen not in STAGES:
        raise E2RankError(f"{where}: stage: expected one of {', '.join(STAGES)}, got {shown(chosen)}")
    try:
        made: Recipe = record(Recipe, {**named[chosen], **fields, "stage": chosen}, where)
    except E2RankError as error:
        raise E2RankError(f"{where}: {error}" if not str(error).startswith(where) else str(error)) from error
    return made
