"""An encoder's memory: what was encoded before its process was killed is not encoded again."""

import hashlib
import json
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from e2rank_pyserini import provenance
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.inference.tokens import Ids
from e2rank_pyserini.journal import Entry, Journal
from e2rank_pyserini.timing import credit, timed
from e2rank_pyserini.types import E2RankError, Vectors


class Memory:
    """The batches that a job encodes, remembered in the journal of its output until it is finished.

    A batch is known by the ids of its rows and what is pooled of them, so that a command with other inputs or options
    takes from it what is the same and no more. Its vectors are used again where they were made with the same settings:
    model, dtype, device, threads, versions, processor. A process that goes on tokenises all texts again, so that what
    it counts is what an undisturbed one counts; only the network does not run. Says on stderr what it goes on with.
    """

    def __init__(self, output: Path, encoder: E2RankEncoder) -> None:
        self.journal = Journal(output)
        self.dim = encoder.dim
        self.settings: dict[str, Any] = json.loads(json.dumps(_settings(encoder)))
        self.known: dict[bytes, Entry] = {}
        last: dict[str, Any] = {}  # the settings of the entries that follow
        others = 0
        for entry in self.journal.entries:
            try:
                if "settings" in entry.about:
                    last = dict(entry.about["settings"])
                elif last == self.settings:
                    self.known[bytes.fromhex(entry.about["batch"])] = entry
                else:
                    others += int(entry.about["texts"])
            except (KeyError, TypeError, ValueError) as error:
                self.journal.close(keep=True)
                raise E2RankError(f"{self.journal.path}: holds entries that are not ours; remove it") from error
        self.told = last == self.settings
        self.before = set(self.known)
        self.reused = self.encoded = 0
        if self.known:
            texts = sum(entry.about["texts"] for entry in self.known.values())
            print(f"journal: goes on with {texts} texts of {self.journal.path}", file=sys.stderr)
        if others:
            changed = f" ({', '.join(_changed(last, self.settings))})" if not self.told else ""
            print(f"journal: {others} texts were encoded with other settings{changed}: not used", file=sys.stderr)

    def __call__(self, rows: Sequence[Ids], pooled: Sequence[int], encode: Callable[[], Vectors]) -> Vectors:
        """The vectors of a batch, (n, dim): remembered, else encoded and remembered."""
        with timed("journal"):
            batch = _key(rows, pooled)
            entry = self.known.get(batch)
            if entry is not None:
                return self._again(batch, entry)
        started = time.perf_counter()
        vectors = encode()
        seconds = time.perf_counter() - started
        with timed("journal"):
            if not self.told:
                self.journal.append({"settings": self.settings})
                self.told = True
            about = {"batch": batch.hex(), "texts": len(rows), "seconds": seconds}
            self.known[batch] = self.journal.append(about, vectors.astype("<f4").tobytes())
        self.encoded += len(rows)
        return vectors

    def finish(self) -> None:
        """The output is written: say how much an earlier process had encoded, and remove the journal."""
        self.journal.close(keep=False)
        if self.reused:
            print(
                f"journal: {self.reused} of the {self.reused + self.encoded} texts were encoded before and not again",
                file=sys.stderr,
            )

    def leave(self, *, interrupted: bool = False) -> None:
        """The output was not written, unless `finish` was called: keep what is remembered.

        Says how to go on where the job was `interrupted`; an error has its own one line.
        """
        if self.journal.closed:
            return
        self.journal.close(keep=bool(self.journal.entries or self.known))
        if interrupted and self.known:
            texts = sum(entry.about["texts"] for entry in self.known.values())
            print(f"journal: {texts} texts are encoded and kept; the same command goes on with them", file=sys.stderr)

    def _again(self, batch: bytes, entry: Entry) -> Vectors:
        if batch in self.before:  # another process spent the time: the run is as dear as if it had not been killed
            self.before.remove(batch)
            self.reused += entry.about["texts"]
            credit("encode", entry.about["seconds"])
        stored = np.frombuffer(self.journal.data(entry), dtype="<f4")
        vectors: Vectors = stored.astype(np.float32).reshape(-1, self.dim)
        return vectors


def _key(rows: Sequence[Ids], pooled: Sequence[int]) -> bytes:
    digest = hashlib.sha256(array("q", [len(rows), *map(len, rows), *pooled]))
    for row in rows:
        digest.update(array("q", row))
    return digest.digest()


def _settings(encoder: E2RankEncoder) -> dict[str, Any]:
    """What decides the vector of a row of ids, to the last bit."""
    on_gpu = encoder.device.type == "cuda"
    return {
        **{f"model's {key}": value for key, value in encoder.record.items()},
        "dtype": encoder.dtype_name,
        "device": torch.cuda.get_device_name(encoder.device) if on_gpu else encoder.device.type,
        "threads": torch.get_num_threads(),
        "processor": provenance.machine()["processor"],
        **{f"version of {name}": version for name, version in provenance.versions().items()},
    }


def _changed(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    return [f"{key} {then.get(key)!r}, now {now.get(key)!r}" for key in keys]
