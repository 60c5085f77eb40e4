"""Runs, topics and qrels: what is written can be read, and trec_eval sees the order that we wrote."""

import csv
import gzip
import json
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2rank_pyserini.topics import read_topics
from e2rank_pyserini.trec import read_qrels, read_run, write_run
from e2rank_pyserini.types import E2RankError, Hit
from tests.faults.limits import within

SCORES = st.lists(st.floats(-1e3, 1e3, allow_nan=False), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None)
@given(SCORES)
def test_written_scores_strictly_decrease_even_in_float32(
    tmp_path_factory: pytest.TempPathFactory, scores: list[float]
):
    path = tmp_path_factory.mktemp("run") / "x.trec"
    ordered = sorted(scores, reverse=True)
    write_run(path, {"1": [Hit(f"d{n}", score) for n, score in enumerate(ordered)]}, "t")
    rows = [line.split() for line in path.read_text().splitlines()]
    written = np.array([float(row[4]) for row in rows], dtype=np.float32)
    assert (np.diff(written) < 0).all()
    assert [row[3] for row in rows] == [str(rank) for rank in range(1, len(rows) + 1)]
    assert [hit.docid for hit in read_run(path)["1"]] == [f"d{n}" for n in range(len(rows))]


def test_distinct_scores_are_printed_unchanged(tmp_path: Path):
    write_run(tmp_path / "r", {"q": [Hit("a", 0.9), Hit("b", 0.8999), Hit("c", -0.5)]}, "tag")
    assert (tmp_path / "r").read_text() == ("q Q0 a 1 0.900000 tag\nq Q0 b 2 0.899900 tag\nq Q0 c 3 -0.500000 tag\n")


def test_ids_are_untouched_and_ties_follow_the_rank_column(tmp_path: Path):
    (tmp_path / "r").write_text("007 Q0 0012 2 1.5 x\n007 Q0 http://a/b#c 1 1.5 x\n\n008 Q0 z 9 3 x\n")
    assert read_run(tmp_path / "r") == {"007": [Hit("http://a/b#c", 1.5), Hit("0012", 1.5)], "008": [Hit("z", 3.0)]}


def test_the_score_outranks_the_rank_column(tmp_path: Path):
    """trec_eval sorts by score; a run whose ranks disagree is read as trec_eval reads it."""
    (tmp_path / "r").write_text("1 Q0 a 1 0.1 x\n1 Q0 b 2 0.2 x\n")
    assert [hit.docid for hit in read_run(tmp_path / "r")["1"]] == ["b", "a"]


