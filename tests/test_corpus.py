"""Corpora in their forms, streamed in a fixed order."""

import gzip
import json
from pathlib import Path

import pytest

from e2rank_pyserini.corpus import documents, files, find, fingerprint
from e2rank_pyserini.types import Document, E2RankError

ROWS = [
    {"_id": "007", "title": "T", "text": "one"},
    {"id": "b", "contents": "two"},
    {"docid": 3, "text": "", "title": None},
]
EXPECTED = [Document("007", "T", "one"), Document("b", "", "two"), Document("3", "", "")]


def write(path: Path, rows: list[dict]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        with gzip.open(path, "wt") as file:
            file.write(text)
    else:
        path.write_text(text)


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz"])
def test_a_file(tmp_path: Path, name: str):
    write(tmp_path / name, ROWS)
    assert list(documents(str(tmp_path / name))) == EXPECTED


def test_a_folder_is_read_by_name_and_a_beir_folder_by_its_corpus_alone(tmp_path: Path):
    for name, row in (("10.jsonl", 0), ("2.json", 2), ("1.jsonl.gz", 1)):
        write(tmp_path / name, [ROWS[row]])
    (tmp_path / "README.md").write_text("x")
    assert list(documents(str(tmp_path))) == [EXPECTED[1], EXPECTED[0], EXPECTED[2]]
    write(tmp_path / "corpus.jsonl", ROWS[:2])
    assert list(documents(str(tmp_path))) == EXPECTED[:2]


@pytest.mark.parametrize("name", ["b.jsonl.bz2", "b.JSONL", "b.ndjson", "b.jsonl.zst", "sub/b.GZ"])
def test_a_folder_is_read_whole_or_refused(tmp_path: Path, name: str):
    """Pyserini reads every .gz; what has documents and is not read would be missing without a word."""
    write(tmp_path / "a.jsonl", ROWS[:1])
    with gzip.open(tmp_path / "msmarco_passage_00.gz", "wt") as file:
        file.write(json.dumps(ROWS[1]))
    assert list(documents(str(tmp_path))) == EXPECTED[:2]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(E2RankError, match=rf"{name}: would be left out: expected corpus.jsonl or other files ending"):
        list(documents(str(tmp_path)))


def test_find_leaves_out_what_is_not_there(tmp_path: Path):
    write(tmp_path / "corpus.jsonl", ROWS)
    assert find(str(tmp_path), ["3", "nothing"]) == {"3": EXPECTED[2]}
    assert find(str(tmp_path / "not read"), []) == {}


def test_the_fingerprint_follows_the_content_size(tmp_path: Path):
    write(tmp_path / "corpus.jsonl", ROWS)
    before = fingerprint(str(tmp_path))
    assert before == fingerprint(str(tmp_path))
    write(tmp_path / "corpus.jsonl", ROWS[:2])
    assert fingerprint(str(tmp_path)) != before


@pytest.mark.parametrize(("name", "count"), [("cranfield", 1400), ("cacm", 3204), ("scifact", 5183)])
def test_real_collections_have_their_known_sizes(shared: Path, name: str, count: int):
    assert sum(1 for _ in documents(str(shared / name))) == count


def test_a_folder_is_read_with_its_sub_folders(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "a.jsonl", ROWS[:1])
    write(tmp_path / "sub" / "b.jsonl", ROWS[1:])
    assert list(documents(str(tmp_path))) == EXPECTED


def test_a_link_to_a_folder_is_followed_in_the_order_of_names(tmp_path: Path):
    corpus, elsewhere = tmp_path / "c", tmp_path / "elsewhere" / "deep"
    (corpus / "z").mkdir(parents=True)
    elsewhere.mkdir(parents=True)
    write(corpus / "z" / "1.jsonl", ROWS[:1])
    write(elsewhere / "1.jsonl", ROWS[1:2])
    write(corpus / "b.jsonl", ROWS[2:])
    before = fingerprint(str(corpus))
    (corpus / "a").symlink_to(elsewhere.parent)
    assert list(documents(str(corpus))) == [EXPECTED[1], EXPECTED[2], EXPECTED[0]]
    assert set(find(str(corpus), ["b"])) == {"b"}
    assert fingerprint(str(corpus)) != before


@pytest.mark.parametrize("target", [".", "sub", "..", "sub/round", "nowhere"])
def test_links_that_lead_round_give_each_file_once(tmp_path: Path, target: str):
    corpus = tmp_path / "c"
    (corpus / "sub").mkdir(parents=True)
    write(corpus / "a.jsonl", ROWS[:1])
    write(corpus / "sub" / "b.jsonl", ROWS[1:])
    (corpus / "sub" / "round").symlink_to(corpus)
    (corpus / "zz").symlink_to(corpus / target)
    assert list(documents(str(corpus))) == EXPECTED


def test_files_without_links_are_in_the_order_of_their_paths(tmp_path: Path):
    for name in ("b/a", "b.c/a", "b-c/a", "b/.hidden", ".h/x", "a", "Z", "b/c/d", "b/b"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / f"{name}.jsonl", ROWS)
    assert files(str(tmp_path)) == sorted(tmp_path.rglob("*.jsonl"))


def test_queries_among_documents_are_refused(tmp_path: Path):
    from e2rank_pyserini.types import E2RankError

    write(tmp_path / "docs.jsonl", ROWS)
    write(tmp_path / "queries.jsonl", ROWS[:1])
    with pytest.raises(E2RankError, match=r"queries\.jsonl: queries in a folder of documents"):
        list(documents(str(tmp_path)))


def test_a_key_that_stands_twice_is_an_error(tmp_path: Path):
    (tmp_path / "x.jsonl").write_text('{"_id": "1", "text": "a"}\n{"_id": "2", "text": "a", "text": "b"}\n')
    with pytest.raises(E2RankError, match=r"x\.jsonl:2: not JSON: 'text' appears twice in one object"):
        list(documents(str(tmp_path / "x.jsonl")))


def test_of_two_texts_beirs_comes_first_and_blanks_around_it_go(tmp_path: Path):
    write(tmp_path / "c.jsonl", [{"_id": "1", "title": " T ", "text": " one\n", "contents": "T one"}])
    assert list(documents(str(tmp_path / "c.jsonl"))) == [Document("1", "T", "one")]
