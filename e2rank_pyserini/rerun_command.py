"""`e2rank rerun`: make a run again from RUN.json, and say whether it came out the same to the byte."""

import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any


def rerun(arguments: Namespace) -> None:
    """RUN.json -> the same run again; raises E2RankError when an input has changed or the bytes differ."""
    from e2rank_pyserini import fingerprint, provenance
    from e2rank_pyserini.types import E2RankError

    record = provenance.read(Path(arguments.record))
    _check_inputs(arguments.record, record)
    _tell_differences(record)
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(arguments.output).absolute() if arguments.output else Path(temporary) / record["run"]["file"]
        words = [*record["command"], "--output", str(output)]  # the last one counts
        if record.get("threads"):
            words += ["--threads", str(record["threads"])]
        done = subprocess.run([sys.executable, "-m", "e2rank_pyserini", *words], cwd=record["directory"], check=False)
        if done.returncode:
            raise E2RankError(f"{arguments.record}: its command failed; its reason is above")
        made = fingerprint.sha256(output)
        if made != record["run"]["sha256"]:
            raise E2RankError(f"{arguments.record}: came out differently: {_difference(arguments.record, output)}")
    print(f"identical: {record['run']['file']} sha256 {made}")


def _check_inputs(name: str, record: dict[str, Any]) -> None:
    """Refuse, before any work, what cannot give the same run: an input that is gone or has changed."""
    from e2rank_pyserini import corpus, fingerprint, provenance
    from e2rank_pyserini.types import E2RankError

    place = Path(record["directory"])
    if not place.is_dir():
        raise E2RankError(f"{name}: was made in {place}, which is not there")
    tell: dict[str, Callable[[str], str]] = {
        "run": lambda path: fingerprint.sha256(place / path),
        "index": lambda path: provenance.of_index(place / path),
        "corpus": lambda path: path if path.startswith(corpus.LUCENE) else corpus.fingerprint(str(place / path)),
    }
    for kind, kept in record["inputs"].items():
        if kind not in tell:
            continue
        path, before = str(kept.get("path")), kept.get("sha256") or kept.get("fingerprint")
        try:
            now = tell[kind](path)
        except OSError as error:
            raise E2RankError(f"{name}: its {kind} {path} cannot be read: {error.strerror}") from error
        if now != before:
            raise E2RankError(f"{name}: its {kind} {path} has changed since (then {before}, now {now})")


def _tell_differences(record: dict[str, Any]) -> None:
    """Say on stderr which versions and what machine are not those of the record."""
    from e2rank_pyserini import provenance

    now = {**provenance.versions(), "processor": provenance.machine()["processor"]}
    then = {**record["versions"], "processor": (record.get("machine") or {}).get("processor")}
    for key in sorted(now.keys() | then.keys()):
        if now.get(key) != then.get(key):
            print(f"e2rank rerun: {key}: then {then.get(key)}, now {now.get(key)}", file=sys.stderr)


def _difference(name: str, made: Path) -> str:
    """The first line that differs from the run beside the record, where that is still the recorded one."""
    from e2rank_pyserini.trec import read_lines

    recorded = Path(name.removesuffix(".json"))
    if not recorded.is_file():
        return f"{recorded} is not there to compare with"
    lines = zip(read_lines(recorded), read_lines(made), strict=False)
    for number, (old, new) in enumerate(lines, start=1):
        if old != new:
            return f"{recorded}:{number}: {old!r} became {new!r}"
    return f"{recorded} and the new run differ in length"


def add_rerun_parser(subparsers: Any) -> None:
    """The `rerun` command."""
    parser: ArgumentParser = subparsers.add_parser("rerun", help="RUN.json -> make the run again and compare its bytes")
    parser.set_defaults(function=rerun)
    parser.add_argument("record", metavar="RUN.json", help="the record beside a run")
    parser.add_argument("--output", metavar="FILE", help="keep the new run here (default: it is only compared)")
