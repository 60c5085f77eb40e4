"""RUN.json beside each run: what made it, so that it can be judged, compared and made again."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from e2rank_pyserini import fingerprint
from e2rank_pyserini.trec import atomic, check_writable
from e2rank_pyserini.types import E2RankError, Topics

FORMAT = 1
_PACKAGES = ("e2rank-pyserini", "torch", "transformers", "tokenizers", "numpy", "pyserini", "faiss-cpu", "faiss-gpu")
_NEEDED = {"run": dict, "command": list, "directory": str, "inputs": dict, "seconds": dict, "versions": dict}
_MAY_LACK = {"model": dict, "prompt": dict, "counts": dict, "machine": dict}


def beside(run: Path) -> Path:
    """Where the record of a run lies: `x.trec` -> `x.trec.json`."""
    return run.with_name(f"{run.name}.json")


def check_replaceable(run: Path) -> None:
    """Refuse an output whose run or record could not be written, or whose record would replace some other file."""
    check_writable(run)
    place = beside(run)
    check_writable(place)
    if place.exists():
        try:
            read(place)
        except E2RankError as error:
            raise E2RankError(f"{place}: is no record of a run, and that of {run.name} would replace it") from error


def write(run: Path, record: dict[str, Any], *, topics: int, hits: int) -> None:
    """Write the record of `run`, a file that is complete, beside it."""
    about = {"file": run.name, "sha256": fingerprint.sha256(run), "topics": topics, "hits": hits}
    with atomic(beside(run)) as file:
        json.dump({"format": FORMAT, "run": about, **record}, file, indent=1, ensure_ascii=False)
        file.write("\n")


def read(path: Path) -> dict[str, Any]:
    """A record as `write` wrote it. Raises E2RankError for what is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise E2RankError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise E2RankError(f"{path}: not readable as JSON: {str(error).splitlines()[0]}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise E2RankError(f"{path}: expected the record of a run (format {FORMAT})")
    for key, kind in (_NEEDED | _MAY_LACK).items():
        value = record.get(key)
        if not isinstance(value, kind) and not (value is None and key in _MAY_LACK):
            raise E2RankError(f"{path}: expected {key} as {kind.__name__}, got {type(value).__name__}")
    if not isinstance(record["run"].get("sha256"), str) or not all(isinstance(word, str) for word in record["command"]):
        raise E2RankError(f"{path}: expected the run's sha256 and the command as words")
    return record


def of_run(run: Path) -> dict[str, Any] | None:
    """The record beside a run; None where there is none. Raises E2RankError when it is that of another file."""
    place = beside(run)
    if not place.exists():
        return None
    record = read(place)
    if record["run"]["sha256"] != fingerprint.sha256(run):
        raise E2RankError(f"{place}: is the record of another file: {run} has changed since; remove one of the two")
    return record


def of_topics(topics: Topics) -> str:
    """What tells one set of topics from another, whatever file they came from."""
    return fingerprint.of_text(json.dumps(topics, ensure_ascii=False))


def of_index(directory: Path) -> str:
    """What tells one index from another: its vectors and docids."""
    return fingerprint.of_files([directory / "index", directory / "docid"])


def versions() -> dict[str, str]:
    """Python and the packages that decide a run."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
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
