"""What a command line names, found and opened: data set, corpus, topics, task, index, model."""

import dataclasses
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from e2rank_pyserini import catalog, fingerprint, storage
from e2rank_pyserini import corpus as corpora
from e2rank_pyserini.choices import WITHOUT_TASK
from e2rank_pyserini.datasets import Dataset, dataset
from e2rank_pyserini.exclusions import Exclusions, admitted, read_exclusions
from e2rank_pyserini.prompts import RERANK_TASK, RETRIEVAL_TASK, TITLE_AND_TEXT, document_text
from e2rank_pyserini.shards.sharded import fingerprint as index_fingerprint
from e2rank_pyserini.timing import timed
from e2rank_pyserini.topics import read_topics
from e2rank_pyserini.trec import read_qrels
from e2rank_pyserini.types import E2RankError, Qrels, Run, Topics, clean

if TYPE_CHECKING:
    from e2rank_pyserini.encoder import E2RankEncoder
    from e2rank_pyserini.index import DenseIndex


def named_dataset(arguments: Namespace) -> Dataset | None:
    """The data set of --dataset and --split; None where none is named."""
    return dataset(arguments.dataset, arguments.split) if arguments.dataset else None


def check_not_read(arguments: Namespace, *others: str) -> None:
    """Refuse an output that would replace what the command reads: a file that it names (or of `others`), or an index.

    Raises E2RankError for a new file in an index, too.
    """
    output = Path(arguments.output)
    for folder in _indexes(arguments):
        if output.resolve().is_relative_to(storage.local(folder).resolve()):
            raise E2RankError(f"{output}: lies in the index {folder}, which is read; choose another name")
    if not output.exists():
        return
    for option, path in (*_files_read(arguments), *(("scorer", Path(other)) for other in others)):
        if path.exists() and output.samefile(path):
            named = "INPUT" if option == "input" else f"--{option}"
            raise E2RankError(f"{output}: is what {named} reads; choose another name")


def _indexes(arguments: Namespace) -> list[str]:
    """The index directories of this machine that a command line names."""
    named = [getattr(arguments, option, None) for option in ("index", "lucene_index")]
    if arguments.corpus and corpora.is_lucene(arguments.corpus):
        named.append(arguments.corpus)
    return [name for name in named if name and not storage.is_remote(name) and not name.startswith(corpora.LUCENE)]


def _files_read(arguments: Namespace) -> Iterator[tuple[str, Path]]:
    """Every file of this machine that a command line names, in a folder too, by its option."""
    for option in ("input", "run", "topics", "excluded", "qrels"):
        named = getattr(arguments, option, None) or []
        yield from ((option, Path(name)) for name in ([named] if isinstance(named, str) else named))
    corpus = arguments.corpus
    if corpus and not storage.is_remote(corpus) and not corpora.is_lucene(corpus):
        yield from (("corpus", path) for path in corpora.files(corpus))
    data = named_dataset(arguments)
    if data is not None and data.folder is not None:
        for pattern in ("corpus.jsonl*", "queries.jsonl*", "qrels/*", "excluded/*"):
            yield from (("dataset", path) for path in data.folder.glob(pattern))


def corpus_source(arguments: Namespace, data: Dataset | None) -> str:
    """Where the documents are, by --corpus or the data set; E2RankError where neither is named."""
    if arguments.corpus:
        return str(arguments.corpus)
    if data is None:
        raise E2RankError("name the documents with --corpus PATH or --dataset")
    return data.corpus()


def topics_of(arguments: Namespace, data: Dataset | None) -> Topics:
    """The queries, by --topics or the data set; E2RankError where neither is named."""
    if arguments.topics:
        return read_topics(Path(arguments.topics))
    if data is None:
        raise E2RankError("name the queries with --topics FILE or --dataset")
    return data.topics()


def exclusions_of(arguments: Namespace, data: Dataset | None) -> Exclusions:
    """What no query may be given, by --excluded or the data set; says on stderr when a data set's are not here."""
    if arguments.excluded:
        return read_exclusions(Path(arguments.excluded))
    found = data.excluded() if data else {}
    if found is None and data is not None:
        print(
            f"e2rank {arguments.command}: {data.spec.name} excludes documents by query and {data.spec.excluded} is not "
            "on this machine: nothing is excluded, which is not the benchmark's protocol; name a file with --excluded",
            file=sys.stderr,
        )
    return found or {}


