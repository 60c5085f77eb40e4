"""What each `e2rank` command does: read files, call one function, write one artefact, report on stderr."""

import json
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2rank_pyserini import catalog
from e2rank_pyserini import corpus as corpora
from e2rank_pyserini.datasets import Dataset
from e2rank_pyserini.exclusions import most_excluded
from e2rank_pyserini.inputs import (
    admitted_run,
    check_index,
    corpus_source,
    document_template,
    exclusions_of,
    judged_run,
    judgments,
    loaded_encoder,
    named_dataset,
    opened_index,
    rerank_task,
    tell_lacking,
    topics_of,
)
from e2rank_pyserini.prompts import document_text
from e2rank_pyserini.trec import check_writable, read_run, write_run
from e2rank_pyserini.types import E2RankError, Run, Topics

if TYPE_CHECKING:
    from e2rank_pyserini.encoder import E2RankEncoder


def index(arguments: Namespace) -> None:
    """Corpus -> index directory."""
    from e2rank_pyserini.indexing import build_index, check_replaceable

    started = time.monotonic()
    data = named_dataset(arguments)
    source = corpus_source(arguments, data)
    output = Path(arguments.output).absolute()
    check_replaceable(output, overwrite=arguments.overwrite)
    encoder = loaded_encoder(arguments, None)
    template = data.spec.document if data else "{title} {text}"
    sidecar = build_index(
        corpora.documents(source),
        encoder,
        output,
        factory=arguments.index_type,
        template=template,
        provenance={"corpus": source, "corpus_fingerprint": corpora.fingerprint(source)},
        overwrite=arguments.overwrite,
    )
    _report(
        f"{sidecar['documents']} documents, {sidecar['tokens']} tokens, {sidecar['truncated']} truncated, "
        f"{sidecar['empty']} empty -> {output}",
        started,
    )


def search(arguments: Namespace) -> None:
    """Topics -> dense run."""
    from e2rank_pyserini.retrieval import search as dense

    started = time.monotonic()
    check_writable(Path(arguments.output))
    data = named_dataset(arguments)
    topics = topics_of(arguments, data)
    excluded = exclusions_of(arguments, data)
    opened = opened_index(arguments)
    encoder = loaded_encoder(arguments, opened, data)
    check_index(opened, encoder, arguments, data)
    task = arguments.task or (data.spec.retrieval_task if data else None)
    asked = arguments.hits + most_excluded(excluded, topics)
    found = dense(topics, opened, encoder, hits=asked, task=task)
    run = admitted_run(arguments, found, excluded, arguments.hits)
    write_run(Path(arguments.output), run, _tag(encoder))
    short = sum(len(hits) < min(asked, len(opened)) for hits in found.values())
    if short:
        print(
            f"e2rank search: {short} topics got fewer than {min(asked, len(opened))} hits: "
            "an approximate index does not look everywhere",
            file=sys.stderr,
        )
    if arguments.hits > len(opened):
        print(
            f"e2rank search: asked for {arguments.hits} hits, the index holds {len(opened)} documents", file=sys.stderr
        )
    _report(f"{len(topics)} topics, {encoder.tally.queries_truncated} truncated -> {arguments.output}", started)


def bm25(arguments: Namespace) -> None:
    """Topics -> BM25 run."""
    from e2rank_pyserini.pyserini.bm25 import first_stage

    started = time.monotonic()
    check_writable(Path(arguments.output))
    data = named_dataset(arguments)
    topics = topics_of(arguments, data)
    excluded = exclusions_of(arguments, data)
    source = corpus_source(arguments, data)
    asked = arguments.hits + most_excluded(excluded, topics)
    found = first_stage(source, arguments.index, "--index", topics, hits=asked, threads=arguments.threads)
    run = admitted_run(arguments, found, excluded, arguments.hits)
    write_run(Path(arguments.output), run, "bm25")
    _report(f"{len(topics)} topics -> {arguments.output}", started)


