"""What a command line names, found and read: data set, corpus, topics, exclusions, judgments, task."""

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from e2rank_pyserini import corpus as corpora
from e2rank_pyserini import fingerprint, storage
from e2rank_pyserini.datasets import Dataset, dataset
from e2rank_pyserini.exclusions import Exclusions, admitted, read_exclusions
from e2rank_pyserini.prompts import RERANK_TASK, RETRIEVAL_TASK
from e2rank_pyserini.shards.sharded import fingerprint as index_fingerprint
from e2rank_pyserini.timing import timed
from e2rank_pyserini.topics import read_topics
from e2rank_pyserini.trec import read_qrels
from e2rank_pyserini.types import E2RankError, Qrels, Run, Topics


def named_dataset(arguments: Namespace) -> Dataset | None:
    """The data set of --dataset and --split; None where none is named."""
    return dataset(arguments.dataset, arguments.split) if arguments.dataset else None


def check_not_read(arguments: Namespace, *others: str) -> None:
    """Refuse an output that would replace what the command reads: a file that it names (or of `others`), or an index.

    Raises E2RankError for a new file in an index, too, and in a folder of documents (a run has its record beside it).
    """
    output = Path(arguments.output)
    for folder in _indexes(arguments):
        if output.resolve().is_relative_to(storage.local(folder).resolve()):
            raise E2RankError(f"{output}: lies in the index {folder}, which is read; choose another name")
    read = (*_files_read(arguments), *(("scorer", Path(other)) for other in others)) if output.exists() else ()
    for option, path in read:
        if path.exists() and output.samefile(path):
            named = "INPUT" if option == "input" else f"--{option}"
            raise E2RankError(f"{output}: is what {named} reads; choose another name")
    check_apart(arguments.output, arguments.corpus)


def check_apart(output: str | None, corpus: str | None) -> None:
    """Refuse an output of this machine in a folder all of whose files are read as documents: it would be read too."""
    if output is None or corpus is None or storage.is_remote(output):
        return
    folder = corpora.folder_of(corpus)
    if folder is not None and storage.local(output).resolve().is_relative_to(folder.resolve()):
        raise E2RankError(f"{output}: lies in {folder}, all files of which are read as documents; choose another place")


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
