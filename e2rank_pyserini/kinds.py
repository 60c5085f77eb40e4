"""Which of FAISS's kinds of index rank by cosine and give their vectors back; FAISS itself, and its files."""

import functools
import importlib.metadata
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2rank_pyserini.types import E2RankError


@functools.cache  # what is installed is looked up on disk, and each shard that is opened asks
def faiss_module() -> Any:
    """FAISS, or one line that says how to get it. PyPI's two FAISS packages own one directory: refuse both."""
    names = [name for name in ("faiss-cpu", "faiss-gpu") if _installed(name)]
    if len(names) == 2:
        raise E2RankError(
            "faiss-cpu and faiss-gpu are both installed and overwrite each other: uninstall both, then "
            "install one (pip uninstall faiss-cpu faiss-gpu; pip install 'e2rank-pyserini[cpu]')"
        )
    try:
        import faiss
    except ImportError as error:
        raise E2RankError(
            f"FAISS cannot be imported ({error}); pip install 'e2rank-pyserini[cpu]' (or [gpu], which "
            "needs the CUDA 12 libraries)"
        ) from error
    return faiss


def faiss_package() -> str:
    """Which FAISS this is: the distribution and its version."""
    faiss = faiss_module()
    name = next((name for name in ("faiss-gpu", "faiss-cpu") if _installed(name)), "faiss")
    return f"{name} {faiss.__version__}"


def read_faiss(path: Path) -> Any:
    """FAISS's index in a file, memory-mapped. Raises E2RankError for what FAISS cannot read, or not use rightly."""
    faiss = faiss_module()
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except (RuntimeError, MemoryError) as error:  # it believes what a header says of sizes
        raise E2RankError(f"{path}: not readable by FAISS: {reason(error)}") from error
    _check(index, path)
    return index


def flat_header(dim: int, count: int) -> bytes:
    """What FAISS writes of a Flat index (inner product) before its `count` vectors of `dim` float32 each.

    The number of vectors stands behind four bytes each of type and width, the number of floats at the end.
    """
    faiss = faiss_module()
    empty = faiss.serialize_index(faiss.IndexFlatIP(dim)).tobytes()
    return bytes(empty[:8] + count.to_bytes(8, "little") + empty[16:-8] + (count * dim).to_bytes(8, "little"))


def graph_of(index: Any) -> Any:
    """The HNSW graph of an index, behind a transformation or beside full vectors too; None of other kinds."""
    inner = _inner(index)
    return inner.hnsw if isinstance(inner, faiss_module().IndexHNSW) else None


def _inner(index: Any) -> Any:
    faiss = faiss_module()
    while isinstance(index, faiss.IndexPreTransform | faiss.IndexRefine):
        index = faiss.downcast_index(index.index if isinstance(index, faiss.IndexPreTransform) else index.base_index)
    return index


def _check(index: Any, path: Path) -> None:
    """Refuse what FAISS would search wrongly, and what would end the process.

    A graph may have another metric than the vectors in it: Pyserini writes HNSW over PQ so, and its own searches have
    the farthest documents first.
    """
    faiss, inner = faiss_module(), _inner(index)
    if hasattr(inner, "storage") and inner.storage.metric_type != index.metric_type:
        raise E2RankError(
            f"{path}: its graph is of metric {index.metric_type}, its vectors of {inner.storage.metric_type}: FAISS "
            "would find the farthest documents; build another kind of index"
        )
    if isinstance(faiss.downcast_index(faiss.try_extract_index_ivf(index)), faiss.IndexIVFFastScan):
        # and its first search may miss what a second one finds
        raise E2RankError(f"{path}: FAISS cannot give the vectors of a fast-scan IVF index back")
    if isinstance(index, faiss.IndexIDMap):
        check_numbers(faiss.vector_to_array(index.id_map), np.arange(index.ntotal), path)


def check_numbers(found: NDArray[np.int64], expected: NDArray[np.int64], path: Path) -> None:
    """Refuse vectors whose numbers are not the lines of their docids: FAISS can be given others."""
    if not np.array_equal(found, expected):
        raise E2RankError(f"{path}: its vectors have numbers of their own, not the lines of their docids")


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def reason(error: Exception) -> str:
    """What FAISS says is wrong, without the place in its own source."""
    told = str(error).strip().rsplit("Error: ", 1)[-1]
    return re.sub(r"^Error in .* at \S+:\d+: ", "", told, flags=re.S).replace("\n", " ")
