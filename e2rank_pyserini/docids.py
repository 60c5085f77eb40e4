"""The docids of an index in about 16 bytes each beside their text, and of a corpus, to find one that comes twice."""

import codecs
import functools
import itertools
import mmap
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from e2rank_pyserini.trec import read_lines
from e2rank_pyserini.types import E2RankError, shown

Bytes = NDArray[np.uint8]
Hashes = NDArray[np.uint64]
_PIECE = 1 << 16  # bytes, or rows, looked at together: what numpy makes of them stays in the cache
_BLANK = re.compile(r"[^\S\n]")
_ASCII_BLANKS = b" \t\r\v\f\x1c\x1d\x1e\x1f"
_GROWTH = 8  # how much longer a run of Seen is than the next one


def polynomial(text: Bytes, starts: NDArray[np.int64]) -> Hashes:
    """(n,) a hash of each stretch of `text`, from its start to the next one's: a polynomial modulo 2^64, well mixed.

    All stretches are summed at once over the powers of their places in `text`, and then divided by that of their start.
    """
    powers, inverses = _powers(1 << len(text).bit_length())
    sums: Hashes = np.add.reduceat(text * powers[: len(text)], starts) * inverses[starts]
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):  # MurmurHash3's finaliser: we keep the upper bits
        sums ^= sums >> np.uint64(33)
        sums *= np.uint64(factor)
    return sums ^ (sums >> np.uint64(33))


@functools.lru_cache
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """The first powers of an odd number and of its inverse, modulo 2^64."""
    base = 0x9E3779B97F4A7C15
    both = np.array([base, pow(base, -1, 1 << 64)], dtype=np.uint64)
    table = np.repeat(both[:, None], count, axis=1)
    table[:, 0] = 1
    table = np.cumprod(table, axis=1, dtype=np.uint64)
    return table[0], table[1]


class Docids(Sequence[str]):
    """The docids of an index, from its docid file or those of its parts in order; a file is mapped, several are held.

    Their bytes, where each begins, and from the first look-up a table sorted by hash: 16 bytes a docid beside its text.
    A docid is found by its hash and then compared, so that a hash that two share (`hashed` may be any) costs time only.
    Raises E2RankError, with file and line, for a docid with a blank, and for a file that is not readable as UTF-8.
    """

    def __init__(self, paths: Sequence[Path], hashed: Callable[[Bytes, NDArray[np.int64]], Hashes] = polynomial):
        self._hashed = hashed
        self._text = _lines(paths[0]) if len(paths) == 1 else _joined(paths)
        self._starts = _starts(self._text)
        self._low = np.uint64((1 << len(self).bit_length()) - 1)  # the bits of a key in the table that hold a row

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        rows = range(len(self))[row]
        return self._bytes(rows).decode() if isinstance(rows, int) else [self._bytes(one).decode() for one in rows]

    def __iter__(self) -> Iterator[str]:
        for first, last in self._pieces():
            yield from self._text[self._starts[first] : self._starts[last]].decode().split()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other, strict=True))

    def rows(self, docids: Sequence[str]) -> NDArray[np.int64]:
        """(n,) the row of each docid, -1 where it is absent. One that appears more than once has its first row."""
        if isinstance(docids, str):
            raise E2RankError("expected a list of docids, got a single one")
        docids = list(docids)
        others = [docid for docid in docids if not isinstance(docid, str)]
        if others:
            raise E2RankError(f"expected docids as text, got {shown(others[0])}")
        sought = [docid.encode("utf-8", "surrogatepass") for docid in docids]
        starts = np.cumsum([0, *(len(one) + 1 for one in sought)])
        text = np.frombuffer(b"".join(one + b"\n" for one in sought), np.uint8)
        hashes = self._hashed(text, starts[:-1]) & ~self._low
        places = np.searchsorted(self._table, hashes)
        found = map(self._row, sought, hashes.tolist(), places.tolist())
        return np.fromiter(found, np.int64, len(sought))

    def _row(self, docid: bytes, upper: int, place: int) -> int:
        """The row of a docid, sought in the table from `place` on, as long as hashes have these upper bits."""
        low = int(self._low)
        while place < len(self):
            key = self._table.item(place)
            if key & ~low != upper:
                break
            if self._bytes(key & low) == docid:
                return key & low
            place += 1
        return -1

    def repeated(self) -> int:
        """How many docids have appeared before."""
        rows: set[int] = set()
        for first in range(0, len(self), _PIECE):
            keys = self._table[first : first + _PIECE + 1]
            (alike,) = np.nonzero(keys[1:] ^ keys[:-1] <= self._low)
            rows.update((keys[alike] & self._low).tolist(), (keys[alike + 1] & self._low).tolist())
        docids = [self._bytes(row) for row in rows]
        return len(docids) - len(set(docids))

    @functools.cached_property
    def _table(self) -> Hashes:
        """(n,) ascending keys: the upper bits of a docid's hash, and its row below them."""
        table: Hashes = np.empty(len(self), dtype=np.uint64)
        text = np.frombuffer(self._text, np.uint8)
        for first, last in self._pieces():
            start, end = self._starts[[first, last]]
            hashes = self._hashed(text[start:end], self._starts[first:last] - start)
            table[first:last] = hashes & ~self._low | np.arange(first, last, dtype=np.uint64)
        table.sort()
        return table

    def _bytes(self, row: int) -> bytes:
        return bytes(self._text[self._starts.item(row) : self._starts.item(row + 1) - 1])

    def _pieces(self) -> Iterator[tuple[int, int]]:
        """Rows from the first to before the last, together of about as many bytes as a piece has."""
        cuts = np.append(np.arange(0, self._starts[-1], _PIECE), self._starts[-1])
        return itertools.pairwise(np.unique(np.searchsorted(self._starts, cuts)).tolist())


