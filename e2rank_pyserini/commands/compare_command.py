"""`e2rank compare`: runs against a baseline, with paired tests and the topics that gained and lost most."""

import json
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from e2rank_pyserini.choices import MEASURES
from e2rank_pyserini.commands import options
from e2rank_pyserini.numerals import positive
from e2rank_pyserini.types import E2RankError, clean

if TYPE_CHECKING:
    from e2rank_pyserini.comparison import Row

_SHOWN = 80  # characters of a document's text


def compare(arguments: Namespace) -> None:
    """Runs -> table on stdout."""
    from e2rank_pyserini.commands.inputs import topics_of
    from e2rank_pyserini.commands.judged import judged_runs, once
    from e2rank_pyserini.comparison import changes, extremes, moved
    from e2rank_pyserini.comparison import compare as compared

    if (arguments.corpus or arguments.topics) and not arguments.gains:
        raise E2RankError(f"--{'corpus' if arguments.corpus else 'topics'} goes with --gains N")
    if arguments.json and arguments.gains:
        raise E2RankError("--gains prints lines: --json does not go with it")
    if arguments.seed is not None and arguments.test != "randomisation":
        raise E2RankError("--seed goes with --test randomisation")
    data, qrels, relevance, runs = judged_runs(arguments, once([arguments.baseline, *arguments.runs]))
    topics = topics_of(arguments, data) if arguments.gains and (arguments.topics or data) else {}
    rows = compared(
        runs, qrels, measure=arguments.measure, relevance=relevance, test=arguments.test, seed=arguments.seed or 0
    )
    if arguments.json:
        for row in rows:
            values = {key: value for key, value in row._asdict().items() if key != "by_topic"}
            print(json.dumps({**values, "robustness": row.robustness, "topics": len(qrels), **_test(arguments)}))
        return
    print(_table(rows, arguments.measure))
    shown = [extremes(changes(row, rows[0]), arguments.gains) for row in rows[1:]]
    movements = [
        {qid: moved(run, runs[0][1], qrels, qid, relevance=relevance) for qid, _ in found}
        for (_, run), found in zip(runs[1:], shown, strict=True)
    ]
    docids = {one.docid for found in movements for moves in found.values() for one in moves}
    texts = _texts(arguments.corpus or (data.corpus() if data and data.folder else None), docids)
    for row, found, moves in zip(rows[1:], shown, movements, strict=True) if arguments.gains else ():
        print(f"\n{row.run} against {rows[0].run}")
        for qid, gain in found:
            before, after = rows[0].by_topic[qid], row.by_topic[qid]
            asked = clean(f"{qid}  {topics.get(qid, '')}")
            print(f"{100 * gain:+7.2f}  {100 * before:6.2f} -> {100 * after:6.2f}  {asked}")
            for one in moves[qid]:
                place = f"{one.before or '-':>5} -> {one.after or '-':<5}  grade {one.grade}  {one.docid}"
                print(f"         {clean(place)}  {clean(texts.get(one.docid, ''))}".rstrip())


def _test(arguments: Namespace) -> dict[str, Any]:
    """What the p-values are of."""
    from e2rank_pyserini.comparison import RESAMPLES

    sampled = {"seed": arguments.seed or 0, "resamples": RESAMPLES} if arguments.test == "randomisation" else {}
    return {"measure": arguments.measure, "test": arguments.test, **sampled}


def _texts(corpus: str | None, docids: set[str]) -> dict[str, str]:
    """docid -> how its text begins, where there is a corpus on this machine; a judged document may not be in it."""
    from e2rank_pyserini.corpus import find

    found = find(corpus, docids) if corpus else {}
    return {docid: " ".join(f"{one.title} {one.text}".split())[:_SHOWN] for docid, one in found.items()}


def _table(rows: "list[Row]", measure: str) -> str:
    """Measures and differences in percent."""
    from e2rank_pyserini.report.captions import p

    width = max(len(row.run) for row in rows)
    head = (
        f"{'run':{width}}  {measure:>8}  {'diff':>7}  {'p':>8}  {'p Holm':>8}  {'+':>5}  {'-':>5}  {'=':>5}  {'RI':>5}"
    )
    lines = [f"{head}  judged@10"]
    for row in rows:
        line = f"{row.run:{width}}  {100 * row.mean:8.2f}"
        if row is rows[0]:
            line += " " * (len(head) - len(line))
        else:
            line += f"  {100 * row.difference:+7.2f}  {p(row.p):>8}  {p(row.holm):>8}"
            line += f"  {row.wins:5}  {row.losses:5}  {row.ties:5}  {row.robustness:+5.2f}"
        lines.append(f"{line}  {100 * row.judged:9.1f}")
    return "\n".join(lines)


def add_compare_parser(subparsers: Any) -> None:
    """The `compare` command."""
    parser: ArgumentParser = subparsers.add_parser(
        "compare", help="runs against a baseline: paired tests with Holm's correction, wins and losses"
    )
    parser.set_defaults(function=compare)
    for add in (options.runs, options.dataset, options.topics, options.corpus, options.judgments):
        add(parser)
    parser.add_argument("--measure", choices=MEASURES, default="nDCG@10", help="default: nDCG@10")
    parser.add_argument("--seed", type=int, metavar="N", help="of the randomisation (default: 0)")
    parser.add_argument(
        "--gains",
        type=positive,
        default=0,
        metavar="N",
        help="also the N topics that gained and the N that lost most, and where their relevant documents went (and "
        "how those begin, with --corpus or a data set's folder)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a run, values in [0, 1]")
