"""Whether the files of an index are those that were written: told by the hashes in its sidecar."""

from pathlib import Path
from typing import Any

from e2rank_pyserini.fingerprint import of_files, sha256
from e2rank_pyserini.index import check_form, read_sidecar
from e2rank_pyserini.types import E2RankError

FILES = ("index", "docid")


def hashes(directory: Path) -> dict[str, Any]:
    """What a sidecar keeps of a directory that is written: the SHA-256 of each file, and what RUN.json tells it by."""
    files = {name: sha256(directory / name) for name in FILES}
    return {"files": files, "fingerprint": of_files(directory / name for name in FILES)}


def fingerprint(directory: Path) -> str:
    """What tells one index from another, for RUN.json; read before FAISS reads the index, which a damaged one may hang.

    Of a file over 1 GiB that is 256 blocks, its head among them, so a flipped bit between them is found only by
    `damaged`. Raises E2RankError, naming the file, where the sidecar has hashes and these are not they.
    """
    check_form(directory)
    recorded = read_sidecar(directory) or {}
    try:
        found = of_files(directory / name for name in FILES)
    except OSError as error:
        raise E2RankError(f"{error.filename}: cannot be read: {error.strerror}") from error
    if recorded.get("fingerprint", found) != found:
        raise E2RankError(next(iter(damaged(directory, recorded)), f"{directory}: is not the index of its sidecar"))
    return found


def damaged(directory: Path, sidecar: dict[str, Any]) -> list[str]:
    """A line for each file whose bytes are not those of the sidecar; every byte is read. Empty where it has no hashes.

    Raises E2RankError for a file that cannot be read.
    """
    try:
        wrong = [name for name, digest in sidecar.get("files", {}).items() if sha256(directory / name) != digest]
    except OSError as error:
        raise E2RankError(f"{error.filename}: cannot be read: {error.strerror}") from error
    why = "its bytes are not those that were written (bit rot, or a copy cut short); build it again"
    return [f"{directory / name}: {why}" for name in wrong]
