"""Runs and qrels in other programs' forms: what goes there and back is the same, to ir-measures too."""

import csv
import gzip
import json
import os
import shutil
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, MRR, nDCG

from e2rank_pyserini.cli import main
from e2rank_pyserini.forms import in_order, qrels_of, run_of, tell, untied
from e2rank_pyserini.topics import read_topics
from e2rank_pyserini.trec import read_qrels, read_run
from e2rank_pyserini.types import E2RankError, Hit

SCORES = st.lists(st.floats(-1e38, 1e38, allow_nan=False), min_size=1, max_size=40)
TREC = "007 Q0 d1 1 2.123456789012345 x\n007 Q0 0012 2 1e-07 x\n8 Q0 http://a/b#c 1 -3 x\n"
RANX = {"007": {"d1": 2.123456789012345, "0012": 1e-07}, "8": {"http://a/b#c": -3.0}}


def convert(*words: object) -> None:
    assert main(["convert", *map(str, words)]) == 0


@settings(max_examples=200, deadline=None)
@given(SCORES)
def test_ties_are_lowered_and_nothing_else_is_touched(scores: list[float]):
    listed = {"q": [Hit(str(number), score) for number, score in enumerate(scores)]}
    ordered = in_order(listed)["q"]
    assert [hit.score for hit in ordered] == sorted(scores, reverse=True)
    strict = untied({"q": ordered})["q"]
    assert [hit.docid for hit in strict] == [hit.docid for hit in ordered]
    seen = np.array([hit.score for hit in strict], dtype=np.float32)
    assert (np.diff(seen) < 0).all()
    for before, old, new in zip([None, *strict], ordered, strict, strict=False):
        free = before is None or np.float32(old.score) < np.float32(before.score)
        assert (new.score == old.score) == free


def test_a_run_goes_through_every_form_and_comes_back(tmp_path: Path):
    (tmp_path / "a.trec").write_text(TREC)
    convert(tmp_path / "a.trec", "--output", tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == RANX
    assert '"8": {\n    "http://a/b#c": -3.0\n  }' in (tmp_path / "a.json").read_text()  # a point: a run, not qrels
    convert(tmp_path / "a.json", "--output", tmp_path / "b.trec")
    assert read_run(tmp_path / "b.trec") == read_run(tmp_path / "a.trec")
    assert (tmp_path / "b.trec").read_text().startswith("007 Q0 d1 1 2.123456789012345 a\n007 Q0 0012 2 1e-07 a\n")
    with gzip.open(tmp_path / "a.json.gz", "wt") as file:
        json.dump(RANX, file)  # on one line, as json writes it
    convert(tmp_path / "a.json.gz", "--output", tmp_path / "c", "--to", "trec")
    assert (tmp_path / "c").read_bytes() == (tmp_path / "b.trec").read_bytes()


def test_ir_measures_sees_the_same_run_in_every_form(toy_run: Path, beir: Path, tmp_path: Path):
    """Read by ir-measures itself, from TREC and as the dict of dicts; scores as they are and all of them tied."""
    tied = "".join(f"{' '.join(line.split()[:4])} 1 x\n" for line in toy_run.read_text().splitlines())
    (tmp_path / "tied.trec").write_text(tied)
    convert(beir / "qrels" / "test.tsv", "--output", tmp_path / "qrels.trec", "--kind", "qrels")
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.trec")))
    measures = [nDCG @ 10, AP, MRR]
    expected = ir_measures.calc_aggregate(measures, qrels, ir_measures.read_trec_run(str(toy_run)))
    for source in (toy_run, tmp_path / "tied.trec"):  # the ranks of the tied run say what its scores do not
        convert(source, "--output", tmp_path / "x.json")
        convert(tmp_path / "x.json", "--output", tmp_path / "y.trec")
        for run in (json.loads((tmp_path / "x.json").read_text()), ir_measures.read_trec_run(str(tmp_path / "y.trec"))):
            assert ir_measures.calc_aggregate(measures, qrels, run) == expected
    with_ties = ir_measures.calc_aggregate(measures, qrels, ir_measures.read_trec_run(str(tmp_path / "tied.trec")))
    assert with_ties != expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "a", "a b", "\ud800", "7"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["query", "candidates", "qid", "docid", "score", "7", "", "\ud800"]), inner)
    ),
    max_leaves=12,
)


def complaint_of(path: Path, kind: str | None) -> str | None:
    try:
        form, found = tell(path, kind)
        (run_of if found == "run" else qrels_of)(path, form)
    except E2RankError as error:
        return str(error)
    return None


