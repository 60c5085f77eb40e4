"""`e2rank data`: topics, runs and what ranks them -> a file of training examples."""

import math
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from e2rank_pyserini.commands import options
from e2rank_pyserini.numerals import positive, real, whole
from e2rank_pyserini.types import E2RankError

LABELS = ("qrels", "scores", "llm")
UNJUDGED = ("zero", "skip")


def data(arguments: Namespace) -> None:
    """Topics and first stages -> training examples."""
    from e2rank_pyserini.commands.inputs import check_not_read, named_dataset, topics_of
    from e2rank_pyserini.training.answers import place_of
    from e2rank_pyserini.training.endpoint import SILENT, UNASKED
    from e2rank_pyserini.training.examples import check_output, write_examples
    from e2rank_pyserini.training.making import make
    from e2rank_pyserini.training.ranking import RUN

    started = time.monotonic()
    output = Path(arguments.output)
    _check_options(arguments)
    check_output(output)
    check_not_read(arguments, *(name.removeprefix(RUN) for name in arguments.scorer or () if name.startswith(RUN)))
    named = named_dataset(arguments)
    topics = dict(islice(_fold(topics_of(arguments, named), arguments.fold).items(), arguments.limit))
    if not topics:
        raise E2RankError(f"--fold {arguments.fold}: no topic is in it" if arguments.fold else "there are no topics")
    examples, dropped = make(arguments, named, topics)
    lost = ", ".join(f"{count} {reason}" for reason, count in sorted((+dropped).items())) or "nothing"
    if not examples:
        raise E2RankError(f"none of {len(topics)} topics gave an example; dropped: {lost}")
    written = write_examples(output, examples)
    if arguments.labels == "llm":
        kept = place_of(output)
        if dropped[SILENT] + dropped[UNASKED]:
            print(f"{kept}: keeps the answers; the same command asks for the others alone", file=sys.stderr)
        else:
            kept.unlink(missing_ok=True)
    print(
        f"{len(topics)} topics, {written} lists, dropped: {lost} -> {output} ({time.monotonic() - started:.1f} s)",
        file=sys.stderr,
    )


def add_data_parser(subparsers: Any) -> None:
    """The `data` command."""
    parser = subparsers.add_parser(
        "data", help="topics and runs -> training examples, ranked by qrels, models or an LLM"
    )
    parser.set_defaults(function=data)
    for add in (options.dataset, options.topics, options.excluded, options.corpus, options.model):
        add(parser)
    parser.add_argument("--qrels", metavar="FILE", help="TREC qrels or BEIR's TSV (default: the data set's)")
    parser.add_argument("--output", required=True, metavar="FILE", help="the examples to write, JSON lines")
    _first_stage(parser)
    _drawing(parser)
    _labels(parser)