@pytest.mark.parametrize(
    ("qid", "docids", "tag", "told"),
    [
        ("q 1", "a", "t", "expected a query id without blanks, got 'q 1'"),
        ("q", ["a b"], "t", "expected a docid without blanks, got 'a b'"),
        ("q", ["a", ""], "t", "expected a docid without blanks, got ''"),
        ("q", "a", "my tag", "expected a tag without blanks, got 'my tag'"),
        ("q", "a", "", "expected a tag without blanks, got ''"),
        ("q", "aba", "t", "query q: a document appears twice"),
        ("q", [7], "t", "expected a docid as text, got 7"),
        (7, "a", "t", "expected a query id as text, got 7"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(
    tmp_path: Path, qid: str, docids: Sequence[str], tag: str, told: str
):
    with pytest.raises(E2RankError, match=re.escape(f"r.trec: {told}")):
        write_run(tmp_path / "r.trec", {qid: [Hit(docid, 1.0) for docid in docids]}, tag)
    assert not list(tmp_path.iterdir())


def test_numpys_scores_are_numbers_and_too_large_ones_are_refused(tmp_path: Path):
    write_run(tmp_path / "r", {"q": [Hit("a", np.float32(0.75)), Hit("b", np.float16(0.5))]}, "t")
    assert read_run(tmp_path / "r") == {"q": [Hit("a", 0.75), Hit("b", 0.5)]}
    with pytest.raises(E2RankError, match=r"query q: document a: expected a score of at most 1e\+38"):
        write_run(tmp_path / "r", {"q": [Hit("a", 1e39)]}, "t")


def test_names_of_files_may_be_text(tmp_path: Path):
    write_run(f"{tmp_path}/r", {"q": [Hit("a", 1.0)]}, "t")
    (tmp_path / "t").write_text("q\twing\n")
    (tmp_path / "j").write_text("q 0 a 1\n")
    assert read_run(f"{tmp_path}/r") == {"q": [Hit("a", 1.0)]}
    assert read_topics(f"{tmp_path}/t") == {"q": "wing"}
    assert read_qrels(f"{tmp_path}/j") == {"q": {"a": 1}}


def test_a_failed_write_leaves_the_old_run(tmp_path: Path):
    path = tmp_path / "r"
    write_run(path, {"q": [Hit("a", 1.0)]}, "t")
    with pytest.raises(E2RankError, match="query q: document b: expected a finite score, got nan"):
        write_run(path, {"q": [Hit("a", 1.0), Hit("b", float("nan"))]}, "t")
    before = path.read_bytes()

    def hits():
        yield Hit("a", 1.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_run(path, {"q": hits()}, "t")  # type: ignore[dict-item]
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_is_packed_where_its_name_says_so(tmp_path: Path):
    run = {"q": [Hit("ä", 2.0), Hit("b", 1.0)], "r": [Hit("c", 0.5)]}
    for path in (tmp_path / "a.trec.gz", tmp_path / "b.trec.gz", tmp_path / "c.trec"):
        write_run(path, run, "t")
    assert (
        subprocess.run(["gzip", "-dc", tmp_path / "a.trec.gz"], capture_output=True, check=True).stdout
        == (tmp_path / "c.trec").read_bytes()
    )
    assert (tmp_path / "a.trec.gz").read_bytes() == (tmp_path / "b.trec.gz").read_bytes()
    assert read_run(tmp_path / "a.trec.gz") == run


@pytest.mark.parametrize("name", ["r.trec", "r.trec.gz"])
def test_a_text_that_cannot_be_encoded_leaves_nothing(tmp_path: Path, name: str):
    with pytest.raises(E2RankError, match=r"r\.trec(\.gz)?: expected a docid as text, got '\\ud800'"):
        write_run(tmp_path / name, {"q": [Hit("a", 1.0), Hit("\ud800", 0.5)]}, "t")
    assert list(tmp_path.iterdir()) == []


FORMATS = {
    "tsv": "007\twhat is it\nq-2\tsecond  query\n",
    "beir jsonl": '{"_id": "007", "text": "what is it"}\n{"_id": "q-2", "text": "second  query"}\n',
    "pyserini jsonl": '{"qid": "007", "title": "what is it"}\n{"qid": "q-2", "title": "second  query"}\n',
    "pyserini json": json.dumps({"007": {"title": "what is it"}, "q-2": {"title": "second  query"}}),
    "trec": "<top>\n<num> Number: 007\n<title> what is it\n<desc> D\n</top>\n"
    "<top><num>q-2</num><title>second  query</title></top>",
    "beir with titles": '{"_id": "007", "title": "help", "text": "what is it"}\n'
    '{"_id": "q-2", "title": "second query", "text": ""}\n',
    "trec with attributes (FIRE)": '<topics>\n<top lang="en">\n<num>007</num>\n<title>what is it</title>\n</top>\n'
    "<top>\n<num>q-2</num>\n<title>second query</title>\n</top>\n</topics>\n",
    "tsv with a header": "\n Query ID\tquery\n007\twhat is it\nq-2\tsecond query\n",
    "web xml": '<topics><topic number="007" type="x"><query>what is it</query><question>Q</question></topic>\n'
    '<topic number="q-2"><query>second  query</query></topic></topics>',
    "cacm": "<DOC>\n<DOCNO> 007 </DOCNO>\nwhat is it\n</DOC>\n<DOC>\n<DOCNO>q-2</DOCNO>\nsecond  query\n</DOC>\n",
}


@pytest.mark.parametrize("form", FORMATS)
def test_topics_in_every_form(tmp_path: Path, form: str):
    (tmp_path / "topics").write_text(FORMATS[form])
    with gzip.open(tmp_path / "topics.gz", "wt") as file:
        file.write(FORMATS[form])
    for path in (tmp_path / "topics", tmp_path / "topics.gz"):
        topics = read_topics(path)
        assert {qid: " ".join(query.split()) for qid, query in topics.items()} == {
            "007": "what is it",
            "q-2": "second query",
        }
        assert list(topics) == ["007", "q-2"]


@pytest.mark.parametrize(
    ("content", "topics"),
    [
        ("<top>\n<num> 1\n<title> effect of Mach < 0.3 on drag\n</top>", {"1": "effect of Mach < 0.3 on drag"}),
        ("<top><num>1</num><title>p<0.05, <3 and x <y</title></top>", {"1": "p<0.05, <3 and x <y"}),
        ("<top>\n<num> 1\n<title> a <\n<desc> D\n</top>", {"1": "a <"}),
        ('<top>\n<num> 1\n<title> a\n<desc lang="en"> D\n</top>', {"1": "a"}),
        ("<top>\n<num> Number : 5\n<title> a\n</top>\n<top>\n<num>Number :6\n<title> b\n</top>", {"5": "a", "6": "b"}),
    ],
)
def test_trec_topics_as_they_are_typed(tmp_path: Path, content: str, topics: dict[str, str]):
    (tmp_path / "x").write_text(content)
    assert read_topics(tmp_path / "x") == topics


def test_qrels_of_both_forms(tmp_path: Path):
    (tmp_path / "trec").write_text("007 0 d1 2\n007 Q0 d2 0\n1 0 d1 -1\n")
    (tmp_path / "beir").write_text("query-id\tcorpus-id\tscore\n007\td1\t2\n007\td2\t0\n1\td1\t-1\n")
    expected = {"007": {"d1": 2, "d2": 0}, "1": {"d1": -1}}
    assert read_qrels(tmp_path / "trec") == expected
    assert read_qrels(tmp_path / "beir") == expected


def test_beirs_qrels_are_csv(tmp_path: Path):
    """As BEIR's own loader reads them."""
    with (tmp_path / "q.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(
            [("query-id", "corpus-id", "score"), ("q", '<dbpedia:"Heroes">', 1), ("q", '"open', 2), ("q", "x", 0)]
        )
    assert read_qrels(tmp_path / "q.tsv") == {"q": {'<dbpedia:"Heroes">': 1, '"open': 2, "x": 0}}


def test_what_csv_does_not_take_is_one_line(tmp_path: Path):
    (tmp_path / "q.tsv").write_text('query-id\tcorpus-id\tscore\nq\t"long"\t1\n')
    limit = csv.field_size_limit(3)
    try:
        with pytest.raises(E2RankError, match=r"q.tsv:2: not csv: field larger than field limit \(3\)"):
            read_qrels(tmp_path / "q.tsv")
    finally:
        csv.field_size_limit(limit)


@pytest.mark.parametrize("word", ["a\0b", "\ufeffa"])
def test_a_word_that_others_read_otherwise_is_refused(tmp_path: Path, word: str):
    """C's strings end at NUL; a byte order mark before a word is dropped by readers of files, and by jnius."""
    for run in ({word: [Hit("a", 1.0)]}, {"q": [Hit(word, 1.0)]}):
        with pytest.raises(E2RankError, match="without NUL or a byte order mark before it"):
            write_run(tmp_path / "r", run, "t")
    (tmp_path / "t").write_text(f"1\tx\n{word}\ty\n")
    with pytest.raises(E2RankError, match="t:2: expected a query id without NUL or a byte order mark"):
        read_topics(tmp_path / "t")


def complaint_of(read: Callable[[Path], object], path: Path) -> str | None:
    try:
        read(path)
    except E2RankError as error:
        return str(error)
    return None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_reader_fails_in_any_other_way(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    path = tmp_path_factory.mktemp("fuzz") / "x"
    path.write_bytes(content)
    for read in (read_run, read_topics, read_qrels):
        complaint = complaint_of(read, path)
        assert complaint is None or (str(path) in complaint and "\n" not in complaint)


def test_a_link_is_written_through(tmp_path: Path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_run(tmp_path / "link", {"q": [Hit("a", 1.0)]}, "t")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text().startswith("q Q0 a")


def test_a_device_is_refused(tmp_path: Path):
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(E2RankError, match="it is no file"):
        write_run(tmp_path / "pipe", {"q": [Hit("a", 1.0)]}, "t")


@pytest.mark.parametrize(
    "head",
    [
        "query-id\tquery",
        "id\ttext",
        "query_id\tquery",
        "Topic\tquery",
        "topic_id\ttitle",
        '"qid"\t"text"',
        "#qid\ttext",
    ],
)
def test_a_tsv_header_is_no_topic(tmp_path: Path, head: str):
    (tmp_path / "t").write_text(f"{head}\n7\twing\n")
    assert read_topics(tmp_path / "t") == {"7": "wing"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("q 0 d 1\nq 0 1\n", "x:2: expected 4 columns as in the lines before, got 3"),
        ("query-id\tcorpus-id\tscore\nq d 1\nq 0 d 1\n", "x:3: expected 3 columns as in the lines before, got 4"),
        ("query-id\tcorpus-id\tscore\nq\ta docid\t1\n", "x:2: expected 3 columns as in the lines before, got 4"),
        ('query-id\tcorpus-id\tscore\nq\t"open\t1\n', "x:2: expected a column without blanks, got 'open.t1'"),
        ('query-id\tcorpus-id\tscore\nq\t"a docid"\t1\n', "x:2: expected a column without blanks, got 'a docid'"),
    ],
)
def test_qrels_that_have_lost_a_column_are_refused(tmp_path: Path, content: str, told: str):
    (tmp_path / "x").write_text(content)
    with pytest.raises(E2RankError, match=told):
        read_qrels(tmp_path / "x")


def test_ranks_are_no_grades(tmp_path: Path):
    """MS MARCO's runs have three columns as BEIR's qrels do."""
    lines = [f"{qid}\td{rank}\t{rank}\n" for qid in (1, 2) for rank in range(1, 6)]
    (tmp_path / "x").write_text("".join(lines))
    with pytest.raises(
        E2RankError, match=r"x: its third column counts 1, 2, 3, … for every query, as a run of MS MARCO"
    ):
        read_qrels(tmp_path / "x")
    for sound in (["query-id\tcorpus-id\tscore\n", *lines], [*lines, "3\td\t0\n"], lines[:4], [lines[0], lines[5]]):
        (tmp_path / "x").write_text("".join(sound))
        assert read_qrels(tmp_path / "x")["1"]["d1"] == 1


TOP = "<top>\n<num> {0}\n<title> query {0}\n</top>\n"
DOC = "<DOC>\n<DOCNO>{0}</DOCNO>\nquery {0}\n</DOC>\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (TOP.format(1) + TOP.format(2).replace("<top>", "<tqp>"), "x:1: expected one <num> in a <top>, got more"),
        (TOP.format(1).replace("<top>", "<tqp>") + TOP.format(2), "x:5: expected one <num> in a <top>, got more"),
        (TOP.format(1).replace("</top>\n", "") + TOP.format(2).replace("<top>", ""), "x:1: expected one <num>"),
        (DOC.format(1) + DOC.format(2).replace("<DOC>", "<D0C>"), "x:1: expected one <DOCNO> in a <DOC>, got more"),
        (
            '<t><topic number="1"><query>a</query>\n<query>b</query></topic></t>',
            "x:2: expected one <query> in a <topic>, got more",
        ),
        (
            '<t><topic number="1">\n<title>a</title>\n<title/></topic></t>',
            "x:3: expected one <title> in a <topic>, got more",
        ),
        ('{"1": {"title": "a", "title": "b"}}', "x: topic 1: 'title' appears twice in one object"),
        ('{"_id": "1", "text": "a", "text": "b"}', "x:1: not JSON: 'text' appears twice in one object"),
    ],
)
def test_a_topic_that_would_be_lost_is_an_error(tmp_path: Path, content: str, told: str):
    (tmp_path / "x").write_text(content)
    with pytest.raises(E2RankError, match=re.escape(told)):
        read_topics(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "query"),
    [
        (f"<top>\n<num> 1\n<title> a{' ' * 300_000}b\n</top>", "a b"),
        (f"<top>\n<num>{' ' * 300_000}1\n<title> Topic: a b <desc>\n</top>", "a b"),
        (f"<top>\n<num> Number{' ' * 300_000}: 1\n<title> {'<' * 300_000}a\n</top>", "<" * 300_000 + "a"),
        (f"<top>\n<num> 1\n<title> {'<a' * 300_000}{' ' * 300_000}\n</top>", "<a" * 300_000),
        ("<t><topic number='1'><query>" + "a\n" * 300_000 + "</query></topic></t>", " ".join("a" * 300_000)),
    ],
)
def test_long_topics_are_read_once(tmp_path: Path, content: str, query: str):
    (tmp_path / "x").write_text(content)
    with within(5, "a long topic"):
        assert read_topics(tmp_path / "x") == {"1": query}


def test_entities_that_multiply_are_refused(tmp_path: Path):
    entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9))
    (tmp_path / "x").write_text(
        f'<!DOCTYPE t [<!ENTITY e0 "ha">{entities}]><topic number="1"><query>&e9;</query></topic>'
    )
    with within(5, "entities"), pytest.raises(E2RankError, match="x:1: not XML: limit on input amplification"):
        read_topics(tmp_path / "x")


