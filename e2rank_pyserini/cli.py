"""The `e2rank` command line. Only argparse is imported until a command runs."""

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from e2rank_pyserini import __version__
from e2rank_pyserini.bench.bench_command import add_bench_parser
from e2rank_pyserini.choices import ENGLISH, LANGUAGES
from e2rank_pyserini.commands import options
from e2rank_pyserini.commands.check_command import add_check_parser
from e2rank_pyserini.commands.compare_command import add_compare_parser
from e2rank_pyserini.commands.convert_command import add_convert_parser
from e2rank_pyserini.commands.export_command import add_export_parser
from e2rank_pyserini.commands.index_command import add_index_parser
from e2rank_pyserini.commands.report_command import add_report_parser
from e2rank_pyserini.commands.rerank_command import add_feedback_parser, add_rerank_parser
from e2rank_pyserini.commands.rerun_command import add_rerun_parser
from e2rank_pyserini.mteb.mteb_command import add_mteb_parser
from e2rank_pyserini.numerals import positive
from e2rank_pyserini.serving.serve_command import add_serve_parser
from e2rank_pyserini.table.table_command import add_table_parser
from e2rank_pyserini.timing import recording
from e2rank_pyserini.training.data_command import add_data_parser
from e2rank_pyserini.training.train_command import add_train_parser
from e2rank_pyserini.types import E2RankError, is_text

_UNRECORDED = ("convert", "report")  # what they write names no file of this machine in a form that must be read again


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, 1 (failed; one line says why) or 130 (interrupted); usage errors exit with 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(words)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files and ids, whatever the locale can say
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _run(arguments, words)
        print(end="", flush=True)  # what does not fit is told here, not when Python ends
    except (KeyboardInterrupt, Exception) as error:
        if _interrupted(error):
            _say(f"e2rank {arguments.command}: interrupted")
            return 130
        if isinstance(error, BrokenPipeError):  # the reader of our output has seen enough
            _leave_stdout()
            return 0
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            _leave_stdout()
            error = E2RankError(f"what it prints cannot be written: {error.strerror}")
        if not isinstance(error, E2RankError | MemoryError):
            raise
        told = error if isinstance(error, E2RankError) else "what it reads does not fit into memory"
        _say(f"e2rank {arguments.command}: {told}")
        return 1
    return 0


def _interrupted(error: BaseException | None) -> bool:
    """An interrupt, or what came of one: within the locks of Python's threads it ends in a RuntimeError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _leave_stdout() -> None:
    """What is left in its buffer would fail once more when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(line: str) -> None:
    """One write for the line and its end: torchrun's processes do not buffer stderr, and share it."""
    sys.stderr.write(f"{line}\n")


def _run(arguments: argparse.Namespace, words: list[str]) -> None:
    _settle(arguments, words)
    with recording():
        arguments.function(arguments)


def _settle(arguments: argparse.Namespace, words: list[str]) -> None:
    """What the words leave open; refuses URLs where files of this machine are expected."""
    if "function" not in arguments:
        arguments.function = getattr(import_module("e2rank_pyserini.commands.plain"), arguments.command)
    if "output" in arguments:
        if arguments.command not in _UNRECORDED:
            _check_text((*words, _directory()))
        arguments.words = words  # what RUN.json holds
    for name in ("output", "topics", "qrels", "excluded", "run", "baseline", "runs", "input"):
        given = getattr(arguments, name, None)
        if isinstance(given, list):
            setattr(arguments, name, [_here(name, place) for place in given])
        elif given is not None:
            setattr(arguments, name, _here(name, given))
    if "split" in arguments:
        arguments.split = _split(arguments)


def _directory() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError as error:
        raise E2RankError("the working directory has been removed") from error


def _check_text(words: Sequence[str]) -> None:
    """Refuse what no record could hold."""
    for word in words:
        if not is_text(word):
            raise E2RankError(f"{word!a}: expected names of files, and other words, as text in this locale's encoding")


