"""`e2rank data`: lists and pairs worked out by hand, every kind of label, and what is refused or dropped."""

import fcntl
import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from e2rank_pyserini.cli import _parser, main
from e2rank_pyserini.commands.inputs import retrieval_task
from e2rank_pyserini.datasets import dataset
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.prompts import RETRIEVAL_TASK
from e2rank_pyserini.training import making
from e2rank_pyserini.training.endpoint import Endpoint, orders
from e2rank_pyserini.training.labelling import _pair_length, by_cross_encoder, by_encoder, combined, distinct, levels
from e2rank_pyserini.training.mining import Draw, draw_lists, draw_pairs
from e2rank_pyserini.types import E2RankError, Hit
from tests.conftest import sentences
from tests.reference import plain

# Document dN says "flow … flow" N times. Topics: a has grades on d2 (2), d4 (1) and d5 (0), b on d9 (1), which no run
# has, c none.
DOCS = {f"d{n}": " ".join(["flow"] * n) for n in range(1, 10)}
GRADES = [("a", "d2", 2), ("a", "d4", 1), ("a", "d5", 0), ("b", "d9", 1)]
FIRST = {"a": "d1 d2 d3 d4 d5 d6 d7 d8", "b": "d3 d1 d2", "c": "d1 d2"}
SCORES = {"a": {"d2": 1.0, "d1": 5.0, "d4": 3.0}, "b": {}, "c": {"d2": 1.0, "d1": 1.0}}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A BEIR folder with a first stage `first.trec` and another run `other.trec`."""
    place = tmp_path / "toy"
    (place / "qrels").mkdir(parents=True)
    rows = [{"_id": docid, "title": "", "text": text} for docid, text in DOCS.items()]
    (place / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = [{"_id": qid, "text": f"query {qid}"} for qid in "abc"]
    (place / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    lines = ["query-id\tcorpus-id\tscore", *(f"{qid}\t{docid}\t{grade}" for qid, docid, grade in GRADES)]
    (place / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    first = {qid: {docid: -rank for rank, docid in enumerate(docids.split())} for qid, docids in FIRST.items()}
    for name, run in (("first", first), ("other", SCORES)):
        hits = [f"{qid} Q0 {docid} 1 {score} x" for qid, found in run.items() for docid, score in found.items()]
        (place / f"{name}.trec").write_text("\n".join(hits) + "\n")
    return place


Make = Callable[..., list[dict[str, Any]]]


def test_queries_are_encoded_as_search_encodes_them(tiny_index: Path):
    """BRIGHT's to their own length, as far as the model's prompt goes; each under the task that is asked for."""
    named = dataset("bright-biology")
    line = f"data --dataset bright-biology --mine dense --index {tiny_index} --labels qrels --output x --device cpu"
    arguments = _parser().parse_args(line.split())
    _, encoder = making._dense(arguments, named)
    assert encoder.spec.lengths.query == encoder.spec.lengths.prompt == 512
    its = named.spec.retrieval_task
    for word, task in ((None, its), ("dataset", its), ("generic", RETRIEVAL_TASK), ("Find it", "Find it")):
        assert retrieval_task(word, named) == task


@pytest.fixture
def make(toy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Make:
    """Run the command on the toy and give the lines of its output; `told` gets what it said."""

    def made(*words: str, told: list[str] | None = None, run: str | None = "first.trec") -> list[dict[str, Any]]:
        output = tmp_path / "out.jsonl"
        first = [] if run is None else ["--run", str(toy / run)]
        capfd.readouterr()
        code = main(["data", "--dataset", str(toy), "--output", str(output), *first, *words])
        printed, said = capfd.readouterr()
        assert (code, printed) == (0, ""), said
        if told is not None:
            told += said.splitlines()
        return [json.loads(line) for line in output.read_text().splitlines()]

    return made


def docids(row: dict[str, Any]) -> str:
    """A line's documents by their ids, which the toy's texts count."""
    return " ".join(f"d{len(text.split())}" for text in row["document"])


def every_topic(toy: Path) -> tuple[str, str]:
    """Topics of a folder are the judged ones; named as a file, all three."""
    return "--topics", str(toy / "queries.jsonl")


# --- judgments --------------------------------------------------------------------------------------------------------


def test_lists_by_grade(make: Make, toy: Path):
    told: list[str] = []
    rows = make("--documents", "5", *every_topic(toy), told=told)
    # d2 (2) before d4 (1) before the rest in first-stage order; d1 d3 d5 tie at 0
    assert rows == [
        {
            "query": "query a",
            "document": [DOCS[docid] for docid in "d1 d2 d3 d4 d5".split()],
            "ranking": [2, 4, 1, 3, 5],
            "source": "toy",
            "relevance": [0.0, 2.0, 0.0, 1.0, 0.0],
        }
    ]
    out = re.escape(str(toy.parent / "out.jsonl"))
    dropped = "1 lists whose documents all tie, 1 topics without judgments"
    assert re.fullmatch(rf"3 topics, 1 lists, dropped: {dropped} -> {out} \(\d+\.\d s\)", told[-1])


def test_unjudged_left_out(make: Make):
    [row] = make("--unjudged", "skip", "--source", "mine")
    assert (docids(row), row["ranking"], row["source"]) == ("d2 d4 d5", [1, 2, 3], "mine")
    assert row["relevance"] == [2.0, 1.0, 0.0]


def test_words_depth_and_limit(make: Make):
    [row] = make("--max-words", "3", "--depth", "4", "--limit", "1")
    assert row["document"] == ["flow", "flow flow", "flow flow flow"]  # the fourth is cut to the same


def test_several_lists(make: Make):
    rows = make("--documents", "3", "--lists", "20", "--limit", "1")
    seen = [docids(row) for row in rows]
    assert len(set(seen)) == len(seen) == 20
    assert seen[0] == "d1 d2 d3"
    for found in seen:
        assert found == " ".join(sorted(found.split()))  # first-stage order is d1, d2, …
        assert {"d2", "d4"} & set(found.split())  # a relevant one each
    assert {word for found in seen for word in found.split()} == {f"d{n}" for n in range(1, 9)}
    again = make("--documents", "3", "--lists", "20", "--limit", "1")
    other = make("--documents", "3", "--lists", "20", "--limit", "1", "--seed", "1")
    assert again == rows
    assert other[0] == rows[0]
    assert other != rows


def test_every_list_keeps_the_first(make: Make):
    """Of the 6 hits behind the two that are kept there are 15 pairs."""
    rows = make("--documents", "4", "--keep-top", "2", "--lists", "15", "--limit", "1")
    seen = [docids(row) for row in rows]
    assert seen[0] == "d1 d2 d3 d4"
    assert len(set(seen)) == len(seen) == 15
    assert all(found.startswith("d1 d2 ") and found == " ".join(sorted(found.split())) for found in seen)


def test_a_topic_is_in_one_fold(make: Make, toy: Path):
    """SHA-256 of "f" ends in byte 17, that of "a" in 187, of "g" in 41."""
    queries = [{"_id": qid, "text": f"query {qid}"} for qid in "afg"]
    (toy / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (toy / "other.tsv").write_text("".join(f"{qid}\td2\t1\n" for qid in "afg"))
    (toy / "afg.trec").write_text("".join(f"{qid} Q0 d{n} {n} {-n} x\n" for qid in "afg" for n in (1, 2)))
    asked = ("--topics", str(toy / "other.jsonl"), "--qrels", str(toy / "other.tsv"))
    found = {fold: [row["query"] for row in make(*asked, "--fold", fold, run="afg.trec")] for fold in ("train", "dev")}
    assert found == {"train": ["query a", "query g"], "dev": ["query f"]}
    whole = [row["query"] for row in make(*asked, run="afg.trec")]
    assert whole == ["query a", "query f", "query g"]


def test_topics_that_ask_the_same_are_in_one_fold(make: Make, toy: Path):
    """The first one's: "f" is in dev by itself, "a" in train."""
    (toy / "twice.tsv").write_text("".join(f"{qid}\td2\t1\n" for qid in "fa"))
    (toy / "fa.trec").write_text("".join(f"{qid} Q0 d{n} {n} {-n} x\n" for qid in "fa" for n in (1, 2)))
    for order, fold, number in (("fa", "dev", 2), ("fa", "train", 0), ("af", "dev", 0), ("af", "train", 2)):
        (toy / "twice.topics.tsv").write_text("".join(f"{qid}\twing  flow\n" for qid in order))
        asked = ("--topics", str(toy / "twice.topics.tsv"), "--qrels", str(toy / "twice.tsv"), "--fold", fold)
        if number:
            assert len(make(*asked, run="fa.trec")) == number
        else:
            words = ["data", "--dataset", str(toy), "--run", str(toy / "fa.trec"), "--output", str(toy / "x"), *asked]
            assert main(words) == 1


