"""BM25, the usual first stage, by Pyserini: a Lucene index with raw texts, and a run from it."""

import json
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from e2rank_pyserini import corpus as corpora
from e2rank_pyserini import java
from e2rank_pyserini.choices import ENGLISH
from e2rank_pyserini.corpus import lucene_searcher
from e2rank_pyserini.directories import built_aside
from e2rank_pyserini.prompts import document_text
from e2rank_pyserini.timing import timed
from e2rank_pyserini.types import Document, E2RankError, Hit, Run, Topics, first_line

CORPUS = "e2rank.corpus"  # beside Lucene's files: the fingerprint of what was indexed
K1, B = 0.9, 0.4  # Pyserini's defaults
_BATCH = 32  # topics of a thread in one call: an interrupt waits for its end
_LOOKED_AT = 100  # documents of a corpus, looked for in an index that does not say what it was built from


def first_stage(
    source: str, lucene: str | None, option: str, topics: Topics, *, hits: int, threads: int, language: str = ENGLISH
) -> Run:
    """A BM25 run over `source`, a Lucene index or a corpus; the latter's index is `lucene`, built when missing.

    `language`: whose analyzer reads documents and topics; an index of Pyserini's does not say with which it was built.
    Raises E2RankError when a corpus comes without `lucene` (`option` names it), and when that is of another corpus.
    """
    if not corpora.is_lucene(source):
        if not lucene:
            raise E2RankError(f"name the Lucene index to build or use with {option}")
        fingerprint = corpora.fingerprint(source) + (f" {language}" if language != ENGLISH else "")
        if not Path(lucene).exists():
            build_lucene(corpora.documents(source), Path(lucene), fingerprint, threads=threads, language=language)
        check_corpus(Path(lucene), source, fingerprint)
        source = lucene
    return search_lucene(source, topics, hits=hits, threads=threads, language=language)


def build_lucene(
    corpus: Iterable[Document], directory: Path, fingerprint: str, *, threads: int = 1, language: str = ENGLISH
) -> int:
    """A Lucene index of `corpus` (positions, document vectors, raw JSON) at `directory`; returns how many documents.

    `fingerprint` (corpus.fingerprint) is kept beside it, for `check_corpus`. One text field, title and text, as
    Pyserini's flat BEIR indexes have it. Built aside and renamed. Lucene takes no empty document: those are left
    out, and their number is said on stderr.
    """
    if directory.exists():
        raise E2RankError(f"{directory}: exists already")
    java.start()
    with built_aside(directory) as staging:
        with java.quiet():
            count = _add_all(corpus, staging, threads, language)
            held = lucene_searcher(str(staging)).num_docs
        if held != count:
            raise E2RankError(f"{directory}: Lucene took {held} of {count} documents; its log above says why")
        (staging / CORPUS).write_text(fingerprint + "\n", encoding="utf-8")
    return count


def check_corpus(directory: Path, source: str, fingerprint: str) -> None:
    """Refuse a Lucene index of another corpus: by what we left beside it, else by the first documents of `source`."""
    kept = directory / CORPUS
    if kept.is_file():
        if kept.read_text(encoding="utf-8").strip() != fingerprint:
            raise E2RankError(
                f"{directory}: was built from another corpus or language, or the corpus has changed; remove it"
            )
        return
    searcher = lucene_searcher(str(directory))
    with_text = (document for document in corpora.documents(source) if document.title or document.text)
    for document in islice(with_text, _LOOKED_AT):
        if searcher.doc(document.docid) is None:
            raise E2RankError(f"{directory}: lacks document {document.docid} of {source}: an index of another corpus")


def _add_all(corpus: Iterable[Document], directory: Path, threads: int, language: str) -> int:
    from pyserini.index.lucene import LuceneIndexer

    count, empty = 0, 0
    arguments = ["-index", str(directory), "-storePositions", "-storeDocvectors", "-storeRaw", "-language", language]
    try:
        indexer = LuceneIndexer(args=arguments, threads=threads)
    except Exception as error:  # a name that the JVM cannot say in this locale, a folder that it may not write
        raise E2RankError(f"{directory}: Lucene could not build it: {first_line(error)}") from error
    for document in tqdm(corpus, unit=" documents", desc="bm25 index", disable=None, file=sys.stderr):
        contents = document_text(document.title, document.text)
        if not contents:
            empty += 1
            continue
        fields = {"id": document.docid, "contents": contents, "title": document.title, "text": document.text}
        indexer.add_doc_raw(json.dumps(fields))
        count += 1
    indexer.close()
    if empty:
        print(f"bm25 index: {empty} empty documents left out", file=sys.stderr)
    return count


def _take_long_queries() -> None:
    """Let a query have more than Lucene's 1,024 distinct words: BRIGHT has posts of thousands."""
    from jnius import autoclass

    autoclass("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(2**31 - 1)


def search_lucene(source: str, topics: Topics, *, hits: int, threads: int, language: str = ENGLISH) -> Run:
    """The BM25 run of `topics` over a Lucene directory or `lucene:NAME`, with Pyserini's k1 and b."""
    searcher = lucene_searcher(source)
    if language != ENGLISH:  # Lucene's own default
        searcher.set_language(language)
    searcher.set_bm25(K1, B)
    _take_long_queries()
    qids = list(topics)
    run: Run = {}
    for start in range(0, len(qids), _BATCH * threads):
        part = qids[start : start + _BATCH * threads]
        try:
            with timed("search"):
                found = searcher.batch_search([topics[qid] for qid in part], part, k=hits, threads=threads)
        except Exception as error:
            raise E2RankError(f"{source}: Lucene could not search it: {first_line(error)}") from error
        run |= {qid: [Hit(hit.docid, hit.score) for hit in found[qid]] for qid in part}
    return run
