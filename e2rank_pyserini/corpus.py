"""Stream documents from BEIR or Pyserini JSONL (.gz too) or from a Lucene index; find the texts of a few docids."""

import dataclasses
import itertools
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from e2rank_pyserini import java, storage
from e2rank_pyserini.docids import Seen
from e2rank_pyserini.fingerprint import of_text
from e2rank_pyserini.topics import parse_object
from e2rank_pyserini.trec import check_word, read_lines
from e2rank_pyserini.types import Document, E2RankError, first_line, shown

LUCENE = "lucene:"
_IDS = ("id", "_id", "pid", "docid")  # pid: MS MARCO v2, whose docid is that of the whole document
_EXAMPLE = '{"id": "7", "contents": "its text"}'
_BODIES = ("text", "contents", "passage", "segment")
BEIR_CORPUS = ("corpus.jsonl", "corpus.jsonl.gz")
_SUFFIXES = (".jsonl", ".json", ".gz")  # Pyserini's
_OTHERS = (".ndjson", ".bz2", ".xz", ".zst", ".zip", ".parquet", ".tar", ".tgz")  # which hold documents too, unread
_BATCH = 1024  # documents whose docids are looked up together


def documents(source: Path | str) -> Iterator[Document]:
    """Every document of the corpus, once, in a fixed order.

    `source` is a BEIR folder (its corpus.jsonl), a JSONL file, a folder of JSONL files (by path, sub-folders and links
    to folders too), any of these behind an fsspec URL (`s3://…`), the directory of a Lucene index, or `lucene:NAME` for
    one of Pyserini's prebuilt indexes. Raises E2RankError with file and line for a docid that is missing, has a blank
    or comes twice, for a text that is null or missing, for an empty corpus, and for a file of a folder that looks like
    documents and would be left out. Documents are read 1024 ahead: none of these is given before their docids are known
    to be new.
    """
    return unrepeated(str(source), Seen())


def unrepeated(source: str, seen: Seen) -> Iterator[Document]:
    """`documents`. One whose hash `seen` has had is looked for once more from the beginning before it is refused."""
    located, count, broken = _located(source), 0, None
    while True:
        batch: list[Document] = []
        try:
            for document, _ in itertools.islice(located, _BATCH):
                batch.append(document)
        except E2RankError as error:  # what came before it is whole
            broken = error
        count += len(batch)
        if suspects := seen.suspects([document.docid for document in batch]):
            _refuse_repeated(source, suspects, count)
        yield from batch
        if broken:
            raise broken
        if len(batch) < _BATCH:
            break
    if not count:
        raise E2RankError(f"{source}: the corpus is empty")


def _refuse_repeated(source: str, suspects: Collection[str], count: int) -> None:
    """Read the first `count` documents again: raise E2RankError where one of these docids comes a second time."""
    found: set[str] = set()
    for document, where in itertools.islice(_located(source), count):
        if document.docid in found:
            raise E2RankError(f"{where}: document {document.docid} appears twice")
        if document.docid in suspects:
            found.add(document.docid)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """`documents` of a source, which can be gone through again, by another process too."""

    source: str

    def __iter__(self) -> Iterator[Document]:
        return documents(self.source)


def find(source: str, docids: Collection[str]) -> dict[str, Document]:
    """The documents of these docids; those that the corpus lacks are absent from the answer.

    Files are read in one pass that stops at the last one found; a Lucene index is asked by docid.
    """
    wanted = set(docids)
    if not wanted:  # nothing to look for: do not read the corpus to find that out
        return {}
    if is_lucene(source):
        searcher = lucene_searcher(source)
        found = ((docid, searcher.doc(docid)) for docid in sorted(wanted))
        return {docid: lucene_document(stored, source) for docid, stored in found if stored is not None}
    result: dict[str, Document] = {}
    for document, _ in _located(source):
        if document.docid in wanted:
            result.setdefault(document.docid, document)
            if len(result) == len(wanted):
                break
    return result


