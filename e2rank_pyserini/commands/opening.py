"""An index and a model that a command line names, opened, and held against each other and the corpus."""

import dataclasses
import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from e2rank_pyserini import catalog
from e2rank_pyserini import corpus as corpora
from e2rank_pyserini.choices import WITHOUT_TASK
from e2rank_pyserini.commands.inputs import corpus_source
from e2rank_pyserini.datasets import Dataset
from e2rank_pyserini.prompts import TITLE_AND_TEXT, document_text
from e2rank_pyserini.types import E2RankError, clean

if TYPE_CHECKING:
    from e2rank_pyserini.encoder import E2RankEncoder
    from e2rank_pyserini.index import DenseIndex


def opened_index(arguments: Namespace) -> "DenseIndex":
    """The index of --index, searched with --threads threads. Read `fingerprints` first: it refuses damaged bytes."""
    from e2rank_pyserini.kinds import faiss_module
    from e2rank_pyserini.shards.sharded import open_index

    opened = open_index(arguments.index)
    if arguments.threads:
        faiss_module().omp_set_num_threads(arguments.threads)
    return opened


def loaded_encoder(
    arguments: Namespace,
    opened: "DenseIndex | None",
    data: Dataset | None = None,
    begun_with: Mapping[str, Any] | None = None,
) -> "E2RankEncoder":
    """The model that was asked for, else the one the index was built with.

    Of a hub's it is the commit that the index was built with, or `begun_with`, the record of unfinished work. Queries
    get the length that was asked for, else that of `data` as far as the model's prompt goes, else the model's.
    """
    from e2rank_pyserini.encoder import E2RankEncoder

    if arguments.encoder:
        used = begun_with if opened is None else opened.built_with
        spec = catalog.model(arguments.encoder, arguments.like, kept=used)
    elif arguments.like and arguments.command != "data":  # which has it for scorers
        raise E2RankError("--like goes with --encoder: the index says what its model is")
    elif opened is not None and opened.built_with is not None:
        spec = catalog.model_of_sidecar(opened.built_with, str(opened.directory))
    else:
        raise E2RankError(f"{arguments.index}: was not built by e2rank index; name its model with --encoder")
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    lengths = {"document": arguments.max_length, "query": arguments.query_length, "prompt": arguments.prompt_length}
    if not arguments.query_length:
        lengths["query"] = query_length(spec, data, arguments.prompt_length)
    if opened is not None and opened.built_with is not None:  # what the index lacks is encoded as what it holds
        kept = catalog.model_of_sidecar(opened.built_with, str(opened.directory)).lengths.document
        lengths["document"] = arguments.max_length or kept
        if arguments.max_length not in (None, kept):
            _tell_other_length(opened, kept, arguments)
    changed = dataclasses.replace(spec.lengths, **{key: value for key, value in lengths.items() if value})
    variant = getattr(arguments, "prompt", None) or spec.prompt
    return E2RankEncoder.load(
        dataclasses.replace(spec, lengths=changed, prompt=variant, dtype=arguments.dtype or spec.dtype),
        device=arguments.device,
        batch_tokens=arguments.batch_tokens,
    )


def _tell_other_length(opened: "DenseIndex", kept: int, arguments: Namespace) -> None:
    """Refuse a document length that nothing would read; elsewhere say that two lengths meet."""
    told = f"--max-length {arguments.max_length}: the documents of {opened.directory} were cut to {kept} tokens"
    if arguments.command == "search":
        raise E2RankError(f"{told}, and no others are read")
    what = "documents that it lacks, and those in prompts, are cut to the length that was asked for"
    print(f"e2rank {arguments.command}: {told}; {what}", file=sys.stderr)


def query_length(spec: catalog.ModelSpec, data: Dataset | None, prompt_length: int | None = None) -> int:
    """Tokens of a query: the data set's as far as the prompt goes, else the model's."""
    if data is None or not data.spec.query_length:
        return spec.lengths.query
    return min(data.spec.query_length, prompt_length or spec.lengths.prompt)


def check_index(opened: "DenseIndex", encoder: "E2RankEncoder", arguments: Namespace, data: Dataset | None) -> None:
    """Refuse an index of another model: by its sidecar, or by encoding one of its documents again."""
    opened.check_model(encoder.record, encoder.dim)
    if opened.built_with is not None:
        return
    opened.check_lengths()
    if not arguments.corpus and data is None:
        print(
            f"e2rank {arguments.command}: {opened.directory} does not say which model built it, and without a corpus "
            "that cannot be checked",
            file=sys.stderr,
        )
        return
    docid = opened.docids[0]
    found = corpora.find(corpus_source(arguments, data), [docid])
    if docid not in found:
        raise E2RankError(f"{opened.directory}: its document {docid} is not in the corpus")
    text = document_text(found[docid].title, found[docid].text, document_template(opened, data))
    stored, _ = opened.vectors([docid])
    before = dataclasses.replace(encoder.tally)
    likeness = float(stored[0] @ encoder.encode_documents([text])[0])
    encoder.tokens.tally = before
    if likeness < (0.99 if opened.exact else 0.5):
        raise E2RankError(
            f"{opened.directory}: document {docid} encoded by {encoder.spec.name} has cosine "
            f"{likeness:.3f} with its stored vector; it was built with another model or from other text"
        )


def tell_other_corpus(opened: "DenseIndex", source: str, command: str) -> None:
    """Say so where files that are read are not those that an index says it was built from."""
    sidecar = opened.sidecar or {}
    built, was = sidecar.get("corpus"), sidecar.get("corpus_fingerprint")
    if None in (built, was) or corpora.is_lucene(str(built)) or corpora.is_lucene(source):
        return
    if was == corpora.fingerprint(source):
        return
    print(
        f"e2rank {command}: {opened.directory} was built from {clean(str(built))}, and by names and sizes of its files "
        f"{source} is another corpus, or has changed since: what is read may not be what its vectors are of",
        file=sys.stderr,
    )


def reads_task(arguments: Namespace, spec: catalog.ModelSpec, *, plain: bool = False) -> bool:
    """Whether the model's listwise prompt (or its `plain` query) says a task; says so where one is named in vain."""
    reads = "{task}" in spec.query if plain else spec.prompt not in WITHOUT_TASK
    if not reads and (arguments.task not in (None, "generic") or getattr(arguments, "noun", None)):
        what = "queries" if plain else f"prompts ({spec.prompt})"
        print(f"e2rank {arguments.command}: {spec.name}'s {what} say no task: that was named in vain", file=sys.stderr)
    return reads


def document_template(opened: "DenseIndex | None", data: Dataset | None) -> str:
    """What makes a document's text: the index's own template, else the data set's."""
    if opened is not None and opened.sidecar is not None:
        return str(opened.sidecar.get("document_template", TITLE_AND_TEXT))
    return data.spec.document if data else TITLE_AND_TEXT
