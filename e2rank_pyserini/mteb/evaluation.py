"""Tasks of the mteb library, evaluated by it: its result files, and beside each what was encoded as what.

DIR/results/MODEL/REVISION/TASK.json            mteb's own (ResultCache; of --listwise below experiments/)
DIR/results/MODEL/REVISION/encoded/TASK.json    ours, written last: a task that has it is complete
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from e2rank_pyserini import __version__, fingerprint
from e2rank_pyserini.catalog import near_miss
from e2rank_pyserini.mteb.instructions import instruction
from e2rank_pyserini.mteb.model import MtebModel
from e2rank_pyserini.trec import atomic, check_writable
from e2rank_pyserini.types import E2RankError, kind_and_line


def tasks_named(names: Sequence[str]) -> list[Any]:
    """The tasks of these names, each once; a benchmark's name is all its tasks.

    Raises E2RankError with near misses, and where two benchmarks want other languages or splits of one task.
    """
    try:
        import mteb
        from mteb.get_tasks import TASK_LIST
    except ImportError as error:
        raise E2RankError("this needs mteb; pip install 'e2rank-pyserini[mteb]'") from error
    except OSError as error:
        raise E2RankError(f"mteb cannot make its cache directory (MTEB_CACHE says where): {error}") from error
    known = {task.metadata.name for task in TASK_LIST}
    benchmarks: dict[str, Any] = {}  # costs seconds, so only where a name is no task's
    if not known.issuperset(names):
        benchmarks = {benchmark.name: benchmark for benchmark in mteb.get_benchmarks()}
    found: dict[str, Any] = {}
    for name in names:
        if name not in known and name not in benchmarks:
            raise E2RankError(
                f"task {name!r}: expected a task or benchmark of mteb {mteb.__version__}"
                f"{near_miss(name, [*sorted(known), *benchmarks])}"
            )
        for task in [mteb.get_task(name)] if name in known else benchmarks[name].tasks:
            other = found.setdefault(task.metadata.name, task)
            if _extent(other) != _extent(task):
                raise E2RankError(
                    f"task {task.metadata.name}: {name} evaluates other parts of it than what is named before; evaluate"
                    " them one after the other, each with an --output of its own"
                )
    return list(found.values())


def _extent(task: Any) -> dict[str, list[str]]:
    """The parts of its data that a task evaluates: a benchmark may take some of its languages alone."""
    return {"subsets": sorted(task.hf_subsets), "splits": sorted(task.eval_splits)}


def _instructions(model: MtebModel, task: Any) -> dict[str, str] | None:
    """What its texts are asked under, by subset; None where the model reads no instruction."""
    if "{task}" not in model.encoder.spec.query:
        return None
    return {subset: instruction(task.metadata, subset)[0] for subset in sorted(task.hf_subsets)}


def _clone(task: Any) -> Path | None:
    """The folder where `datasets` finds a task's data set before it asks the hub; None where there is none."""
    path = (getattr(task.metadata, "dataset", None) or {}).get("path")  # an aggregate has none
    return Path.cwd() / path if path and (Path.cwd() / path).is_dir() else None


def _data(task: Any) -> str | None:
    """What tells the data of a task's clone from others; None of the hub's, whose revision mteb has."""
    clone = _clone(task)
    if clone is None:
        return None
    files = [path for path in clone.rglob("*") if path.is_file() and not _hidden(path.relative_to(clone))]
    return fingerprint.of_files(sorted(files))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def evaluate(model: MtebModel, tasks: Iterable[Any], output: Path, *, overwrite: bool = False) -> Iterator[Any]:
    """mteb's TaskResult of each task (its own task objects), one after the other, its files below `output`.

    A task whose files are there is not evaluated again, unless with `overwrite`. Raises E2RankError before any work
    when `output` cannot be written, a task is not of text alone or its files were made with other settings, and later
    when its data cannot be loaded.
    """
    tasks = list(tasks)
    check_writable(_noted(model, output, "x"))
    for task in tasks:
        if task.metadata.modalities != ["text"]:
            raise E2RankError(
                f"task {task.metadata.name}: is not of text alone ({', '.join(task.metadata.modalities)})"
            )
        if not overwrite:
            _is_complete(model, task, output)
    return (_result(model, task, output, overwrite=overwrite) for task in tasks)


