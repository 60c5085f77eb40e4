"""Does encoding need memory for the corpus, or for a shard of it? Peak RSS of `e2rank index` over corpora of two sizes.

    python benchmarks/memory.py [--sizes 20000 200000] [--kinds Flat SQ8 …] [--json FILE]

The corpora are synthetic, of short passages, and the model is tiny and random (width 64), so that the vectors, not the
time, are what grows. Every size is a process of its own, `e2rank index` as a user runs it; its peak is the kernel's
(ru_maxrss of the finished child). Printed beside it: the vectors' size in float32, so that what is held can be told.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from e2rank_pyserini.bench import material, yardstick

WORDS = 12  # of a passage


def corpus(place: Path, count: int) -> Path:
    with place.open("w", encoding="utf-8") as file:
        for document in islice(material.synthetic(), count):
            text = " ".join(document.text.split()[:WORDS])
            file.write(json.dumps({"_id": document.docid, "title": "", "text": text}) + "\n")
    return place


def model(place: Path, width: int) -> Path:
    """A random Qwen3 of one layer, in float32, with what e2rank must know of it."""
    texts = [document.text for document in islice(material.synthetic(), 200)]
    material.qwen3(place, texts, layers=1, width=width)
    record = {
        "pooling": "last",
        "eos": material.EOS,
        "query": "Instruct: {task}\nQuery:{query}",
        "prompt": "paper",
        "chat": "tokenizer",
        "lengths": {"document": 64, "query": 64, "prompt": 1024},
        "window": 5,
        "dtype": "float32",
    }
    (place / "e2rank.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    return place


def peak(words: list[str]) -> int:
    """Bytes that the command held at most."""
    child = subprocess.Popen([sys.executable, "-m", "e2rank_pyserini", *words], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"failed: e2rank {' '.join(words)}")
    return usage.ru_maxrss * 1024


def measured(sizes: list[int], kinds: list[str], width: int, work: Path) -> list[dict[str, Any]]:
    encoder, rows = str(model(work / "model", width)), []
    corpora = {size: corpus(work / f"{size}.jsonl", size) for size in sizes}
    for kind in kinds:
        found = {}
        for size, path in corpora.items():
            output = work / f"{kind.replace(',', '-')}.{size}"
            where = ["--corpus", str(path), "--output", str(output)]
            found[size] = peak(["index", *where, "--encoder", encoder, "--index-type", kind])
        rows.append({"kind": kind, "peaks": found, "grows": found[sizes[-1]] / found[sizes[0]] - 1})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[20_000, 200_000])
    parser.add_argument("--kinds", nargs="+", default=["Flat"], metavar="FACTORY")
    parser.add_argument("--width", type=int, default=64, help="of the vectors")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    setting = yardstick.setting("cpu")
    yardstick.announce(setting)
    with tempfile.TemporaryDirectory() as work:
        rows = measured(arguments.sizes, arguments.kinds, arguments.width, Path(work))
    heads = ["peak RSS, MB", *(f"{size:,} documents" for size in arguments.sizes), "grows by"]
    lines = [
        [row["kind"], *(f"{value / 1e6:,.0f}" for value in row["peaks"].values()), f"{row['grows']:+.1%}"]
        for row in rows
    ]
    lines.append(["(vectors alone)", *(f"{size * arguments.width * 4 / 1e6:,.0f}" for size in arguments.sizes), ""])
    print("\n" + yardstick.table(heads, lines), flush=True)
    yardstick.write_json(arguments.json, {"setting": setting, "rows": rows})


if __name__ == "__main__":
    main()
