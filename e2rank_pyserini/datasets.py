"""A data set by name or folder: its corpus, topics, qrels and tasks, each found only when it is asked for."""

import dataclasses
import os
from pathlib import Path

from e2rank_pyserini import carried, catalog, java
from e2rank_pyserini.catalog import DatasetSpec
from e2rank_pyserini.corpus import BEIR_CORPUS
from e2rank_pyserini.exclusions import Exclusions, read_exclusions
from e2rank_pyserini.topics import read_topics
from e2rank_pyserini.trec import read_qrels
from e2rank_pyserini.types import E2RankError, Qrels, Topics

SPLIT = "test"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """`folder` is a BEIR folder (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv), or None for Pyserini's own parts.

    A folder may hold excluded/SPLIT.tsv beside its qrels: `qid docid` a line, the documents a query must not be given.
    """

    spec: DatasetSpec
    folder: Path | None
    split: str = SPLIT

    def corpus(self) -> str:
        """A corpus source as corpus.documents takes it."""
        if self.folder is None:
            return self.spec.corpus
        path = _first(*(self.folder / name for name in BEIR_CORPUS))
        if not path.exists():
            raise E2RankError(f"{self.folder}: expected corpus.jsonl or corpus.jsonl.gz in the data set's folder")
        return str(path)

    def has_corpus(self) -> bool:
        """Whether it is a folder with a corpus."""
        return self.folder is not None and any((self.folder / name).exists() for name in BEIR_CORPUS)

    def topics(self) -> Topics:
        """The topics; of a folder with qrels for the split, those that are judged."""
        if self.folder is None or (self.split == SPLIT and not _split_file(self.folder, self.split).exists()):
            return read_topics(self.topics_file())
        qrels = self.qrels()
        topics = read_topics(self.topics_file(), qrels)
        judged = {qid: topics[qid] for qid in qrels if qid in topics}
        if not judged:
            raise E2RankError(f"{self.folder}: no judged topic of split {self.split!r} is in queries.jsonl")
        return judged

    def topics_file(self) -> Path:
        """Where the topics are; Pyserini's own are fetched when they are not on this machine."""
        if self.folder is None:
            return _pyserini_file(self.spec, "topics")
        return _first(self.folder / "queries.jsonl", self.folder / "queries.jsonl.gz")

    def qrels(self) -> Qrels:
        """The judgments of the split."""
        return read_qrels(self.qrels_file())

    def qrels_file(self) -> Path:
        """Where the judgments are; Pyserini's own are fetched when they are not on this machine."""
        if self.folder is None:
            return _pyserini_file(self.spec, "qrels")
        path = _split_file(self.folder, self.split)
        if not path.exists():
            there = ", ".join(sorted(child.stem for child in (self.folder / "qrels").glob("*.tsv"))) or "none"
            raise E2RankError(f"{path}: no such file (splits of this data set: {there})")
        return path

    def excluded(self) -> Exclusions | None:
        """What no query may be given; None where the data set has exclusions and they are not on this machine."""
        found = self.excluded_file()
        if found is not None:
            return read_exclusions(found)
        return None if self.folder is None and self.spec.excluded is not None else {}

    def excluded_file(self) -> Path | None:
        """Where they are; None where there are none, or none on this machine."""
        if self.folder is None:
            return None if self.spec.excluded is None else local_file(self.spec.excluded)
        path = self.folder / "excluded" / f"{self.split}.tsv"
        return path if path.exists() else None


def dataset(name: str, split: str = SPLIT) -> Dataset:
    """The named data set, or the BEIR folder at this path."""
    if Path(name).is_dir():
        return Dataset(DatasetSpec(name=Path(name).resolve().name, corpus=name), Path(name), split)
    spec = catalog.dataset(name)
    if spec.package is not None:
        return Dataset(spec, carried.folder(spec), split)
    if split != SPLIT:
        raise E2RankError(f"data set {name}: has no split {split!r}, only {SPLIT!r}")
    return Dataset(spec, None)


def local_file(file: str) -> Path | None:
    """One of Pyserini's topic, qrels or exclusion files, .gz too: from E2RANK_DATA, else from Pyserini's cache."""
    places = [_pyserini_files()]
    if os.environ.get("E2RANK_DATA"):
        places.insert(0, Path(os.environ["E2RANK_DATA"]))
    paths = [path for place in places for path in (place / file, place / f"{file}.gz")]
    return next((path for path in paths if path.is_file()), None)


def _pyserini_file(spec: DatasetSpec, kind: str) -> Path:
    """Pyserini's own topic or qrels file: from E2RANK_DATA, from Pyserini's cache, or through Pyserini's download."""
    name, file = spec.topics if kind == "topics" else spec.qrels
    found = local_file(file)
    if found is not None:
        return found
    java.start()
    with java.quiet():
        from pyserini.search import get_qrels_file, get_topics

        java.tried(lambda: get_topics(name) if kind == "topics" else get_qrels_file(name))
    path = _pyserini_files() / file
    if not path.is_file() or path.stat().st_size == 0:
        raise E2RankError(
            f"data set {spec.name}: its {kind} ({name}) are not on this machine and could not be "
            f"downloaded; put {file} into {path.parent}, or name a file with --{kind}"
        )
    return path


def _pyserini_files() -> Path:
    return java.cache_home() / "topics-and-qrels"


def _split_file(folder: Path, split: str) -> Path:
    return folder / "qrels" / f"{split}.tsv"


def _first(*paths: Path) -> Path:
    return next((path for path in paths if path.exists()), paths[0])
