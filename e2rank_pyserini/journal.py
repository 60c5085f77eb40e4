"""What an unfinished job has computed, kept in one file so that the same command goes on after a kill at any instant.

The file is a row of entries, each written in one piece: the length of its body (8 bytes, little-endian), the body's
SHA-256, and the body: a line of JSON and raw bytes. What a kill or a fault of the disk left of the last entry does not
match its SHA-256, and is cut off.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from e2rank_pyserini.directories import locked
from e2rank_pyserini.storage import sync_directory
from e2rank_pyserini.trec import check_writable
from e2rank_pyserini.types import E2RankError

_HEAD = 8 + 32
_SYNC_SECONDS = 1.0  # a power failure costs what was computed in the last second; a kill nothing that was written


class Entry(NamedTuple):
    """What the entry says of itself, and where its bytes lie in the file."""

    about: dict[str, Any]
    offset: int
    size: int


class Journal:
    """The journal of `output`, opened, locked, and whole: what is damaged, and all after it, is cut off and named.

    It lies beside the output under a fixed hidden name. `entries` are those that it held. Raises E2RankError, one line,
    where it cannot be read or written, and where another process holds it.
    """

    def __init__(self, output: Path) -> None:
        output = output.resolve()  # a link keeps pointing at it
        self.path = output.with_name(f".{output.name}.unfinished")
        check_writable(self.path)
        try:
            self._file = self._locked(output)
        except OSError as error:
            raise self._failed(error) from error
        try:
            sync_directory(self.path.parent)
            self.entries = list(self._whole())
            os.lseek(self._file, 0, os.SEEK_END)
        except OSError as error:
            os.close(self._file)
            raise self._failed(error) from error
        except E2RankError:
            os.close(self._file)
            raise
        self._synced = time.monotonic()

    def append(self, about: dict[str, Any], data: bytes = b"") -> Entry:
        """Write one entry; once this returns it survives the process. `about` must be JSON."""
        line = json.dumps(about).encode() + b"\n"
        body = line + data
        try:
            offset = os.lseek(self._file, 0, os.SEEK_CUR)
            whole = memoryview(len(body).to_bytes(8, "little") + hashlib.sha256(body).digest() + body)
            while whole:
                whole = whole[os.write(self._file, whole) :]
            if time.monotonic() - self._synced >= _SYNC_SECONDS:
                os.fsync(self._file)
                self._synced = time.monotonic()
        except OSError as error:
            raise self._failed(error) from error
        return Entry(about, offset + _HEAD + len(line), len(data))

    def data(self, entry: Entry) -> bytes:
        """The raw bytes of an entry."""
        return os.pread(self._file, entry.size, entry.offset)

    @property
    def closed(self) -> bool:
        return self._file < 0

    def close(self, *, keep: bool) -> None:
        """Let the journal go: removed, or kept for the next command."""
        if not keep:
            self.path.unlink(missing_ok=True)  # before another process can have the lock
        os.close(self._file)
        self._file = -1

    def _locked(self, output: Path) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return locked(
            self.path,
            lambda: os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666),
            f"{output}: another process is making it; wait, or choose another name",
        )

    def _whole(self) -> Iterator[Entry]:
        """The entries from the first to the last whole one; what follows is cut off the file."""
        size, place = os.fstat(self._file).st_size, 0
        while place < size:
            head = os.pread(self._file, _HEAD, place)
            length = int.from_bytes(head[:8], "little")
            body = os.pread(self._file, length, place + _HEAD) if place + _HEAD + length <= size else b""
            line, _, data = body.partition(b"\n")
            if not body or hashlib.sha256(body).digest() != head[8:]:
                print(
                    f"journal: {self.path}: broken off or damaged at byte {place}: its last {size - place} bytes are "
                    "cut off, and what they held is encoded again",
                    file=sys.stderr,
                )
                os.ftruncate(self._file, place)
                return
            place += _HEAD + length
            yield Entry(self._object(line), place - len(data), len(data))

    def _object(self, line: bytes) -> dict[str, Any]:
        try:
            about = json.loads(line)
        except (ValueError, RecursionError):
            about = None
        if not isinstance(about, dict):
            raise E2RankError(f"{self.path}: holds entries that are not ours; remove it")
        return about

    def _failed(self, error: OSError) -> E2RankError:
        return E2RankError(f"{self.path}: cannot be kept: {error.strerror or error}")
