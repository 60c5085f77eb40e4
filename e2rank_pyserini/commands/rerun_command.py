"""`e2rank rerun`: make a run again from RUN.json, and say whether it came out the same to the byte."""

import contextlib
import io
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from e2rank_pyserini.types import E2RankError, clean

Meant = Callable[[Sequence[str]], Namespace]  # what a command of these words would do


def rerun(arguments: Namespace, meant: Meant) -> None:
    """RUN.json -> the same run again; raises E2RankError when the run or an input has changed, or the bytes differ."""
    from e2rank_pyserini import fingerprint, provenance

    place = Path(arguments.record).absolute()
    record = provenance.read(place)
    kept = Path(arguments.output).absolute() if arguments.output else None
    if kept is not None:
        if kept == place.with_name(record["run"]["file"]):
            raise E2RankError(f"{arguments.output}: is the recorded run itself; choose another name")
        if (kept.suffix == ".gz") != record["run"]["file"].endswith(".gz"):
            how = "without" if kept.suffix == ".gz" else "with"
            raise E2RankError(f"{kept}: expected a name {how} .gz, as the recorded run's, whose bytes are compared")
        provenance.check_replaceable(kept)
    here = _is_recorded(place, record, needed=kept is None)
    _check_inputs(arguments.record, record, meant)
    _tell_differences(record)
    with tempfile.TemporaryDirectory() as temporary:
        output = kept or Path(temporary) / record["run"]["file"]
        words = [*record["command"], "--output", str(output)]  # the last one counts
        if record.get("threads"):
            words += ["--threads", str(record["threads"])]
        # -P: the package that is installed, not one that may lie in the record's directory
        command = [sys.executable, "-P", "-m", "e2rank_pyserini", *words]
        done = subprocess.run(command, cwd=record["directory"], check=False)
        if done.returncode or not output.is_file():
            raise E2RankError(f"{arguments.record}: its command failed; its reason is above")
        made = fingerprint.sha256(output)
        if made != record["run"]["sha256"]:
            told = [*_changed(record, provenance.read(provenance.beside(output))), _difference(place, record, output)]
            raise E2RankError(f"{arguments.record}: came out differently: {'; '.join(told)}")
    gone = "" if here else " (as recorded: the run itself is not beside its record)"
    print(f"identical: {record['run']['file']} sha256 {made}{gone}")


def _is_recorded(place: Path, record: dict[str, Any], *, needed: bool) -> bool:
    """Whether the recorded run lies beside its record; another one under its name is refused where it is `needed`."""
    from e2rank_pyserini import fingerprint

    run = place.with_name(record["run"]["file"])
    same = run.is_file() and fingerprint.sha256(run) == record["run"]["sha256"]
    if needed and run.is_file() and not same:
        raise E2RankError(
            f"{run}: is not the run that {place.name} records: its SHA-256 differs (--output FILE makes that one again)"
        )
    return same


def _check_inputs(name: str, record: dict[str, Any], meant: Meant) -> None:
    """Refuse, before any work, what cannot give the same run: an input that is gone or has changed."""
    from e2rank_pyserini.commands.inputs import exclusions_of, fingerprints, named_dataset, topics_of

    options = _options(name, record, meant)
    paths = {kind: kept.get("path") for kind, kept in record["inputs"].items()}
    try:
        with contextlib.chdir(record["directory"]):  # where its paths begin
            data = named_dataset(options)
            topics, excluded = topics_of(options, data), exclusions_of(options, data)
            now = fingerprints(options, topics, excluded, source=paths.get("corpus"), index=paths.get("index"))
    except ValueError as error:  # a path with a NUL
        raise E2RankError(f"{name}: its inputs cannot be read: {error}") from error
    except OSError as error:
        raise E2RankError(f"{name}: {error.filename}: cannot be read: {error.strerror}") from error
    except E2RankError as error:
        raise E2RankError(f"{name}: {error}") from error
    for kind in sorted(record["inputs"].keys() | now.keys()):
        then, new = record["inputs"].get(kind), now.get(kind)
        if then != new or None in (then or {}).values():
            path = (then or new or {}).get("path")
            raise E2RankError(f"{name}: its {kind} {path} has changed since, or is no file (then {then}, now {new})")


def _options(name: str, record: dict[str, Any], meant: Meant) -> Namespace:
    """Those of the recorded command: what is checked is what is run, whatever the record says beside it."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            return meant(record["command"])
    except SystemExit as error:
        said = told.getvalue().strip().rpartition("\n")[2]
        raise E2RankError(f"{name}: its command is none of this version: {said}") from error


def _tell_differences(record: dict[str, Any]) -> None:
    """Say on stderr which versions and what machine are not those of the record."""
    from e2rank_pyserini import provenance

    now = {**provenance.versions(), "processor": provenance.machine()["processor"]}
    then = {**record["versions"], "processor": record["machine"].get("processor")}
    for key in sorted(now.keys() | then.keys()):
        if now.get(key) != then.get(key):
            print(clean(f"e2rank rerun: {key}: then {then.get(key)}, now {now.get(key)}"), file=sys.stderr)


def _changed(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What the new run was made with that the old one was not."""
    found = []
    for kind in ("model", "dtype", "device", "device_name", "prompt", "inputs"):
        old, new = then.get(kind), now.get(kind)
        if isinstance(old, dict) and isinstance(new, dict):
            found += [f"another {kind} ({key})" for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
        elif old != new:
            found.append(f"another {kind} ({old}, now {new})")
    return found


def _difference(place: Path, record: dict[str, Any], made: Path) -> str:
    """The first line that differs from the run beside the record, where that is the recorded one."""
    from e2rank_pyserini.trec import read_lines

    recorded = place.with_name(record["run"]["file"])
    if not _is_recorded(place, record, needed=False):
        return f"the recorded run is no longer at {recorded}"
    lines = zip(read_lines(recorded), read_lines(made), strict=False)
    for number, (old, new) in enumerate(lines, start=1):
        if old != new:
            return f"{recorded}:{number}: {old!r} became {new!r}"
    return f"{recorded} and the new run differ in length"


def add_rerun_parser(subparsers: Any, meant: Meant) -> None:
    """The `rerun` command."""
    parser: ArgumentParser = subparsers.add_parser("rerun", help="RUN.json -> make the run again and compare its bytes")
    parser.set_defaults(function=partial(rerun, meant=meant))
    parser.add_argument("record", metavar="RUN.json", help="the record beside a run")
    parser.add_argument("--output", metavar="FILE", help="keep the new run here (default: it is only compared)")
