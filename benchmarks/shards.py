"""What does it cost to search a folder of shards instead of one index, and does it need memory for the corpus?

    python benchmarks/shards.py [--documents N] [--width N] [--shard-documents N] [--queries N] [--hits N] [--json FILE]

Synthetic unit vectors, written as shards and as one Flat index of the same bytes. Each is opened and searched in a
process of its own, in turn, `--rounds` times. `anonymous MB` is what that process holds by itself (RssAnon at the end,
less that of the same process before it opened the index): mapped pages of files, which the kernel may drop, are not in
it. The answers of both, docids and scores, are compared and must be equal.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from e2rank_pyserini.bench import yardstick
from e2rank_pyserini.kinds import flat_header
from e2rank_pyserini.shards.folder import Task, opened
from e2rank_pyserini.shards.sharded import open_index

_MODEL = {"name": "synthetic", "identity": "synthetic", "pooling": "last", "eos": None, "lengths": {"document": 1}}


def unit(draw: np.random.Generator, count: int, width: int) -> np.ndarray:
    vectors = draw.standard_normal((count, width), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def written(work: Path, documents: int, width: int, size: int) -> dict[str, Path]:
    """The same vectors as shards and as one index."""
    settings = {"model": _MODEL, "dtype": "float32", "dim": width, "document_template": "", "shard_documents": size}
    whole, draw, encoded = work / "whole", np.random.default_rng(0), []
    whole.mkdir()
    with (
        opened(str(work / "shards"), settings, keep=True) as shards,
        (whole / "index").open("wb") as index,
        (whole / "docid").open("w", encoding="utf-8") as docids,
    ):
        index.write(flat_header(width, documents))
        for number, start in enumerate(range(0, documents, size)):
            names = tuple(f"doc{row:09}" for row in range(start, min(start + size, documents)))
            vectors = unit(draw, len(names), width)
            encoded.append(shards.write(Task(number, names, ("",) * len(names)), vectors, {}))
            index.write(vectors.tobytes())
            docids.writelines(f"{name}\n" for name in names)
        shards.complete(encoded)
    return {"whole": whole, "shards": work / "shards"}


def anonymous() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def child(place: str, queries: int, hits: int) -> None:
    """One process: open, search, say what came and what it took."""
    before = anonymous()
    started = time.perf_counter()
    index = open_index(place)
    opening = time.perf_counter() - started
    asked = unit(np.random.default_rng(1), queries, index.dim)
    started = time.perf_counter()
    found = index.search(asked, hits)
    seconds = time.perf_counter() - started
    digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()
    print(json.dumps({"open": opening, "search": seconds, "held": anonymous() - before, "answers": digest}))


def measured(arguments: argparse.Namespace, work: Path) -> dict[str, list[dict[str, Any]]]:
    places = written(work, arguments.documents, arguments.width, arguments.shard_documents)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in places}
    for _ in range(arguments.rounds):
        for name, place in places.items():
            words = [sys.executable, __file__, "--child", str(place), "--queries", str(arguments.queries)]
            done = subprocess.run([*words, "--hits", str(arguments.hits)], capture_output=True, text=True, check=True)
            rows[name].append(json.loads(done.stdout))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=500_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--shard-documents", type=int, default=4096)
    parser.add_argument("--queries", type=int, default=43)
    parser.add_argument("--hits", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.queries, arguments.hits)
        return
    setting = yardstick.setting("cpu")
    yardstick.announce(setting)
    with tempfile.TemporaryDirectory() as work:
        rows = measured(arguments, Path(work))
    if len({row["answers"] for found in rows.values() for row in found}) != 1:
        raise SystemExit("the answers differ")
    ratio = yardstick.ratios(*([row["search"] for row in rows[name]] for name in ("shards", "whole")))
    lines = [
        [name, *(f"{statistics.median(row[key] for row in found):.2f}" for key in ("open", "search")),
         f"{max(row['held'] for row in found) / 1e6:,.0f}"]
        for name, found in rows.items()
    ]  # fmt: skip
    vectors = arguments.documents * arguments.width * 4 / 1e6
    print(f"\n{arguments.documents:,} vectors of {arguments.width} ({vectors:,.0f} MB), {arguments.queries} queries")
    print(yardstick.table(["", "open s", "search s", "anonymous MB"], lines))
    print(f"shards / whole: {ratio['min']:.2f} / {ratio['median']:.2f} / {ratio['max']:.2f}; the answers are equal")
    yardstick.write_json(arguments.json, {"setting": setting, "rows": rows, "ratio": ratio})


if __name__ == "__main__":
    main()