def rerank(arguments: Namespace) -> None:
    """Run -> reranked run."""
    from e2rank_pyserini.reranking import rescore, texts_needed

    started = time.monotonic()
    check_writable(Path(arguments.output))
    data = named_dataset(arguments)
    depth = arguments.depth
    if arguments.window and arguments.window > depth:
        raise E2RankError(f"window {arguments.window}: expected 1 to depth ({depth})")
    if arguments.by == "query" and (arguments.window or arguments.prompt or arguments.noun):
        raise E2RankError("--by query reads no documents: --window, --prompt and --noun do not go with it")
    run = admitted_run(arguments, read_run(Path(arguments.run)), exclusions_of(arguments, data))
    topics = topics_of(arguments, data)
    opened = opened_index(arguments)
    encoder = loaded_encoder(arguments, opened, data)
    check_index(opened, encoder, arguments, data)
    window = 0 if arguments.by == "query" else arguments.window or min(encoder.spec.window, depth)
    wanted = texts_needed(run, opened, depth=depth, window=window)
    found = corpora.find(corpus_source(arguments, data), wanted)
    if len(found) < len(wanted):
        raise E2RankError(
            f"document {min(wanted - found.keys())}: in the run but not in the corpus ({len(wanted) - len(found)} such)"
        )
    template = document_template(opened, data)
    texts = {docid: document_text(document.title, document.text, template) for docid, document in found.items()}
    queries = _query_vectors(arguments, data, run, topics, texts, encoder, window)
    write_run(
        Path(arguments.output),
        rescore(run, queries, texts, opened, encoder, depth=depth, cut=arguments.cut),
        f"{_tag(encoder)}-{f'{encoder.spec.prompt}{window}' if window else 'query'}",
    )
    tally = encoder.tally
    if window:
        print(
            f"prompt {encoder.spec.prompt}, window {window}: {tally.prompt_documents_truncated} of "
            f"{tally.prompt_documents} documents and {tally.prompts_query_truncated} of {tally.prompts} queries "
            "cut to fit",
            file=sys.stderr,
        )
    _report(
        f"{len(run)} queries, depth {depth}, {tally.documents} documents encoded on the fly -> {arguments.output}",
        started,
    )


def _query_vectors(
    arguments: Namespace,
    data: Dataset | None,
    run: Run,
    topics: Topics,
    texts: dict[str, str],
    encoder: "E2RankEncoder",
    window: int,
) -> dict[str, Any]:
    """qid -> (dim,): the listwise prompt's vector, or the plain query's with `--by query`."""
    from tqdm import tqdm

    from e2rank_pyserini.reranking import prompt_vectors

    if not window:
        asked = {qid: query for qid, query in topics.items() if qid in run}
        task = data.spec.retrieval_task if data else None
        if arguments.task not in ("generic", "dataset"):
            task = arguments.task
        return dict(zip(asked, encoder.encode_queries(list(asked.values()), task), strict=True))
    task, noun = rerank_task(arguments, data)
    with tqdm(total=len(run), unit=" queries", desc="rerank", disable=None, file=sys.stderr) as bar:
        return prompt_vectors(run, topics, texts, encoder, task=task, noun=noun, window=window, done=bar.update)


def eval(arguments: Namespace) -> None:
    """Runs -> table on stdout."""
    from e2rank_pyserini.evaluation import evaluate, table

    data = named_dataset(arguments)
    qrels, relevance = judgments(arguments, data)
    excluded = exclusions_of(arguments, data)
    runs = [judged_run(path, qrels, excluded) for path in arguments.runs]
    rows = [(name, evaluate(run, qrels, relevance=relevance)) for name, run in runs]
    if arguments.json:
        for name, values in rows:
            print(json.dumps({"run": name, "topics": len(qrels), **values}))
    else:
        print(table(rows))
        print(f"{len(qrels)} judged topics, values in percent", file=sys.stderr)
    for path, (_, run) in zip(arguments.runs, runs, strict=True):
        tell_lacking(path, run, qrels)


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
    from e2rank_pyserini.index import faiss_package
    from e2rank_pyserini.loading import choose_device, choose_dtype

    device = choose_device(None)
    print(f"models     {' '.join(catalog.model_names())}")
    print(f"data sets  {' '.join(catalog.dataset_names())}")
    print(f"faiss      {faiss_package()}")
    print(f"device     {device}, dtype auto = {str(choose_dtype('auto', device)).removeprefix('torch.')}")
    print(f"java       {java.java_home()}")


def _tag(encoder: Any) -> str:
    return "e2rank-" + Path(encoder.spec.name).name.replace(" ", "_").removeprefix("e2rank-")


def _report(what: str, started: float) -> None:
    print(f"{what} ({time.monotonic() - started:.1f} s)", file=sys.stderr)
