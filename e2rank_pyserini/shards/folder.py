"""Encoded documents in shards: a folder that any process can go on with, on this machine or on shared storage.

`manifest.json` says what the shards are made with. Shard n is the folder `0000n`: `index` and `docid`, a Flat index of
Pyserini's form, and `shard.json`, written last, with the SHA-256 of both. Records and manifest carry seals (sealed.py).
A manifest that lists its shards is complete.
"""

import contextlib
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from e2rank_pyserini.directories import held, removed
from e2rank_pyserini.fingerprint import sha256
from e2rank_pyserini.kinds import flat_header
from e2rank_pyserini.sealed import seal, unsealed
from e2rank_pyserini.storage import Folder
from e2rank_pyserini.types import E2RankError, Vectors

MANIFEST = "manifest.json"
SHARD_DOCUMENTS = 4096  # encoded together, sorted by length: what a killed process loses at most
_FORMAT = 1
_OF_MODEL = ("identity", "pooling", "eos", "lengths")
_SAME = ("dim", "dtype", "document_template", "shard_documents", "corpus_fingerprint")  # of a manifest gone on with


class Task(NamedTuple):
    """Shard `number` to be encoded: its documents in corpus order."""

    number: int
    docids: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def digest(self) -> str:
        """What tells these documents from others: SHA-256 of docids and texts."""
        digest = hashlib.sha256()
        for part in (*self.docids, *self.texts):
            digest.update(part.encode() + b"\0")
        return digest.hexdigest()


class Shard(NamedTuple):
    """The record of a finished shard: how many documents, what was counted, the SHA-256 of documents and files.

    `made` is a hash of the settings that decide its bytes.
    """

    number: int
    documents: int
    counts: dict[str, int]
    digest: str
    files: dict[str, str]
    made: str


@dataclasses.dataclass(frozen=True)
class Shards:
    """The folder of shards and what its manifest says. It holds no open file: processes hand it on by its fields."""

    place: str
    settings: dict[str, Any]

    @property
    def folder(self) -> Folder:
        return Folder(self.place)

    @property
    def dim(self) -> int:
        return int(self.settings["dim"])

    @property
    def made(self) -> str:
        """What tells shards of these settings from others: SHA-256 of what decides their bytes."""
        decided = [_of_model(self.settings, key) for key in _OF_MODEL] + [self.settings.get(key) for key in _SAME]
        return hashlib.sha256(json.dumps(decided).encode()).hexdigest()

    def write(self, task: Task, vectors: Vectors, counts: dict[str, int]) -> Shard:
        """Write a shard: its vectors (n, dim), its docids, and then its record, which makes it finished."""
        docids = "".join(f"{docid}\n" for docid in task.docids).encode()
        index = flat_header(self.dim, len(vectors)) + np.ascontiguousarray(vectors, dtype="<f4").tobytes()
        files = {"index": index, "docid": docids}
        for name, content in files.items():
            self.folder.write(name_of(task.number, name), content)
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        shard = Shard(task.number, len(task.docids), counts, task.digest, hashes, self.made)
        self.folder.write(name_of(task.number, "shard.json"), _json(shard._asdict()))
        return shard

    def finished(self, task: Task) -> Shard | None:
        """The record of a shard that is finished; None, said on stderr, where it is damaged or of other settings.

        Such a one is what a process writes that outlived its job. Of a folder on this machine every byte is checked.
        Raises E2RankError where it was made from other documents.
        """
        name = name_of(task.number, "shard.json")
        if self.folder.size(name) is None:
            return None
        try:
            shard = _shard(_read(self.folder, name), f"{self.place}/{name}")
            self.check_size(shard)
            if shard.made != self.made:
                raise E2RankError(f"{self.place}/{name}: made with other settings")
            if self.folder.path is not None:
                self._check_bytes(shard, self.folder.path)
        except E2RankError as error:
            print(f"{error}; encoded again", file=sys.stderr)
            return None
        if shard.digest != task.digest:
            raise E2RankError(
                f"{self.place}/{name}: the corpus has changed since this shard was encoded; remove {self.place} to "
                "begin again"
            )
        return shard

    def check_size(self, shard: Shard) -> None:
        """Raise E2RankError for a file of a shard that is missing or has not its length."""
        expected = {"index": len(flat_header(self.dim, 0)) + 4 * self.dim * shard.documents, "docid": None}
        for name, length in expected.items():
            path = name_of(shard.number, name)
            size = self.folder.size(path)
            if size is None or (length is not None and size != length):
                shown = "it is missing" if size is None else f"expected {length} bytes, got {size}"
                raise E2RankError(f"{self.place}/{path}: is not what was written: {shown}")

    def _check_bytes(self, shard: Shard, path: Path) -> None:
        for name, expected in shard.files.items():
            if sha256(path / name_of(shard.number, name)) != expected:
                raise E2RankError(f"{self.place}/{name_of(shard.number, name)}: is not what was written")

    def pieces(self, shard: Shard, name: str) -> Iterator[bytes]:
        """The bytes of a shard's file. Raises E2RankError at their end where they are not those that were written.

        The record of a damaged shard is removed, so that the next `e2rank index` encodes it again.
        """
        digest = hashlib.sha256()
        path = name_of(shard.number, name)
        for piece in self.folder.pieces(path):
            digest.update(piece)
            yield piece
        if digest.hexdigest() != shard.files[name]:
            damage = f"{self.place}/{path}: its bytes are not those that were written (SHA-256 differs)"
            try:
                self.folder.remove(name_of(shard.number, "shard.json"))
            except E2RankError as error:
                raise E2RankError(f"{damage}; {error}") from error
            raise E2RankError(f"{damage}; give the command again: this shard will be encoded again")

    def vectors(self, shards: Iterable[Shard]) -> Iterator[Vectors]:
        """The vectors of each shard, (n, dim)."""
        for shard in shards:
            body = b"".join(self.pieces(shard, "index"))[len(flat_header(self.dim, 0)) :]
            yield np.frombuffer(body, dtype="<f4").reshape(shard.documents, self.dim)

    def complete(self, shards: Sequence[Shard]) -> None:
        """List the shards in the manifest, if it does not say all that already: it may be where nothing is written."""
        content = _json({**self.settings, **summed(shards), "shards": [shard._asdict() for shard in shards]})
        if self.folder.read(MANIFEST) != content:
            self.folder.write(MANIFEST, content)


