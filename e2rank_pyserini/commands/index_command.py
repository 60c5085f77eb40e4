"""`e2rank index`: a corpus -> an index directory, or shards of one."""

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2rank_pyserini.commands import options
from e2rank_pyserini.numerals import positive
from e2rank_pyserini.types import E2RankError

if TYPE_CHECKING:
    from e2rank_pyserini.encoder import E2RankEncoder
    from e2rank_pyserini.shards.encoding import Engine

ENGINES = ("processes", "ray")


def index(arguments: Namespace) -> None:
    """Corpus -> index directory, shards, or both."""
    from e2rank_pyserini import corpus as corpora
    from e2rank_pyserini.commands.inputs import check_apart, corpus_source, named_dataset
    from e2rank_pyserini.commands.opening import document_template
    from e2rank_pyserini.commands.outputs import report
    from e2rank_pyserini.indexing import build_index, check_replaceable
    from e2rank_pyserini.shards.folder import SHARD_DOCUMENTS

    output = _checked(arguments)
    data = named_dataset(arguments)
    source = corpus_source(arguments, data)
    check_apart(arguments.output, source)
    check_apart(arguments.shards, source)
    if output is not None:
        check_replaceable(output, overwrite=arguments.overwrite, shards=arguments.shards)
    if arguments.devices:
        arguments.device = arguments.devices[0]
    encoder = _encoder(arguments, arguments.shards or f"{output}.shards")
    sidecar = build_index(
        corpora.Corpus(source),
        encoder,
        output,
        factory=arguments.index_type,
        template=document_template(None, data),
        provenance={"corpus": source, "corpus_fingerprint": corpora.fingerprint(source)},
        overwrite=arguments.overwrite,
        shards=arguments.shards,
        shard_documents=arguments.shard_documents or SHARD_DOCUMENTS,
        engine=_engine(arguments, encoder),
    )
    report(
        f"{sidecar['documents']} documents, {sidecar['tokens']} tokens, {sidecar['truncated']} truncated, "
        f"{sidecar['empty']} empty -> {output or arguments.shards}",
    )


def _checked(arguments: Namespace) -> Path | None:
    """Where the index goes, if anywhere; raises E2RankError for options that contradict each other."""
    if "" in (arguments.output, arguments.shards):
        raise E2RankError("--output and --shards: expected a name, got nothing")
    if arguments.output is None and arguments.shards is None:
        raise E2RankError("name the index with --output DIR, or a folder of shards with --shards")
    if arguments.output is None and arguments.index_type != "Flat":
        raise E2RankError("--index-type needs --output: shards are Flat")
    if arguments.devices and (arguments.device or arguments.workers):
        raise E2RankError("--devices names a worker each: --device and --workers do not go with it")
    return Path(arguments.output).absolute() if arguments.output else None


def _encoder(arguments: Namespace, place: str) -> "E2RankEncoder":
    """The model that was asked for; of a hub's the commit that the shards at `place` were begun with, which is said."""
    from e2rank_pyserini.commands.opening import loaded_encoder
    from e2rank_pyserini.shards.folder import begun_with

    begun = begun_with(place) or {}
    encoder = loaded_encoder(arguments, None, begun_with=begun)
    commit = encoder.spec.revision
    if commit is not None and commit == begun.get("revision"):
        print(f"{place}: begun with commit {commit} of {encoder.spec.source}, and gone on with", file=sys.stderr)
    return encoder


def _engine(arguments: Namespace, encoder: "E2RankEncoder") -> "Engine | None":
    from e2rank_pyserini.shards.workers import Settings, processes

    count = len(arguments.devices or ()) or arguments.workers or 1
    if arguments.engine == "processes" and count == 1:
        return None
    dtype = encoder.dtype_name
    settings = Settings(encoder.record, dtype, arguments.batch_tokens, arguments.threads)
    devices = arguments.devices or [str(encoder.device)] * count
    encoder.network.to("meta")  # the workers load their own: free its memory
    if arguments.engine == "processes":
        return processes(settings, devices)
    from e2rank_pyserini.shards.ray_engine import on_ray

    return on_ray(settings, devices)


def add_index_parser(subparsers: Any) -> None:
    """The `index` command."""
    parser: ArgumentParser = subparsers.add_parser(
        "index", help="encode a corpus into a FAISS index of Pyserini's form"
    )
    parser.set_defaults(function=index)
    options.dataset(parser)
    options.corpus(parser)
    options.model(parser, required=True)
    parser.add_argument("--output", metavar="DIR", help="the index directory to make")
    parser.add_argument(
        "--index-type", default="Flat", metavar="FACTORY", help="FAISS factory string, inner product (default: Flat)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the directory if it exists")
    parser.add_argument(
        "--shards",
        metavar="DIR|URL",
        help="keep the encoded shards here, on this machine or behind an fsspec URL (s3://, gs://, …); shards that are "
        "there already are not encoded again (default: OUTPUT.shards, removed when the index is built)",
    )
    parser.add_argument(
        "--shard-documents", type=positive, metavar="N", help="documents a shard (default: 4096); a kill may cost two"
    )
    parser.add_argument("--workers", type=positive, metavar="N", help="processes that encode (default: one, this one)")
    parser.add_argument("--devices", type=_devices, metavar="D,D,…", help="a worker on each: cuda:0,cuda:1")
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="processes",
        help="who runs the workers: this machine (default) or a Ray cluster, which needs the model and --shards where "
        "every machine reaches them",
    )


def _devices(words: str) -> list[str]:
    devices = [word.strip() for word in words.split(",")]
    if not all(devices):
        raise ArgumentTypeError(f"expected devices with commas between them, got {words!r}")
    return devices
