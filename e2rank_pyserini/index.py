"""DenseIndex: a Pyserini FAISS directory (`index`, `docid`) that searches and gives its vectors back."""

import contextlib
import operator
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from e2rank_pyserini.docids import Docids
from e2rank_pyserini.kinds import check_numbers, faiss_module, graph_of, read_faiss, reason
from e2rank_pyserini.sealed import read_sealed
from e2rank_pyserini.types import E2RankError, Hit, Vectors, shown

SIDECAR = "e2rank.json"
_LOOKED_AT = 64  # vectors
_BLAS = 20  # queries from which on FAISS lets BLAS compute a Flat index's scores


class Encodes(Protocol):
    """What an encoder says of its model."""

    @property
    def record(self) -> Mapping[str, Any]: ...

    @property
    def dim(self) -> int: ...


class DenseIndex:
    """An index directory opened read-only: memory-mapped, nothing loaded that is not touched.

    With an `encoder` its model is checked against the one that built the index. Raises E2RankError when that is another
    one, when a part is missing, unreadable or inconsistent, and when the metric is not inner product.
    """

    def __init__(self, directory: Path | str, encoder: Encodes | None = None) -> None:
        self.directory = directory = Path(directory)
        self.faiss = faiss_module()
        self.docids, self.sidecar, self.index = self._read()
        if self.index.ntotal != len(self.docids):
            raise E2RankError(
                f"{directory}: {self.index.ntotal} vectors but {len(self.docids)} docids; the index was "
                "not written to its end, build it again"
            )
        if not self.docids:
            raise E2RankError(f"{directory}: holds no documents")
        if self.index.metric_type != self.faiss.METRIC_INNER_PRODUCT:
            raise E2RankError(
                f"{directory}: expected an inner-product index, got metric {self.index.metric_type} "
                "(its scores would be distances)"
            )
        if repeated := self.docids.repeated():
            raise E2RankError(f"{directory / 'docid'}: {repeated} docids appear more than once")
        self._direct_map = False
        self._lock = threading.Lock()  # what is set for a search, or made once, holds for all threads
        self._graph = graph_of(self.index)
        self._reach = int(self._graph.efSearch) if self._graph is not None else 0
        if encoder is not None:
            self.check_model(encoder.record, encoder.dim)

    def _read(self) -> tuple[Docids, dict[str, Any] | None, Any]:
        """Docids, sidecar, and the index as FAISS has it."""
        place = self.directory
        check_form(place)
        return Docids([place / "docid"]), read_sidecar(place), read_faiss(place / "index")

    @property
    def dim(self) -> int:
        """The width of the vectors."""
        return int(self.index.d)

    @property
    def exact(self) -> bool:
        """Whether the vectors are stored in full, not quantised."""
        holder = getattr(self.index, "storage", self.index)  # HNSW keeps them in an index of its own
        try:
            return bool(holder.sa_code_size() >= 4 * self.dim)
        except RuntimeError:  # nor can FAISS say it of an HNSW behind a transformation
            return False

    def __len__(self) -> int:
        return len(self.docids)

    def search(self, vectors: Vectors, hits: int) -> list[list[Hit]]:
        """(n, dim) -> for each row its best min(hits, len(self)) documents, best first, ties in corpus order.

        Where a Flat index has ties at the cut, the first of them in the corpus are found. An IVF index gives what the
        lists hold that it looks into, which may be fewer. Raises E2RankError for vectors of another width or with a
        number that is not finite, and for hits below 1.
        """
        hits = operator.index(hits)
        if hits < 1 or np.ndim(vectors) != 2 or np.shape(vectors)[1] != self.dim:
            raise E2RankError(
                f"expected vectors (n, {self.dim}) and hits of at least 1, got {np.shape(vectors)} and {hits}"
            )
        asked, many = np.ascontiguousarray(vectors, dtype=np.float32), min(hits, len(self))
        if not np.isfinite(asked).all():
            raise E2RankError("expected vectors of finite numbers, got others")
        flat = isinstance(self.index, self.faiss.IndexFlat)
        with self._lock if self._graph is not None else contextlib.nullcontext():
            if self._graph is not None:  # room for all hits asked for: FAISS keeps 16 in view unless told
                self._graph.efSearch = max(self._reach, many)
            scores, rows = first_found(self.index, asked, many) if flat else self.index.search(asked, many)
        check_numbers(rows, rows.clip(-1, len(self) - 1), self.directory)
        if not rows.max(initial=-1) >= 0 and len(rows):
            raise E2RankError(f"{self.directory}: no document has a score; its vectors are not numbers")
        found = []
        for row_scores, row_numbers in zip(scores, rows, strict=True):
            kept = sorted(zip((-row_scores).tolist(), row_numbers.tolist(), strict=True))
            found.append([Hit(self.docids[row], -score) for score, row in kept if row >= 0])
        return found

    def stored(self, docids: Sequence[str]) -> NDArray[np.bool_]:
        """(n,) whether each docid is stored; no vector is read."""
        return self.docids.rows(docids) >= 0

    def vectors(self, docids: Sequence[str]) -> tuple[Vectors, NDArray[np.bool_]]:
        """The stored unit vectors, (n, dim), and (n,) whether each docid is stored; the rows of absent ones are zero.

        A quantised index gives approximations, scaled back to length 1.
        """
        self._make_direct_map()
        rows = self.docids.rows(docids)
        stored = rows >= 0
        result: Vectors = np.zeros((len(rows), self.dim), dtype=np.float32)
        if stored.any():
            found = self.index.reconstruct_batch(rows[stored])
            if not np.isfinite(found).all():
                raise E2RankError(f"{self.directory}: holds vectors that are not numbers")
            lengths = np.linalg.norm(found, axis=1, keepdims=True)
            result[stored] = found / np.where(lengths > 0, lengths, 1)
        return result, stored

    def raw(self, start: int, stop: int) -> NDArray[np.float32]:
        """(stop - start, dim) the vectors of these rows as they are stored, of any length."""
        self._make_direct_map()
        found: NDArray[np.float32] = self.index.reconstruct_n(start, stop - start)
        return found

    @property
    def built_with(self) -> dict[str, Any] | None:
        """The record of the model that built this index, from its sidecar; None when nothing says."""
        record: dict[str, Any] | None = (self.sidecar or {}).get("model")
        return record

    def check_model(self, model: Mapping[str, Any], dim: int) -> None:
        """Refuse a model that is not the one this index was built with. Without a sidecar only `dim` can be told.

        `model`: name, identity, pooling and eos, the fields that change a document's vector.
        """
        built = self.built_with
        for key in ("identity", "pooling", "eos"):
            if built is not None and built.get(key) != model[key]:
                raise E2RankError(
                    f"{self.directory}: built with model {built.get('name')} ({key} {built.get(key)}), "
                    f"not with {model['name']} ({key} {model[key]})"
                )
        if dim != self.dim:
            raise E2RankError(
                f"{self.directory}: holds vectors of {self.dim} dimensions, model {model['name']} makes {dim}"
            )

    def check_lengths(self) -> None:
        """Refuse stored vectors, those of the first documents, that are not of length 1: no search ranks by cosine."""
        if not self.exact:
            return
        lengths = np.linalg.norm(self.raw(0, min(_LOOKED_AT, len(self))), axis=1)
        wrong = int(np.argmax(np.abs(lengths - 1)))
        if abs(lengths[wrong] - 1) > 0.01:
            raise E2RankError(
                f"{self.directory}: expected vectors of length 1, found one of length {lengths[wrong]:.3f} (document "
                f"{self.docids[wrong]}); encode with --l2-norm"
            )

    def _make_direct_map(self) -> None:
        """An IVF index finds a vector by its number only through a direct map; some kinds give none back."""
        with self._lock:
            if self._direct_map:
                return
            inner = self.faiss.try_extract_index_ivf(self.index)
            try:
                if inner is not None:
                    inner.make_direct_map()
                self.index.reconstruct_batch(np.zeros(1, dtype=np.int64))
            except RuntimeError as error:
                raise E2RankError(f"{self.directory}: FAISS cannot give its vectors back: {reason(error)}") from error
            self._direct_map = True