def test_a_score_is_written_as_the_nearest_printed_one(tmp_path: Path):
    write_run(tmp_path / "r", {"q": [Hit("a", float(np.float32(0.29))), Hit("b", -0.2999999)]}, "t")
    assert [line.split()[4] for line in (tmp_path / "r").read_text().splitlines()] == ["0.290000", "-0.300000"]


@pytest.mark.parametrize("score", [20.0, 200.0, 900.0, 262144.078125, -16777217.0])
def test_many_ties_stay_apart_in_float32(tmp_path: Path, score: float):
    write_run(tmp_path / "r", {"q": [Hit(f"d{n}", score) for n in range(200)]}, "t")
    written = [float(line.split()[4]) for line in (tmp_path / "r").read_text().splitlines()]
    assert (np.diff(np.array(written, dtype=np.float32)) < 0).all()


def test_a_packed_run_notes_no_time(tmp_path: Path):
    write_run(tmp_path / "r.gz", {"q": [Hit("a", 1.0)]}, "t")
    assert (tmp_path / "r.gz").read_bytes()[4:8] == bytes(4)  # RFC 1952: MTIME


def test_a_tsv_has_its_query_in_the_second_column(tmp_path: Path):
    (tmp_path / "t").write_text("7\t wing \tits description\nid\tflow\n")  # a header is the first line alone
    assert read_topics(tmp_path / "t") == {"7": "wing", "id": "flow"}