def _first_stage(parser: ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--run", action="append", metavar="FILE", help="a first-stage run, TREC format; may be repeated")
    group.add_argument("--mine", choices=("bm25", "dense"), help="make the first stage here")
    parser.add_argument("--lucene-index", metavar="DIR", help="for --mine bm25: the Lucene index, built when missing")
    parser.add_argument("--index", metavar="DIR", help="for --mine dense and --margin: the FAISS directory")
    parser.add_argument(
        "--task",
        metavar="generic|dataset|TEXT",
        help="retrieval task: web search, the data set's, or a text (default: the data set's, else web search)",
    )
    parser.add_argument(
        "--depth", type=positive, default=100, metavar="N", help="hits that are candidates (default: 100)"
    )


def _drawing(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--documents", type=whole(2), default=16, metavar="N", help="documents an example (default: 16)"
    )
    parser.add_argument(
        "--lists",
        type=positive,
        default=1,
        metavar="N",
        help="lists per topic and run (with --pairs, per positive): the first documents, then random ones (default: 1)",
    )
    parser.add_argument(
        "--keep-top", type=whole(0), default=0, metavar="N", help="every list holds the first N hits (default: 0)"
    )
    parser.add_argument("--pairs", action="store_true", help="a positive and hard negatives a line, for stage I")
    parser.add_argument(
        "--skip-top",
        type=whole(0),
        default=0,
        metavar="N",
        help="with --pairs: no negatives from the first N ranks (default: 0)",
    )
    parser.add_argument(
        "--margin",
        type=_number(above=0.0),
        metavar="X",
        help="with --pairs and --index: drop negatives whose cosine with the query is above X times the positive's "
        "(0.95, say)",
    )
    parser.add_argument(
        "--relevance",
        type=positive,
        metavar="GRADE",
        help="least grade of a positive (default: the data set's, else 1)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the random lists, with --lists (default: 0)"
    )
    parser.add_argument(
        "--fold",
        choices=("train", "dev"),
        help="only these topics: dev is the tenth of all whose qid's SHA-256 ends in a byte below 26, train the others "
        "(topics that ask the same are where the first is)",
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N topics")
    parser.add_argument("--max-words", type=positive, metavar="N", help="cut documents to N words (default: no cut)")
    parser.add_argument("--source", metavar="NAME", help="what the examples name as source (default: the data set)")


def _labels(parser: ArgumentParser) -> None:
    parser.add_argument("--labels", choices=LABELS, default="qrels", help="what ranks the documents (default: qrels)")
    parser.add_argument(
        "--unjudged",
        choices=UNJUDGED,
        default="zero",
        help="candidates whose docid is not judged: grade 0 or a copy's (default), or left out",
    )
    parser.add_argument(
        "--scorer",
        action="append",
        metavar="MODEL|run:FILE|cross:MODEL",
        help="for --labels scores: an encoder, a run's scores or a cross-encoder (float32 unless --dtype says "
        "otherwise); of several, the mean of z-scores",
    )
    parser.add_argument(
        "--with-qrels", type=_number(), metavar="W", help="for --labels scores: add W times the grade to the z-scores"
    )
    parser.add_argument("--endpoint", metavar="URL", help="for --labels llm: an OpenAI-compatible server, up to /v1")
    parser.add_argument("--llm", metavar="MODEL", help="for --labels llm: the model's name there (key: OPENAI_API_KEY)")
    parser.add_argument("--parallel", type=positive, metavar="N", help="LLM calls in flight (default: 4)")
    parser.add_argument(
        "--timeout", type=_number(above=0.0), metavar="SECONDS", help="of silence in a call (default: 120)"
    )
    parser.add_argument("--retries", type=whole(0), metavar="N", help="of one LLM call (default: 5)")


def _check_options(arguments: Namespace) -> None:
    """Refuse options that do not go together, rather than leave one of them without effect."""
    from e2rank_pyserini.training.endpoint import checked

    given = {name for name, value in vars(arguments).items() if value is not None and value is not False}
    for wrong, why in (*_of_drawing(arguments, given), *_of_labels(arguments, given), *_of_models(arguments, given)):
        if wrong:
            raise E2RankError(why)
    if arguments.labels == "llm":
        checked(arguments.endpoint)


Rules = Iterable[tuple[object, str]]  # whether it is broken, and what it says


def _is_dense(arguments: Namespace, given: set[str]) -> bool:
    return arguments.mine == "dense" or "margin" in given


def _of_drawing(arguments: Namespace, given: set[str]) -> Rules:
    dense, labels = _is_dense(arguments, given), arguments.labels
    return (
        (arguments.pairs and labels != "qrels", "--pairs goes with --labels qrels: the judgments say what is positive"),
        (arguments.skip_top and not arguments.pairs, "--skip-top goes with --pairs"),
        ("margin" in given and not arguments.pairs, "--margin goes with --pairs"),
        (arguments.keep_top >= arguments.documents, f"--keep-top {arguments.keep_top}: expected less than --documents"),
        (arguments.keep_top and arguments.pairs, "--keep-top does not go with --pairs"),
        (arguments.skip_top >= arguments.depth, f"--skip-top {arguments.skip_top}: expected less than --depth"),
        (dense and "index" not in given, "--mine dense and --margin need --index DIR"),
        (
            "relevance" in given and not arguments.pairs and arguments.lists == 1,
            "--relevance goes with --pairs or --lists above 1: it says what is positive and what random lists hold",
        ),
        ("index" in given and not dense, "--index goes with --mine dense or --margin"),
        ("encoder" in given and not dense, "--encoder is the --index's model; what ranks documents is a --scorer"),
        ("lucene_index" in given and arguments.mine != "bm25", "--lucene-index goes with --mine bm25"),
    )


def _of_labels(arguments: Namespace, given: set[str]) -> Rules:
    labels, llm = arguments.labels, {"endpoint", "llm"}
    judged = labels == "qrels" or "with_qrels" in given
    return (
        (arguments.unjudged == "skip" and labels != "qrels", "--unjudged goes with --labels qrels"),
        (arguments.unjudged == "skip" and arguments.pairs, "--unjudged does not go with --pairs"),
        (labels == "scores" and "scorer" not in given, "--labels scores needs --scorer"),
        ("scorer" in given and labels != "scores", "--scorer goes with --labels scores"),
        ("with_qrels" in given and labels != "scores", "--with-qrels goes with --labels scores"),
        (labels == "llm" and not llm <= given, "--labels llm needs --endpoint URL and --llm MODEL"),
        (labels != "llm" and llm & given, "--endpoint and --llm go with --labels llm"),
        (
            labels != "llm" and {"parallel", "timeout", "retries"} & given,
            "--parallel, --timeout and --retries go with --labels llm",
        ),
        (
            not judged and {"qrels", "relevance"} & given,
            f"--qrels and --relevance go with --labels qrels or --with-qrels: --labels {labels} reads no judgments",
        ),
    )


def _of_models(arguments: Namespace, given: set[str]) -> Rules:
    dense, scorers = _is_dense(arguments, given), arguments.scorer or ()
    models = dense or any(not scorer.startswith("run:") for scorer in scorers)
    encoders = dense or any(not scorer.startswith(("run:", "cross:")) for scorer in scorers)
    for names, there, goes in (
        ({"task", "like", "query_length"}, encoders, "--mine dense, --margin or a --scorer that is an encoder"),
        (
            {"device", "dtype", "batch_tokens", "max_length"},
            models,
            "--mine dense, --margin or a --scorer that is a model",
        ),
        ({"threads"}, models or arguments.mine == "bm25", "--mine, --margin or a --scorer that is a model"),
    ):
        yield from ((not there, f"--{name.replace('_', '-')} goes with {goes}") for name in sorted(names & given))
    yield "prompt_length" in given, "--prompt-length: no prompt is read here; a recipe says it"


def _fold(topics: dict[str, str], fold: str | None) -> dict[str, str]:
    """The topics of one fold; those that ask the same are in the first one's, so that no query is in both."""
    if fold is None:
        return topics
    first: dict[str, str] = {}
    asked = {qid: first.setdefault(" ".join(query.split()), qid) for qid, query in topics.items()}
    dev = {qid for qid in asked.values() if sha256(qid.encode()).digest()[-1] < 26}
    return {qid: query for qid, query in topics.items() if (asked[qid] in dev) == (fold == "dev")}


def _number(above: float = -math.inf) -> Callable[[str], float]:
    def number(word: str) -> float:
        value = real(word)
        if not math.isfinite(value) or value <= above:
            raise ArgumentTypeError(f"expected a number{f' above {above:g}' if above > -math.inf else ''}, got {word}")
        return value

    return number