def admitted_run(arguments: Namespace, run: Run, excluded: Exclusions, hits: int | None = None) -> Run:
    """`run` without its excluded hits, then cut to `hits` a query; says on stderr what went."""
    kept, removed = admitted(run, excluded, hits)
    if removed and not kept:
        raise E2RankError("the run holds nothing but excluded documents")
    if not kept:
        raise E2RankError("no topic has a hit")
    if excluded:
        print(
            f"e2rank {arguments.command}: {removed} excluded hits removed, {len(run) - len(kept)} queries without hits",
            file=sys.stderr,
        )
    return kept


def judgments(arguments: Namespace, data: Dataset | None) -> tuple[Qrels, int]:
    """The qrels, and the least grade that is relevant."""
    relevance = arguments.relevance or (data.spec.relevance if data else 1)
    if arguments.qrels:
        return read_qrels(Path(arguments.qrels)), relevance
    if data is None:
        raise E2RankError("name the judgments with --qrels FILE or --dataset")
    return data.qrels(), relevance


@timed("read")
def fingerprints(
    arguments: Namespace, topics: Topics, excluded: Exclusions, *, source: str | None = None, index: str | None = None
) -> dict[str, dict[str, str | None]]:
    """What was read, and what tells whether it is still the same: for RUN.json, and for `rerun` before it starts.

    `source` is the corpus, told by the names and sizes of its files; `index` is told by its bytes, and refused where
    they are not those that were written: call this before FAISS opens it.
    """
    named = arguments.topics or arguments.dataset
    found: dict[str, dict[str, str | None]] = {
        "topics": {"path": named, "fingerprint": fingerprint.of_text(json.dumps(topics))}
    }
    if excluded:
        docids = json.dumps({qid: sorted(docids) for qid, docids in sorted(excluded.items())})
        named = arguments.excluded or arguments.dataset
        found["excluded"] = {"path": named, "fingerprint": fingerprint.of_text(docids)}
    run = getattr(arguments, "run", None)
    if run is not None:  # a pipe cannot be read again
        found["run"] = {"path": run, "sha256": fingerprint.sha256(Path(run)) if Path(run).is_file() else None}
    if index is not None:
        found["index"] = {"path": index, "fingerprint": index_fingerprint(storage.local(index))}
    if source is not None:
        found["corpus"] = {"path": source, "fingerprint": corpora.fingerprint(source)}
    return found


def retrieval_task(task: str | None, data: Dataset | None) -> str | None:
    """The task that queries are encoded under: `generic` (web search), `dataset` (its own) or a text.

    Where nothing is asked for, the data set's; None, the encoder's own, where there is none.
    """
    if task == "dataset" and data is None:
        raise E2RankError("--task dataset needs --dataset")
    if task in (None, "dataset"):
        return data.spec.retrieval_task if data else None
    return RETRIEVAL_TASK if task == "generic" else task


def rerank_task(arguments: Namespace, data: Dataset | None) -> tuple[str, str]:
    """The reranking task and what the list is called."""
    if arguments.task in (None, "generic"):
        return RERANK_TASK, arguments.noun or "Documents"
    if arguments.task != "dataset":
        return arguments.task, arguments.noun or "Documents"
    if data is None:
        raise E2RankError("--task dataset needs --dataset")
    return data.spec.rerank_task, arguments.noun or data.spec.noun


def opened_index(arguments: Namespace) -> "DenseIndex":
    """The index of --index, searched with --threads threads. Read `fingerprints` first: it refuses damaged bytes."""
    from e2rank_pyserini.kinds import faiss_module
    from e2rank_pyserini.shards.sharded import open_index

    opened = open_index(arguments.index)
    if arguments.threads:
        faiss_module().omp_set_num_threads(arguments.threads)
    return opened


def loaded_encoder(arguments: Namespace, opened: "DenseIndex | None", data: Dataset | None = None) -> "E2RankEncoder":
    """The model that was asked for, else the one the index was built with.

    Queries get the length that was asked for, else that of `data` as far as the model's prompt goes, else the model's.
    """
    from e2rank_pyserini.encoder import E2RankEncoder

    if arguments.encoder:
        spec = catalog.model(arguments.encoder, arguments.like)
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
