"""`e2rank table`: the paper's table beside ours, over every data set of it that is on this machine."""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from e2rank_pyserini.choices import DEPTH
from e2rank_pyserini.types import E2RankError

if TYPE_CHECKING:
    from e2rank_pyserini.table.benchmarks import Benchmark
    from e2rank_pyserini.table.freshness import Maker

Command = Callable[[Sequence[str]], None]  # runs one `e2rank` command by its words
OURS = ("first", "query", "prompt")


class Row(NamedTuple):
    """One data set and first stage: our values in [0, 1] by column and measure, published ones in percent by column."""

    name: str
    first_stage: str
    ours: dict[str, dict[str, float]]
    paper: dict[str, float]


def table(arguments: Namespace, command: Command) -> None:
    """Every data set that is here -> runs, and one table on stdout. What was made before is not made again."""
    from e2rank_pyserini import catalog
    from e2rank_pyserini.table import benchmarks
    from e2rank_pyserini.table.freshness import Maker

    data = Path(arguments.data) if arguments.data else None
    if data is not None and not data.is_dir():
        raise E2RankError(f"{data}: no such folder")
    model = catalog.model(arguments.encoder).name
    here, absent = [], []
    for name in benchmarks.BENCHMARKS:
        try:
            here.append(benchmarks.find(name, data))
        except E2RankError as error:
            absent.append(f"{name} skipped: {error}")
    if not here:
        raise E2RankError(f"no data set of the paper is on this machine ({absent[0]}); name a folder with --data")
    for line in absent:
        print(f"e2rank table: {line}", file=sys.stderr)
    maker = Maker.of(arguments.encoder)
    rows = [row for one in here for row in _measured(one, arguments, maker, command)]
    rows += _averages(rows, model)
    if arguments.json:
        for row in rows:
            paper = {column: round(value / 100, 4) for column, value in row.paper.items()}
            print(
                json.dumps(
                    {"model": model, "set": row.name, "first_stage": row.first_stage, **row.ours, "paper": paper}
                )
            )
    else:
        print("\n".join(_lines(rows, model)))


def _measured(one: "Benchmark", arguments: Namespace, maker: "Maker", command: Command) -> list[Row]:
    """The rows of one data set; makes the runs that are missing or older than what they are made from."""
    from e2rank_pyserini.commands.judged import tell_lacking
    from e2rank_pyserini.evaluation import evaluate
    from e2rank_pyserini.exclusions import admitted
    from e2rank_pyserini.table.freshness import index_is_fresh, run_is_fresh
    from e2rank_pyserini.table.published import beside
    from e2rank_pyserini.trec import read_run

    encoder = ["--encoder", arguments.encoder, *(["--device", arguments.device] if arguments.device else [])]
    stages = dict(one.runs) or {"bm25": _bm25(one, command)}
    whole = one.index(arguments.encoder)
    if arguments.dense:
        _encode(one, one.corpus, whole, maker, encoder, command)
        stages["dense"] = _dense(one, whole, maker, encoder, command)
    corpus, index = one.corpus, whole
    if not index_is_fresh(whole, one.corpus, maker):  # only what is rescored needs a vector
        corpus, index = _candidates(one, stages), one.candidates(arguments.encoder)
        _encode(one, corpus, index, maker, encoder, command)
    rows, qrels, excluded = [], one.qrels(), one.excluded()
    for stage, first in stages.items():
        runs = {"first": first, "prompt": one.reranked(first, arguments.encoder, "e2rank")}
        by: dict[str, list[str]] = {"prompt": []}
        if stage != "dense":  # whose order is the query vector's already
            runs["query"] = one.reranked(first, arguments.encoder, "query")
            by["query"] = ["--by", "query", *_task(one, maker)]
        for column, more in by.items():
            made_from = (first, index / "e2rank.json", *one.topics_files())
            if not run_is_fresh(runs[column], one, *made_from, first=first, maker=maker):
                where = ["--run", str(first), "--index", str(index), "--corpus", corpus, "--output", str(runs[column])]
                command(["rerank", *one.words, *encoder, *where, *more])
        found = {key: admitted(read_run(path), excluded)[0] for key, path in runs.items()}
        tell_lacking(str(first), found["first"], qrels)
        ours = {key: evaluate(run, qrels, relevance=one.spec.relevance) for key, run in found.items()}
        paper = {key: row.ndcg[one.name] for key, row in beside(maker.spec.name, stage).items() if one.name in row.ndcg}
        rows.append(Row(one.name, stage, ours, paper))
    return rows