def first_found(index: Any, vectors: Vectors, hits: int) -> tuple[Vectors, NDArray[np.int64]]:
    """(n, dim) -> scores and rows, (n, hits), of a Flat index: the best, and of rows that tie the first ones.

    FAISS keeps the last ones at the cut, whatever comes before them: more are asked for until all that tie are there.
    """
    asked = min(hits + 1, index.ntotal)
    scores, rows = _in_order(*index.search(vectors, asked))
    best, numbers = scores[:, :hits].copy(), rows[:, :hits].copy()
    tied = (scores[:, -1] == best[:, -1]) & (numbers[:, -1] >= 0)  # -1: no document has a score
    cut = np.flatnonzero(tied) if asked > hits else np.arange(0)
    while len(cut) and asked < index.ntotal:
        asked = min(2 * asked, index.ntotal)
        many = max(len(cut), min(len(vectors), _BLAS))  # FAISS computes few queries otherwise: other last bits
        scores, rows = _in_order(*index.search(vectors[np.resize(cut, many)], asked))
        scores, rows = scores[: len(cut)], rows[: len(cut)]
        best[cut], numbers[cut] = scores[:, :hits], rows[:, :hits]
        cut = cut[scores[:, -1] == scores[:, hits - 1]]
    return best, numbers


def _in_order(scores: Vectors, rows: NDArray[np.int64]) -> tuple[Vectors, NDArray[np.int64]]:
    order = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def check_form(directory: Path) -> None:
    """Refuse a directory without the two files of Pyserini's form."""
    if not (directory / "index").is_file() or not (directory / "docid").is_file():
        raise E2RankError(f"{directory}: expected a FAISS index of Pyserini's form (files index and docid)")


def read_sidecar(directory: Path) -> dict[str, Any] | None:
    """What e2rank.json says, its seal checked; None where there is none."""
    path = directory / SIDECAR
    if not path.exists():
        return None
    loaded = read_sealed(path)
    if not isinstance(loaded.get("files"), dict):
        raise E2RankError(f"{path}: expected the hashes of the index's files, got {shown(loaded.get('files'))}")
    if not isinstance(loaded.get("model"), dict | None):
        raise E2RankError(f"{path}: expected the model as an object, got {shown(loaded['model'])}")
    return loaded