def result_path(model: MtebModel, output: Path, task: str) -> Path:
    """Where mteb writes the result of a task."""
    meta = model.mteb_model_meta
    place: Path = output / "results" / meta.model_name_as_path() / meta.revision
    return (place / "experiments" / meta.experiment_name if meta.experiment_name else place) / f"{task}.json"


def _result(model: MtebModel, task: Any, output: Path, *, overwrite: bool) -> Any:
    from mteb import ResultCache
    from mteb import evaluate as mteb_evaluate

    name = task.metadata.name
    parts = getattr(task.metadata, "tasks", ())  # an aggregate: its parts are evaluated, then put together anew
    for part in parts:
        _result(model, part, output, overwrite=overwrite)
    complete = not parts and not overwrite and _is_complete(model, task, output)
    data = None
    if not parts and not complete:
        data = _data(task)
        _load(task, data)
    if not complete:  # mteb would add to a result that is there
        model.encoded[name] = []
        _noted(model, output, name).unlink(missing_ok=True)
        result_path(model, output, name).unlink(missing_ok=True)
    try:
        done = mteb_evaluate(
            model,
            task,
            co2_tracker=False,
            cache=ResultCache(output),
            overwrite_strategy="only-missing" if complete or parts else "always",
            show_progress_bar=False,
            public_only=False,
        )
    except E2RankError:
        raise
    except Exception as error:
        hint = "; --overwrite evaluates it again" if complete else ""
        raise E2RankError(f"task {name}: mteb could not evaluate it: {kind_and_line(error)}{hint}") from error
    if not complete:
        task.unload_data()
        _write_note(model, task, output, data)
    return done.task_results[0]


def _load(task: Any, data: str | None) -> None:
    try:
        with _cache_of(data):
            task.load_data()
    except Exception as error:
        path = task.metadata.dataset["path"]
        if clone := _clone(task):
            why = f"its data set in {clone} is not readable"
            while isinstance(error.__cause__, Exception):  # the library's own words say less than what it met
                error = error.__cause__
        else:
            why = (
                f"its data set {path} is not on this machine and the hub did not give it; put a clone of that "
                f"repository into {Path.cwd() / path}"
            )
        raise E2RankError(f"task {task.metadata.name}: {why}: {kind_and_line(error)}") from error


@contextlib.contextmanager
def _cache_of(data: str | None) -> Iterator[None]:
    """A cache of its own for a clone: `datasets` tells two folders of one name by their README alone."""
    import datasets

    kept = datasets.config.HF_DATASETS_CACHE
    if data is not None:
        datasets.config.HF_DATASETS_CACHE = Path(kept) / f"clone-{data}"
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE = kept


def _is_complete(model: MtebModel, task: Any, output: Path) -> bool:
    """Whether the task's result is there, made with the same settings; E2RankError where they differ."""
    path = _noted(model, output, task.metadata.name)
    if not path.exists() or not result_path(model, output, task.metadata.name).exists():
        return False
    asked = {**model.settings, **_extent(task), "data": _data(task), "instructions": _instructions(model, task)}
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        settings = {**note["settings"], **note["extent"], **{key: note.get(key) for key in ("data", "instructions")}}
        other = [key for key, value in asked.items() if settings[key] != value]
        if None in (asked["data"], settings["data"]):  # there is nothing to tell them by
            other = [key for key in other if key != "data"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise E2RankError(f"{path}: not a file that `e2rank mteb` wrote; --overwrite replaces it") from error
    if other:
        key = other[0]
        raise E2RankError(
            f"{path}: was made with {key} {settings[key]}, now it is {asked[key]}; choose another --output or "
            "give --overwrite"
        )
    return True


def _write_note(model: MtebModel, task: Any, output: Path, data: str | None) -> None:
    name = task.metadata.name
    note = {
        "format": 1,
        "task": name,
        "type": task.metadata.type,
        "settings": model.settings,
        "extent": _extent(task),
        "instructions": _instructions(model, task),
        "data": data,
        "encoded": model.encoded[name],
        "versions": {"e2rank_pyserini": __version__},
    }
    with atomic(_noted(model, output, name)) as file:
        file.write(json.dumps(note, indent=1, ensure_ascii=False) + "\n")


def _noted(model: MtebModel, output: Path, task: str) -> Path:
    path = result_path(model, output, task)
    return path.parent / "encoded" / path.name