def test_an_xml_topic_of_both_kinds_is_its_query_with_what_is_marked_in_it(tmp_path: Path):
    topic = '<topic number="1"><title>a title</title><query>wing <b>flow</b> x</query></topic>'
    (tmp_path / "t").write_text(f"<t>{topic}</t>")
    assert read_topics(tmp_path / "t") == {"1": "wing flow x"}


def test_of_two_fields_the_one_that_is_not_blank_is_the_query(tmp_path: Path):
    (tmp_path / "t").write_text('{"_id": "1", "title": " ", "text": "wing"}\n')
    assert read_topics(tmp_path / "t") == {"1": "wing"}


def test_true_is_no_query(tmp_path: Path):
    (tmp_path / "t").write_text('{"_id": true, "text": "wing"}\n')
    with pytest.raises(E2RankError, match="t:1: expected one of the fields _id"):
        read_topics(tmp_path / "t")


def test_only_the_topics_asked_for_are_read(tmp_path: Path):
    (tmp_path / "t").write_text("1\twing\n2\t \n3\tflow\n")
    assert read_topics(tmp_path / "t", {"1", "4"}) == {"1": "wing"}


def test_a_json_topic_is_known_by_its_title_and_beirs_id(tmp_path: Path):
    (tmp_path / "t").write_text('{"7": {"title": "wing", "text": "longer"}}')
    assert read_topics(tmp_path / "t") == {"7": "wing"}
    (tmp_path / "t").write_text('{"id": "other", "_id": "7", "text": "wing"}\n')
    assert read_topics(tmp_path / "t") == {"7": "wing"}


def test_digits_that_trec_eval_does_not_know_are_no_score(tmp_path: Path):
    (tmp_path / "r").write_text("q1 Q0 d 1 \u0663 t\n", encoding="utf-8")
    with pytest.raises(E2RankError, match=r"r:1: expected a finite score, got '\u0663'"):
        read_run(tmp_path / "r")


def test_a_score_too_low_for_float32_is_refused(tmp_path: Path):
    (tmp_path / "r").write_text("1 Q0 a 1 -1e39 x\n")
    with pytest.raises(E2RankError, match="r:1: expected a score of at most 1e\\+38"):
        read_run(tmp_path / "r")
