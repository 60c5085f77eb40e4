"""`e2rank convert`: runs and qrels between TREC's forms and those of ranx, ir-measures, rank_llm and BEIR."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from e2rank_pyserini.choices import FORMS, KINDS
from e2rank_pyserini.commands import options
from e2rank_pyserini.types import E2RankError, Run

_SUFFIXES = {".trec": "trec", ".txt": "trec", ".json": "ranx", ".jsonl": "rank_llm", ".tsv": "beir"}
_HOLDS = {"rank_llm": "run", "beir": "qrels"}  # the other forms hold either


def convert(arguments: Namespace) -> None:
    """A run or qrels -> the same in another form."""
    from e2rank_pyserini.commands.inputs import check_not_read
    from e2rank_pyserini.commands.outputs import report
    from e2rank_pyserini.forms import qrels_of, tell, write_qrels, write_ranx
    from e2rank_pyserini.provenance import check_no_record
    from e2rank_pyserini.trec import check_writable

    source, output = Path(arguments.input), Path(arguments.output)
    check_writable(output)
    check_no_record(output)
    check_not_read(arguments)
    to = _wanted(arguments)
    form, kind = tell(source, arguments.kind or _HOLDS.get(to))
    if kind == "run":
        held = _convert_run(arguments, form, to)
    else:
        qrels = qrels_of(source, form)
        if to == "ranx":
            write_ranx(output, qrels)
        else:
            write_qrels(output, qrels, to)
        held = f"{len(qrels)} topics, {sum(map(len, qrels.values()))} judgments"
    report(f"{kind}, {form} -> {to}: {held} -> {output}")


def _wanted(arguments: Namespace) -> str:
    """The form to write; refuses what it cannot hold and options that it does not need."""
    suffix = Path(arguments.output).suffix
    if suffix == ".gz":
        raise E2RankError(f"{arguments.output}: is written plain; give it a name without .gz")
    to = arguments.to or _SUFFIXES.get(suffix)
    if to is None:
        raise E2RankError(f"{arguments.output}: expected --to, or a name that ends in {', '.join(_SUFFIXES)}")
    if arguments.kind and _HOLDS.get(to, arguments.kind) != arguments.kind:
        raise E2RankError(f"the form {to} holds a {_HOLDS[to]}" if to == "rank_llm" else "the form beir holds qrels")
    if to != "rank_llm" and (arguments.topics or arguments.corpus or arguments.dataset):
        raise E2RankError(f"--topics, --corpus and --dataset are for rank_llm's requests; the form {to} holds no texts")
    return str(to)


def _convert_run(arguments: Namespace, form: str, to: str) -> str:
    """Write the run; says what it holds, and on stderr what was changed."""
    from e2rank_pyserini.forms import in_order, run_of, untied, write_ranx, write_trec_run

    source, output = Path(arguments.input), Path(arguments.output)
    listed = run_of(source, form)
    _say(arguments, sum(not hits for hits in listed.values()), "queries without hits left out")
    listed = {qid: hits for qid, hits in listed.items() if hits}
    run = in_order(listed)
    if form == "rank_llm":
        moved = sum(hits != listed[qid] for qid, hits in run.items())
        _say(arguments, moved, "queries whose candidates do not stand in the order of their scores; the scores decide")
    if to == "rank_llm":
        _write_requests(arguments, run)
    else:
        strict = untied(run)
        lowered = sum(hit != strict[qid][rank] for qid, hits in run.items() for rank, hit in enumerate(hits))
        _say(
            arguments, lowered, "scores lowered by the least step: ties, which go by place here and by docid elsewhere"
        )
        if to == "ranx":
            write_ranx(output, {qid: dict(hits) for qid, hits in strict.items()})
        else:
            write_trec_run(output, strict, "_".join(source.name.split(".")[0].split()) or "run")
    return f"{len(run)} topics, {sum(map(len, run.values()))} hits"


def _write_requests(arguments: Namespace, run: "Run") -> None:
    """rank_llm's requests, with the texts of queries and documents."""
    from e2rank_pyserini.commands.inputs import corpus_source, named_dataset, topics_of
    from e2rank_pyserini.corpus import find_all
    from e2rank_pyserini.forms import write_requests
    from e2rank_pyserini.reranking import check_known

    data = named_dataset(arguments)
    topics = topics_of(arguments, data)
    check_known(run, topics)
    found = find_all(corpus_source(arguments, data), {hit.docid for hits in run.values() for hit in hits})
    write_requests(Path(arguments.output), run, topics, found)


def _say(arguments: Namespace, count: int, what: str) -> None:
    if count:
        print(f"{arguments.input}: {count} {what}", file=sys.stderr)


def add_convert_parser(subparsers: Any) -> None:
    """The `convert` command."""
    parser: ArgumentParser = subparsers.add_parser(
        "convert", help="runs and qrels between TREC's forms and those of ranx, rank_llm and BEIR"
    )
    parser.set_defaults(function=convert)
    parser.add_argument("input", metavar="INPUT", help="a run or qrels; its form is told by its content (.gz too)")
    parser.add_argument("--output", required=True, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--to",
        choices=FORMS,
        help="default: by the suffix of FILE (.trec and .txt trec, .json ranx, .jsonl rank_llm, .tsv beir)",
    )
    parser.add_argument("--kind", choices=KINDS, help="what INPUT holds, where its content does not say")
    for add in (options.dataset, options.topics, options.corpus):
        add(parser)