def _bm25(one: "Benchmark", command: Command) -> Path:
    from e2rank_pyserini.corpus import is_lucene
    from e2rank_pyserini.table.benchmarks import mark
    from e2rank_pyserini.table.freshness import run_is_fresh

    output = Path("runs") / f"{one.topics}.bm25.trec"
    if not run_is_fresh(output, one, Path(one.corpus), *one.topics_files(), corpus=one.corpus):
        index = [] if is_lucene(one.corpus) else ["--index", f"indexes/{mark(one.folder)}.bm25"]
        command(["bm25", *one.words, "--corpus", one.corpus, *index, "--output", str(output)])
    return output


def _dense(one: "Benchmark", index: Path, maker: "Maker", encoder: list[str], command: Command) -> Path:
    from e2rank_pyserini.table.freshness import run_is_fresh

    output = one.dense(maker.name)
    if not run_is_fresh(output, one, index / "e2rank.json", *one.topics_files(), maker=maker):
        where = ["--index", str(index), "--corpus", one.corpus, *_task(one, maker)]
        command(["search", *one.words, *encoder, *where, "--output", str(output)])
    return output


def _task(one: "Benchmark", maker: "Maker") -> list[str]:
    """The words that name the set's retrieval task, where the model's queries say one."""
    return ["--task", one.spec.retrieval_task] if "{task}" in maker.spec.query else []


def _encode(one: "Benchmark", corpus: str, index: Path, maker: "Maker", encoder: list[str], command: Command) -> None:
    from e2rank_pyserini.table.freshness import index_is_fresh

    if not index_is_fresh(index, corpus, maker):
        if index.exists():
            told = "is not of this corpus by this model as they are now, and is made again"
            print(f"e2rank table: {index} {told}", file=sys.stderr)
        command(["index", *one.words, *encoder, "--corpus", corpus, "--output", str(index), "--overwrite"])


def _candidates(one: "Benchmark", stages: dict[str, Path]) -> str:
    """A corpus of the documents that will be rescored: the first DEPTH of every first stage. Returns its path."""
    from e2rank_pyserini import corpus as corpora
    from e2rank_pyserini.table.freshness import is_stale
    from e2rank_pyserini.trec import atomic, read_run

    path = Path("indexes") / f"{one.topics}.candidates.jsonl"
    source = path.with_suffix(".source")  # what tells the corpus that they are from: a copied one may bear an old date
    now = corpora.fingerprint(one.corpus)
    known = not is_stale(path, Path(one.corpus)) and source.is_file() and source.read_text(encoding="utf-8") == now
    wanted = {hit.docid for run in stages.values() for hits in read_run(run).values() for hit in hits[:DEPTH]}
    held = {document.docid for document in corpora.documents(str(path))} if known else set()
    if held != wanted:
        found = corpora.find_all(one.corpus, wanted)
        with atomic(path) as file:
            for docid in sorted(found):
                _, title, text = found[docid]
                file.write(json.dumps({"_id": docid, "title": title, "text": text}, ensure_ascii=False) + "\n")
        with atomic(source) as file:
            file.write(now)
    return str(path)


