"""RUN.json beside each run: what made it, so that it can be judged, compared and made again."""

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from e2rank_pyserini import fingerprint
from e2rank_pyserini.topics import parse_object
from e2rank_pyserini.trec import atomic, check_writable, read_lines
from e2rank_pyserini.types import E2RankError, shown

FORMAT = 1
COMMANDS = ("search", "bm25", "rerank", "feedback")  # whose runs have a record
_PACKAGES = ("e2rank-pyserini", "torch", "transformers", "tokenizers", "numpy", "pyserini", "faiss-cpu", "faiss-gpu")
STEPS = ("tokenise", "encode", "search", "gather", "score")  # of one query: its latency
_LIMIT = 10**9  # no count and no seconds of a run are more


def _is_run(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("sha256"), str) or not _is_count(value.get("topics")):
        return False
    return isinstance(value.get("file"), str) and Path(value["file"]).name == value["file"] != ""


def _is_prompt(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and _is_count(value.get("window")))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < _LIMIT


def _are_seconds(value: Any) -> bool:
    return isinstance(value, dict) and all(
        type(one) in (int, float) and 0 <= one < _LIMIT for one in (value.get(step, 0) for step in STEPS)
    )


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) and "\0" not in word for word in value)


def _are_inputs(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, dict) for one in value.values())


_FORM: dict[str, Callable[[Any], bool]] = {
    "run": _is_run,
    "command": lambda value: _are_words(value) and value[:1] in [[name] for name in COMMANDS],
    "options": lambda value: isinstance(value, dict),
    "directory": lambda value: isinstance(value, str),
    "model": lambda value: isinstance(value, dict | None),
    "prompt": _is_prompt,
    "inputs": _are_inputs,
    "seconds": _are_seconds,
    "versions": lambda value: isinstance(value, dict),
    "machine": lambda value: isinstance(value, dict),
}


def beside(run: Path) -> Path:
    """Where the record of a run lies: `x.trec` -> `x.trec.json`."""
    return run.with_name(f"{run.name}.json")


def check_replaceable(run: Path) -> None:
    """Refuse an output whose run or record could not be written, or whose record would replace some other file."""
    check_writable(run)
    check_no_record(run)
    place = beside(run)
    check_writable(place)
    if place.exists():
        try:
            read(place)
        except E2RankError as error:
            raise E2RankError(f"{place}: is no record of a run, and that of {run.name} would replace it") from error


def check_no_record(output: Path) -> None:
    """Refuse to write over the record of another run."""
    try:
        of = read(output)["run"]["file"] if output.suffix == ".json" and output.is_file() else None
    except E2RankError:
        return
    if of is not None:
        raise E2RankError(f"{output}: is the record of the run {of}; choose another name")


def write(run: Path, record: dict[str, Any], *, topics: int, hits: int) -> None:
    """Write the record of `run`, a file that is complete, beside it."""
    about = {"file": run.name, "sha256": fingerprint.sha256(run), "topics": topics, "hits": hits}
    with atomic(beside(run)) as file:
        json.dump({"format": FORMAT, "run": about, **record}, file, indent=1)
        file.write("\n")


def read(path: Path) -> dict[str, Any]:
    """A record as `write` wrote it. Raises E2RankError for what is none."""
    record = parse_object("\n".join(read_lines(path)), str(path))
    if record.get("format") != FORMAT:
        raise E2RankError(f"{path}: expected the record of a run, an object of format {FORMAT}")
    for name, is_sound in _FORM.items():
        if not is_sound(record.get(name)):
            raise E2RankError(f"{path}: {name}: not as format {FORMAT} has it: {shown(record.get(name))}")
    return record


def of_run(run: Path, digest: str | None) -> dict[str, Any] | None:
    """The record beside a run with this SHA-256; None where there is none, and, said on stderr, one of another run."""
    place = beside(run)
    if not place.exists():
        return None
    record = read(place)
    if record["run"]["sha256"] != digest:
        print(f"{place}: is of another run (its SHA-256 differs) and is not used", file=sys.stderr)
        return None
    return record


def versions(more: tuple[str, ...] = ()) -> dict[str, str]:
    """Python and the packages that decide a run, and `more`; without those that are not installed."""
    found = {"python": platform.python_version()}
    for name in (*_PACKAGES, *more):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What the run was made on: bytes are promised on the same machine only."""
    return {"processor": _processor(), "cores": os.cpu_count(), "platform": platform.platform()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