def _split(arguments: argparse.Namespace) -> str:
    """The data set's split; records of runs hold its default too."""
    if arguments.split and not arguments.dataset:
        raise E2RankError("--split goes with --dataset")
    return arguments.split or str(import_module("e2rank_pyserini.datasets").SPLIT)


def _here(name: str, place: str) -> str:
    """The path of a file that is read or written; a URL would be a folder of that name."""
    if "://" not in place:
        return place
    storage = import_module("e2rank_pyserini.storage")
    if storage.is_remote(place):
        option = "" if name in ("baseline", "runs", "input") else f"--{name} "
        raise E2RankError(f"{option}{place}: expected a path on this machine, got a URL")
    return str(storage.local(place))


def _command(words: Sequence[str]) -> None:
    """What a command that runs others calls for each; errors are its own."""
    _run(_parser().parse_args(words), list(words))


def _meant(words: Sequence[str]) -> argparse.Namespace:
    """What a command would do; nothing of it is done."""
    arguments = _parser().parse_args(words)
    _settle(arguments, list(words))
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="e2rank", description="E2Rank for Pyserini: one embedding model retrieves and reranks."
    )
    parser.add_argument("--version", action="version", version=f"e2rank-pyserini {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_index_parser(commands)
    add_check_parser(commands)
    _search(commands.add_parser("search", help="topics -> run: dense retrieval"))
    _bm25(commands.add_parser("bm25", help="topics -> run: BM25 by Pyserini, its Lucene index built when missing"))
    add_rerank_parser(commands)
    add_feedback_parser(commands)
    add_rerun_parser(commands, _meant)
    _eval(commands.add_parser("eval", help="runs and qrels -> one table of measures"))
    add_compare_parser(commands)
    add_report_parser(commands)
    add_table_parser(commands, _command)
    add_mteb_parser(commands)
    add_convert_parser(commands)
    add_data_parser(commands)
    add_train_parser(commands)
    add_export_parser(commands)
    add_serve_parser(commands)
    add_bench_parser(commands, _command)
    _pyserini(commands.add_parser("pyserini", help="Pyserini's own programs with E2Rank known to them"))
    commands.add_parser("info", help="named models and data sets, and what this machine has")
    return parser


def _search(parser: argparse.ArgumentParser) -> None:
    options.dataset(parser)
    options.topics(parser)
    options.excluded(parser)
    options.corpus(parser)
    options.model(parser, prompt=False)
    parser.add_argument(
        "--index",
        required=True,
        metavar="DIR",
        help="a FAISS directory of ours or of Pyserini's, or a folder of shards",
    )
    parser.add_argument(
        "--task",
        metavar="generic|dataset|TEXT",
        help="retrieval task: web search, the data set's, or a text (default: the data set's, else web search)",
    )
    _output(parser)


def _bm25(parser: argparse.ArgumentParser) -> None:
    options.dataset(parser)
    options.topics(parser)
    options.excluded(parser)
    options.corpus(parser)
    parser.add_argument(
        "--index",
        metavar="DIR",
        help="the Lucene index, built when missing (not needed where the corpus is a Lucene index)",
    )
    parser.add_argument(
        "--language",
        choices=LANGUAGES,
        default=ENGLISH,
        metavar="XX",
        help=f"whose analyzer reads documents and topics (default: {ENGLISH}; {', '.join(LANGUAGES)})",
    )
    parser.add_argument("--threads", type=positive, metavar="N", default=1, help="of Lucene's search (default: 1)")
    _output(parser)


def _eval(parser: argparse.ArgumentParser) -> None:
    options.dataset(parser)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="TREC run files")
    options.judgments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object a run, values in [0, 1]")


def _pyserini(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "module",
        help="a program of Pyserini (encode, encode.query, search.faiss, search.hybrid, fusion, eval.trec_eval, …), or "
        "install-hook, remove-hook, status: the hook lets plain `python -m pyserini.…` know E2Rank",
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, help="its own options")


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, metavar="FILE", help="the run to write")
    parser.add_argument("--hits", type=positive, default=1000, metavar="K", help="hits per topic (default: 1000)")
