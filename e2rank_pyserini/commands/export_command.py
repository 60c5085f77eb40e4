"""`e2rank export`: a model as a folder of sentence-transformers."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from e2rank_pyserini.choices import DTYPES


def export(arguments: Namespace) -> None:
    """Model -> folder."""
    from e2rank_pyserini import catalog
    from e2rank_pyserini.commands.outputs import report
    from e2rank_pyserini.encoder import E2RankEncoder
    from e2rank_pyserini.export import check_replaceable, query_prompt
    from e2rank_pyserini.export import export as write
    from e2rank_pyserini.prompts import RETRIEVAL_TASK

    directory = Path(arguments.output)
    check_replaceable(directory, overwrite=arguments.overwrite)
    spec = catalog.model(arguments.encoder, arguments.like)
    task = catalog.dataset(arguments.dataset).retrieval_task if arguments.dataset else arguments.task or RETRIEVAL_TASK
    if arguments.task and "{task}" not in spec.query:
        print(f"e2rank export: {spec.name}'s queries say no task: that was named in vain", file=sys.stderr)
    query_prompt(spec, task)  # what it refuses, before the weights are read
    encoder = E2RankEncoder.load(spec, device="cpu", dtype=arguments.dtype)
    write(encoder, directory, task=task, overwrite=arguments.overwrite)
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    report(f"{spec.name}, {arguments.dtype}, {size / 1e6:.0f} MB -> {directory}")


def add_export_parser(subparsers: Any) -> None:
    """The `export` command."""
    parser: ArgumentParser = subparsers.add_parser(
        "export", help="a model as a folder that sentence-transformers loads, with the same vectors"
    )
    parser.set_defaults(function=export)
    parser.add_argument("--encoder", required=True, metavar="NAME|DIR", help="named model, directory or hub name")
    parser.add_argument("--like", metavar="NAME", help="the named model whose settings an unknown one shares")
    parser.add_argument("--output", required=True, metavar="DIR", help="the folder to make")
    tasks = parser.add_mutually_exclusive_group()
    tasks.add_argument("--task", metavar="TEXT", help="retrieval task in the prompt of queries (default: web search)")
    tasks.add_argument("--dataset", metavar="NAME", help="take the retrieval task of this named data set")
    parser.add_argument("--dtype", choices=DTYPES[1:], default="float32", help="of the weights (default: float32)")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it was exported before")
