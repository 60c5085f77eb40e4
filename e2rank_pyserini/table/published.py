"""published.yaml: the numbers that papers print, as frozen records, to stand beside ours."""

import dataclasses
import functools
from importlib import resources
from pathlib import Path

from e2rank_pyserini import catalog
from e2rank_pyserini.types import E2RankError

BEIR = (
    "trec-covid",
    "nfcorpus",
    "webis-touche2020",
    "dbpedia-entity",
    "scifact",
    "signal1m",
    "trec-news",
    "robust04",
)  # the paper's eight
AVERAGE = "beir-8"
COLUMNS = ("first", "prompt", "peer")
REFERENCE = "e2rank-0.6b"  # shown beside a model that has no published numbers


@dataclasses.dataclass(frozen=True)
class Published:
    """One system's numbers. The fields are explained at the head of published.yaml."""

    name: str
    system: str
    source: str
    column: str
    first_stage: str
    ndcg: dict[str, float]
    model: str | None = None
    notes: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"published numbers {self.name}"
        catalog.one_of(f"{where}: column", self.column, COLUMNS)
        if self.model is not None:
            catalog.one_of(f"{where}: model", self.model, tuple(catalog.model_names()))
        known = (*catalog.dataset_names(), AVERAGE)
        for key in (*self.ndcg, *self.notes):
            if key not in known:
                raise E2RankError(f"{where}: unknown data set {key!r}{catalog.near_miss(key, known)}")


def read_published(path: Path) -> list[Published]:
    """The records of a YAML file, in its order. Raises E2RankError for anything that it does not know."""
    found = []
    for name, fields in catalog.yaml_file(path).items():
        if not isinstance(fields, dict):
            raise E2RankError(f"{path.name}: {name}: expected a mapping, got {fields!r}")
        found.append(catalog.record(Published, {"name": name, **fields}, f"{path.name}: {name}"))
    return found


def beside(model: str, first_stage: str) -> dict[str, Published]:
    """column -> what is printed of this first stage, with `model`'s own prompt and peer columns, or the reference's."""
    shown = model if has_numbers(model) else REFERENCE
    return {row.column: row for row in _published() if row.first_stage == first_stage and row.model in (None, shown)}


def has_numbers(model: str) -> bool:
    """Whether published numbers are of this named model."""
    return any(row.model == model for row in _published())


@functools.cache
def _published() -> list[Published]:
    return read_published(Path(str(resources.files("e2rank_pyserini") / "table" / "published.yaml")))
