"""Texts by docid while a process lives: a corpus opened once, no text of it held in memory.

`corpus.find` reads the files once a call, which suits a command; a server is asked again and again.
"""

import codecs
import contextlib
import sys
import tempfile
import weakref
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from tqdm import tqdm

from e2rank_pyserini.corpus import files, is_lucene, live, lucene_document, lucene_searcher, parse_document
from e2rank_pyserini.storage import is_remote
from e2rank_pyserini.trec import read_lines
from e2rank_pyserini.types import Document, E2RankError


def opened_texts(source: str) -> Mapping[str, Document]:
    """The documents of a corpus (as `corpus.documents` takes it) by docid; KeyError for one that it lacks.

    JSONL files are read once, and where each document begins is kept: some 150 bytes a document. `.gz` cannot be read
    from its middle, so it is unpacked into a temporary file that goes with the process. A Lucene index is asked. One
    thread at a time. Raises E2RankError as `corpus.documents` does.
    """
    if is_remote(source):
        raise E2RankError(f"{source}: texts are looked up in a corpus on this machine: copy it here")
    return LuceneTexts(source) if is_lucene(source) else FileTexts(source)


class LuceneTexts(Mapping[str, Document]):
    """The documents that a Lucene index stores."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.searcher = lucene_searcher(source)

    def __getitem__(self, docid: str) -> Document:
        stored = self.searcher.doc(docid)
        if stored is None:
            raise KeyError(docid)
        return lucene_document(stored, self.source)

    def __len__(self) -> int:
        return int(self.searcher.index_reader.stats()["documents"])

    def __iter__(self) -> Iterator[str]:
        return (self.searcher.doc(number).docid() for number in live(self.searcher))


class FileTexts(Mapping[str, Document]):
    """The documents of JSONL files by the byte at which they begin, counted through all files."""

    def __init__(self, source: str) -> None:
        self.paths = files(source)
        self.opened: list[IO[bytes]] = []  # and kept open: a file that another one replaces stays readable
        self._closing = contextlib.ExitStack()
        weakref.finalize(self, self._closing.close)
        self.begins: list[int] = []
        self.places: dict[str, int] = {}
        begin = 0
        for path in self.paths:
            self.begins.append(begin)
            begin = self._add(path, begin)
        if not self.places:
            raise E2RankError(f"{source}: the corpus is empty")

    def __getitem__(self, docid: str) -> Document:
        place = self.places[docid]
        number = bisect_right(self.begins, place) - 1
        where = f"{self.paths[number]}: document {docid}"
        self.opened[number].seek(place - self.begins[number])
        line, *_ = self.opened[number].readline().splitlines() or [b""]
        document = parse_document(_decoded(line, where), where)
        if document.docid != docid:
            raise E2RankError(f"{where}: is no longer where it was; the file has changed")
        return document

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def _add(self, path: Path, begin: int) -> int:
        """Find the documents of one file; returns where the next file begins."""
        try:
            file = self._closing.enter_context(_unpacked(path) if path.suffix == ".gz" else path.open("rb"))
            self.opened.append(file)
            read = tqdm(_lines(file), unit=" lines", desc=path.name, disable=None, file=sys.stderr)
            for number, (place, line) in enumerate(read, start=1):
                if line.strip():
                    where = f"{path}:{number}"
                    docid = parse_document(_decoded(line, where), where).docid
                    if docid in self.places:
                        raise E2RankError(f"{where}: document {docid} appears twice")
                    self.places[docid] = begin + place
            return begin + file.tell()
        except OSError as error:
            raise E2RankError(f"{path}: cannot be read: {error}") from error


def _unpacked(path: Path) -> IO[bytes]:
    # a file for as long as it is open, so no `with`
    file = tempfile.TemporaryFile(prefix="e2rank-")  # noqa: SIM115
    file.writelines(line.encode() + b"\n" for line in read_lines(path))
    file.seek(0)
    return file


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    r"""Where each line begins, and the line. Ends are those of text files: \n, \r\n and \r."""
    place = 3 if file.read(3) == codecs.BOM_UTF8 else 0
    file.seek(place)
    for chunk in file:
        for line in chunk.splitlines(keepends=True):
            yield place, line
            place += len(line)


def _decoded(line: bytes, where: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise E2RankError(f"{where}: not UTF-8: {error}") from error