def test_lists_that_would_repeat_are_counted(make: Make):
    """Of 8 candidates there are 8 lists of 7."""
    told: list[str] = []
    assert len(make("--documents", "7", "--lists", "10", "--limit", "1", told=told)) == 8
    assert "dropped: 2 lists that would repeat one" in told[-1]


def test_each_run_gives_its_own_lists(make: Make, toy: Path):
    rows = make("--documents", "3", "--run", str(toy / "other.trec"))
    assert [docids(row) for row in rows] == ["d1 d2 d3", "d1 d4 d2"]
    assert rows[1]["ranking"] == [3, 2, 1]


def test_each_run_draws_for_itself(make: Make, toy: Path):
    """The same first stage twice: the first list is equal, and there once; the random ones are not."""
    told: list[str] = []
    words = ["--documents", "3", "--lists", "4", "--limit", "1"]
    rows = make(*words, "--run", str(toy / "first.trec"), told=told)
    assert rows[:4] == make(*words)
    again = next(int(found[1]) for line in told if (found := re.search(r"(\d+) lists that another run gave too", line)))
    assert 1 <= again < 4
    assert len(rows) == 8 - again
    assert len({docids(row) for row in rows}) == len(rows)


def test_a_text_is_once_in_a_list_with_the_best_grade_of_its_copies(
    make: Make, toy: Path, capfd: pytest.CaptureFixture[str]
):
    """d2 (grade 2) says what d1 and d6 say, d8 what d7 says; nothing else changes."""
    same = {"d1": DOCS["d2"], "d6": DOCS["d2"], "d8": DOCS["d7"]}
    rows = [{"_id": docid, "title": "", "text": text} for docid, text in (DOCS | same).items()]
    (toy / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told: list[str] = []
    [row] = make("--documents", "8", "--limit", "1", told=told)
    assert (docids(row), row["relevance"]) == ("d2 d3 d4 d5 d7", [2.0, 0.0, 1.0, 0.0, 0.0])
    assert any("3 copies of a document of the list" in line for line in told)
    # a copy of a positive is no negative, whichever positive's line it is
    for row in make("--pairs", "--documents", "8", "--relevance", "1", "--limit", "1"):
        assert docids(row) in ("d2 d3 d5 d7", "d4 d3 d5 d7")
    (toy / "corpus.jsonl").write_text("".join(json.dumps({**row, "text": "flow"}) + "\n" for row in rows))
    line = f"data --dataset {toy} --run {toy / 'first.trec'} --limit 1 --documents 2 --output {toy / 'x.jsonl'}"
    assert main(line.split()) == 1
    assert "dropped: 1 copies of a document of the list, 1 lists of copies alone" in capfd.readouterr().err


def copied(toy: Path, **same: str) -> None:
    """The corpus with the documents named as copies of others."""
    texts = DOCS | {docid: DOCS[other] for docid, other in same.items()}
    rows = [{"_id": docid, "title": "", "text": text} for docid, text in texts.items()]
    (toy / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_text_has_the_grade_of_a_copy_that_the_list_lacks(make: Make, toy: Path):
    """d1 says what d4 (grade 1) says, which is not among the first three; d3 what d8 (grade -1 now) says."""
    copied(toy, d1="d4", d3="d8")
    (toy / "some.tsv").write_text("a\td2\t2\na\td4\t1\na\td8\t-1\n")
    words = ("--limit", "1", "--qrels", str(toy / "some.tsv"))
    [row] = make("--documents", "3", *words)
    assert (docids(row), row["relevance"]) == ("d4 d2 d8", [1.0, 2.0, -1.0])
    scorer = run_of(toy / "scorer", {"d1": 3, "d2": 2, "d3": 1})
    scores = ("--labels", "scores", "--scorer", scorer, "--documents", "3")
    for weight, ranking in (("0", [1, 2, 3]), ("0.1", [1, 2, 3]), ("2", [2, 1, 3])):
        [row] = make(*words, *scores, "--with-qrels", weight)
        assert row["ranking"] == ranking


@pytest.mark.parametrize("grades", [(1, 2), (2, 1)])
def test_of_copies_with_other_grades_the_best_counts(make: Make, toy: Path, grades: tuple[int, int]):
    """d4 and d5 say what d1 says; the list has d1 alone, and only they are judged."""
    copied(toy, d4="d1", d5="d1")
    (toy / "some.tsv").write_text(f"a\td4\t{grades[0]}\na\td5\t{grades[1]}\na\td2\t0\n")
    [row] = make("--documents", "3", "--limit", "1", "--qrels", str(toy / "some.tsv"))
    assert (docids(row), row["relevance"]) == ("d1 d2 d3", [2.0, 0.0, 0.0])


def test_scores_that_rounding_tells_apart_are_tied():
    assert levels([0.3, 0.1 + 0.2, 0.2]) == [3.0, 3.0, 1.0]


def test_a_scorer_may_know_any_copy_of_a_text(make: Make, toy: Path):
    """d5 is d1 again, and judged: the scorer knows d1 alone, or both, whose better score counts."""
    copied(toy, d5="d1")
    (toy / "some.tsv").write_text("a\td5\t1\n")
    words = ["--documents", "5", "--limit", "1", "--qrels", str(toy / "some.tsv"), "--labels", "scores"]
    words += ["--with-qrels", "0.1", "--scorer"]
    for known in ({"d1": 9}, {"d1": 1, "d5": 9}):
        [row] = make(*words, run_of(toy / "scorer", {"d2": 5, "d3": 4, "d4": 3} | known))
        assert (docids(row), row["ranking"]) == ("d1 d2 d3 d4", [1, 2, 3, 4])


def test_pairs_of_positives_that_are_copies_are_one(make: Make, toy: Path):
    copied(toy, d4="d2")
    told: list[str] = []
    [row] = make("--pairs", "--documents", "8", "--relevance", "1", "--limit", "1", told=told)
    assert docids(row) == "d2 d1 d3 d5 d6 d7 d8"
    assert "1 lists that differ from one in copies alone" in told[-1]


def test_every_list_keeps_all_hits_of_a_topic_with_few(make: Make, toy: Path):
    """Topic c has two hits, which are fewer than are to be kept."""
    run, scores = toy / "c.trec", toy / "c.scores.trec"
    run.write_text("c Q0 d1 1 2 x\nc Q0 d2 2 1 x\n")
    scores.write_text("c Q0 d1 1 5 x\nc Q0 d2 2 1 x\n")
    words = ["--keep-top", "3", "--documents", "4", "--lists", "2", "--topics", str(toy / "queries.jsonl")]
    scorer = f"run:{scores}"
    assert [docids(row) for row in make("--labels", "scores", "--scorer", scorer, *words, run="c.trec")] == ["d1 d2"]


def test_the_same_bytes_twice(make: Make, toy: Path):
    words = ["--documents", "4", "--lists", "5", "--run", str(toy / "other.trec"), *every_topic(toy)]
    make(*words)
    before = (toy.parent / "out.jsonl").read_bytes()
    make(*words)
    assert (toy.parent / "out.jsonl").read_bytes() == before


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_pairs(make: Make, toy: Path):
    told: list[str] = []
    rows = make("--pairs", "--documents", "4", "--relevance", "1", *every_topic(toy), told=told)
    # every positive, in the run or not, with the first hits that are not positive
    assert [docids(row) for row in rows] == ["d2 d1 d3 d5", "d4 d1 d3 d5", "d9 d3 d1 d2"]
    for row in rows:
        assert (row["ranking"], row["relevance"]) == ([1, 2, 3, 4], [1.0, 0.0, 0.0, 0.0])
    assert "dropped: 1 topics without positives" in told[-1]


def test_pairs_skip_the_top_ranks(make: Make):
    told: list[str] = []
    rows = make("--pairs", "--skip-top", "3", "--depth", "6", "--relevance", "2", told=told)
    assert [docids(row) for row in rows] == ["d2 d4 d5 d6"]  # d4 has grade 1, here no positive
    assert "1 topics without positives" in told[-1]


def test_a_positive_that_the_corpus_lacks_is_dropped(make: Make, toy: Path):
    with (toy / "qrels" / "test.tsv").open("a") as file:
        file.write("b\tgone\t1\n")
    told: list[str] = []
    rows = make("--pairs", "--documents", "2", told=told)
    assert [docids(row) for row in rows] == ["d2 d1", "d4 d1", "d9 d3"]
    assert "dropped: 1 positives not in the corpus" in told[-1]


def test_excluded_documents_are_no_candidates(make: Make, toy: Path):
    """README: removed before any cut by rank."""
    (toy / "excluded").mkdir()
    (toy / "excluded" / "test.tsv").write_text("query-id\tcorpus-id\na\td1\na\td3\n")
    told: list[str] = []
    rows = make("--documents", "4", told=told)
    assert docids(rows[0]) == "d2 d4 d5 d6"
    assert "e2rank data: 2 excluded hits removed, 0 queries without hits" in told
    (toy / "excluded" / "test.tsv").unlink()
    (toy / "own.txt").write_text("a d1\n")
    assert docids(make("--documents", "3", "--excluded", str(toy / "own.txt"))[0]) == "d2 d3 d4"


@pytest.mark.parametrize("more", [[], ["--pairs"]])
def test_an_excluded_document_is_no_positive(
    toy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], more: list[str]
):
    """d2 is relevant to a, d5 is judged and is not."""
    words = ["data", "--dataset", str(toy), "--run", str(toy / "first.trec"), "--output", str(tmp_path / "x.jsonl")]
    (tmp_path / "own.txt").write_text("a d5\na d2\n")
    assert main([*words, "--excluded", str(tmp_path / "own.txt"), *more]) == 1
    assert capfd.readouterr().err == ("e2rank data: query a: document d2 is excluded, yet the qrels call it relevant\n")
    assert not (tmp_path / "x.jsonl").exists()


def test_an_empty_positive_is_dropped(make: Make, toy: Path):
    texts = DOCS | {"d2": " "}
    rows = [{"_id": docid, "title": "", "text": text} for docid, text in texts.items()]
    (toy / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told: list[str] = []
    assert [docids(row) for row in make("--pairs", "--documents", "2", told=told)] == ["d4 d1", "d9 d3"]
    assert "dropped: 1 positives whose text is empty" in told[-1]


def test_a_positive_without_text_that_is_another_topics_hit_is_named(
    beir: Path, tiny_index: Path, toy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    qids = list(dict.fromkeys(line.split()[0] for line in toy_run.read_text().splitlines()))
    (tmp_path / "qrels").write_text((beir / "qrels" / "test.tsv").read_text() + f"{qids[0]}\tghost\t1\n")
    (tmp_path / "run").write_text(toy_run.read_text() + f"{qids[1]} Q0 ghost 99 -99 x\n")
    words = ["--dataset", str(beir), "--qrels", str(tmp_path / "qrels"), "--run", str(tmp_path / "run"), "--pairs"]
    more = ["--margin", "1.0", "--index", str(tiny_index), "--output", str(tmp_path / "x.jsonl")]
    assert main(["data", *words, *more]) == 1
    assert "document ghost: in the run but not in the corpus" in capsys.readouterr().err


def cosines(tiny_model: Path, beir: Path) -> dict[str, dict[str, float]]:
    """qid -> docid -> cosine, one text at a time."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    network = AutoModel.from_pretrained(tiny_model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = [json.loads(line) for line in (beir / "corpus.jsonl").read_text().splitlines()]
    texts = {row["_id"]: f"{row['title']} {row['text']}".strip() for row in rows}
    vectors = {docid: plain.document_vector(network, tokenizer, text, max_length=48) for docid, text in texts.items()}
    task = "Given a web search query, retrieve relevant passages that answer the query"
    queries = map(json.loads, (beir / "queries.jsonl").read_text().splitlines())
    asked = {
        row["_id"]: plain.query_vector(network, tokenizer, row["text"], task=task, max_length=24) for row in queries
    }
    return {qid: {docid: float(query @ vector) for docid, vector in vectors.items()} for qid, query in asked.items()}


def test_margin(beir: Path, tiny_model: Path, tiny_index: Path, toy_run: Path, tmp_path: Path):
    """The negatives that stay are those whose cosine is not above 0.9 x the positive's, in the order of the run."""
    words = ["--dataset", str(beir), "--run", str(toy_run), "--output", str(tmp_path / "x.jsonl"), "--pairs"]
    assert main(["data", *words, "--margin", "0.9", "--index", str(tiny_index), "--documents", "6"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    likeness = cosines(tiny_model, beir)
    run: dict[str, list[str]] = {}
    for line in toy_run.read_text().splitlines():
        run.setdefault(line.split()[0], []).append(line.split()[2])
    positives: dict[str, list[str]] = {}
    for line in (beir / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        qid, docid, grade = line.split()
        if int(grade) >= 1:
            positives.setdefault(qid, []).append(docid)
    corpus = {row["_id"]: row for row in map(json.loads, (beir / "corpus.jsonl").read_text().splitlines())}
    expected, filtered = [], 0
    for qid, judged in positives.items():
        others = [docid for docid in run[qid] if docid not in judged]
        for positive in judged:
            kept = [docid for docid in others if likeness[qid][docid] <= 0.9 * likeness[qid][positive]]
            filtered += others[:5] != kept[:5]
            if kept:
                texts = [corpus[docid] for docid in (positive, *kept[:5])]
                expected.append([f"{row['title']} {row['text']}".strip() for row in texts])
    assert filtered > 3
    assert [row["document"] for row in rows] == expected


# --- first stages made here -------------------------------------------------------------------------------------------


def test_mine_dense_is_the_dense_run(beir: Path, tiny_index: Path, toy_run: Path, tmp_path: Path):
    for name, words in (("mined", ["--mine", "dense", "--index", str(tiny_index)]), ("read", ["--run", str(toy_run)])):
        output = ["--dataset", str(beir), "--depth", "30", "--output", str(tmp_path / name)]
        assert main(["data", *words, *output]) == 0
    assert (tmp_path / "mined").read_bytes() == (tmp_path / "read").read_bytes()


def test_mine_bm25(toy: Path, tmp_path: Path):
    """One-word documents of growing length: for `flow` BM25 prefers many, and topic words elsewhere find nothing."""
    topics = tmp_path / "t.tsv"
    topics.write_text("a\tflow\nb\twing\n")
    words = [
        "--dataset",
        str(toy),
        "--topics",
        str(topics),
        "--mine",
        "bm25",
        "--lucene-index",
        str(tmp_path / "lucene"),
    ]
    program = [sys.executable, "-m", "e2rank_pyserini", "data", *words, "--output", str(tmp_path / "x.jsonl")]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [row] = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]

    def bm25(count: int) -> float:  # k1 0.9, b 0.4, mean length 5; the idf is the same for all
        return count / (count + 0.9 * (1 - 0.4 + 0.4 * count / 5))

    order = sorted(range(1, 10), key=bm25, reverse=True)
    assert docids(row) == " ".join(f"d{count}" for count in order)
    by_grade = sorted(range(9), key=lambda place: -{2: 2, 4: 1}.get(order[place], 0))
    assert row["ranking"] == [place + 1 for place in by_grade]
    assert "2 topics, 1 lists, dropped: 1 topics without hits" in done.stderr


# --- scores -----------------------------------------------------------------------------------------------------------


def test_scores_of_another_run(make: Make, toy: Path):
    rows = make("--labels", "scores", "--scorer", f"run:{toy / 'other.trec'}", "--documents", "5", *every_topic(toy))
    # a: d1 (5), d4 (3), d2 (1), then d3 and d5, which that run lacks, tied; b: all unknown; c: d1 and d2 tie
    assert [docids(row) for row in rows] == ["d1 d2 d3 d4 d5"]
    assert rows[0]["ranking"] == [1, 4, 2, 3, 5]
    assert rows[0]["relevance"] == [5.0, 3.0, 2.0, 4.0, 2.0]


def run_of(path: Path, scores: dict[str, float]) -> str:
    path.write_text("".join(f"a Q0 {docid} 1 {score} x\n" for docid, score in scores.items()))
    return f"run:{path}"


def test_several_scorers_are_averaged_after_z_scores(make: Make, tmp_path: Path):
    """By hand: (0, 0, 3) has z (-0.707, -0.707, 1.414); (200, 100, 0) has z (1.225, 0, -1.225)."""
    one = run_of(tmp_path / "one", {"d1": 0, "d2": 0, "d3": 3})
    two = run_of(tmp_path / "two", {"d1": 200, "d2": 100, "d3": 0})
    words = ["--labels", "scores", "--documents", "3", "--limit", "1", "--scorer", one]
    [row] = make(*words, "--scorer", two)  # sums: 0.518, -0.707, 0.189; raw scores would give d1 d2 d3
    assert row["ranking"] == [1, 3, 2]
    assert "relevance" not in row
    [row] = make(*words)
    assert (row["ranking"], row["relevance"]) == ([3, 1, 2], [2.0, 2.0, 3.0])
    # means: 0.259, -0.354, 0.095; d2 has grade 2, and 0.2 x 2 lifts it to 0.046, 0.3 x 2 to 0.246, 0.4 x 2 to 0.446
    for weight, ranking in (("0.2", [1, 3, 2]), ("0.3", [1, 2, 3]), ("0.4", [2, 1, 3])):
        [row] = make(*words, "--scorer", two, "--with-qrels", weight)
        assert row["ranking"] == ranking


def test_an_encoder_ranks_by_cosine(beir: Path, tiny_model: Path, toy_run: Path, tmp_path: Path):
    """The dense run upside down, so that the first-stage order is not the answer."""
    lines = [line.split() for line in toy_run.read_text().splitlines()]
    hits = [columns[2] for columns in lines if columns[0] == "007"][::-1]
    (tmp_path / "r").write_text("".join(f"007 Q0 {docid} 1 {-rank} x\n" for rank, docid in enumerate(hits)))
    words = ["--labels", "scores", "--scorer", str(tiny_model), "--dtype", "float32", "--limit", "1"]
    places = ["--dataset", str(beir), "--run", str(tmp_path / "r"), "--output", str(tmp_path / "x.jsonl")]
    assert main(["data", *words, *places]) == 0
    row = json.loads((tmp_path / "x.jsonl").read_text())
    likeness = cosines(tiny_model, beir)["007"]
    expected = sorted(range(16), key=lambda place: -likeness[hits[place]])
    assert [place - 1 for place in row["ranking"]] == expected
    assert expected != list(range(16))


def cross_encoder(place: Path, tiny_model: Path, labels: int = 1) -> Path:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=labels,
        initializer_range=0.3,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertForSequenceClassification(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def test_a_fold_without_topics_is_told(toy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "t.tsv").write_text("1\twing\n")  # of the fold train
    words = ["--topics", str(tmp_path / "t.tsv"), "--corpus", str(toy), "--run", str(toy / "first.trec")]
    assert main(["data", *words, "--labels", "scores", "--scorer", "minilm", "--fold", "dev", "--output", "x"]) == 1
    assert capfd.readouterr().err == "e2rank data: --fold dev: no topic is in it\n"


def test_a_run_that_lacks_queries_is_told(make: Make, toy: Path, tmp_path: Path):
    lines = (toy / "first.trec").read_text().splitlines()
    first = lines[0].split()[0]
    (tmp_path / "one.trec").write_text("".join(f"{line}\n" for line in lines if line.split()[0] == first))
    told: list[str] = []
    make("--labels", "scores", "--scorer", f"run:{tmp_path}/one.trec", told=told)
    (line,) = [line for line in told if "are of queries that it lacks" in line]
    lacking, lists = map(int, re.findall(r"(\d+) of (\d+) lists", line)[0])
    assert 0 < lacking < lists


def test_a_scorer_says_what_it_cut(make: Make, tiny_model: Path, tmp_path: Path):
    """Of d1 to d8 the encoder cuts those of more than 3 tokens and an EOS, the cross-encoder pairs of more than 12.

    The query under its task is longer than the 24 tokens that the tiny model reads.
    """
    told: list[str] = []
    common = ("--labels", "scores", "--limit", "1", "--max-length")
    tokens = AutoTokenizer.from_pretrained(tiny_model)
    texts = [DOCS[f"d{n}"] for n in range(1, 9)]
    make(*common, "4", "--scorer", str(tiny_model), told=told)
    cut = sum(len(ids) > 3 for ids in tokens(texts)["input_ids"])
    place = cross_encoder(tmp_path / "cross", tiny_model)
    make(*common, "12", "--scorer", f"cross:{place}", told=told)
    full = sum(len(ids) >= 12 for ids in tokens(["query a"] * 8, texts)["input_ids"])
    assert 0 < cut < 8
    assert 0 < full < 8
    assert f"scorer {tiny_model}: {cut} of 8 documents, 1 of 1 queries cut" in told
    assert f"scorer {place}: {full} of 8 pairs fill its 12 tokens or are cut" in told


@pytest.mark.parametrize("budget", ["70", "5000"])
def test_a_cross_encoder(make: Make, toy: Path, tiny_model: Path, tmp_path: Path, budget: str):
    """Against one pair at a time, without padding; --max-length cuts the longer text."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    place = cross_encoder(tmp_path / "cross", tiny_model)
    texts = {f"d{n}": text for n, text in enumerate(sentences(9, seed=3), start=1)}
    rows = [{"_id": docid, "text": text} for docid, text in texts.items()]
    (toy / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--labels", "scores", "--scorer", f"cross:{place}", "--dtype", "float32", "--batch-tokens", budget]
    [row] = make(*words, "--max-length", "40", "--limit", "1")
    network = AutoModelForSequenceClassification.from_pretrained(place, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(place)
    scores = []
    for docid in FIRST["a"].split():
        ids = tokenizer("query a")["input_ids"]
        ids += tokenizer(texts[docid])["input_ids"][: 40 - len(ids)]
        with torch.no_grad():
            scores.append(float(network(input_ids=torch.tensor([ids])).logits[0, 0]))
    assert len(set(scores)) == 8
    assert [place - 1 for place in row["ranking"]] == np.argsort(-np.array(scores)).tolist()


# --- a language model -------------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Plays an OpenAI-compatible endpoint: what it answers depends on a word of the query."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times: Counter[str] = Counter()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has hung up is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        self.server.keys.append(self.headers["Authorization"])
        text = asked["messages"][-1]["content"]
        word = re.search(r"Query: (\S+)", text)[1]
        self.server.times[word] += 1
        counts = {number: len(passage.split()) for number, passage in re.findall(r"^\[(\d+)\] (.*)$", text, re.M)}
        longest_first = [f"[{number}]" for number in sorted(counts, key=lambda number: -counts[number])]
        good = " > ".join(longest_first)
        answers = {
            "good": good,
            "busy": good,
            "broken": good,
            "thinks": f"<think>\n[1] is short.\n</think>\n\n{good}\n",
            "short": " > ".join(longest_first[:-1]),
            "twice": " > ".join([*longest_first[:-1], longest_first[0]]),
            "unknown": good.replace("[1]", "[99]"),
            "chatty": f"Here you are: {good}",
            "late": f"{good} <think>no</think>",
            "null": None,
        }
        if word == "hangs":
            self.server.over.wait(20)
        elif self.path != "/v1/chat/completions":
            self.reply(404, {"error": {"message": "no such path"}})
        elif word == "refused":
            self.reply(401, {"error": {"message": "wrong key"}})
        elif word == "busy" and self.server.times[word] < 3:
            self.reply(429, {"error": {"message": "too many"}})
        elif word == "broken" and self.server.times[word] < 2:
            self.reply(500, {"error": {"message": "oops"}})
        elif word == "html":
            self.reply(200, "<html>")
        elif word == "deep":
            self.reply(200, '{"choices": ' + "[" * 50_000 + "]" * 50_000 + "}")
        elif word == "empty":
            self.reply(200, {"choices": []})
        else:
            message = {"role": "assistant", "content": answers[word]}
            self.reply(200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    def reply(self, status: int, body: Any) -> None:
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("retry-after-ms", "20")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


def llm(toy: Path, tmp_path: Path, url: str, queries: list[str], *more: str) -> list[str]:
    """The command line that asks the server one list of five documents a query."""
    (tmp_path / "t.tsv").write_text("".join(f"{number}\t{word} x\n" for number, word in enumerate(queries)))
    hits = [f"{number} Q0 {docid} 1 {-rank} x" for number in range(len(queries)) for rank, docid in enumerate(RANKS)]
    (tmp_path / "r.trec").write_text("\n".join(hits) + "\n")
    places = ["--topics", str(tmp_path / "t.tsv"), "--corpus", str(toy), "--run", str(tmp_path / "r.trec")]
    model = ["--labels", "llm", "--endpoint", url, "--llm", "some-model", "--output", str(tmp_path / "out.jsonl")]
    return ["data", *places, *model, *more]


RANKS = ["d3", "d1", "d5", "d2", "d4"]
BY_LENGTH = [3, 5, 1, 4, 2]  # d5 d4 d3 d2 d1


def test_an_llm_ranks(
    toy: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    queries = ["good", "busy", "thinks", "broken", *"short twice unknown chatty late null html deep empty".split()]
    assert main(llm(toy, tmp_path, server.url, queries)) == 0
    told = capfd.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["query"] for row in rows] == ["good x", "busy x", "thinks x", "broken x"]
    for row in rows:
        assert row["ranking"] == BY_LENGTH
        assert docids(row) == " ".join(RANKS)
        assert row.keys() == {"query", "document", "ranking", "source"}
        assert row["source"] == "unknown"
    assert "13 topics, 4 lists, dropped: 9 malformed answers -> " in told
    assert server.times == {**dict.fromkeys(queries, 1), "busy": 3, "broken": 2}
    assert set(server.keys) == {"Bearer sesame"}
    for asked in server.asked:
        assert (asked["model"], asked["temperature"]) == ("some-model", 0)
        for number, docid in enumerate(RANKS, start=1):
            assert f"\n[{number}] {DOCS[docid]}\n" in asked["messages"][-1]["content"]


def test_an_interrupted_job_asks_no_further_list(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def answered(client: object, endpoint: object, query: str, documents: object) -> tuple[int, ...]:
        asked.append(query)
        time.sleep(0.01)
        return (0, 1)

    monkeypatch.setattr("e2rank_pyserini.training.endpoint._order", answered)
    lists = [(str(number), ("a", "b")) for number in range(2000)]
    coming = orders(lists, Endpoint(url="http://localhost:1/v1", model="m", parallel=3))
    assert [next(coming), next(coming)] == [(0, 1), (0, 1)]
    coming.close()
    assert len(asked) < 1000  # of 2,000, which would take seven seconds


def test_an_interrupted_job_asks_no_list_twice(
    toy: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    words = llm(toy, tmp_path, server.url, ["good", "thinks", "short", "busy"])

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("e2rank_pyserini.training.examples.write_examples", interrupted)
        assert main(words) == 130
    assert not (tmp_path / "out.jsonl").exists()
    kept = tmp_path / ".out.jsonl.answers"
    kept.write_text(kept.read_text()[:-5])  # the last one was being written
    assert main(words) == 0
    assert f"{kept}: 2 of 4 lists known" in capfd.readouterr().err
    assert server.times == {"good": 1, "thinks": 1, "short": 2, "busy": 3 + 1}
    rankings = [json.loads(line)["ranking"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert rankings == [BY_LENGTH] * 3
    assert not kept.exists()


def test_answers_are_kept_while_some_are_missing(
    toy: Path, tmp_path: Path, server: Server, capfd: pytest.CaptureFixture[str]
):
    """A list that is refused costs itself alone, first or not; what was answered is not asked again, nor lost."""
    words = llm(toy, tmp_path, server.url, ["good", "refused", "thinks"])
    words[words.index("--output") + 1] = str(tmp_path / "new" / "out.jsonl")
    kept = tmp_path / "new" / ".out.jsonl.answers"
    for _ in range(2):
        assert main(words) == 0
        told = capfd.readouterr().err
        assert "2 lists, dropped: 1 calls without an answer -> " in told
        assert f"{kept}: keeps the answers; the same command asks for the others alone" in told
    assert server.times == {"good": 1, "thinks": 1, "refused": 2}
    assert main([*words, "--limit", "1"]) == 1
    assert (
        capfd.readouterr().err
        == f"e2rank data: {kept}: holds answers of another job; remove it, or name another output\n"
    )
    sound = kept.read_text()
    kept.write_text(sound.replace("[2, 4", "[2, 2"))
    assert kept.read_text() != sound
    assert main(words) == 1
    assert f"{kept}: holds an order that no list has; remove it" in capfd.readouterr().err
    kept.write_text("[" * 50_000 + sound)
    with kept.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert main(words) == 1
    assert f"{kept}: another process is writing it" in capfd.readouterr().err


def test_an_llm_that_hangs_costs_its_list(
    toy: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    words = ["--timeout", "0.3", "--retries", "1", "--parallel", "2"]
    assert main(llm(toy, tmp_path, server.url, ["good", "hangs", "refused", "good"], *words)) == 0
    assert "2 lists, dropped: 2 calls without an answer -> " in capfd.readouterr().err
    assert server.times == {"good": 2, "hangs": 2, "refused": 1}


def test_an_endpoint_that_is_gone_is_not_asked_for_ever(
    toy: Path, tmp_path: Path, server: Server, capfd: pytest.CaptureFixture[str]
):
    assert main(llm(toy, tmp_path, server.url, ["good", *["refused"] * 50], "--parallel", "1")) == 0
    told = capfd.readouterr().err
    assert "1 lists, dropped: 20 calls without an answer, 30 not asked after too many such -> " in told
    assert server.times == {"good": 1, "refused": 20}


@pytest.mark.parametrize(
    ("query", "path", "fragment"),
    [("refused", "", "wrong key"), ("good", "/nowhere", "no such path"), ("hangs", "", "imed out")],
)
def test_an_endpoint_that_refuses_the_first_list(
    toy: Path, tmp_path: Path, server: Server, capfd: pytest.CaptureFixture[str], query: str, path: str, fragment: str
):
    words = llm(toy, tmp_path, server.url + path, [query, "good"], "--timeout", "0.3", "--retries", "0")
    assert main(words) == 1
    told = capfd.readouterr().err
    assert told.startswith(f"e2rank data: endpoint {server.url}{path}: ")
    assert not (tmp_path / ".out.jsonl.answers").exists()
    assert fragment in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_an_endpoint_that_is_not_there(toy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    closed = Server()
    closed.server_close()
    assert main(llm(toy, tmp_path, closed.url, ["good"], "--retries", "0")) == 1
    told = capfd.readouterr().err
    assert told.startswith(f"e2rank data: endpoint {closed.url}: Connection error")
    assert told.count("\n") == 1


# --- bad input --------------------------------------------------------------------------------------------------------

LLM = "--labels llm --endpoint http://127.0.0.1:1/v1 --llm m"
REFUSED = [
    ("run-missing", "--run {toy}/nowhere.trec", "{toy}/nowhere.trec: no such file"),
    ("run-of-other-topics", "--run {toy}/strange.trec", "strange.trec: none of the 2 topics is in this run"),
    ("run-of-other-corpus", "--run {toy}/elsewhere.trec", "document x1: in the run but not in the corpus (1 such)"),
    ("qrels-missing", "--run {first} --qrels {toy}/q", "{toy}/q: no such file"),
    ("split-missing", "--run {first} --split train", "train.tsv: no such file"),
    (
        "nothing-left",
        "--run {first} --qrels {toy}/zero.tsv",
        "none of 2 topics gave an example; dropped: 1 lists whose",
    ),
    ("pairs-by-scores", "--run {first} --pairs --labels scores --scorer run:{first}", "--pairs goes with --labels qr"),
    ("skip-top-alone", "--run {first} --skip-top 3", "--skip-top goes with --pairs"),
    ("skip-top-at-depth", "--run {first} --pairs --skip-top 9 --depth 9", "--skip-top 9: expected less than --depth"),
    ("keep-top-all", "--run {first} --documents 4 --keep-top 4", "--keep-top 4: expected less than --documents"),
    (
        "judgments-unread",
        "--run {first} --labels scores --scorer run:{first} --qrels /nowhere",
        "--qrels and --relevance go with --labels qrels or --with-qrels: --labels scores reads no judgments",
    ),
    ("relevance-unread", "--run {first} --relevance 2", "--relevance goes with --pairs or --lists above 1"),
    ("task-unread", "--run {first} --task x", "--task goes with --mine dense"),
    ("like-unread", "--run {first} --like minilm", "--like goes with --mine dense"),
    ("prompt-length", "--mine dense --index x --prompt-length 9", "--prompt-length: no prompt is read here"),
    ("threads-unread", "--run {first} --threads 1", "--threads goes with --mine, --margin or a --scorer that is a mo"),
    (
        "query-length-of-pairs",
        "--run {first} --labels scores --scorer cross:{toy}/one --query-length 5",
        "--query-length goes with --mine dense, --margin or a --scorer that is an encoder",
    ),
    ("calls-unread", "--run {first} --retries 0", "--parallel, --timeout and --retries go with --labels llm"),
    ("model-unread", "--run {first} --dtype float16", "--dtype goes with --mine dense"),
    ("keep-top-pairs", "--run {first} --pairs --keep-top 1", "--keep-top does not go with --pairs"),
    ("margin-alone", "--run {first} --margin 0.9 --index x", "--margin goes with --pairs"),
    ("margin-without-index", "--run {first} --pairs --margin 0.9", "--margin need --index DIR"),
    ("dense-without-index", "--mine dense", "--mine dense and --margin need --index DIR"),
    ("dense-index-missing", "--mine dense --index {toy}/no", "{toy}/no: expected a FAISS index"),
    ("bm25-without-index", "--mine bm25", "--lucene-index"),
    ("index-alone", "--run {first} --index x", "--index goes with --mine dense or --margin"),
    ("lucene-index-alone", "--run {first} --lucene-index x", "--lucene-index goes with --mine bm25"),
    ("encoder-alone", "--run {first} --encoder minilm", "--encoder is the --index's model"),
    ("unjudged-of-scores", "--run {first} --labels scores --scorer minilm --unjudged skip", "--unjudged goes with"),
    ("unjudged-pairs", "--run {first} --pairs --unjudged skip", "--unjudged does not go with --pairs"),
    ("scores-without-scorer", "--run {first} --labels scores", "--labels scores needs --scorer"),
    ("scorer-alone", "--run {first} --scorer minilm", "--scorer goes with --labels scores"),
    ("scorer-unknown", "--run {first} --labels scores --scorer smollm2-135", "smollm2-135m or e2rank-smollm2-135m?"),
    ("scorer-run-missing", "--run {first} --labels scores --scorer run:{toy}/no", "{toy}/no: no such file"),
    ("scorer-of-others", "--run {first} --labels scores --scorer run:{toy}/strange.trec", "none of the queries is in"),
    ("cross-missing", "--run {first} --labels scores --scorer cross:{toy}/no", "cannot be loaded as a cross-encoder"),
    ("cross-two-labels", "--run {first} --labels scores --scorer cross:{toy}/two", "one score, got one with 2 labels"),
    ("cross-no-head", "--run {first} --labels scores --scorer cross:{model}", "is no cross-encoder, or is not whole"),
    ("cross-too-long", "--run {first} --labels scores --scorer cross:{toy}/one --max-length 65", "but it has 64"),
    ("with-qrels-alone", "--run {first} --with-qrels 1", "--with-qrels goes with --labels scores"),
    ("llm-without-model", "--run {first} --labels llm --endpoint http://x/v1", "needs --endpoint URL and --llm MODEL"),
    ("llm-alone", "--run {first} --llm m", "--endpoint and --llm go with --labels llm"),
    ("endpoint-without-scheme", "--run {first} --labels llm --llm m --endpoint localhost:80", "expected a URL such as"),
    ("endpoint-port", "--run {first} --labels llm --llm m --endpoint http://x:99999/v1", "expected a URL such as"),
    ("output-gz", "--run {first} --output {toy}/x.jsonl.gz", "name the file without .gz"),
    ("output-directory", "--run {first} --output {toy}", "{toy}: cannot be written: it is a directory"),
]


@pytest.mark.parametrize(("line", "fragment"), [pytest.param(*row, id=name) for name, *row in REFUSED])
def test_refused_in_one_line(
    toy: Path, tmp_path: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str], line: str, fragment: str
):
    (toy / "strange.trec").write_text("z Q0 d1 1 1 x\n")
    (toy / "elsewhere.trec").write_text("a Q0 d2 1 2 x\na Q0 x1 2 1 x\n")
    (toy / "zero.tsv").write_text("a\td2\t0\n")
    if "cross:{toy}" in line:
        cross_encoder(toy / "one", tiny_model)
        cross_encoder(toy / "two", tiny_model, labels=2)
    places = {"toy": str(toy), "first": str(toy / "first.trec"), "model": str(tiny_model)}
    older = tmp_path / "out.jsonl"
    older.write_text("older\n")
    capfd.readouterr()
    assert main(["data", "--dataset", str(toy), "--output", str(older), *line.format(**places).split()]) == 1
    printed, told = capfd.readouterr()
    assert printed == ""
    assert told.startswith("e2rank data: ")
    assert told.count("\n") == 1, told
    assert fragment.format(**places) in told
    assert older.read_text() == "older\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "toy"]


@pytest.mark.parametrize(
    ("line", "fragment"),
    [
        ("", "one of the arguments --run --mine is required"),
        ("--run x --mine bm25", "argument --mine: not allowed with argument --run"),
        ("--run x --documents 1", "argument --documents: expected a whole number of at least 2, got 1"),
        ("--run x --documents many", "argument --documents: expected a whole number of at least 2, got many"),
        ("--run x --margin 0", "argument --margin: expected a number above 0, got 0"),
        ("--run x --margin nan", "argument --margin: expected a number above 0, got nan"),
        ("--run x --with-qrels inf", "argument --with-qrels: expected a number, got inf"),
        ("--run x --labels gold", "argument --labels: invalid choice: 'gold'"),
    ],
)
def test_usage(capfd: pytest.CaptureFixture[str], line: str, fragment: str):
    with pytest.raises(SystemExit) as left:
        main(["data", "--output", "x", *line.split()])
    assert left.value.code == 2
    assert fragment in capfd.readouterr().err.splitlines()[-1]


def test_scifact_training_pairs(shared: Path, tmp_path: Path):
    """Real data: every line's positive is the judged document of its claim, and no negative is judged."""
    place = shared / "scifact"
    claims = [json.loads(line) for line in (place / "queries.jsonl").read_text().splitlines()]
    judged: dict[str, set[str]] = {}
    for line in (place / "qrels" / "train.tsv").read_text().splitlines()[1:]:
        qid, docid, _ = line.split()
        judged.setdefault(qid, set()).add(docid)
    corpus = [json.loads(line) for line in (place / "corpus.jsonl").read_text().splitlines()]
    texts = {row["_id"]: f"{row['title']} {row['text']}".strip() for row in corpus}
    some = [row for row in claims if row["_id"] in judged][:20]
    run = [f"{row['_id']} Q0 {doc['_id']} 1 {-n} x" for row in some for n, doc in enumerate(corpus[:60])]
    (tmp_path / "r").write_text("\n".join(run) + "\n")
    words = ["--dataset", str(place), "--split", "train", "--run", str(tmp_path / "r"), "--pairs", "--documents", "8"]
    assert main(["data", *words, "--output", str(tmp_path / "x.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert len(rows) == sum(len(judged[row["_id"]]) for row in some)
    by_text = {row["text"].strip(): row["_id"] for row in some}
    for row in rows:
        relevant = {texts[docid] for docid in judged[by_text[row["query"]]]}
        assert row["document"][0] in relevant
        assert len(row["document"]) == 8
        assert not relevant & set(row["document"][1:])


def test_a_roberta_cross_encoder_has_the_positions_behind_its_paddings():
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = RobertaForSequenceClassification(RobertaConfig(vocab_size=20, max_position_embeddings=66, **size))
    tokenizer = SimpleNamespace(model_max_length=10**9)
    assert _pair_length("x", network, tokenizer, None) == 64
    with pytest.raises(E2RankError, match="pairs of up to 65 tokens were asked for, but it has 64"):
        _pair_length("x", network, tokenizer, 65)


def test_what_a_scorer_does_not_know_is_a_deviation_below_what_it_does():
    """Of 1 and 3 the deviation is 1, so that the unknown one is 0; of two that are alike it is taken for 1."""
    filled = np.array([0.0, 1.0, 3.0])
    np.testing.assert_allclose(combined([np.array([np.nan, 1, 3])]), (filled - filled.mean()) / filled.std())
    np.testing.assert_allclose(combined([np.array([np.nan, 2, 2])]), np.array([-2, 1, 1]) / np.sqrt(2))


def test_what_a_run_lacks_is_last_whatever_the_sign_of_its_scores(make: Make, tmp_path: Path):
    scorer = run_of(tmp_path / "negative", {"d1": -5, "d4": -3, "d2": -4})
    [row] = make("--labels", "scores", "--scorer", scorer, "--documents", "5", "--limit", "1")
    assert row["ranking"] == [4, 2, 1, 3, 5]


def test_an_encoder_that_scores_is_told_the_task(tiny_model: Path):
    encoder = E2RankEncoder.load(str(tiny_model), device="cpu")
    [found] = by_encoder(encoder, "Find it")([distinct("1", "wing", [("a", "flow"), ("b", "heat")], {})])
    expected = encoder.encode_documents(["flow", "heat"]) @ encoder.encode_queries(["wing"], "Find it")[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_decoder_cross_encoder_scores_pairs_as_one_at_a_time(tiny_model: Path, tmp_path: Path):
    """Its score is taken at the last token that is no padding, whose id is not 0; a long query loses its end."""
    place = tmp_path / "decoder"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = "<|im_end|>"
    torch.manual_seed(1)
    config = Qwen3Config.from_pretrained(tiny_model, num_labels=1, initializer_range=0.3, pad_token_id=None)
    network = Qwen3ForSequenceClassification(config).eval()
    network.save_pretrained(place)
    tokenizer.save_pretrained(place)
    texts = ("flow", "heat transfer to a cone", "drag")
    asked = [distinct(query, query, zip("abc", texts, strict=True), {}) for query in ("wing " * 40, "lift")]
    options = {"device": "cpu", "dtype": "float32", "max_length": 20, "batch_tokens": None}
    for one, scores in zip(asked, by_cross_encoder(str(place), **options)(asked), strict=True):
        for text, score in zip(texts, scores, strict=True):
            ids = tokenizer(text)["input_ids"]
            ids = tokenizer(one.query)["input_ids"][: 20 - len(ids)] + ids
            with torch.no_grad():
                logit = float(network(input_ids=torch.tensor([ids])).logits[0, 0])
            assert score == pytest.approx(logit, abs=1e-5)


def test_pairs_have_512_tokens_unless_more_are_asked_for():
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = BertForSequenceClassification(BertConfig(vocab_size=20, max_position_embeddings=1024, **size))
    tokenizer = SimpleNamespace(model_max_length=10**9)
    assert [_pair_length("x", network, tokenizer, wanted) for wanted in (None, 1024)] == [512, 1024]


def test_every_topic_and_run_is_drawn_for_itself():
    run = {qid: [Hit(f"d{n}", -float(n)) for n in range(50)] for qid in "ab"}
    options = {"qrels": None, "relevance": 1, "judged_only": False}
    drawn = [list(draw_lists(run, "ab", Draw(5, 50, 2), number=number, **options)[0]) for number in (0, 1)]
    assert len({one.docids for found in drawn for one in found}) == 1 + 4  # the first ones, and four random lists


def test_every_positive_and_seed_has_negatives_of_their_own():
    run, qrels = {"q": [Hit(f"d{n}", -float(n)) for n in range(50)]}, {"q": {"x": 1, "y": 1}}
    options = {"number": 0, "relevance": 1, "skip_top": 0, "likeness": None, "margin": 0.0}
    drawn = [draw_pairs(run, "q", qrels, Draw(6, 50, 2, seed), **options)[0] for seed in (0, 1)]
    assert len({one.docids[1:] for found in drawn for one in found}) == 1 + 4


def test_a_random_list_holds_any_one_of_the_relevant_documents():
    """`relevance` says which they are: d0, of a lower grade, is none."""
    run = {"q": [Hit(f"d{n}", -float(n)) for n in range(60)]}
    qrels = {"q": {"d0": 1, "d50": 2, "d51": 2}}
    drawn, _ = draw_lists(run, "q", Draw(3, 60, 41), number=0, qrels=qrels, relevance=2, judged_only=False)
    held = [{"d50", "d51"} & set(one.docids) for one in drawn[1:]]
    assert all(held)
    assert min(sum(docid in found for found in held) for docid in ("d50", "d51")) > 10
