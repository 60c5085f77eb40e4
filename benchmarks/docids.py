"""What do docids cost in memory and time: of an index that is opened, and of a corpus that is read?

    python benchmarks/docids.py [--sizes 1000000 10000000] [--documents N] [--rounds N] [--json FILE]

An index of synthetic docids of 12 characters: `list, dict` is how they were held before, a Python object each; `Docids`
is what DenseIndex holds. Opened: read, checked for blanks and repetitions, ready for look-ups. A corpus of short
documents, parsed from JSONL: with a `set` that finds a docid that comes twice, as before, and with `Seen`, which is
corpus.documents. Each is a process of its own, the two in turn, `--rounds` times; medians. Bytes a document: `held` is
what the process has more than before (RssAnon), `peak` what it had at most, mapped pages of the file too (VmHWM).
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from e2rank_pyserini.bench import yardstick
from e2rank_pyserini.corpus import _located, unrepeated
from e2rank_pyserini.docids import Docids, Seen
from e2rank_pyserini.trec import read_lines

LOOKUPS = 100_000


class ListAndDict:
    """The docids of an index as they were held before."""

    def __init__(self, path: Path) -> None:
        self.docids = [line.rstrip() for line in read_lines(path)]
        for docid in self.docids:
            assert docid.split() == [docid]
        self.numbers = {docid: row for row, docid in enumerate(self.docids)}
        assert len(self.numbers) == len(self.docids)

    def rows(self, docids: list[str]) -> list[int]:
        return [self.numbers.get(docid, -1) for docid in docids]

    def __getitem__(self, row: int) -> str:
        return self.docids[row]


def compact(path: Path) -> Docids:
    docids = Docids([path])
    assert not docids.repeated()
    return docids


def with_set(path: Path) -> set[str]:
    seen: set[str] = set()
    for document, where in _located(str(path)):
        assert document.docid not in seen, where
        seen.add(document.docid)
    return seen


def with_seen(path: Path) -> Seen:
    seen = Seen()
    for _ in unrepeated(str(path), seen):
        pass
    return seen


INDEXES: dict[str, Callable[[Path], Any]] = {"list, dict": ListAndDict, "Docids": compact}
CORPORA: dict[str, Callable[[Path], Any]] = {"set": with_set, "Seen": with_seen}


def memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def child(name: str, path: Path, count: int) -> None:
    """One process: make, look up, say what it took."""
    held, most = memory("RssAnon"), memory("VmHWM")
    started = time.perf_counter()
    made = (INDEXES | CORPORA)[name](path)
    found = {"seconds": time.perf_counter() - started}
    found |= {"held": (memory("RssAnon") - held) / count, "peak": (memory("VmHWM") - most) / count}
    if name in INDEXES:
        rows = random.Random(0).sample(range(count), LOOKUPS)
        started = time.perf_counter()
        docids = [made[row] for row in rows]
        found["by row"] = (time.perf_counter() - started) / LOOKUPS * 1e6
        started = time.perf_counter()
        assert list(made.rows(docids)) == rows
        found["by docid"] = (time.perf_counter() - started) / LOOKUPS * 1e6
    print(json.dumps(found))


def measured(names: dict[str, Any], path: Path, count: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of each, the rounds in turn."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            words = [sys.executable, __file__, "--child", name, "--path", str(path), "--documents", str(count)]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout))
    return {name: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for name, rows in found.items()}


def index(path: Path, count: int) -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"doc{row:09}\n" for row in range(count))
    return path


def corpus(path: Path, count: int) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for row in range(count):
            file.write(json.dumps({"_id": f"doc{row:09}", "title": "", "text": f"wing flow pressure {row}"}) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[1_000_000, 10_000_000], help="of indexes")
    parser.add_argument("--documents", type=int, default=1_000_000, help="of the corpus")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.path, arguments.documents)
        return
    setting = yardstick.setting("cpu")
    yardstick.announce(setting)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        for count in arguments.sizes:
            found[f"{count:,} docids"] = measured(INDEXES, index(Path(work, "docid"), count), count, arguments.rounds)
        path, count = Path(work, "corpus.jsonl"), arguments.documents
        found[f"{count:,} documents"] = measured(CORPORA, corpus(path, count), count, arguments.rounds)
    lines = [
        [size, name, *(f"{row[key]:,.2f}" if key in row else "" for key in ("seconds", "by row", "by docid")),
         *(f"{row[key]:,.0f}" for key in ("held", "peak"))]
        for size, rows in found.items() for name, row in rows.items()
    ]  # fmt: skip
    heads = ["", "", "s to open or parse", "µs a docid by row", "µs a row by docid", "bytes held", "bytes at most"]
    print("\n" + yardstick.table(heads, lines), flush=True)
    yardstick.write_json(arguments.json, {"setting": setting, "rows": found})


if __name__ == "__main__":
    main()