@settings(max_examples=300, deadline=None)
@given(st.lists(JSON, max_size=3), st.sampled_from(["run", "qrels", None]))
def test_no_json_fails_in_any_other_way(tmp_path_factory: pytest.TempPathFactory, rows: list, kind: str | None):
    path = tmp_path_factory.mktemp("fuzz") / "x"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    complaint = complaint_of(path, kind)
    assert complaint is None or (complaint.startswith(str(path)) and "\n" not in complaint)


def test_lowered_scores_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.trec").write_text("1 Q0 a 2 5 x\n1 Q0 b 1 5 x\n1 Q0 c 3 5 x\n2 Q0 a 1 5 x\n")
    convert(tmp_path / "a.trec", "--output", tmp_path / "a.json")
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith(f"{tmp_path}/a.trec: 2 scores lowered by the least step")
    assert told[1].startswith(f"run, trec -> ranx: 2 topics, 4 hits -> {tmp_path}/a.json (")
    assert list(json.loads((tmp_path / "a.json").read_text())["1"]) == ["b", "a", "c"]


# --- rank_llm: its requests and results as its data.py writes them ----------------------------------------------------

REQUESTS = [
    {
        "query": {"text": "what is it", "qid": "007"},
        "candidates": [
            {"docid": "d1", "score": 9.25, "doc": {"_id": "d1", "title": "", "text": "x", "metadata": {}}},
            {"docid": 12, "score": 9, "doc": {"id": "12", "contents": "y"}},
        ],
    },
    {"query": {"text": "second", "qid": 8}, "candidates": [{"docid": "d1", "score": 0.1, "doc": {"segment": "z"}}]},
    {"query": {"text": "third", "qid": 9}, "candidates": []},
]
LINES = "".join(json.dumps(row) + "\n" for row in REQUESTS)


@pytest.mark.parametrize("content", [LINES, json.dumps(REQUESTS, indent=2)], ids=["jsonl", "json"])
def test_requests_of_rank_llm_become_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str):
    (tmp_path / "retrieve_results_dl19_top2").write_text(content)
    convert(tmp_path / "retrieve_results_dl19_top2", "--output", tmp_path / "x.trec")
    assert (tmp_path / "x.trec").read_text() == (
        "007 Q0 d1 1 9.25 retrieve_results_dl19_top2\n007 Q0 12 2 9.0 retrieve_results_dl19_top2\n"
        "8 Q0 d1 1 0.1 retrieve_results_dl19_top2\n"
    )
    assert "1 queries without hits left out" in capsys.readouterr().err


def test_reranked_results_go_by_score_and_then_by_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """As in the TREC run that rank_llm writes of the same results, its ranks breaking the ties."""
    scores = [("a", 2), ("b", 2), ("c", 3), ("d", 1)]
    candidates = [{"docid": docid, "score": score, "doc": {}} for docid, score in scores]
    (tmp_path / "x.jsonl").write_text(json.dumps({"query": {"text": "t", "qid": "1"}, "candidates": candidates}))
    convert(tmp_path / "x.jsonl", "--output", tmp_path / "ours.trec")
    (tmp_path / "theirs.trec").write_text(
        "".join(f"1 Q0 {docid} {rank} {score} rank_llm\n" for rank, (docid, score) in enumerate(scores, start=1))
    )
    order = [hit.docid for hit in read_run(tmp_path / "ours.trec")["1"]]
    assert order == [hit.docid for hit in read_run(tmp_path / "theirs.trec")["1"]] == ["c", "a", "b", "d"]
    assert "1 queries whose candidates do not stand in the order of their scores" in capsys.readouterr().err


def test_an_output_replaces_nothing_that_is_read(toy_run: Path, beir: Path, tmp_path: Path, capsys):
    run, corpus, topics = (
        Path(shutil.copy(path, tmp_path / path.name))
        for path in (toy_run, beir / "corpus.jsonl", beir / "queries.jsonl")
    )
    for output, named, more in (
        (run, "INPUT", ("--to", "ranx")),
        (corpus, "--corpus", ("--topics", topics, "--corpus", corpus)),
        (topics, "--topics", ("--topics", topics, "--corpus", corpus)),
    ):
        before = output.read_bytes()
        assert main(["convert", *map(str, (run, "--output", output, *more))]) == 1
        told = f"e2rank convert: {output}: is what {named} reads; choose another name\n"
        assert capsys.readouterr().err == told
        assert output.read_bytes() == before


