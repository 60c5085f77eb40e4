"""Texts by docid, held against `corpus.find` and `corpus.documents`; Lucene's: tests/integration."""

import gzip
import io
import json
from pathlib import Path

import pytest

from e2rank_pyserini.corpus import documents, find
from e2rank_pyserini.serving.texts import opened_texts
from e2rank_pyserini.types import Document, E2RankError

ROWS = [
    {"_id": "007", "title": "Größe", "text": " one – “two” "},
    {"id": "b", "contents": "日本語 \U0001f600"},
    {"docid": 3, "text": "", "title": None},
]


def lines(rows: list[dict], end: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode()


def assert_like_find(source: Path) -> None:
    texts = opened_texts(str(source))
    every = {document.docid: document for document in documents(str(source))}
    assert list(texts) == list(every)
    assert len(texts) == len(every)
    for docid in reversed(list(every)):
        assert texts[docid] == find(str(source), [docid])[docid] == every[docid]
    assert "nothing" not in texts
    assert texts.get("nothing") is None


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n \n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_a_file_in_every_form(tmp_path: Path, name: str, start: bytes, end: str):
    content = start + lines(ROWS, end)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert_like_find(tmp_path / name)
    assert_like_find(tmp_path)


def test_a_last_line_without_end_and_several_files(tmp_path: Path):
    for name, rows in (("1.jsonl", ROWS[:1]), ("2.json.gz", ROWS[1:2]), ("3.jsonl", ROWS[2:])):
        content = lines(rows).rstrip()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert_like_find(tmp_path)


def test_a_collection(beir: Path):
    assert_like_find(beir)


def test_a_real_collection(shared: Path):
    source = str(shared / "cacm")
    texts = opened_texts(source)
    assert {docid: texts[docid] for docid in texts} == {document.docid: document for document in documents(source)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lines([*ROWS, ROWS[0]]), "corpus.jsonl:4: document 007 appears twice"),
        (lines(ROWS) + b"{\n", "corpus.jsonl:4: not JSON"),
        (lines(ROWS[:1]) + b'{"_id": "x", "text": "\xff"}\n', "corpus.jsonl:2: not UTF-8"),
        (b"\n \n", "the corpus is empty"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, content: bytes, said: str):
    (tmp_path / "corpus.jsonl").write_bytes(content)
    with pytest.raises(E2RankError, match=said):
        opened_texts(str(tmp_path))


def test_a_file_that_changes_below_is_noticed_and_one_that_is_replaced_stays(tmp_path: Path):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(lines(ROWS))
    texts = opened_texts(str(path))
    (tmp_path / "other").write_bytes(lines(ROWS[::-1]))
    (tmp_path / "other").rename(path)
    assert texts["b"] == Document("b", "", ROWS[1]["contents"])
    texts = opened_texts(str(path))
    path.write_bytes(lines([{**row, "_id": f"new-{n}"} for n, row in enumerate(ROWS)]))
    for docid in texts:
        with pytest.raises(E2RankError, match=rf"corpus.jsonl: document {docid}: "):
            texts[docid]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_sees_how_far_the_corpus_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool):
    (tmp_path / "corpus.jsonl").write_bytes(lines(ROWS))
    told = io.StringIO()
    monkeypatch.setattr(told, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("sys.stderr", told)
    opened_texts(str(tmp_path / "corpus.jsonl"))
    assert ("corpus.jsonl: 3 lines" in told.getvalue()) == terminal
    assert terminal or not told.getvalue()
