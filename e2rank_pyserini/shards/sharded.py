"""A folder of shards as an index: searched shard by shard, so that it may be larger than memory."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2rank_pyserini import integrity
from e2rank_pyserini.docids import Docids
from e2rank_pyserini.fingerprint import WHOLE, of_files
from e2rank_pyserini.index import DenseIndex, first_found
from e2rank_pyserini.kinds import faiss_module, read_faiss
from e2rank_pyserini.shards.folder import MANIFEST, Shard, Shards, listed, name_of, read_manifest
from e2rank_pyserini.storage import Folder, is_remote, local
from e2rank_pyserini.types import E2RankError, Vectors

_SPARE = 16  # hits that a part is asked for above what is expected of it


def open_index(place: str | Path) -> DenseIndex:
    """An index directory, or a folder of shards that is complete. Raises E2RankError as DenseIndex does."""
    if is_remote(str(place)):
        raise E2RankError(f"{place}: an index is memory-mapped: copy it to this machine")
    path = local(str(place))
    return ShardedIndex(path) if (path / MANIFEST).is_file() else DenseIndex(path)


def fingerprint(directory: Path) -> str:
    """`integrity.fingerprint`, for shards too: of their manifest, which holds the hashes of all.

    Shards of up to 1 GiB together are read whole and refused where their bytes are not those that were written.
    """
    if not (directory / MANIFEST).is_file():
        return integrity.fingerprint(directory)
    shards = listed(Folder(str(directory)), read_manifest(Folder(str(directory))))
    small = sum(path.stat().st_size for path in directory.rglob("index")) <= WHOLE
    for line in damaged(directory, shards) if small else ():
        raise E2RankError(line)
    return of_files([directory / MANIFEST])


def damaged(directory: Path, shards: Sequence[Shard]) -> Iterator[str]:
    """A line for each shard that is not what was written; every byte is read."""
    for shard in shards:
        yield from integrity.damaged((directory / name_of(shard.number, "index")).parent, {"files": shard.files})


class ShardedIndex(DenseIndex):
    """A complete folder of shards, opened read-only: what a Flat index of all its vectors would answer."""

    def _read(self) -> tuple[Docids, dict[str, Any] | None, Any]:
        folder = Folder(str(self.directory))
        manifest = read_manifest(folder)
        shards = listed(folder, manifest)
        files = Shards(folder.place, manifest)
        for shard in shards:
            files.check_size(shard)
        docids = Docids([self.directory / name_of(shard.number, "docid") for shard in shards])
        paths = [self.directory / name_of(shard.number, "index") for shard in shards]
        return docids, manifest, _Parts(paths, [shard.documents for shard in shards], files.dim)

    def _make_direct_map(self) -> None:
        """Flat indexes need none, and FAISS looks for an IVF in indexes of its own only."""


class _Parts:
    """Flat indexes one after the other, as DenseIndex sees one of FAISS's. A part is open only while it is read."""

    def __init__(self, paths: Sequence[Path], sizes: Sequence[int], dim: int) -> None:
        self.paths, self.d = paths, dim
        self.starts = [0, *itertools.accumulate(sizes)]
        self.ntotal = self.starts[-1]
        self.metric_type = faiss_module().METRIC_INNER_PRODUCT

    def sa_code_size(self) -> int:
        return 4 * self.d

    def search(self, vectors: Vectors, hits: int) -> tuple[Vectors, NDArray[np.int64]]:
        """(n, dim) -> scores and rows, (n, hits): the best of each part, merged; ties in the order of rows."""
        scores = np.empty((len(vectors), 0), dtype=np.float32)
        rows = np.empty((len(vectors), 0), dtype=np.int64)
        least: Vectors | None = None  # (n, 1) the worst of `hits` that are held
        for start, part in self._opened(range(len(self.paths))):
            most = min(hits, part.ntotal)
            few = _SPARE + 2 * hits * part.ntotal // max(start, 1)  # twice what comes in where documents have no order
            if least is not None and few < most:
                more, numbers = _better(part, vectors, few, most, least)
            else:
                more, numbers = first_found(part, vectors, most)
            if least is not None:  # a later row comes in only with a better score
                width = int((more > least).sum(axis=1).max(initial=0))
                more, numbers = more[:, :width], numbers[:, :width]
            scores = np.concatenate([scores, more], axis=1)
            rows = np.concatenate([rows, numbers + start], axis=1)
            if scores.shape[1] >= hits + hits // 4:  # sorted for many parts at once
                scores, rows = _merged(scores, rows, hits)
                least = scores[:, -1:]
        return _merged(scores, rows, hits)

    def reconstruct_batch(self, rows: NDArray[np.int64]) -> Vectors:
        """(n,) -> (n, dim); only the parts that hold one of the rows are opened."""
        found: Vectors = np.empty((len(rows), self.d), dtype=np.float32)
        places = np.searchsorted(self.starts, rows, side="right") - 1
        numbers = np.unique(places)
        for number, (start, part) in zip(numbers, self._opened(numbers), strict=True):
            here = places == number
            found[here] = part.reconstruct_batch(rows[here] - start)
        return found

    def reconstruct_n(self, start: int, count: int) -> Vectors:
        """(count, dim): the vectors from row `start` on."""
        return self.reconstruct_batch(np.arange(start, start + count))

    def _opened(self, numbers: Any) -> Iterator[tuple[int, Any]]:
        for number in numbers:
            part = read_faiss(self.paths[number])
            if part.d != self.d or part.ntotal != self.starts[number + 1] - self.starts[number]:
                raise E2RankError(f"{self.paths[number]}: is not the shard that the manifest lists")
            yield self.starts[number], part


def _better(part: Any, vectors: Vectors, few: int, most: int, least: Vectors) -> tuple[Vectors, NDArray[np.int64]]:
    """`first_found` of `most`, of which what is no better than `least`, (n, 1), may be missing.

    `few` are asked for, and again all where the last of them is still better. Only for these queries: the others are
    made NaN, for which FAISS keeps nothing, and not left out, as a product of fewer has other last bits.
    """
    scores, rows = part.search(vectors, few)
    order = np.lexsort((rows, -scores), axis=1)
    scores, rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
    full = scores[:, -1:] > least
    if not full.any():
        return scores, rows
    every, numbers = first_found(part, np.where(full, vectors, np.float32(np.nan)), most)
    every[:, :few] = np.where(full, every[:, :few], scores)
    numbers[:, :few] = np.where(full, numbers[:, :few], rows)
    return every, numbers


def _merged(scores: Vectors, rows: NDArray[np.int64], hits: int) -> tuple[Vectors, NDArray[np.int64]]:
    best = np.argsort(-scores, axis=1, kind="stable")[:, :hits]  # sorted runs, which it merges
    return np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
