"""What each `e2rank` command does: read files, call one function, write one artefact, report on stderr."""

import dataclasses
import json
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2rank_pyserini import catalog
from e2rank_pyserini import corpus as corpora
from e2rank_pyserini.datasets import Dataset, dataset
from e2rank_pyserini.prompts import RERANK_TASK, document_text
from e2rank_pyserini.trec import read_qrels, read_run, read_topics, write_run
from e2rank_pyserini.types import E2RankError, Run, Topics

if TYPE_CHECKING:
    from e2rank_pyserini.encoder import E2RankEncoder
    from e2rank_pyserini.index import DenseIndex


def index(arguments: Namespace) -> None:
    """Corpus -> index directory."""
    from e2rank_pyserini.indexing import build_index

    started = time.monotonic()
    data = _dataset(arguments)
    source = _corpus(arguments, data)
    output = Path(arguments.output)
    if output.exists() and not arguments.overwrite:
        raise E2RankError(f"{output}: exists already; remove it, or say --overwrite")
    encoder = _encoder(arguments, None)
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
    data = _dataset(arguments)
    topics = _topics(arguments, data)
    opened = _open(arguments)
    encoder = _encoder(arguments, opened)
    _check(opened, encoder, arguments, data)
    task = arguments.task or (data.spec.retrieval_task if data else None)
    run = dense(topics, opened, encoder, hits=arguments.hits, task=task)
    write_run(Path(arguments.output), run, _tag(encoder))
    if arguments.hits > len(opened):
        print(
            f"e2rank search: asked for {arguments.hits} hits, the index holds {len(opened)} documents", file=sys.stderr
        )
    _report(f"{len(topics)} topics, {encoder.tally.queries_truncated} truncated -> {arguments.output}", started)


def bm25(arguments: Namespace) -> None:
    """Topics -> BM25 run."""
    from e2rank_pyserini.pyserini.bm25 import build_lucene, search_lucene

    started = time.monotonic()
    data = _dataset(arguments)
    topics = _topics(arguments, data)
    source = _corpus(arguments, data)
    if not corpora.is_lucene(source):
        if not arguments.index:
            raise E2RankError("name the Lucene index to build with --index")
        if not Path(arguments.index).exists():
            build_lucene(corpora.documents(source), Path(arguments.index), threads=arguments.threads)
        source = arguments.index
    run = search_lucene(source, topics, hits=arguments.hits, threads=arguments.threads)
    write_run(Path(arguments.output), run, "bm25")
    _report(f"{len(topics)} topics -> {arguments.output}", started)


def rerank(arguments: Namespace) -> None:
    """Run -> reranked run."""
    from e2rank_pyserini.reranking import rescore, texts_needed

    started = time.monotonic()
    data = _dataset(arguments)
    depth = arguments.depth
    if arguments.window and arguments.window > depth:
        raise E2RankError(f"window {arguments.window}: expected 1 to depth ({depth})")
    run = read_run(Path(arguments.run))
    topics = _topics(arguments, data)
    opened = _open(arguments)
    encoder = _encoder(arguments, opened)
    _check(opened, encoder, arguments, data)
    window = 0 if arguments.by == "query" else arguments.window or min(encoder.spec.window, depth)
    found = corpora.find(_corpus(arguments, data), texts_needed(run, opened, depth=depth, window=window))
    template = _template(opened, data)
    texts = {docid: document_text(document.title, document.text, template) for docid, document in found.items()}
    queries = _query_vectors(arguments, data, run, topics, texts, encoder, window)
    write_run(
        Path(arguments.output),
        rescore(run, queries, texts, opened, encoder, depth=depth, cut=arguments.cut),
        f"{_tag(encoder)}-{f'{encoder.spec.prompt}{window}' if window else 'query'}",
    )
    tally = encoder.tally
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
        return dict(zip(asked, encoder.encode_queries(list(asked.values()), task), strict=True))
    task, noun = _task(arguments, data)
    with tqdm(total=len(run), unit=" queries", desc="rerank", disable=None, file=sys.stderr) as bar:
        vectors = prompt_vectors(run, topics, texts, encoder, task=task, noun=noun, window=window, done=bar.update)
    tally = encoder.tally
    print(
        f"prompt {encoder.spec.prompt}, window {window}: {tally.prompt_documents_truncated} of "
        f"{tally.prompt_documents} documents and {tally.prompts_query_truncated} of {tally.prompts} queries cut to fit",
        file=sys.stderr,
    )
    return vectors


