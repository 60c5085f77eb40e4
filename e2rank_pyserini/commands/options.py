"""Options that several commands share. Only argparse is imported, so that the command line starts quickly."""

from argparse import ArgumentParser

from e2rank_pyserini.choices import DTYPES, TESTS
from e2rank_pyserini.numerals import positive


def dataset(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--dataset",
        metavar="NAME|DIR",
        help="named data set or BEIR folder: corpus, topics, qrels and tasks not given otherwise",
    )
    parser.add_argument("--split", metavar="NAME", help="the folder's qrels/NAME.tsv (default: test)")


def corpus(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--corpus",
        metavar="PATH",
        help="JSONL file or folder (BEIR's or Pyserini's, .gz too), Lucene directory, or lucene:NAME",
    )


def topics(parser: ArgumentParser) -> None:
    parser.add_argument("--topics", metavar="FILE", help="TSV, JSON, JSONL, TREC or XML topics")


def excluded(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--excluded",
        metavar="FILE",
        help="documents that a query must not be given, removed before any cut by rank: `qid docid` a line, or "
        "BRIGHT's examples as JSONL (default: the data set's own)",
    )


def judgments(parser: ArgumentParser) -> None:
    excluded(parser)
    parser.add_argument("--qrels", metavar="FILE", help="TREC qrels or BEIR's TSV")
    parser.add_argument(
        "--relevance",
        type=positive,
        metavar="GRADE",
        help="least relevant grade for MAP, R and MRR (trec_eval -l; default: the data set's, else 1)",
    )


def runs(parser: ArgumentParser) -> None:
    parser.add_argument("baseline", metavar="BASELINE", help="the TREC run that the others are compared with")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="TREC run files")
    parser.add_argument("--test", choices=TESTS, default="t", help="paired t-test (default) or sign flips of the mean")


def model(parser: ArgumentParser, *, required: bool = False, prompt: bool = True) -> None:
    parser.add_argument(
        "--encoder",
        required=required,
        metavar="NAME|DIR",
        help="named model, directory or hub name" + ("" if required else " (default: the index's own)"),
    )
    parser.add_argument("--like", metavar="NAME", help="the named model whose settings an unknown one shares")
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, … (default: a GPU where there is one)")
    parser.add_argument("--dtype", choices=DTYPES, help="default: auto, bfloat16 where the hardware has it")
    length = "the model's" if required else "the index's, else the model's"
    parser.add_argument("--max-length", type=positive, metavar="N", help=f"tokens of a document (default: {length})")
    parser.add_argument(
        "--query-length",
        type=positive,
        metavar="N",
        help="tokens of a query (default: the data set's, else the model's)",
    )
    if prompt:
        parser.add_argument(
            "--prompt-length", type=positive, metavar="N", help="tokens of a listwise prompt (default: the model's)"
        )
    else:
        parser.set_defaults(prompt_length=None)
    parser.add_argument(
        "--batch-tokens",
        type=positive,
        metavar="N",
        help="tokens encoded at once, padding included (default: 4096 on a CPU, else 65536)",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all)")
