"""Directories that exist under their name only once they are complete: written aside, made durable, renamed."""

import contextlib
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from e2rank_pyserini.storage import sync_directory
from e2rank_pyserini.trec import check_writable
from e2rank_pyserini.types import E2RankError


def check_replaceable(directory: Path, *, overwrite: bool, ours: Callable[[Path], bool], what: str) -> None:
    """Refuse to build over what exists: without `overwrite` anything, with it anything that is not `ours`.

    `what` names in the message what would be replaced: `an index`.
    """
    if _replaced(directory.resolve()).exists():
        with _staging(directory.resolve()):
            _recover(directory.resolve())
    if not directory.exists():
        check_writable(directory)
    elif not overwrite:
        raise E2RankError(f"{directory}: exists already; remove it, or say --overwrite")
    elif not ours(directory):
        raise E2RankError(f"{directory}: is not {what}, so --overwrite does not replace it")


@contextlib.contextmanager
def built_aside(directory: Path) -> Iterator[Path]:
    """An empty directory beside `directory` that takes its name at the end; when anything fails it is removed.

    An older `directory` is replaced, and goes only after that. Raises E2RankError where it cannot be written, or where
    another process is writing it.
    """
    directory = directory.resolve()  # a link keeps pointing at it
    with _staging(directory) as staging:
        yield staging
        _into_place(staging, directory)


@contextlib.contextmanager
def _staging(directory: Path) -> Iterator[Path]:
    staging = directory.with_name(f".{directory.name}.building")
    if staging.is_symlink():  # not ours: what it leads to would be emptied
        raise E2RankError(f"{staging}: is a link where {directory.name} is to be built; remove it")
    try:
        with held(staging):
            try:
                _empty(staging)  # what a killed process left
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise E2RankError(f"{directory}: cannot be written: {error}") from error


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """The directory, made where it is missing, for this process alone. The lock ends with the process, however it ends.

    Raises E2RankError where another process holds it.
    """

    def opened() -> int:
        directory.mkdir(parents=True, exist_ok=True)
        return os.open(directory, os.O_RDONLY)

    handle = locked(directory, opened, f"{directory}: another process is writing it")
    try:
        yield
    finally:
        os.close(handle)


def locked(path: Path, opened: Callable[[], int], busy: str) -> int:
    """A handle of the file or directory that `opened` opens, or makes, at `path`, locked until it is closed.

    Raises E2RankError(busy) where another process holds it. Says on stderr where nothing can be locked.
    """
    while True:
        handle = opened()
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise E2RankError(busy) from error
        except OSError as error:  # some network file systems lock nothing
            print(f"{path}: cannot be locked ({error.strerror}); start no second process on it", file=sys.stderr)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)  # its last holder has renamed or removed it


def removed(directory: Path, last: str) -> None:
    """Remove a directory; its file `last` goes last, so that a killed removal leaves what can be recognised.

    Tried for a second: a thread of an interrupted job may be at a last file.
    """
    for left in reversed(range(20)):
        try:
            _empty(directory, but=last)
            (directory / last).unlink(missing_ok=True)
            directory.rmdir()
            return
        except OSError:
            if not left:
                raise
            time.sleep(0.05)


def _empty(directory: Path, but: str = "") -> None:
    for child in directory.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        elif child.name != but:
            child.unlink()


def _into_place(staging: Path, directory: Path) -> None:
    """Make what was written durable and give it its name; a directory that is replaced goes only after that."""
    for path in staging.rglob("*"):
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
        else:
            sync_directory(path)
    sync_directory(staging)
    _recover(directory)
    if directory.exists():
        directory.rename(_replaced(directory))
    staging.rename(directory)
    sync_directory(directory.parent)
    shutil.rmtree(_replaced(directory), ignore_errors=True)


def _recover(directory: Path) -> None:
    """Finish, or take back, a replacement in which a process was killed."""
    old = _replaced(directory)
    with contextlib.suppress(FileNotFoundError):
        if directory.exists():
            shutil.rmtree(old)
        else:
            old.rename(directory)


def _replaced(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.replaced")
