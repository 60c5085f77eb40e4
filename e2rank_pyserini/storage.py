"""Folders of this machine or behind an fsspec URL (`s3://`, `gs://`, `memory://` …), and lines of text files there.

A file that exists under its name is complete: written aside and renamed here, put in one piece to an object store.
"""

import contextlib
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from e2rank_pyserini.types import E2RankError, first_line

_FILE = "file://"
_PIECE = 1 << 20  # bytes read at a time


def is_remote(place: str) -> bool:
    """Whether this is a URL of fsspec's, other than a file of this machine."""
    return "://" in place and not place.startswith(_FILE)


def local(place: str) -> Path:
    """The path behind a place of this machine, `file://` or not."""
    return Path(place.removeprefix(_FILE))


def cache_folder(variable: str, name: str) -> Path:
    """The folder that the environment's `variable` names, or ~/.cache/`name`. E2RankError where there is no home."""
    try:
        return Path(os.environ.get(variable) or Path.home() / ".cache" / name)
    except RuntimeError as error:  # containers whose user has no name
        raise E2RankError(f"this user has no home directory: set HOME, or {variable} to a folder") from error


def remote(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL and the path in it. E2RankError where its protocol is not installed."""
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(url)
    except Exception as error:  # s3fs is missing, no such protocol, host, archive …: of many types
        raise E2RankError(f"{url}: cannot be opened: {first_line(error)}") from error
    return files, str(path)


def size(url: str) -> int:
    """The size in bytes of a file behind a URL."""
    files, path = remote(url)
    with _told(url):
        return int(files.info(path)["size"] or 0)


def files_of(url: str) -> list[str]:
    """The URLs of the files in a folder behind a URL and in its folders, sorted; the URL itself where it is a file."""
    files, path = remote(url)
    with _told(url):
        found = [path] if files.isfile(path) else files.find(path)
        if not found:
            files.info(path)  # raises why
        files.invalidate_cache()  # a listing that is kept hides what other processes write there
    named = (url.rstrip("/") + str(name).removeprefix(path.rstrip("/")) for name in found)
    return sorted(named, key=lambda one: one.split("/"))  # as paths are


@contextlib.contextmanager
def _told(where: str, what: str = "read", raised: type[Exception] = Exception) -> Iterator[None]:
    """What is `raised` as one line: fsspec's file systems have each its own types."""
    try:
        yield
    except E2RankError:
        raise
    except raised as error:
        if what == "read" and isinstance(error, FileNotFoundError):
            raise E2RankError(f"{where}: no such file or folder") from error
        told = getattr(error, "strerror", None) or first_line(error)
        raise E2RankError(f"{where}: cannot be {what}: {told}") from error


def remote_lines(url: str) -> Iterator[str]:
    """The lines of a text file behind a URL, as trec.read_lines gives those of a path."""
    files, path = remote(url)

    def opened() -> IO[str]:
        raw = files.open(path, "rb")
        packed: Any = gzip.GzipFile(fileobj=raw) if path.partition("?")[0].endswith(".gz") else raw
        return io.TextIOWrapper(cast(BinaryIO, packed), encoding="utf-8-sig")

    with _told(url):
        yield from lines(opened, url)


def lines(opened: Callable[[], IO[str]], where: str) -> Iterator[str]:
    """The lines, without their ends, of the text file that `opened` opens; `where` names it in an E2RankError."""
    try:
        with opened() as file:
            for line in file:
                yield line.rstrip("\r\n")
    except FileNotFoundError as error:
        raise E2RankError(f"{where}: no such file") from error
    except UnicodeDecodeError as error:
        raise E2RankError(f"{where}: not UTF-8: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise E2RankError(f"{where}: cannot be read: {error}") from error


class Folder:
    """A folder of files named by their path inside it. Every error is an E2RankError that names the file."""

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/")
        if is_remote(place) and "://" not in self.place:
            raise E2RankError(f"{place}: expected a bucket or a folder after ://")
        self.path = None if is_remote(place) else local(self.place).absolute()
        self._files: Any
        self._files, self._root = (None, "") if self.path is not None else remote(self.place)

    @property
    def absolute(self) -> str:
        """Its place as another process names it."""
        return self.place if self.path is None else str(self.path)

    def size(self, name: str) -> int | None:
        """In bytes; None where there is no such file."""
        with self._telling(name, "read"):
            try:
                if self.path is not None:
                    return (self.path / name).stat().st_size
                return int(self._files.info(self._inside(name))["size"])
            except (FileNotFoundError, NotADirectoryError):
                return None

    def pieces(self, name: str) -> Iterator[bytes]:
        """The bytes of a file, 1 MiB at once."""
        with self._telling(name, "read"):
            opened = self._files.open(self._inside(name), "rb") if self.path is None else (self.path / name).open("rb")
            with opened as file:
                while piece := file.read(_PIECE):
                    yield piece

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        return b"".join(self.pieces(name))

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole and on disk or not at all."""
        with self._telling(name, "written"):
            if self.path is not None:
                _write_durably(self.path / name, content)
                return
            inside = self._inside(name)
            if self._files.exists(inside.partition("/")[0] or "/"):  # or a mistyped bucket would be made
                self._files.makedirs(inside.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(inside, content)

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""
        with self._telling(name, "removed"), contextlib.suppress(FileNotFoundError):
            if self.path is None:
                self._files.rm(self._inside(name))
            else:
                (self.path / name).unlink()

    def remove_asides(self, pattern: str) -> None:
        """Remove what killed processes of this machine left half-written of the files of this pattern of names."""
        if self.path is not None:
            named = Path(pattern)
            for aside in self.path.glob(str(named.with_name(f".{named.name}.*"))):
                if aside.suffix[1:].isdecimal() and aside.is_file():  # the number of the process
                    aside.unlink()

    def _inside(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _telling(self, name: str, what: str) -> contextlib.AbstractContextManager[None]:
        return _told(f"{self.place}/{name}", what, Exception if self.path is None else OSError)


def _write_durably(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
