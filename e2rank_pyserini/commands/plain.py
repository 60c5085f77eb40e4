"""What each `e2rank` command does: read files, call one function, write one artefact, report on stderr."""

import json
import sys
from argparse import Namespace
from pathlib import Path

from e2rank_pyserini import catalog, provenance
from e2rank_pyserini.commands.inputs import (
    admitted_run,
    check_not_read,
    corpus_source,
    exclusions_of,
    fingerprints,
    named_dataset,
    retrieval_task,
    topics_of,
)
from e2rank_pyserini.commands.opening import check_index, loaded_encoder, opened_index, reads_task, tell_other_corpus
from e2rank_pyserini.commands.outputs import Used, report, run_tag, tell_few, write_with_record
from e2rank_pyserini.corpus import is_lucene
from e2rank_pyserini.datasets import Dataset
from e2rank_pyserini.exclusions import Exclusions, most_excluded
from e2rank_pyserini.timing import timed
from e2rank_pyserini.types import E2RankError, Topics


def search(arguments: Namespace) -> None:
    """Topics -> dense run."""
    from e2rank_pyserini.retrieval import search as dense

    data, topics, excluded = _asked(arguments)
    inputs = fingerprints(arguments, topics, excluded, index=arguments.index)
    with timed("load"):
        opened = opened_index(arguments)
    encoder = loaded_encoder(arguments, opened, data)
    check_index(opened, encoder, arguments, data)
    if arguments.corpus or (data is not None and data.has_corpus()):
        tell_other_corpus(opened, corpus_source(arguments, data), "search")
    task = retrieval_task(arguments.task, data)
    reads_task(arguments, encoder.spec, plain=True)
    asked = arguments.hits + most_excluded(excluded, topics)
    found = dense(topics, opened, encoder, hits=asked, task=task)
    run = admitted_run(arguments, found, excluded, arguments.hits)
    write_with_record(arguments, run, run_tag(encoder), Used(inputs, encoder))
    tell_few("search", found, asked, len(opened), arguments.hits)
    report(f"{len(topics)} topics, {encoder.tally.queries_truncated} truncated -> {arguments.output}")


def bm25(arguments: Namespace) -> None:
    """Topics -> BM25 run."""
    from e2rank_pyserini.pyserini.bm25 import first_stage

    data, topics, excluded = _asked(arguments)
    source = corpus_source(arguments, data)
    inputs = fingerprints(arguments, topics, excluded, source=source)
    if arguments.corpus and arguments.index and is_lucene(source):
        raise E2RankError(f"--index {arguments.index}: the corpus {source} is a Lucene index, which is searched itself")
    asked = arguments.hits + most_excluded(excluded, topics)
    threads, language = arguments.threads, arguments.language
    found = first_stage(source, arguments.index, "--index", topics, hits=asked, threads=threads, language=language)
    run = admitted_run(arguments, found, excluded, arguments.hits)
    write_with_record(arguments, run, "bm25", Used(inputs))
    if lacking := len(topics) - len(run):
        print(f"e2rank bm25: {lacking} of {len(topics)} topics have no hits and are not in the run", file=sys.stderr)
    report(f"{len(topics)} topics -> {arguments.output}")


def _asked(arguments: Namespace) -> tuple[Dataset | None, Topics, Exclusions]:
    """What a first stage is asked for, once its output is known to replace nothing that it reads."""
    provenance.check_replaceable(Path(arguments.output))
    check_not_read(arguments)
    data = named_dataset(arguments)
    return data, topics_of(arguments, data), exclusions_of(arguments, data)


def eval(arguments: Namespace) -> None:
    """Runs -> table on stdout."""
    from e2rank_pyserini.commands.judged import evaluated_runs
    from e2rank_pyserini.evaluation import table

    qrels, rows = evaluated_runs(arguments, arguments.runs)
    if arguments.json:
        for name, values in rows:
            print(json.dumps({"run": name, "topics": len(qrels), **values}))
    else:
        print(table(rows))
        print(f"{len(qrels)} judged topics, values in percent", file=sys.stderr)


def pyserini(arguments: Namespace) -> None:
    """One of Pyserini's programs, or the hook for unmodified commands."""
    from e2rank_pyserini.pyserini import pth

    if arguments.module == "install-hook":
        print("\n".join(f"wrote {path}" for path in pth.install()))
    elif arguments.module == "remove-hook":
        print("\n".join(f"removed {path}" for path in pth.remove()) or "there was no hook")
    elif arguments.module == "status":
        print("the hook is installed" if pth.installed() else "the hook is not installed")
    else:
        from e2rank_pyserini.pyserini.runner import run

        run(arguments.module, arguments.words)


def info(arguments: Namespace) -> None:
    """What there is to name, and what this machine has."""
    from e2rank_pyserini import java
    from e2rank_pyserini.inference.devices import choose_device, choose_dtype
    from e2rank_pyserini.kinds import faiss_package

    device = choose_device(None)
    print(f"models     {' '.join(catalog.model_names())}")
    print(f"data sets  {' '.join(catalog.dataset_names())}")
    print(f"faiss      {faiss_package()}")
    print(f"device     {device}, dtype auto = {str(choose_dtype('auto', device)).removeprefix('torch.')}")
    print(f"java       {java.java_home()}")