def eval(arguments: Namespace) -> None:
    """Runs -> table on stdout."""
    from e2rank_pyserini.evaluation import evaluate, table

    data = _dataset(arguments)
    if not arguments.qrels and data is None:
        raise E2RankError("name the judgments with --qrels FILE or --dataset")
    qrels = read_qrels(Path(arguments.qrels)) if arguments.qrels or data is None else data.qrels()
    relevance = arguments.relevance or (data.spec.relevance if data else 1)
    rows = []
    for path in arguments.runs:
        try:
            rows.append(
                (
                    Path(path).name.removesuffix(".gz").removesuffix(".trec"),
                    evaluate(read_run(Path(path)), qrels, relevance=relevance),
                )
            )
        except E2RankError as error:
            raise E2RankError(str(error) if str(error).startswith(path) else f"{path}: {error}") from error
    if arguments.json:
        for name, values in rows:
            print(json.dumps({"run": name, "topics": len(qrels), **values}))
    else:
        print(table(rows))
        print(f"{len(qrels)} judged topics, values in percent", file=sys.stderr)


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


def _dataset(arguments: Namespace) -> Dataset | None:
    return dataset(arguments.dataset, arguments.split) if arguments.dataset else None


def _corpus(arguments: Namespace, data: Dataset | None) -> str:
    if arguments.corpus:
        return str(arguments.corpus)
    if data is None:
        raise E2RankError("name the documents with --corpus PATH or --dataset")
    return data.corpus()


def _topics(arguments: Namespace, data: Dataset | None) -> Topics:
    if arguments.topics:
        return read_topics(Path(arguments.topics))
    if data is None:
        raise E2RankError("name the queries with --topics FILE or --dataset")
    return data.topics()


def _task(arguments: Namespace, data: Dataset | None) -> tuple[str, str]:
    """The reranking task and what the list is called."""
    if arguments.task == "generic":
        return RERANK_TASK, arguments.noun or "Documents"
    if arguments.task != "dataset":
        return arguments.task, arguments.noun or "Documents"
    if data is None:
        raise E2RankError("--task dataset needs --dataset")
    return data.spec.rerank_task, arguments.noun or data.spec.noun


def _open(arguments: Namespace) -> "DenseIndex":
    from e2rank_pyserini.index import DenseIndex, faiss_module

    opened = DenseIndex(Path(arguments.index))
    if arguments.threads:
        faiss_module().omp_set_num_threads(arguments.threads)
    return opened


def _encoder(arguments: Namespace, opened: "DenseIndex | None") -> "E2RankEncoder":
    """The model that was asked for, else the one the index was built with."""
    from e2rank_pyserini.encoder import E2RankEncoder

    if arguments.encoder:
        spec = catalog.model(arguments.encoder, arguments.like)
    elif opened is not None and opened.sidecar is not None:
        spec = catalog.model_of_sidecar(opened.sidecar, str(opened.directory))
    else:
        raise E2RankError(f"{arguments.index}: was not built by e2rank index; name its model with --encoder")
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    lengths = {"document": arguments.max_length, "query": arguments.query_length, "prompt": arguments.prompt_length}
    changed = dataclasses.replace(spec.lengths, **{key: value for key, value in lengths.items() if value})
    variant = getattr(arguments, "prompt", None) or spec.prompt
    return E2RankEncoder.load(
        dataclasses.replace(spec, lengths=changed, prompt=variant),
        device=arguments.device,
        dtype=arguments.dtype,
        batch_tokens=arguments.batch_tokens,
    )


def _check(opened: "DenseIndex", encoder: "E2RankEncoder", arguments: Namespace, data: Dataset | None) -> None:
    """Refuse an index of another model: by its sidecar, or by encoding one of its documents again."""
    opened.check_model(encoder.identity, encoder.spec.name, encoder.dim)
    if opened.sidecar is not None or len(opened) == 0:
        return
    if not arguments.corpus and data is None:
        print(
            f"e2rank {arguments.command}: {opened.directory} does not say which model built it, and without a corpus "
            "that cannot be checked",
            file=sys.stderr,
        )
        return
    docid = opened.docids[0]
    found = corpora.find(_corpus(arguments, data), [docid])
    if docid not in found:
        raise E2RankError(f"{opened.directory}: its document {docid} is not in the corpus")
    text = document_text(found[docid].title, found[docid].text, _template(opened, data))
    stored, _ = opened.vectors([docid])
    likeness = float(stored[0] @ encoder.encode_documents([text])[0])
    encoder.tally.documents -= 1
    if likeness < 0.99:
        raise E2RankError(
            f"{opened.directory}: document {docid} encoded by {encoder.spec.name} has cosine "
            f"{likeness:.3f} with its stored vector; it was built with another model or from other text"
        )


def _template(opened: "DenseIndex", data: Dataset | None) -> str:
    if opened.sidecar is not None:
        return str(opened.sidecar.get("document_template", "{title} {text}"))
    return data.spec.document if data else "{title} {text}"


def _tag(encoder: Any) -> str:
    return "e2rank-" + Path(encoder.spec.name).name.replace(" ", "_").removeprefix("e2rank-")


def _report(what: str, started: float) -> None:
    print(f"{what} ({time.monotonic() - started:.1f} s)", file=sys.stderr)