def find_all(source: str, docids: Collection[str]) -> dict[str, Document]:
    """`find`, where every document must be there. Raises E2RankError for those that the corpus lacks."""
    found = find(source, docids)
    lacking = set(docids) - found.keys()
    if lacking:
        raise E2RankError(f"document {min(lacking)}: in the run but not in the corpus ({len(lacking)} such)")
    return found


def is_lucene(source: str) -> bool:
    """Whether the corpus is a Lucene index, by name or by its segments file."""
    if source.startswith(LUCENE) or storage.is_remote(source):
        return source.startswith(LUCENE)
    path = storage.local(source)
    return path.is_dir() and any(path.glob("segments_*"))


def lucene_searcher(source: str) -> Any:
    """Pyserini's LuceneSearcher on a directory or a prebuilt name; starts the JVM."""
    java.start()
    from pyserini.search.lucene import LuceneSearcher

    if not source.startswith(LUCENE):
        try:
            return LuceneSearcher(source)
        except Exception as error:
            raise E2RankError(f"{source}: Lucene cannot open it: {first_line(error)}") from error
    name = source.removeprefix(LUCENE)
    with java.quiet():
        searcher = java.tried(lambda: LuceneSearcher.from_prebuilt_index(name))
    if searcher is None:
        raise E2RankError(
            f"prebuilt Lucene index {name}: not on this machine, and unknown to Pyserini or not to be "
            f"downloaded; put it into {java.cache_home() / 'indexes'} as Pyserini does, or name a corpus of your own"
        )
    return searcher


def live(searcher: Any) -> Iterator[int]:
    """Lucene's numbers of the documents that its index holds: deleted ones keep theirs until segments are merged."""
    from jnius import autoclass

    kept = autoclass("org.apache.lucene.index.MultiBits").getLiveDocs(searcher.index_reader.reader)
    return (number for number in range(searcher.num_docs) if kept is None or kept.get(number))


def cached_lucene(name: str) -> Path | None:
    """The directory of a prebuilt index in Pyserini's cache, the newest by its name; None when there is none."""
    found = sorted((java.cache_home() / "indexes").glob(f"lucene-*.{name}.[0-9]*"))
    return next((path for path in reversed(found) if is_lucene(str(path))), None)


def fingerprint(source: str) -> str:
    """What tells one corpus from another without reading it: its files' names and sizes, or a prebuilt index's name."""
    if source.startswith(LUCENE):
        return source
    if storage.is_remote(source):
        sizes = [(name.rpartition("/")[2], storage.size(name)) for name in _remote_files(source)]
    else:
        found = sorted(storage.local(source).iterdir()) if is_lucene(source) else files(source)
        sizes = [(path.name, path.stat().st_size) for path in found if not path.name.endswith(".lock")]
    return of_text("\n".join(f"{name} {size}" for name, size in sizes))


def files(source: str) -> list[Path]:
    """The corpus files behind a path, in the order they are read."""
    path = storage.local(source)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise E2RankError(f"{source}: no such corpus; expected a JSONL file, a folder of them or a Lucene index")
    for name in BEIR_CORPUS:
        if (path / name).is_file():
            return [path / name]
    there = sorted(child for child in _below(path) if child.is_file())
    return [Path(name) for name in _corpus_files([str(child) for child in there], source)]


def folder_of(source: str) -> Path | None:
    """The folder of this machine whose files are all read as documents; None where the corpus is something else."""
    if storage.is_remote(source) or is_lucene(source):
        return None
    path = storage.local(source)
    return path if path.is_dir() and not any((path / name).is_file() for name in BEIR_CORPUS) else None


