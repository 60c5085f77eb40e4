"""Pyserini's own programs, and ours where they need a JVM, in a process of their own.

`python pyserini_side.py JOBS RESULTS`: JOBS is a JSON object name -> [function of this file, keyword arguments];
RESULTS becomes name -> {"value": …} or {"error": traceback}. One failing job does not stop the others.
"""

import json
import os
import runpy
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from e2rank_pyserini import java

HOME = java.start()
Found = dict[str, list[tuple[str, float]]]  # qid -> (docid, score), best first


def encode(corpus: str, fields: list[str], encoder: str, output: str) -> None:
    """`python -m pyserini.encode` with our class registered; --encoder-class has choices, so the path must tell."""
    words = ["input", "--corpus", corpus, "--fields", *fields, "output", "--embeddings", output, "--to-faiss"]
    words += ["encoder", "--encoder", encoder, "--fields", *fields]
    _registered("pyserini.encode", [*words, "--device", "cpu", "--dimension", "64", "--batch-size", "7"])


def dense_run(topics: str, index: str, encoder: str, hits: int, output: str) -> None:
    """`python -m pyserini.search.faiss` with our class registered."""
    words = ["--topics", topics, "--index", index, "--encoder", encoder, "--hits", str(hits), "--output", output]
    _registered("pyserini.search.faiss", [*words, "--device", "cpu"])


def feedback_vectors(query: list[float], documents: list[list[float]], weights: list[list[float]]) -> list[list[float]]:
    """What DenseVectorAveragePrf makes of a query and its feedback, then DenseVectorRocchioPrf by each alpha, beta."""
    import numpy as np
    from pyserini.search.faiss._prf import DenseVectorAveragePrf, DenseVectorRocchioPrf, PrfDenseSearchResult

    hits = [PrfDenseSearchResult(str(row), 0.0, np.array(vector)) for row, vector in enumerate(documents)]
    rules = [DenseVectorAveragePrf(), *(DenseVectorRocchioPrf(*pair, 0.1, topk=3, bottomk=0) for pair in weights)]
    return [rule.get_prf_q_emb(np.array(query), hits).tolist() for rule in rules]


def dense_search(index: str, encoder: str, queries: dict[str, str], k: int, batch: bool = False) -> Found:
    """FaissSearcher with our query encoder."""
    from pyserini.search.faiss import FaissSearcher

    from e2rank_pyserini.pyserini.encoders import E2RankQueryEncoder

    searcher = FaissSearcher(index, E2RankQueryEncoder(encoder))
    if batch:
        found = searcher.batch_search(list(queries.values()), list(queries), k=k)
    else:
        found = {qid: searcher.search(query, k=k) for qid, query in queries.items()}
    return {qid: [(hit.docid, float(hit.score)) for hit in hits] for qid, hits in found.items()}


def lucene_index(corpus: str, output: str) -> int:
    """`python -m pyserini.index.lucene` over a folder of `{id, contents}`; returns how many documents it holds."""
    from pyserini.search.lucene import LuceneSearcher

    words = ["--collection", "JsonCollection", "--input", corpus, "--index", output]
    words += ["--generator", "DefaultLuceneDocumentGenerator", "--threads", "1"]
    _main("pyserini.index.lucene", [*words, "--storePositions", "--storeDocvectors", "--storeRaw"])
    return LuceneSearcher(output).num_docs


def lucene_search(index: str, queries: dict[str, str], k: int) -> Found:
    """LuceneSearcher as it comes (BM25, k1 0.9, b 0.4), query by query."""
    from pyserini.search.lucene import LuceneSearcher

    searcher = LuceneSearcher(index)
    return {
        qid: [(hit.docid, float(hit.score)) for hit in searcher.search(query, k=k)] for qid, query in queries.items()
    }


def trec_eval(options: str, qrels: str, run: str) -> dict[str, float]:
    """One measure: qid -> value, and the mean under `all`."""
    from pyserini.eval.trec_eval import trec_eval as evaluate

    return dict(evaluate(["trec_eval", "-c", "-q", *options.split(), qrels, run], return_per_query_results=True))


def topics(path: str) -> dict[str, str]:
    """The queries as Pyserini's searchers iterate over them."""
    from pyserini.query_iterator import DefaultQueryIterator

    return {str(qid): query for qid, query in DefaultQueryIterator.from_topics(path)}


def topics_with(reader: str, field: str, path: str) -> dict[str, str]:
    """The queries by a reader that Pyserini's searchers never choose by themselves."""
    from pyserini.search import get_topics_with_reader

    found = get_topics_with_reader(f"io.anserini.search.topicreader.{reader}", path)
    return {str(qid): fields[field] for qid, fields in found.items()}


def e2rank(words: list[str]) -> dict[str, Any]:
    """Our command: its exit status and what reached stdout, from the JVM too."""
    from e2rank_pyserini.cli import main

    sys.stdout.flush()
    kept = os.dup(1)
    with tempfile.TemporaryFile("w+") as file:
        os.dup2(file.fileno(), 1)
        try:
            status = main(words)
        finally:
            sys.stdout.flush()
            os.dup2(kept, 1)
            os.close(kept)
        file.seek(0)
        return {"status": status, "stdout": file.read()}


def find(source: str, docids: list[str]) -> dict[str, list[str]]:
    """Our corpus.find."""
    from e2rank_pyserini import corpus

    return {docid: list(document) for docid, document in corpus.find(source, docids).items()}


def texts(source: str) -> dict[str, Any]:
    """Our opened_texts: every document, how many there are, and whether one that is not there is."""
    from e2rank_pyserini.serving.texts import opened_texts

    opened = opened_texts(source)
    every = {docid: list(document) for docid, document in opened.items()}
    return {"every": every, "count": len(opened), "absent": "absent" in opened}


def runtime() -> dict[str, str | None]:
    """What java.start() answered, and the JVM that a plain import of Pyserini then gets."""
    import pyserini.search.lucene  # noqa: F401
    from jnius import autoclass

    system = autoclass("java.lang.System")
    return {
        "answered": str(HOME),
        "home": system.getProperty("java.home"),
        "version": system.getProperty("java.specification.version"),
        "environment": os.environ["JAVA_HOME"],
        "command": shutil.which("java"),
    }


def _registered(module: str, words: list[str]) -> None:
    from e2rank_pyserini.pyserini.encoders import register

    register()
    _main(module, words)


def _main(module: str, words: list[str]) -> None:
    kept = sys.argv
    sys.argv = [module, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.argv = kept


def answer(function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": globals()[function](**arguments)}
    except (Exception, SystemExit):  # noqa: BLE001 - it is reported by the test that asked
        return {"error": traceback.format_exc()}


if __name__ == "__main__":
    jobs, results = map(Path, sys.argv[1:])
    answers = {name: answer(*job) for name, job in json.loads(jobs.read_text(encoding="utf-8")).items()}
    results.write_text(json.dumps(answers), encoding="utf-8")