def _averages(rows: list[Row], model: str) -> list[Row]:
    """The mean over the paper's eight BEIR sets, for each first stage that has all eight."""
    from e2rank_pyserini.table.published import AVERAGE, BEIR, beside

    found = []
    for stage in dict.fromkeys(row.first_stage for row in rows):
        eight = [row for row in rows if row.first_stage == stage and row.name in BEIR]
        if len(eight) == len(BEIR):
            ours = {
                column: {key: sum(row.ours[column][key] for row in eight) / len(eight) for key in values}
                for column, values in eight[0].ours.items()
            }
            paper = {key: row.ndcg[AVERAGE] for key, row in beside(model, stage).items() if AVERAGE in row.ndcg}
            found.append(Row(AVERAGE, stage, ours, paper))
    return found


def _lines(rows: list[Row], model: str) -> list[str]:
    """The table in percent, what stands beside our numbers, and what a reader must know of it."""
    from e2rank_pyserini.table.published import beside, has_numbers

    named = beside(model, "bm25")
    prompt, peer = named["prompt"].system, named["peer"].system
    own = has_numbers(model)
    columns = [f"{'set':16}", "first stage", " first", " paper", "  diff", " query", "prompt", prompt]
    columns += ["  diff", peer] if own else [peer]
    lines = [f"{model}, nDCG@10", "  ".join(columns)]
    for row in rows:
        first, query, after = (100 * row.ours[key]["nDCG@10"] if key in row.ours else None for key in OURS)
        printed = row.paper.get("prompt")
        before = row.paper.get("first")
        ours = own or row.first_stage != "dense"  # a dense run is a model's own, and maybe not of the model printed
        cells = [f"{row.name:16}", f"{row.first_stage:11}", _cell(first), _cell(before)]
        cells += [_difference(first, before if ours else None), _cell(query), _cell(after)]
        cells += [_cell(printed, len(prompt))]
        cells += [_difference(after, printed)] if own else []
        lines.append("  ".join([*cells, _cell(row.paper.get("peer"), len(peer))]))
    lines.append("")
    if not own:
        lines.append(f"{model} has no published numbers; those of {prompt} are another model's, for reference")
    return lines + _sources(rows, model)


def _sources(rows: list[Row], model: str) -> list[str]:
    """Where the published numbers of these rows are printed, and the notes on them."""
    from e2rank_pyserini.table.published import beside

    shown = [(row.name, one) for row in rows for one in beside(model, row.first_stage).values() if row.name in one.ndcg]
    systems: dict[str, dict[str, None]] = {}
    for _, one in shown:
        systems.setdefault(one.source, {})[one.system] = None
    notes = [f"{one.system} on {name}: {one.notes[name]}" for name, one in shown if name in one.notes]
    return [f"{source}: {', '.join(names)}" for source, names in systems.items()] + notes


def _cell(value: float | None, width: int = 6) -> str:
    return f"{'-' if value is None else f'{value:.2f}':>{width}}"


def _difference(ours: float | None, printed: float | None) -> str:
    return f"{'-' if ours is None or printed is None else f'{round(ours - printed, 2) + 0:+.2f}':>6}"  # no -0.00


def add_table_parser(subparsers: Any, command: Command) -> None:
    """The `table` command; `command` runs the commands that make what it prints."""
    parser: ArgumentParser = subparsers.add_parser(
        "table", help="the paper's table beside ours, over every data set of it that is on this machine"
    )
    parser.set_defaults(function=partial(table, command=command))
    parser.add_argument("--encoder", required=True, metavar="NAME|DIR", help="named model, directory or hub name")
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="BEIR folders by their names (scifact, trec-covid, …) and msmarco-dl-pool (DL19 and DL20 over every first "
        "stage it holds); what is not there is looked for in Pyserini's cache, never downloaded",
    )
    parser.add_argument(
        "--dense",
        action="store_true",
        help="also the model's own dense run as a first stage: encodes whole corpora, not only what is rescored",
    )
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, … (default: a GPU where there is one)")
    parser.add_argument("--json", action="store_true", help="one JSON object a row, all measures, values in [0, 1]")