def _below(folder: Path) -> Iterator[Path]:
    """The files in a folder and its sub-folders, links too; each folder once, so that no link leads round."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()  # by which of its names a folder is read that has two
        yield from (Path(place, name) for name in names)


def _remote_files(source: str) -> list[str]:
    """`files` of a URL: URLs."""
    found = storage.files_of(source)
    for name in BEIR_CORPUS:
        if f"{source.rstrip('/')}/{name}" in found:
            return [f"{source.rstrip('/')}/{name}"]
    return [source] if found == [source] else _corpus_files(found, source)


def _corpus_files(there: list[str], source: str) -> list[str]:
    """Of a folder's files those of documents; raises E2RankError where some would be left out, or are none."""
    expected = f"expected corpus.jsonl or other files ending in {', '.join(_SUFFIXES)}"
    found = [name for name in there if name.endswith(_SUFFIXES)]
    for name in there:
        last = name.rpartition("/")[2]
        if last.startswith("queries.") and name.endswith(_SUFFIXES):
            raise E2RankError(f"{name}: queries in a folder of documents; name the corpus files alone")
        if not name.endswith(_SUFFIXES) and last.lower().endswith((*_SUFFIXES, *_OTHERS)):
            raise E2RankError(f"{name}: would be left out: {expected}")
    if not found:
        raise E2RankError(f"{source}: {expected}, got none")
    return found


def _located(source: str) -> Iterator[tuple[Document, str]]:
    if is_lucene(source):
        searcher = lucene_searcher(source)
        for number in live(searcher):
            yield lucene_document(searcher.doc(number), source), f"{source}: document {number}"
        return
    for where, lines in _texts(source):
        for number, line in enumerate(lines, start=1):
            if line.strip():
                place = f"{where}:{number}"
                yield parse_document(line, place), place


def _texts(source: str) -> Iterator[tuple[str, Iterator[str]]]:
    """Each corpus file by its name, and its lines."""
    if storage.is_remote(source):
        yield from ((url, storage.remote_lines(url)) for url in _remote_files(source))
    else:
        yield from ((str(path), read_lines(path)) for path in files(source))


def parse_document(line: str, where: str, docid: str | None = None) -> Document:
    """BEIR's `{_id, title, text}`, Pyserini's `{id, contents}`, MS MARCO v2's `{pid, passage}` or `{docid, segment}`.

    `docid` where it is known otherwise. Of several ids the one that Pyserini takes is taken.
    """
    try:
        row = parse_object(line, where)
    except E2RankError as error:
        if line.lstrip().startswith("{") and line.rstrip().endswith("}"):
            raise
        raise E2RankError(f"{error}; expected a document a line, such as {_EXAMPLE}") from error
    return _document(row, where, docid)


def _document(row: dict[str, Any], where: str, docid: str | None) -> Document:
    named = [row[key] for key in _IDS if row.get(key) is not None]
    docid = docid or next((one for one in named if one != ""), "" if named else None)
    if not isinstance(docid, str | int) or isinstance(docid, bool):
        raise E2RankError(f"{where}: expected a docid under {', '.join(_IDS)}, got {shown(docid)}")
    check_word(str(docid), "docid", where)
    text = next((row[key] for key in _BODIES if key in row), None)
    if not isinstance(text, str):
        raise E2RankError(f"{where}: document {docid}: expected a text under {', '.join(_BODIES)}, got {shown(text)}")
    title = "" if row.get("title") is None else row["title"]
    if not isinstance(title, str):
        raise E2RankError(f"{where}: document {docid}: expected a title as text, got {shown(title)}")
    return Document(str(docid), title.strip(), text.strip())


def lucene_document(stored: Any, source: str) -> Document:
    """A document that a Lucene index stores: its raw JSON, or its contents where that is none or has no text."""
    docid, raw, contents = stored.docid(), stored.raw(), stored.contents()
    if raw is None and contents is None:
        raise E2RankError(f"{source}: holds no texts; build it with -storeRaw")
    if raw is not None and raw.lstrip().startswith("{"):
        row = parse_object(raw, f"{source}: {docid}")
        if contents is None or not row.keys().isdisjoint(_BODIES):
            return _document(row, f"{source}: {docid}", docid)
    if contents is None:
        raise E2RankError(f"{source}: document {docid}: its raw text is not JSON; build the index with -storeContents")
    return Document(docid, "", contents.strip())
