"""Lucene indexes as corpora: what lives in them, by the ids and texts that Lucene itself gives."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from e2rank_pyserini.cli import main
from e2rank_pyserini.corpus import documents, lucene_document, lucene_searcher, parse_document
from e2rank_pyserini.prompts import document_text
from e2rank_pyserini.pyserini.bm25 import CORPUS, build_lucene
from e2rank_pyserini.serving.texts import opened_texts
from e2rank_pyserini.types import Document, E2RankError, Hit


@pytest.fixture
def lucene(beir: Path, tmp_path: Path) -> Path:
    build_lucene(documents(str(beir)), tmp_path / "lucene", "x")
    return tmp_path / "lucene"


def test_deleted_documents_are_none_of_the_corpus(lucene: Path, beir: Path):
    from jnius import autoclass

    expected = {document.docid for document in documents(str(beir))}
    places = autoclass("java.io.File")(str(lucene)).toPath()
    writer = autoclass("org.apache.lucene.index.IndexWriter")(
        autoclass("org.apache.lucene.store.FSDirectory").open(places),
        autoclass("org.apache.lucene.index.IndexWriterConfig")(),
    )
    term = autoclass("org.apache.lucene.index.Term")("id", "007")
    writer.deleteDocuments(autoclass("org.apache.lucene.search.TermQuery")(term))
    writer.commit()
    writer.close()
    assert "007" in expected
    assert lucene_searcher(str(lucene)).num_docs == len(expected)  # which still counts it
    found = [document.docid for document in documents(str(lucene))]
    assert sorted(found) == sorted(expected - {"007"})
    texts = opened_texts(str(lucene))
    assert "007" not in texts
    assert len(texts) == len(found)
    assert list(texts) == found


@pytest.mark.parametrize(
    ("raw", "contents", "expected"),
    [
        ('{"_id": "other", "id": "d", "title": "T", "text": "a"}', "T a", Document("d", "T", "a")),
        ('{"pid": "d", "docid": "whole", "passage": "a"}', None, Document("d", "", "a")),
        ('{"title": "T", "contents": "a"}', None, Document("d", "T", "a")),
        ("<DOC><DOCNO>d</DOCNO> a </DOC>", " a ", Document("d", "", "a")),
        (None, "a", Document("d", "", "a")),
        ('{"url": "u", "body": "b"}', "T b", Document("d", "", "T b")),  # MS MARCO v2's whole documents
    ],
)
def test_a_stored_document_has_lucenes_id(raw: str | None, contents: str | None, expected: Document):
    stored = SimpleNamespace(docid=lambda: "d", raw=lambda: raw, contents=lambda: contents)
    assert lucene_document(stored, "index") == expected


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("<DOC>a</DOC>", "index: document d: its raw text is not JSON; build the index with -storeContents"),
        (None, "index: holds no texts; build it with -storeRaw"),
    ],
)
def test_a_stored_document_without_a_text_is_refused(raw: str | None, message: str):
    stored = SimpleNamespace(docid=lambda: "d", raw=lambda: raw, contents=lambda: None)
    with pytest.raises(E2RankError, match=f"^{re.escape(message)}$"):
        lucene_document(stored, "index")


@pytest.mark.parametrize(
    ("row", "docid"),
    [
        ({"_id": "b", "id": "a"}, "a"),  # as pyserini.encode takes it
        ({"docid": "b", "_id": "a"}, "a"),
        ({"id": "", "_id": "a"}, "a"),
        ({"docid": "msmarco_doc_00_0", "pid": "msmarco_passage_00_0"}, "msmarco_passage_00_0"),
        ({"docid": "msmarco_v2.1_doc_00_0#0_0"}, "msmarco_v2.1_doc_00_0#0_0"),
    ],
)
def test_of_several_ids_pyserinis_is_taken(row: dict[str, str], docid: str):
    assert parse_document(json.dumps({**row, "segment": "x"}), "here:1") == Document(docid, "", "x")


def test_another_programs_index_of_another_corpus_is_refused(
    lucene: Path, beir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    (lucene / CORPUS).unlink()  # as if Pyserini had built it
    words = ["--topics", str(beir / "queries.jsonl"), "--output", str(tmp_path / "run")]
    assert main(["bm25", "--corpus", str(beir), "--index", str(lucene), *words]) == 0
    (tmp_path / "other.jsonl").write_text('{"_id": "x1", "text": ""}\n{"_id": "x2", "text": "wing"}\n')
    capfd.readouterr()
    assert main(["bm25", "--corpus", str(tmp_path / "other.jsonl"), "--index", str(lucene), *words]) == 1
    assert f"{lucene}: lacks document x2 of {tmp_path / 'other.jsonl'}" in capfd.readouterr().err
    assert main(["bm25", "--corpus", str(lucene), "--index", str(tmp_path / "no"), *words]) == 1
    assert "is a Lucene index, which is searched itself" in capfd.readouterr().err


def test_another_language_is_analysed_as_pyserini_does(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    from jnius import autoclass

    from e2rank_pyserini.choices import ENGLISH, LANGUAGES
    from e2rank_pyserini.trec import read_run

    known = autoclass("io.anserini.analysis.AnalyzerMap").analyzerMap.keySet().toString()
    assert sorted(LANGUAGES) == sorted([*known.strip("[]").split(", "), ENGLISH])
    rows = [{"id": "d0", "contents": "un cheval national"}, {"id": "d1", "contents": "les maisons"}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "t.tsv").write_text("1\tchevaux nationaux\n")
    words = ["bm25", "--corpus", str(tmp_path / "c.jsonl"), "--topics", str(tmp_path / "t.tsv")]
    french = [*words, "--index", str(tmp_path / "fr"), "--language", "fr"]
    assert main([*french, "--output", str(tmp_path / "fr.trec")]) == 0
    theirs = lucene_searcher(str(tmp_path / "fr"))
    theirs.set_language("fr")
    (hit,) = theirs.search("chevaux nationaux")
    assert read_run(tmp_path / "fr.trec") == {"1": [(hit.docid, pytest.approx(hit.score, abs=1e-6))]}
    capfd.readouterr()
    assert main([*french[:-2], "--output", str(tmp_path / "en.trec")]) == 1
    assert "was built from another corpus or language" in capfd.readouterr().err
    assert main([*words, "--index", str(tmp_path / "en"), "--output", str(tmp_path / "en.trec")]) == 1  # no hit at all
    assert theirs.num_docs == lucene_searcher(str(tmp_path / "en")).num_docs


def test_threads_read_the_texts_of_one_searcher(lucene: Path, beir: Path):
    """pyjnius confuses the documents of two threads: what they read is read by one at a time."""
    from e2rank_pyserini.pyserini.feedback import _text

    expected = {document.docid: document_text(document.title, document.text) for document in documents(str(beir))}
    searcher = lucene_searcher(str(lucene))
    asked = [Hit(docid, 0.0) for docid in expected] * (2000 // len(expected))
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda hit: _text(searcher, hit), asked)) == [expected[hit.docid] for hit in asked]


def test_texts_by_docid_are_any_that_tell_what_they_hold():
    """pandas says a Series is no Mapping, and gives its values as attributes too."""
    pandas = pytest.importorskip("pandas")
    from e2rank_pyserini.pyserini.feedback import _text

    for texts in ({"doc": "wing"}, MappingProxyType({"doc": "wing"}), pandas.Series({"doc": "wing"})):
        assert _text(texts, Hit("doc", 0.0)) == "wing"
        with pytest.raises(E2RankError, match="document b: among the hits but not among the texts"):
            _text(texts, Hit("b", 0.0))


@pytest.mark.parametrize("texts", [["wing"], ("wing",), "wing", {"wing"}, 3, len, lambda docid: "wing"])
def test_texts_that_are_none_are_one_line(texts: Any):
    from e2rank_pyserini.pyserini.feedback import E2RankPrf, rerank_hits

    encoder = SimpleNamespace(encode_prompts=len, dim=2)
    index = SimpleNamespace(stored=lambda docids: np.ones(len(docids), bool))
    told = f"^texts: expected a mapping docid -> text or a LuceneSearcher, got {type(texts).__name__}$"
    with pytest.raises(E2RankError, match=told):
        E2RankPrf(encoder, texts)
    with pytest.raises(E2RankError, match=told):
        rerank_hits("flow", [Hit("a", 1.0)], index, encoder, texts)
