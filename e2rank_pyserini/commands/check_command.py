"""`e2rank check`: whether index directories still hold what was written."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2rank_pyserini.types import E2RankError

if TYPE_CHECKING:
    from e2rank_pyserini.index import DenseIndex

_BLOCK = 65536  # vectors looked at together
_SLACK = 1e-3  # how far the length of a vector that was divided by its length is from 1, at most


def check(arguments: Namespace) -> None:
    """Directories -> a line each on stdout; raises E2RankError when anything is wrong with any of them."""
    from e2rank_pyserini.storage import is_remote, local

    if elsewhere := list(filter(is_remote, arguments.directories)):
        raise E2RankError(f"{elsewhere[0]}: is not on this machine; copy it here to check it")
    wrong = 0
    for name in arguments.directories:
        directory = local(name)
        try:
            faults, told = _checked(directory)
        except E2RankError as error:
            faults, told = [str(error)], ""
        wrong += bool(faults)
        print(f"{name}: {'damaged: ' + '; '.join(faults) if faults else 'ok: ' + told}", flush=True)
    if wrong:
        raise E2RankError(f"{wrong} of {len(arguments.directories)} directories are damaged")


def _checked(directory: Path) -> tuple[list[str], str]:
    """What is wrong with a directory, and what it holds. FAISS reads no file whose bytes are known to be wrong."""
    from e2rank_pyserini.index import check_form, read_sidecar
    from e2rank_pyserini.integrity import damaged
    from e2rank_pyserini.shards import sharded
    from e2rank_pyserini.shards.folder import MANIFEST, listed, read_manifest
    from e2rank_pyserini.storage import Folder

    if (directory / MANIFEST).is_file():
        folder = Folder(str(directory))
        faults = list(sharded.damaged(directory, listed(folder, read_manifest(folder))))
        return _whole(directory, faults, "every byte of every shard as written")
    check_form(directory)
    sidecar = read_sidecar(directory)
    return _whole(directory, damaged(directory, sidecar or {}), _extent(sidecar))


def _whole(directory: Path, faults: list[str], extent: str) -> tuple[list[str], str]:
    from e2rank_pyserini.shards.sharded import open_index

    if faults:
        return faults, ""
    opened = open_index(directory)
    return [*_counts(opened), *_vectors(opened)], f"{len(opened)} documents, {opened.dim} dimensions; {extent}"


def _extent(sidecar: dict[str, Any] | None) -> str:
    """How far a directory could be checked."""
    if sidecar is None:
        return "no e2rank.json: nothing says which bytes were written, nor that vectors have length 1"
    return "every byte as written"


def _counts(opened: "DenseIndex") -> Iterator[str]:
    """Where the sidecar's counts are not those of the index."""
    for key, held in (("documents", len(opened)), ("dim", opened.dim)):
        said = (opened.sidecar or {}).get(key, held)
        if said != held:
            yield f"{opened.directory}: e2rank.json says {key} {said}, the index holds {held}"


def _vectors(opened: "DenseIndex") -> Iterator[str]:
    """Vectors that are not numbers; where the sidecar says that the index is ours and unquantised, nor of length 1."""
    import numpy as np

    unit = opened.exact and opened.sidecar is not None
    for start in range(0, len(opened), _BLOCK):
        lengths = np.linalg.norm(opened.raw(start, min(start + _BLOCK, len(opened))), axis=1)
        bad = ~np.isfinite(lengths) | (unit & (abs(lengths - 1) > _SLACK))
        if bad.any():
            row = int(bad.argmax())
            docid = opened.docids[start + row]
            yield f"{opened.directory / 'index'}: the vector of document {docid} has length {lengths[row]:g}, not 1"
            return


def add_check_parser(subparsers: Any) -> None:
    """The `check` command."""
    parser: ArgumentParser = subparsers.add_parser(
        "check", help="whether index directories still hold what was written: every byte, counts, vectors"
    )
    parser.set_defaults(function=check)
    parser.add_argument(
        "directories", nargs="+", metavar="DIR", help="index directories, ours or Pyserini's, and folders of shards"
    )