def summed(shards: Iterable[Shard]) -> dict[str, int]:
    """Documents, and how many of them were cut or empty, and tokens."""
    found = {"documents": 0, "truncated": 0, "empty": 0, "tokens": 0}
    for shard in shards:
        found["documents"] += shard.documents
        for key, name in (("truncated", "documents_truncated"), ("empty", "documents_empty"), ("tokens", "tokens")):
            found[key] += shard.counts.get(name, 0)
    return found


@contextlib.contextmanager
def opened(place: str, settings: dict[str, Any], *, keep: bool) -> Iterator[Shards]:
    """The shards at `place`, begun now or gone on with; on this machine for this process alone.

    Without `keep`, which only a folder of this machine can do without, it is removed at the end, and when anything
    fails before a shard is finished. Raises E2RankError where they were begun with other settings.
    """
    shards = Shards(Folder(place).place, {"format": _FORMAT, **settings})
    path = shards.folder.path
    try:
        with held(path) if path is not None else contextlib.nullcontext():
            _begin(shards)
            try:
                yield shards
            except BaseException:
                if path is not None and not keep and not any(path.glob("[0-9]*/shard.json")):
                    removed(path, last=MANIFEST)
                raise
            if path is not None and not keep:
                removed(path, last=MANIFEST)
    except OSError as error:
        raise E2RankError(f"{shards.place}: cannot be written: {error}") from error


def _begin(shards: Shards) -> None:
    """Write the manifest, or check the one that is there; remove what killed processes left half-written."""
    folder = shards.folder
    if folder.size(MANIFEST) is not None:
        check_same(read_manifest(folder), shards.settings, shards.place)
    elif folder.path is not None and any(not child.name.startswith(".") for child in folder.path.iterdir()):
        raise E2RankError(f"{shards.place}: expected a folder of shards or an empty one; it has no {MANIFEST}")
    else:
        folder.write(MANIFEST, _json(shards.settings))
    for name in (MANIFEST, "[0-9]*/index", "[0-9]*/docid", "[0-9]*/shard.json"):
        folder.remove_asides(name)


def check_same(begun: dict[str, Any], settings: dict[str, Any], place: str) -> None:
    """Refuse to go on with shards of another model, dtype, text or corpus."""
    ways = f"; go on as they were begun, or remove {place} to begin again"
    for key in _OF_MODEL:
        was, now = (_of_model(one, key) for one in (begun, settings))
        if was != now:
            name, other = begun["model"].get("name"), settings["model"]["name"]
            raise E2RankError(f"{place}: begun with model {name} ({key} {was}), not with {other} ({key} {now}){ways}")
    for key in _SAME:
        if begun.get(key) != settings.get(key):
            raise E2RankError(f"{place}: begun with {key} {begun.get(key)!r}, not {settings.get(key)!r}{ways}")


def _of_model(settings: dict[str, Any], key: str) -> Any:
    """What the model's record says; of its lengths only that of documents changes their vectors."""
    value = settings["model"].get(key)
    return value.get("document") if isinstance(value, dict) else value


def read_manifest(folder: Folder) -> dict[str, Any]:
    """Raises E2RankError, naming the file, for a manifest that is damaged or of another format."""
    manifest = _read(folder, MANIFEST)
    if manifest.get("format") != _FORMAT or not isinstance(manifest.get("model"), dict):
        raise E2RankError(f"{folder.place}/{MANIFEST}: expected a manifest of format {_FORMAT}, with a model")
    return manifest


def begun_with(place: str) -> dict[str, Any] | None:
    """The record of the model that shards at `place` were begun with; None where there are none."""
    folder = Folder(place)
    if folder.size(MANIFEST) is None:
        return None
    record: dict[str, Any] = read_manifest(folder)["model"]
    return record


def listed(folder: Folder, manifest: dict[str, Any]) -> list[Shard]:
    """The shards of a complete manifest. E2RankError for one that is not."""
    where = f"{folder.place}/{MANIFEST}"
    if "shards" not in manifest:
        raise E2RankError(f"{where}: its shards are not all encoded; give the `e2rank index` command again")
    return [_shard(one, where) for one in manifest["shards"]]


def _shard(record: dict[str, Any], where: str) -> Shard:
    try:
        return Shard(**{name: record[name] for name in Shard._fields})
    except (KeyError, TypeError) as error:
        raise E2RankError(f"{where}: expected the record of a shard, got {record!r:.80}") from error


def _read(folder: Folder, name: str) -> dict[str, Any]:
    where = f"{folder.place}/{name}"
    try:
        return unsealed(folder.read(name).decode(), where)
    except UnicodeDecodeError as error:
        raise E2RankError(f"{where}: not UTF-8: {error}") from error


def name_of(number: int, name: str) -> str:
    """Where in the folder a file of a shard is."""
    return f"{number:05}/{name}"


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(seal(record), indent=1).encode() + b"\n"
