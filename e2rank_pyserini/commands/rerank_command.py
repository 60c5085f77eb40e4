"""`e2rank rerank` and `e2rank feedback`: a run -> a better run, over its own hits or over the whole index."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

from e2rank_pyserini.choices import DEPTH, ORDERS, RULES, VARIANTS
from e2rank_pyserini.commands import options
from e2rank_pyserini.numerals import positive, real
from e2rank_pyserini.types import E2RankError

_DOCUMENTS = ("prompt", "average", "rocchio")
_READERS = {  # which rules read what an option sets
    "window": _DOCUMENTS,
    "adaptive": _DOCUMENTS,
    "order": ("prompt",),
    "seed": ("prompt",),
    "prompt": ("prompt",),
    "prompt_length": ("prompt",),
    "task": ("prompt", "query"),
    "noun": ("prompt",),
    "stride": ("prompt",),
    "rocchio_alpha": ("rocchio",),
    "rocchio_beta": ("rocchio",),
}


def rerank(arguments: Namespace) -> None:
    """Run -> run of the same hits."""
    from e2rank_pyserini.commands.refining import Refining
    from e2rank_pyserini.reranking import below

    with Refining(arguments, _checked(arguments), whole=False) as job:
        run = job.passes()
        if not arguments.cut:
            run = {qid: hits + below(job.given[qid], arguments.depth) for qid, hits in run.items()}
        job.write(run, f"depth {arguments.depth}")


def feedback(arguments: Namespace) -> None:
    """Run -> run from the whole index, searched with what the run's first hits say."""
    from e2rank_pyserini.commands.refining import Refining

    with Refining(arguments, _checked(arguments, whole=True), whole=True) as job:
        job.write(job.passes(), f"hits {arguments.hits}")


def _checked(arguments: Namespace, *, whole: bool = False) -> dict[str, float]:
    """The weights of --interpolate; raises E2RankError for options that contradict each other."""
    from e2rank_pyserini.commands.inputs import check_not_read
    from e2rank_pyserini.provenance import check_replaceable

    check_replaceable(Path(arguments.output))
    check_not_read(arguments)
    by, weights = arguments.by, dict(arguments.interpolate or ())
    for option, readers in _READERS.items():
        if getattr(arguments, option) is not None and by not in readers:
            what = "reads no documents" if by == "query" else "reads no such thing"
            raise E2RankError(f"--by {by} {what}: --{option.replace('_', '-')} does not go with it")
    if by == "query" and arguments.passes > 1:
        raise E2RankError("--by query reads no documents: --passes does not go with it")
    if arguments.seed is not None and arguments.order != "shuffle":
        raise E2RankError("--seed goes with --order shuffle")
    if arguments.task == "dataset" and not arguments.dataset:
        raise E2RankError("--task dataset needs --dataset")
    if arguments.depth is None:
        arguments.depth = DEPTH
    elif whole and arguments.adaptive is None:
        raise E2RankError("--depth goes with --adaptive")
    if not whole and arguments.window and arguments.window > arguments.depth:
        raise E2RankError(f"window {arguments.window}: expected 1 to depth ({arguments.depth})")
    if arguments.stride and (weights or arguments.adaptive is not None):
        raise E2RankError("--stride slides over whole windows: --interpolate and --adaptive do not go with it")
    if arguments.stride and not arguments.window:
        raise E2RankError("--stride needs --window")
    if arguments.stride and arguments.stride > arguments.window:
        raise E2RankError(f"stride {arguments.stride}: expected 1 to window ({arguments.window})")
    if len(weights) < len(arguments.interpolate or ()):
        raise E2RankError("--interpolate: a score is named twice")
    unknown = sorted(weights.keys() - {"first", "query", by})
    if unknown:
        known = ", ".join(dict.fromkeys(("first", "query", by)))
        raise E2RankError(f"--interpolate {unknown[0]}: expected {known}")
    if weights and not weights.get(by):
        raise E2RankError(f"--interpolate: expected a weight above 0 for {by}, which --by names")
    return weights


