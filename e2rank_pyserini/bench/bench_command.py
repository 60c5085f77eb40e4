"""`e2rank bench`: how fast this model is on this machine, beside what one would run instead."""

import sys
import tempfile
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2rank_pyserini.choices import DTYPES
from e2rank_pyserini.numerals import positive
from e2rank_pyserini.types import E2RankError

if TYPE_CHECKING:
    from e2rank_pyserini.encoder import E2RankEncoder

_LAYERS = 4
_READ = 256  # documents that a random model's tokenizer learns from
RANDOM = f"qwen3-{_LAYERS}"  # no model's name: made here, of random weights
ENCODERS = ("pyserini", "pyserini-fp16", "sentence-transformers", "transformers")
RERANKERS = ("pointwise", "listwise")
Measure = Callable[[Namespace, str, Path], tuple[dict[str, Any], str]]  # told the device; what was found, and as text

_ENCODE = """Encode documents in turn by e2rank and its peers, with the same weights, texts and lengths:

  e2rank                 what e2rank index does: tokenise, encode, write, build the index (Flat)
  pyserini               Pyserini's qwen3 document encoder as it comes: float32, batches of 64
  pyserini-fp16          the same with its --fp16, which means bfloat16
  sentence-transformers  in our dtype, its own batches of 32, sorted by length
  transformers           as on a model card: in our dtype, batches of 32 in the corpus's order

times: a peer's seconds over ours, of each round. p50 and p95: seconds of a round. TFLOP/s count the matrix products of
real tokens, the causal half of attention alone; of peak: their share of what matrix products alone reach here in our
dtype. cosine: the least between a peer's vector and ours."""
_RERANK = """Rerank 100 passages a query, query by query in turn:

  e2rank     one prompt of 20 passages, the stored vectors of all 100 rescored
  pointwise  query and passage in a prompt each, the logit of yes against no, batched by length
  listwise   a generative reranker's sliding windows: 20 passages, stride 10, each writes a permutation

times: a peer's seconds over ours, of each query. p50 and p95: seconds a query. TFLOP/s count the matrix products of the
layers, the causal half of attention alone; of peak: their share of what matrix products alone reach here in our dtype.
Then e2rank rerank itself over the same run: seconds by part, and the share of all but the model."""


def _bench(arguments: Namespace, measure: Measure) -> None:
    """Setting, measurement, table, JSON; a GPU that is not here is told as not measured, and that is all."""
    from e2rank_pyserini.bench.yardstick import NOT_MEASURED, OURS, announce, setting, tell_absent, write_json
    from e2rank_pyserini.inference.devices import choose_device
    from e2rank_pyserini.trec import check_writable

    path = Path(arguments.json) if arguments.json else None
    if path is not None:
        check_writable(path)
    about: dict[str, Any] = {"bench": arguments.bench}
    try:
        device = choose_device(arguments.device)
    except E2RankError as error:
        if not arguments.device.startswith("cuda"):
            raise
        absent = dict.fromkeys((OURS, *arguments.peers), str(error))
        tell_absent(absent)
        here = {**setting("cpu"), "device": arguments.device}
        write_json(path, {**about, "setting": here, "peers": {}, NOT_MEASURED: absent})
        return
    about["setting"] = setting(device)
    announce(about["setting"])
    with tempfile.TemporaryDirectory(prefix="e2rank-bench.") as work:
        found, text = measure(arguments, device, Path(work))
    print(f"\n{text}", flush=True)
    write_json(path, {**about, **found})


def _encoding(arguments: Namespace, device: str, work: Path) -> tuple[dict[str, Any], str]:
    from e2rank_pyserini.bench.encode import measure, shown
    from e2rank_pyserini.bench.material import as_text, passages

    documents = list(islice(passages(arguments.data), arguments.documents))
    if len(documents) < arguments.documents:
        print(f"e2rank bench: {arguments.data} has {len(documents)} documents and no more", file=sys.stderr)
    encoder, name = _loaded(arguments, device, map(as_text, documents[:_READ]), work)
    found = {"model": name, **measure(encoder, documents, arguments.peers, arguments.rounds, work)}
    return found, shown(found)


