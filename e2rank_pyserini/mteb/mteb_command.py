"""`e2rank mteb`: the mteb library's own evaluation, with the text that each kind of task wants."""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from e2rank_pyserini.commands import options
from e2rank_pyserini.numerals import positive
from e2rank_pyserini.types import E2RankError


def mteb(arguments: Namespace) -> None:
    """Tasks -> mteb's result files, and a table on stdout."""
    from e2rank_pyserini.commands.opening import loaded_encoder
    from e2rank_pyserini.mteb.evaluation import evaluate, result_path, tasks_named
    from e2rank_pyserini.mteb.model import ListwiseMtebModel, MtebModel

    if arguments.window and not arguments.listwise:
        raise E2RankError("--window goes with --listwise")
    if arguments.prompt_length and not arguments.listwise:
        raise E2RankError("--prompt-length goes with --listwise")
    tasks = tasks_named(arguments.tasks)
    _be_quiet()
    encoder = loaded_encoder(arguments, None)
    model = ListwiseMtebModel(encoder, arguments.window) if arguments.listwise else MtebModel(encoder)
    output = Path(arguments.output)
    _tell_short_queries(tasks, encoder.spec)
    rows = []
    for task, result in zip(tasks, evaluate(model, tasks, output, overwrite=arguments.overwrite), strict=True):
        name = task.metadata.name
        _report(name, model, arguments.listwise, result_path(model, output, name))
        parts = [scores for split in result.scores.values() for scores in split]
        rows.append(
            {
                "task": name,
                "type": task.metadata.type,
                "measure": task.metadata.main_score,
                "score": float(result.get_score()),
                "parts": len(parts),
            }
        )
    print("\n".join(json.dumps(row) for row in rows) if arguments.json else _table(rows))


def _be_quiet() -> None:
    """What the libraries would log while they look for data; an error says it in one line."""
    import logging

    import datasets

    datasets.disable_progress_bars()
    for name in ("datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _tell_short_queries(tasks: Iterable[Any], spec: Any) -> None:
    """Say so where a task's queries are longer elsewhere: those of BRIGHT are read whole by the other commands."""
    from e2rank_pyserini import catalog

    for task in tasks:
        found = [catalog.dataset_of_mteb_task(task.metadata.name, subset) for subset in task.hf_subsets]
        most = min(max((one.query_length or 0 for one in found if one), default=0), spec.lengths.prompt)
        if most > spec.lengths.query:
            print(
                f"{task.metadata.name}: queries are cut to {spec.lengths.query} tokens; other commands read up "
                f"to {most} (--query-length {most})",
                file=sys.stderr,
            )


def _report(name: str, model: Any, listwise: bool, path: Path) -> None:
    notes = model.encoded.get(name)
    if notes is None:
        print(f"{name}: {path} is there already (--overwrite evaluates again)", file=sys.stderr)
        return
    if not notes:
        print(f"{name}: put together from its parts -> {path}", file=sys.stderr)
        return
    counts: Counter[str] = Counter()
    for note in notes:
        counts.update(note["counts"])
    told = ", ".join(f"{count} {key.replace('_', ' ')}" for key, count in counts.items())
    print(f"{name}: {told} -> {path}", file=sys.stderr)
    if listwise and not any(note["as"] == "prompt" for note in notes):
        print(f"{name}: gives no candidates: scored without the listwise prompt", file=sys.stderr)


def _table(rows: list[dict[str, Any]]) -> str:
    """Main scores in percent, each the mean over the task's splits and subsets."""
    widths = [max(len(key), *(len(str(row[key])) for row in rows)) for key in ("task", "type", "measure")]
    lines = ["  ".join(key.ljust(width) for key, width in zip(("task", "type", "measure"), widths, strict=True))]
    lines[0] += "   score  parts"
    for row in rows:
        words = (row["task"], row["type"], row["measure"])
        line = "  ".join(word.ljust(width) for word, width in zip(words, widths, strict=True))
        lines.append(f"{line}  {100 * row['score']:6.2f}  {row['parts']:5}")
    return "\n".join(lines)


def add_mteb_parser(subparsers: Any) -> None:
    """The `mteb` command."""
    parser: ArgumentParser = subparsers.add_parser(
        "mteb", help="evaluate a model on tasks of the mteb library, with the right text for each"
    )
    parser.set_defaults(function=mteb)
    options.model(parser, required=True)
    parser.add_argument("--tasks", nargs="+", required=True, metavar="NAME", help="tasks or benchmarks of mteb")
    parser.add_argument("--output", required=True, metavar="DIR", help="where mteb's result files go")
    parser.add_argument("--overwrite", action="store_true", help="evaluate again what DIR has results of")
    parser.add_argument(
        "--listwise",
        action="store_true",
        help="score tasks that give candidates (reranking) by the listwise prompt of the query's own first",
    )
    parser.add_argument(
        "--window", type=positive, metavar="N", help="candidates whose texts the prompt reads (default: the model's)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a task, scores in [0, 1]")