def add_rerank_parser(subparsers: Any) -> None:
    """The `rerank` command."""
    parser: ArgumentParser = subparsers.add_parser(
        "rerank", help="run -> run: rescore any TREC run with the listwise prompt"
    )
    parser.set_defaults(function=rerank)
    _files(parser)
    parser.add_argument("--depth", type=positive, default=DEPTH, metavar="N", help=f"hits rescored (default: {DEPTH})")
    parser.add_argument(
        "--by",
        choices=RULES,
        default="prompt",
        help="rescore by the listwise prompt's vector (default) or, as baselines, by the plain query's or by average "
        "or Rocchio feedback of stored vectors",
    )
    parser.add_argument("--cut", action="store_true", help="drop the hits below depth")
    parser.add_argument(
        "--stride",
        type=positive,
        metavar="N",
        help="sliding windows from the last hits of depth to the first, N places apart, a prompt each",
    )
    _reading(parser, " (with --by query the retrieval task, by default the data set's)")


def add_feedback_parser(subparsers: Any) -> None:
    """The `feedback` command."""
    parser: ArgumentParser = subparsers.add_parser(
        "feedback", help="run -> run: search the whole index again with the prompt's vector, or by average or Rocchio"
    )
    parser.set_defaults(function=feedback, stride=None)
    _files(parser)
    parser.add_argument("--hits", type=positive, default=1000, metavar="K", help="hits per topic (default: 1000)")
    parser.add_argument(
        "--depth", type=positive, metavar="N", help=f"hits of the run that --adaptive scales by (default: {DEPTH})"
    )
    parser.add_argument(
        "--by",
        choices=[rule for rule in RULES if rule != "query"],
        default="prompt",
        help="the listwise prompt's vector (default), or average or Rocchio feedback of stored vectors",
    )
    _reading(parser)


def _files(parser: ArgumentParser) -> None:
    for add in (options.dataset, options.topics, options.excluded, options.corpus, options.model):
        add(parser)
    parser.add_argument("--run", required=True, metavar="FILE", help="the first-stage run, TREC format")
    parser.add_argument(
        "--index",
        required=True,
        metavar="DIR",
        help="the FAISS directory, or folder of shards, with the stored vectors",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="the run to write")


def _reading(parser: ArgumentParser, plainly: str = "") -> None:
    parser.add_argument(
        "--window",
        type=positive,
        metavar="N",
        help="hits that are read (default: the model's, 20 for E2Rank; 3 for average and Rocchio)",
    )
    parser.add_argument("--prompt", choices=VARIANTS, help="variant of the listwise prompt (default: the model's)")
    parser.add_argument(
        "--task",
        metavar="generic|dataset|TEXT",
        help="task of the prompt: the paper's generic one (default), the data set's own, or a text" + plainly,
    )
    parser.add_argument("--noun", metavar="WORD", help="what the prompt calls the list (default: as the task's)")
    parser.add_argument("--order", choices=ORDERS, help="in which the prompt reads its documents (default: initial)")
    parser.add_argument("--seed", type=int, metavar="N", help="of --order shuffle (default: 0)")
    parser.add_argument(
        "--adaptive",
        type=_share,
        metavar="SHARE",
        help="end the window before the first hit whose score, scaled from 1 (the first hit) to 0 (the last of depth), "
        "is below SHARE",
    )
    parser.add_argument(
        "--rocchio-alpha", type=_number, metavar="A", help="weight of the query (default 1; Pyserini 0.9)"
    )
    parser.add_argument(
        "--rocchio-beta", type=_number, metavar="B", help="weight of the documents' mean (default 0.5; Pyserini 0.1)"
    )
    parser.add_argument(
        "--passes", type=positive, default=1, metavar="N", help="each pass reads what the last gave (default: 1)"
    )
    parser.add_argument(
        "--interpolate",
        nargs="+",
        type=_weight,
        metavar="SCORE=WEIGHT",
        help="order by a weighted sum of scores, each scaled to [0, 1] by query: first (the run's), query (the plain "
        "query's) and what --by names",
    )


def _number(word: str, most: float = 1e6) -> float:
    number = real(word)
    if not 0 <= number <= most:  # nor nan
        raise ArgumentTypeError(f"expected a number from 0 to {most:g}, got {word!r}")
    return number


def _share(word: str) -> float:
    return _number(word, 1)


def _weight(word: str) -> tuple[str, float]:
    name, is_given, number = word.partition("=")
    if not name or not is_given:
        raise ArgumentTypeError(f"expected SCORE=WEIGHT, got {word!r}")
    return name, _number(number)
