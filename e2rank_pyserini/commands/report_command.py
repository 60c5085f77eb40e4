"""`e2rank report`: runs against a baseline as a page with pictures."""

import importlib.metadata
import platform
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2rank_pyserini.commands import options
from e2rank_pyserini.numerals import positive
from e2rank_pyserini.types import E2RankError

if TYPE_CHECKING:
    from e2rank_pyserini.datasets import Dataset
    from e2rank_pyserini.report.findings import Entry
    from e2rank_pyserini.report.page import Facts

MOST = 40  # runs beside the baseline
PAGE = "report.html"
PICTURES = ("measures.png", "topics.png", "ranks.png", "latency.png", "window.png")
_NO_FILE = "no file: read once, from a pipe"
_VERSIONS = ("ir-measures", "numpy", "scipy", "matplotlib")


def report(arguments: Namespace) -> None:
    """Runs -> directory with report.html and its pictures."""
    from e2rank_pyserini.commands.inputs import topics_of
    from e2rank_pyserini.commands.judged import judged_runs, once
    from e2rank_pyserini.directories import built_aside, check_replaceable
    from e2rank_pyserini.evaluation import per_topic
    from e2rank_pyserini.provenance import of_run
    from e2rank_pyserini.report.findings import SHOWN, entries, sweeps

    output = Path(arguments.output)
    check_replaceable(output, overwrite=arguments.overwrite, ours=_is_report, what="a report")
    if len(arguments.runs) > MOST:
        raise E2RankError(f"a report shows at most {MOST} runs beside the baseline, got {len(arguments.runs)}")
    try:
        from e2rank_pyserini.report.page import page
        from e2rank_pyserini.report.pictures import pictures
    except ImportError as error:
        raise E2RankError("a report needs matplotlib; pip install 'e2rank-pyserini[eval]'") from error
    paths = once([arguments.baseline, *arguments.runs])
    data, qrels, relevance, named = judged_runs(arguments, paths)
    topics = topics_of(arguments, data) if arguments.topics or data else {}
    runs = [run for _, run in named]
    digests = [_digest(path) for path in paths]
    found = entries(
        named,
        [per_topic(run, qrels, relevance=relevance, measures=SHOWN) for run in runs],
        qrels,
        [of_run(Path(path), digest) for path, digest in zip(paths, digests, strict=True)],
        relevance=relevance,
        test=arguments.test,
        seed=arguments.seed,
    )
    swept = sweeps(found)
    drawn = pictures(found, swept)
    facts = _facts(arguments, data, relevance, list(zip(paths, digests, found, strict=True)))
    text = page(found, topics, drawn, swept, facts, gains=arguments.gains, relevance=relevance)
    with built_aside(output) as place:
        (place / PAGE).write_text(text, encoding="utf-8")
        for name, picture in drawn.items():
            (place / f"{name}.png").write_bytes(picture.png)
    print(f"{len(paths)} runs, {len(qrels)} judged topics, {len(drawn)} pictures -> {output / PAGE}", file=sys.stderr)


def _is_report(directory: Path) -> bool:
    """A page of ours and its pictures, and nothing of anybody else's."""
    from e2rank_pyserini.report.findings import GENERATOR

    names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    if PAGE not in names or not names <= {PAGE, *PICTURES} or not (directory / PAGE).is_file():
        return False
    return f'name="generator" content="{GENERATOR}"'.encode() in (directory / PAGE).read_bytes()


def _digest(path: str | Path) -> str | None:
    """The SHA-256 of a file; None of a pipe, which was read already and cannot be read again."""
    from e2rank_pyserini.fingerprint import sha256

    return sha256(Path(path)) if Path(path).is_file() else None


def _facts(
    arguments: Namespace, data: "Dataset | None", relevance: int, runs: "list[tuple[str, str | None, Entry]]"
) -> "Facts":
    """What was read, as what it was read, and with which settings; `runs` are (path, SHA-256, entry)."""
    from e2rank_pyserini import __version__
    from e2rank_pyserini.fingerprint import sha256
    from e2rank_pyserini.provenance import beside
    from e2rank_pyserini.report.page import Facts

    files = []
    for number, (path, digest, entry) in enumerate(runs):
        files.append(("run" if number else "baseline", path, digest or _NO_FILE))
        if entry.kept:
            record = beside(Path(path))
            files.append(("how it was made", str(record), sha256(record)))
    others = {
        "judgments": arguments.qrels or (data.qrels_file() if data else None),
        "topics": arguments.topics or (data.topics_file() if data else None),
    }
    excluded = arguments.excluded or (data.excluded_file() if data else None)
    others |= {"excluded documents": excluded} if excluded else {}
    files += [(what, str(path), _digest(path) or _NO_FILE) for what, path in others.items() if path]
    settings = {
        "least relevant grade (MAP, R, MRR, movement)": str(relevance),
        "paired test": {"t": "t-test", "randomisation": "randomisation (sign flips)"}[arguments.test],
        "seed": str(arguments.seed),
    }
    versions = {"Python": platform.python_version(), "e2rank-pyserini": __version__}
    return Facts(files, settings, versions | {name: importlib.metadata.version(name) for name in _VERSIONS})


def add_report_parser(subparsers: Any) -> None:
    """The `report` command."""
    parser: ArgumentParser = subparsers.add_parser(
        "report", help="runs against a baseline as an HTML page with pictures and intervals"
    )
    parser.set_defaults(function=report)
    for add in (options.runs, options.dataset, options.topics, options.judgments):
        add(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="the directory to make: report.html and PNGs")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the bootstrap and the randomisation (default: 0)"
    )
    parser.add_argument(
        "--gains", type=positive, default=5, metavar="N", help="topics listed that gained and that lost (default: 5)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the directory if it is a report")
