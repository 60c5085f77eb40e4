"""Whether what `e2rank table` made before is what it would make now: by dates, as make, and by what was recorded.

Dates alone do not tell: a copied file may bear an old one, and a model's record is in no file that a run is made from.
"""

import dataclasses
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from e2rank_pyserini import corpus as corpora
from e2rank_pyserini.catalog import ModelSpec, model
from e2rank_pyserini.commands.inputs import fingerprints
from e2rank_pyserini.commands.opening import query_length
from e2rank_pyserini.datasets import dataset
from e2rank_pyserini.fingerprint import sha256
from e2rank_pyserini.index import SIDECAR, read_sidecar
from e2rank_pyserini.inference.places import identity_of
from e2rank_pyserini.provenance import of_run
from e2rank_pyserini.table.benchmarks import Benchmark

_VECTORS = ("pooling", "eos", "layers")  # what stored vectors depend on, beside weights and length
_RUNS = (*_VECTORS, "query", "prompt", "chat", "window")  # what a run does


class Maker(NamedTuple):
    """A model by the name it was asked for, and the identity of its weights, which takes a while to read."""

    name: str
    spec: ModelSpec
    identity: str

    @classmethod
    def of(cls, name: str) -> "Maker":
        """The model of this name."""
        spec = model(name)
        return cls(name, spec, identity_of(spec))


def is_stale(output: Path, *inputs: Path) -> bool:
    """make's rule: missing, or older than something it is made from."""
    return not output.exists() or any(output.stat().st_mtime < path.stat().st_mtime for path in inputs)


def index_is_fresh(index: Path, corpus: str, maker: Maker) -> bool:
    """Whether the index is of this corpus and made as this model makes it: a model may be trained anew."""
    if is_stale(index / SIDECAR, Path(corpus)):
        return False
    sidecar = read_sidecar(index) or {}
    built = sidecar.get("model") or {}
    lengths = built.get("lengths") or {}
    return (
        built.get("identity") == maker.identity
        and _agree(built, maker.spec, _VECTORS)
        and lengths.get("document") == maker.spec.lengths.document
        and _is_of(sidecar.get("corpus_fingerprint"), corpus)
    )


def run_is_fresh(
    run: Path,
    one: Benchmark,
    *made_from: Path,
    first: Path | None = None,
    corpus: str | None = None,
    maker: Maker | None = None,
) -> bool:
    """Whether the run is newer than the files it is made from, and its record names these inputs and this model.

    `first`: the run that was reranked; `corpus`: what BM25 searched; `maker`: the model, where one made it.
    """
    if is_stale(run, *made_from):
        return False
    record = of_run(run, sha256(run))
    if record is None:
        return False
    data = dataset(one.folder, one.split)
    arguments = Namespace(topics=None, dataset=one.folder, excluded=None, run=str(first) if first else None)
    now, then = fingerprints(arguments, data.topics(), one.excluded()), record["inputs"]
    if any(_bare(now.get(kind)) != _bare(then.get(kind)) for kind in ("topics", "excluded", "run")):
        return False
    if corpus is not None and not _is_of(then.get("corpus", {}).get("fingerprint"), corpus):
        return False
    if maker is None:
        return True
    used = record["model"] or {}
    lengths = {**dataclasses.asdict(maker.spec.lengths), "query": query_length(maker.spec, data)}
    return used.get("identity") == maker.identity and _agree(used, maker.spec, _RUNS) and used.get("lengths") == lengths


def _agree(built: Mapping[str, Any], spec: ModelSpec, names: tuple[str, ...]) -> bool:
    wanted = dataclasses.asdict(spec)
    return all(built.get(name) == wanted[name] for name in names)


def _is_of(told: str | None, corpus: str) -> bool:
    """Whether a corpus that was recorded may be this one: one of Pyserini's indexes by its name may lie anywhere."""
    return told is None or told.startswith(corpora.LUCENE) or told == corpora.fingerprint(corpus)


def _bare(told: Mapping[str, Any] | None) -> dict[str, Any]:
    """What tells an input, without its path, which may be written in several ways."""
    return {key: value for key, value in (told or {}).items() if key != "path"}