def test_a_run_becomes_requests_and_comes_back(toy_run: Path, beir: Path, tmp_path: Path):
    convert(toy_run, "--output", tmp_path / "x.jsonl", "--dataset", beir)
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    topics = read_topics(beir / "queries.jsonl")
    assert [row["query"] for row in rows] == [{"text": text, "qid": qid} for qid, text in topics.items()]
    corpus = {row["_id"]: row for row in map(json.loads, (beir / "corpus.jsonl").read_text().splitlines())}
    for candidate in (candidate for row in rows for candidate in row["candidates"]):
        document = corpus[candidate["docid"]]
        assert candidate["doc"] == {"title": document["title"], "text": document["text"]}
        assert list(candidate) == ["docid", "score", "doc"]
        assert type(candidate["score"]) is float
    convert(tmp_path / "x.jsonl", "--output", tmp_path / "x.trec")
    assert read_run(tmp_path / "x.trec") == read_run(toy_run)


def test_requests_keep_ties(beir: Path, tmp_path: Path):
    (tmp_path / "a.trec").write_text("007 Q0 001 2 5 x\n007 Q0 002 1 5 x\n")
    parts = ["--topics", beir / "queries.jsonl", "--corpus", beir / "corpus.jsonl"]
    convert(tmp_path / "a.trec", "--output", tmp_path / "a.jsonl", *parts)
    candidates = json.loads((tmp_path / "a.jsonl").read_text())["candidates"]
    assert [(one["docid"], one["score"]) for one in candidates] == [("002", 5.0), ("001", 5.0)]


# --- qrels ------------------------------------------------------------------------------------------------------------


def test_qrels_go_through_every_form_and_come_back(tmp_path: Path):
    (tmp_path / "a.txt").write_text("007 0 d1 2\n007 0 0012 0\n8 0 d1 -1\n")
    convert(tmp_path / "a.txt", "--output", tmp_path / "a.json")
    expected = {"007": {"d1": 2, "0012": 0}, "8": {"d1": -1}}
    assert json.loads((tmp_path / "a.json").read_text()) == expected
    convert(tmp_path / "a.json", "--output", tmp_path / "a.tsv")
    assert (tmp_path / "a.tsv").read_text() == "query-id\tcorpus-id\tscore\n007\td1\t2\n007\t0012\t0\n8\td1\t-1\n"
    convert(tmp_path / "a.tsv", "--output", tmp_path / "b.trec")
    assert (tmp_path / "b.trec").read_text() == (tmp_path / "a.txt").read_text()
    assert {
        (one.query_id, one.doc_id): one.relevance for one in ir_measures.read_trec_qrels(str(tmp_path / "b.trec"))
    } == {(qid, docid): grade for qid, judged in expected.items() for docid, grade in judged.items()}
    convert(tmp_path / "a.json", "--output", tmp_path / "c.trec", "--kind", "qrels")
    assert read_qrels(tmp_path / "c.trec") == expected


def test_beirs_loader_reads_the_docids_that_were_written(tmp_path: Path):
    (tmp_path / "a.txt").write_text('q 0 "open 1\nq 0 doc"mid 0\nq 0 x 2\n')
    convert(tmp_path / "a.txt", "--output", tmp_path / "a.tsv")
    with (tmp_path / "a.tsv").open(newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_MINIMAL))
    assert rows[1:] == [["q", '"open', "1"], ["q", 'doc"mid', "0"], ["q", "x", "2"]]
    assert read_qrels(tmp_path / "a.tsv") == read_qrels(tmp_path / "a.txt")


def test_a_pipe_which_can_be_read_once_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    os.mkfifo(tmp_path / "pipe")
    assert main(["convert", str(tmp_path / "pipe"), "--output", str(tmp_path / "o.json")]) == 1
    assert capsys.readouterr().err.endswith("pipe: expected a file, which can be read twice, got a pipe\n")


def test_words_of_one_form_may_be_ids_of_another(tmp_path: Path):
    """A qid in brackets, and qids that are keys of rank_llm's requests."""
    (tmp_path / "a.trec").write_text("[1] Q0 d1 1 2.0 t\n[1] Q0 d2 2 1.5 t\n")
    convert(tmp_path / "a.trec", "--output", tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"[1]": {"d1": 2.0, "d2": 1.5}}
    scores = {"query": {"d1": 1.5}, "candidates": {"d2": 0.5, "d3": 0.25}}
    (tmp_path / "b.json").write_text(json.dumps(scores))
    convert(tmp_path / "b.json", "--output", tmp_path / "b.trec")
    assert {qid: dict(hits) for qid, hits in read_run(tmp_path / "b.trec").items()} == scores