def _joined(paths: Sequence[Path]) -> bytearray:
    text = bytearray()
    for path in paths:
        text += _lines(path)
    return text


def _lines(path: Path) -> mmap.mmap | bytearray:
    """The docids of a file, each ended by a newline. The file itself, mapped, where it is just that."""
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if _is_plain(mapped):
            return mapped
    except (OSError, ValueError):  # an empty file cannot be mapped; what else is wrong the reader of lines says
        pass
    text = bytearray()
    for number, line in enumerate(read_lines(path), start=1):
        docid = line.rstrip()
        if docid.split() != [docid]:
            raise E2RankError(f"{path}:{number}: expected a docid without blanks, got {shown(docid)}")
        text += f"{docid}\n".encode()
    return text


def _is_plain(text: mmap.mmap) -> bool:
    """Whether this is UTF-8 without byte order mark, whose only blanks are newlines: one at the end of each line."""
    if text[:1] == b"\n" or text[-1:] != b"\n" or text[:3] == codecs.BOM_UTF8 or text.find(b"\n\n") >= 0:
        return False
    start = 0
    while start < len(text):
        end = text.find(b"\n", min(start + _PIECE, len(text)) - 1) + 1
        piece = text[start:end]
        if piece.isascii():
            if len(piece.translate(None, _ASCII_BLANKS)) < len(piece):
                return False
        elif _BLANK.search(piece.decode()):
            return False
        start = end
    return True


def _starts(text: mmap.mmap | bytearray) -> NDArray[np.int64]:
    """(lines + 1,) where each line starts, and the end."""
    numbers = np.frombuffer(text, np.uint8)
    found = [np.zeros(1, dtype=np.int64)]
    for start in range(0, len(text), _PIECE):
        found.append(np.flatnonzero(numbers[start : start + _PIECE] == ord("\n")) + (start + 1))
    return np.concatenate(found)


class Seen:
    """The docids that have come by, as hashes in 8 bytes each (twice that for a moment, while runs are merged).

    Python's own hash of a string is SipHash under a random key: that two of 10^8 docids share one happens in one corpus
    of 3,700, and cannot be brought about.
    """

    def __init__(self, hashed: Callable[[str], int] = hash) -> None:
        self._hashed = hashed
        self._runs: list[NDArray[np.int64]] = []  # each sorted, and much longer than the next

    def suspects(self, docids: Sequence[str]) -> set[str]:
        """Those of these docids whose hash came by in an earlier call, or more than once in this one."""
        hashes = np.fromiter(map(self._hashed, docids), np.int64, len(docids))
        run = np.sort(hashes)
        shared = [run[1:][run[1:] == run[:-1]]]
        for earlier in self._runs:
            places = np.searchsorted(earlier[:-1], run)  # the last, for what is beyond all
            shared.append(run[earlier[places] == run])
        self._add(run)
        return {docids[row] for row in np.flatnonzero(np.isin(hashes, np.concatenate(shared))).tolist()}

    def _add(self, run: NDArray[np.int64]) -> None:
        if not len(run):
            return
        while self._runs and len(self._runs[-1]) < _GROWTH * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")  # which merges two sorted runs
        self._runs.append(run)
