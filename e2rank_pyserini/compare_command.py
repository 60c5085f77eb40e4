"""`e2rank compare`: runs against a baseline, with paired tests and the topics that gained and lost most."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from e2rank_pyserini.comparison import Row
    from e2rank_pyserini.types import Qrels, Run, Topics

MEASURES = ("nDCG@10", "MAP", "R@100", "MRR@10")
TESTS = ("t", "randomisation")


def compare(arguments: Namespace) -> None:
    """Runs -> table on stdout."""
    from e2rank_pyserini.comparison import compare as compared
    from e2rank_pyserini.inputs import judgments, named_dataset, topics_of
    from e2rank_pyserini.trec import read_run
    from e2rank_pyserini.types import E2RankError

    data = named_dataset(arguments)
    qrels, relevance = judgments(arguments, data)
    topics = topics_of(arguments, data) if arguments.topics or data else {}
    runs: list[tuple[str, Run]] = []
    for path in (arguments.baseline, *arguments.runs):
        run = read_run(Path(path))
        if not run.keys() & qrels.keys():
            raise E2RankError(f"{path}: shares no topic with the qrels ({next(iter(run))} …, {next(iter(qrels))} …)")
        runs.append((Path(path).name.removesuffix(".gz").removesuffix(".trec"), run))
    rows = compared(
        runs, qrels, measure=arguments.measure, relevance=relevance, test=arguments.test, seed=arguments.seed
    )
    if arguments.json:
        for row in rows:
            print(json.dumps({**row._asdict(), "robustness": row.robustness, "topics": len(qrels)}))
        return
    print(_table(rows, arguments.measure))
    for name, run in runs[1:] if arguments.gains else ():
        print(f"\n{name} against {runs[0][0]}")
        _gains(run, runs[0][1], qrels, topics, relevance, arguments)


def _table(rows: "list[Row]", measure: str) -> str:
    """Measures and differences in percent."""
    width = max(len(row.run) for row in rows)
    head = (
        f"{'run':{width}}  {measure:>8}  {'diff':>7}  {'p':>7}  {'p Holm':>7}  {'+':>5}  {'-':>5}  {'=':>5}  {'RI':>5}"
    )
    lines = [f"{head}  judged@10"]
    for row in rows:
        line = f"{row.run:{width}}  {100 * row.mean:8.2f}"
        if row is rows[0]:
            line += " " * (len(head) - len(line))
        else:
            line += f"  {100 * row.difference:+7.2f}  {row.p:7.4f}  {row.holm:7.4f}"
            line += f"  {row.wins:5}  {row.losses:5}  {row.ties:5}  {row.robustness:+5.2f}"
        lines.append(f"{line}  {100 * row.judged:9.1f}")
    return "\n".join(lines)


def _gains(new: "Run", old: "Run", qrels: "Qrels", topics: "Topics", relevance: int, arguments: Namespace) -> None:
    """The topics that gained and lost most, and where their relevant documents stood and stand."""
    from e2rank_pyserini.comparison import changes, moved

    found = changes(new, old, qrels, measure=arguments.measure, relevance=relevance)
    gained = [qid for qid, (before, after) in found.items() if after > before][: arguments.gains]
    lost = [qid for qid, (before, after) in reversed(found.items()) if after < before][: arguments.gains]
    for qid in (*gained, *lost):
        before, after = found[qid]
        print(
            f"{100 * (after - before):+7.2f}  {100 * before:6.2f} -> {100 * after:6.2f}  {qid}  {topics.get(qid, '')}"
        )
        for one in moved(new, old, qrels, qid, relevance=relevance):
            print(f"         {one.before or '-':>5} -> {one.after or '-':<5}  grade {one.grade}  {one.docid}")


def add_compare_parser(subparsers: Any, common: Iterable[Callable[[ArgumentParser], None]]) -> None:
    """The `compare` command; `common` adds what it shares with the others: data set, topics, judgments."""
    parser: ArgumentParser = subparsers.add_parser(
        "compare", help="runs against a baseline: paired tests with Holm's correction, wins and losses"
    )
    parser.set_defaults(function=compare)
    parser.add_argument("baseline", metavar="BASELINE", help="the TREC run that the others are compared with")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="TREC run files")
    for options in common:
        options(parser)
    parser.add_argument("--measure", choices=MEASURES, default="nDCG@10", help="default: nDCG@10")
    parser.add_argument("--test", choices=TESTS, default="t", help="paired t-test (default) or sign flips of the mean")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the randomisation (default: 0)")
    parser.add_argument(
        "--gains", type=int, default=0, metavar="N", help="also the N topics that gained and the N that lost most"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a run, values in [0, 1]")
