"""Folders of this machine or behind an fsspec URL (`s3://`, `gs://`, `memory://` …), and lines of text files there.

A file that exists under its name is complete: written aside and renamed here, put in one piece to an object store.
"""

import contextlib
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from e2rank_pyserini.types import E2RankError, first_line

_FILE = "file://"


def is_remote(place: str) -> bool:
    """Whether this is a URL of fsspec's, other than a file of this machine."""
    return "://" in place and not place.startswith(_FILE)


def local(place: str) -> Path:
    """The path behind a place of this machine, `file://` or not."""
    return Path(place.removeprefix(_FILE))


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
    named = (url.rstrip("/") + str(name).removeprefix(path.rstrip("/")) for name in found)
    return sorted(named, key=lambda one: one.split("/"))  # as paths are


@contextlib.contextmanager
def _told(url: str) -> Iterator[None]:
    """What fsspec's file systems raise, each its own types, as one line."""
    try:
        yield
    except E2RankError:
        raise
    except FileNotFoundError as error:
        raise E2RankError(f"{url}: no such file or folder") from error
    except Exception as error:
        raise E2RankError(f"{url}: cannot be read: {first_line(error)}") from error


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
        self.path = None if is_remote(place) else local(self.place).absolute()
        self._files: Any
        self._files, self._root = (None, "") if self.path is not None else remote(self.place)

    @property
    def absolute(self) -> str:
        """Its place as another process names it."""
        return self.place if self.path is None else str(self.path)

    def size(self, name: str) -> int | None:
        """In bytes; None where there is no such file."""
        try:
            if self.path is not None:
                return (self.path / name).stat().st_size
            return int(self._files.info(self._inside(name))["size"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._error(name, "read", error) from error

    def open(self, name: str) -> IO[bytes]:
        """A file to read from; whoever asks closes it."""
        try:
            if self.path is not None:
                return (self.path / name).open("rb")
            return cast(IO[bytes], self._files.open(self._inside(name), "rb"))
        except OSError as error:
            raise self._error(name, "read", error) from error

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        with self.open(name) as file:
            try:
                return file.read()
            except OSError as error:
                raise self._error(name, "read", error) from error

    def write(self, name: str, parts: Iterable[bytes]) -> None:
        """Write a file, whole and on disk or not at all."""
        try:
            if self.path is not None:
                _write_durably(self.path / name, parts)
            else:
                self._files.makedirs(self._inside(name).rpartition("/")[0], exist_ok=True)
                self._files.pipe_file(self._inside(name), b"".join(parts))
        except OSError as error:
            raise self._error(name, "written", error) from error

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""
        try:
            if self.path is None:
                self._files.rm(self._inside(name))
            else:
                (self.path / name).unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._error(name, "removed", error) from error

    def remove_asides(self, pattern: str) -> None:
        """Remove what killed processes of this machine left half-written of the files of this pattern of names."""
        if self.path is not None:
            named = Path(pattern)
            for aside in self.path.glob(str(named.with_name(f".{named.name}.*"))):
                if aside.suffix[1:].isdecimal() and aside.is_file():  # the number of the process
                    aside.unlink()

    def _inside(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _error(self, name: str, what: str, error: OSError) -> E2RankError:
        return E2RankError(f"{self.place}/{name}: cannot be {what}: {error.strerror or error}")


def _write_durably(path: Path, parts: Iterable[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.writelines(parts)
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
