"""The paper's data sets as they lie on this machine, found without a download, and what make calls their artefacts."""

import dataclasses
import os
from pathlib import Path

from e2rank_pyserini import catalog
from e2rank_pyserini.corpus import LUCENE, cached_lucene
from e2rank_pyserini.datasets import SPLIT, dataset, local_file
from e2rank_pyserini.exclusions import Exclusions
from e2rank_pyserini.prompts import RETRIEVAL_TASK
from e2rank_pyserini.table.published import BEIR
from e2rank_pyserini.types import E2RankError, Qrels

BENCHMARKS = ("dl19", "dl20", *BEIR)
POOL = "msmarco-dl-pool"  # a folder with splits test-dl19, test-dl20 and runs/dl19.STAGE.top100.trec: a reranking pool


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A data set of the paper that is here. `folder` is what --dataset takes: a name or a BEIR folder.

    `corpus` is a JSONL file or a Lucene directory. `runs` are the first stages that came with it, by name; where there
    are none, BM25 is ours to make.
    """

    name: str
    folder: str
    split: str
    corpus: str
    runs: dict[str, Path]

    @property
    def spec(self) -> catalog.DatasetSpec:
        """The named data set's record, whatever folder its parts come from: the tasks, the least relevant grade."""
        return catalog.dataset(self.name)

    @property
    def words(self) -> list[str]:
        """The options that name it to a command, without its corpus."""
        return ["--dataset", self.folder, "--split", self.split]

    def qrels(self) -> Qrels:
        return dataset(self.folder, self.split).qrels()

    def excluded(self) -> Exclusions:
        """What its topics are not given."""
        return dataset(self.folder, self.split).excluded() or {}

    def topics_files(self) -> list[Path]:
        """What a run's topics are made from: a folder's are those that are judged. And what they are not given."""
        found = dataset(self.folder, self.split)
        return [path for path in (found.topics_file(), found.qrels_file(), found.excluded_file()) if path is not None]

    @property
    def topics(self) -> str:
        """make's name of data set and split."""
        return mark(self.folder) + ("" if self.split == SPLIT else f".{self.split}")

    def index(self, model: str) -> Path:
        """Where make has the whole corpus, encoded."""
        here = mark(self.folder)
        return Path("indexes") / f"{'msmarco-v1-passage' if here in ('dl19', 'dl20') else here}.{mark(model)}"

    def candidates(self, model: str) -> Path:
        """Where only the documents that are rescored lie, encoded."""
        return Path("indexes") / f"{self.topics}.candidates.{mark(model)}"

    def dense(self, model: str) -> Path:
        """The model's own run; make's name for it, unless the retrieval task is not the one that make would use."""
        ours = os.sep in self.folder and self.spec.retrieval_task != RETRIEVAL_TASK
        return Path("runs") / f"{self.topics}.{mark(model)}.dense{'.task' if ours else ''}.trec"

    def reranked(self, first: Path, model: str, how: str) -> Path:
        """make's name of a reranked run; `how` is e2rank (the listwise prompt) or query.

        A first stage that is not make's own of this model adds a checksum: two may have the same name.
        """
        own = [f"{self.topics}.{end}.trec" for end in ("bm25", f"{mark(model)}.dense", f"{mark(model)}.hybrid")]
        stem = first.name.removesuffix(".gz").rpartition(".")[0]
        if first.parent != Path("runs") or first.name not in own:
            stem += f"-{_checksum(first)}"
        before = "" if stem.startswith(f"{self.topics}.") else f"{self.topics}."
        after = "" if f".{mark(model)}." in first.name else f".{mark(model)}"
        return Path("runs") / f"{before}{stem}{after}.{how}.trec"


def find(name: str, data: Path | None) -> Benchmark:
    """The data set from `data` (a folder of BEIR folders) or from Pyserini's files and cache, without a download.

    Raises E2RankError with what is not here.
    """
    if data is not None and (data / name).is_dir():
        folder = dataset(str(data.absolute() / name))
        folder.qrels()
        return Benchmark(name, str(folder.folder), SPLIT, folder.corpus(), {})
    split = f"{SPLIT}-{name}"
    if data is not None and (data / POOL / "qrels" / f"{split}.tsv").is_file():
        pool = data.absolute() / POOL
        found = sorted((pool / "runs").glob(f"{name}.*.top100.trec"))
        runs = {path.name.removeprefix(f"{name}.").removesuffix(".top100.trec"): path for path in found}
        if not runs:
            raise E2RankError(f"{pool / 'runs'} holds no {name}.*.top100.trec")
        return Benchmark(name, str(pool), split, dataset(str(pool), split).corpus(), runs)
    spec = catalog.dataset(name)
    lucene = cached_lucene(spec.corpus.removeprefix(LUCENE))
    lacking = [file for _, file in (spec.topics, spec.qrels) if local_file(file) is None]
    lacking += [] if lucene else [spec.corpus]
    if lucene is None or lacking:
        among = f"no folder {data / name}, and " if data else ""
        raise E2RankError(f"{among}Pyserini's cache lacks {', '.join(lacking)}")
    return Benchmark(name, name, SPLIT, str(lucene), {})


def mark(word: str) -> str:
    """make's name of a data set or a model: a path adds a checksum, since two may end in the same word."""
    return f"{_absolute(word).name}-{_checksum(word)}" if os.sep in word else _absolute(word).name


def _absolute(path: str | Path) -> Path:
    return Path(os.path.normpath(Path.cwd() / path))


def _checksum(path: str | Path) -> str:
    return str(_cksum(str(_absolute(path)).encode()))[:6]


def _cksum(data: bytes) -> int:
    """POSIX cksum: the CRC of polynomial 0x04C11DB7 over the bytes and then their count, least byte first."""
    crc, count = 0, len(data)
    for byte in (*data, *count.to_bytes((count.bit_length() + 7) // 8, "little")):
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1
        crc &= 0xFFFFFFFF
    return crc ^ 0xFFFFFFFF