def _reranking(
    arguments: Namespace, device: str, work: Path, command: Callable[[Sequence[str]], None]
) -> tuple[dict[str, Any], str]:
    from e2rank_pyserini.bench.material import as_text, passages
    from e2rank_pyserini.bench.rerank import by_command, by_query, given_to_all, shown

    read = map(as_text, islice(passages(arguments.data), _READ))
    encoder, name = _loaded(arguments, device, read, work)
    texts = map(as_text, passages(arguments.data))
    given = given_to_all(encoder, texts, passage=arguments.passage, queries=arguments.queries, work=work)
    found = {
        "model": name,
        "dtype": encoder.dtype_name,
        "batch tokens": encoder.batch_tokens,
        "queries": arguments.queries,
        "passage": arguments.passage,
        **by_query(encoder, given, arguments.peers, work),
        "command": by_command(encoder, command, arguments.rounds, work),
    }
    return found, shown(found)


def _loaded(arguments: Namespace, device: str, texts: Iterable[str], work: Path) -> "tuple[E2RankEncoder, str]":
    """The model and what to call it; the random one is made in `work`, with a tokenizer of these texts."""
    from e2rank_pyserini.bench.material import qwen3
    from e2rank_pyserini.encoder import E2RankEncoder

    is_random = arguments.encoder == RANDOM
    if arguments.layers and not is_random:
        raise E2RankError(f"--layers goes with the random model: it does not change {arguments.encoder}")
    if arguments.like and is_random:
        raise E2RankError("--like goes with --encoder: the random model is a Qwen3")
    layers = arguments.layers or _LAYERS
    name = str(qwen3(work / "qwen3", texts, layers=layers)) if is_random else arguments.encoder
    encoder = E2RankEncoder.load(
        name, like=arguments.like, device=device, dtype=arguments.dtype, batch_tokens=arguments.batch_tokens
    )
    return encoder, f"qwen3-{layers}" if is_random else encoder.spec.name


def add_bench_parser(subparsers: Any, command: Callable[[Sequence[str]], None]) -> None:
    """The `bench` command and its two; `command` runs the command that `bench rerank` measures."""
    parser: ArgumentParser = subparsers.add_parser(
        "bench", help="how fast a model encodes and reranks on this machine, beside what one would run instead"
    )
    kinds = parser.add_subparsers(dest="bench", required=True, metavar="WHAT")
    encode = kinds.add_parser(
        "encode", help="a corpus", description=_ENCODE, formatter_class=RawDescriptionHelpFormatter
    )
    encode.set_defaults(function=partial(_bench, measure=_encoding))
    _common(encode, ENCODERS)
    encode.add_argument("--documents", type=positive, default=256, metavar="N", help="how many (default: 256)")
    encode.add_argument("--rounds", type=positive, default=5, metavar="N", help="default: 5")
    rerank = kinds.add_parser(
        "rerank",
        help="100 passages a query, by a decoder",
        description=_RERANK,
        formatter_class=RawDescriptionHelpFormatter,
    )
    rerank.set_defaults(function=partial(_bench, measure=partial(_reranking, command=command)))
    _common(rerank, RERANKERS)
    rerank.add_argument("--queries", type=positive, default=3, metavar="N", help="how many (default: 3)")
    rerank.add_argument("--passage", type=positive, default=350, metavar="TOKENS", help="of each (default: 350)")
    rerank.add_argument("--rounds", type=positive, default=3, metavar="N", help="of e2rank rerank (default: 3)")


def _common(parser: ArgumentParser, peers: Sequence[str]) -> None:
    parser.add_argument(
        "--encoder",
        default=RANDOM,
        metavar="NAME|DIR",
        help=f"named model, directory or hub name (default: {RANDOM}, a Qwen3 of 0.6B's width and random weights)",
    )
    parser.add_argument("--like", metavar="NAME", help="the named model whose settings an unknown one shares")
    parser.add_argument(
        "--layers", type=positive, metavar="N", help=f"of {RANDOM} (default: {_LAYERS}; Qwen3-0.6B has 28)"
    )
    parser.add_argument(
        "--data", metavar="PATH", help="a BEIR folder or another corpus (default: synthetic texts of mixed lengths)"
    )
    parser.add_argument(
        "--peers", nargs="*", choices=peers, default=peers, metavar="PEER", help=f"of {', '.join(peers)} (default: all)"
    )
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, … (default: a GPU where there is one)")
    parser.add_argument("--dtype", choices=DTYPES, help="default: auto, bfloat16 where the hardware has it")
    parser.add_argument("--batch-tokens", type=positive, metavar="N", help="tokens encoded at once, padding included")
    parser.add_argument("--json", metavar="FILE", help="where all that was measured goes")
