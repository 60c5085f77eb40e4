"""Directories that exist under their name only once they are complete: written aside, made durable, renamed."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from e2rank_pyserini.trec import check_writable
from e2rank_pyserini.types import E2RankError


def check_replaceable(directory: Path, *, overwrite: bool, ours: Callable[[Path], bool], what: str) -> None:
    """Refuse to build over what exists: without `overwrite` anything, with it anything that is not `ours`.

    `what` names in the message what would be replaced: `an index`.
    """
    if not directory.exists():
        check_writable(directory)
    elif not overwrite:
        raise E2RankError(f"{directory}: exists already; remove it, or say --overwrite")
    elif not ours(directory):
        raise E2RankError(f"{directory}: is not {what}, so --overwrite does not replace it")


@contextlib.contextmanager
def built_aside(directory: Path) -> Iterator[Path]:
    """An empty directory beside `directory` that takes its name at the end; when anything fails it is removed.

    An older `directory` is replaced, and goes only after that. Raises E2RankError where it cannot be written.
    """
    directory = directory.resolve()  # a link keeps pointing at it
    staging = directory.with_name(f".{directory.name}.building-{os.getpid()}")
    try:
        staging.mkdir(parents=True)
        yield staging
        _into_place(staging, directory)
    except OSError as error:
        raise E2RankError(f"{directory}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _into_place(staging: Path, directory: Path) -> None:
    """Make what was written durable and give it its name; a directory that is replaced goes only after that."""
    for file in (path for path in staging.rglob("*") if path.is_file()):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    if not directory.exists():
        staging.rename(directory)
        return
    old = directory.with_name(f".{directory.name}.replaced-{os.getpid()}")
    directory.rename(old)
    staging.rename(directory)
    shutil.rmtree(old)
