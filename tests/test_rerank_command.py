"""`e2rank rerank` and `e2rank feedback` with every option, against commands run in turn and against brute force."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from e2rank_pyserini import corpus as corpora
from e2rank_pyserini.catalog import dataset
from e2rank_pyserini.cli import main
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.feedback import Part, interpolate
from e2rank_pyserini.index import DenseIndex
from e2rank_pyserini.inference.tally import Tally, cut
from e2rank_pyserini.prompts import RETRIEVAL_TASK
from e2rank_pyserini.topics import read_topics
from e2rank_pyserini.trec import read_run, write_run
from e2rank_pyserini.types import Hit, Run

Made = Callable[..., Run]


@pytest.fixture
def made(toy_run: Path, beir: Path, tiny_index: Path, tmp_path: Path) -> Made:
    """Run `rerank` or `feedback` on the toy run (or another) and read what came out."""

    def make(command: str, *more: str, run: Path = toy_run, name: str = "out.trec") -> Run:
        words = ["--run", str(run), "--dataset", str(beir), "--index", str(tiny_index)]
        assert main([command, *words, "--output", str(tmp_path / name), *more]) == 0
        return read_run(tmp_path / name)

    return make


def docids(run: Run) -> dict[str, list[str]]:
    return {qid: [hit.docid for hit in hits] for qid, hits in run.items()}


def assert_same(left: Run, right: Run) -> None:
    """The same hits in the same order, scores equal as printed (ties in the last digit apart)."""
    assert docids(left) == docids(right)
    for qid, hits in left.items():
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in right[qid]], abs=3e-6)


def brute_force(index: DenseIndex, vectors: np.ndarray, hits: int) -> list[list[str]]:
    stored = np.stack([index.index.reconstruct(row) for row in range(len(index))])  # (n, dim)
    scores = vectors @ stored.T
    return [[index.docids[row] for row in np.argsort(-one, kind="stable")[:hits]] for one in scores]


def test_two_passes_are_the_command_run_twice(made: Made, tmp_path: Path):
    twice = made("rerank", "--passes", "2", "--depth", "12", "--window", "4", "--cut")
    made("rerank", "--depth", "12", "--window", "4", "--cut", name="one.trec")
    assert_same(twice, made("rerank", "--depth", "12", "--window", "4", "--cut", run=tmp_path / "one.trec"))


def test_two_passes_over_the_whole_index_are_the_command_run_twice(made: Made, tmp_path: Path):
    twice = made("feedback", "--passes", "2", "--window", "4", "--hits", "20")
    made("feedback", "--window", "4", "--hits", "20", name="one.trec")
    assert_same(twice, made("feedback", "--window", "4", "--hits", "20", run=tmp_path / "one.trec"))


def test_one_window_over_everything_slides_nowhere(made: Made):
    whole = made("rerank", "--depth", "6", "--window", "6")
    assert_same(made("rerank", "--depth", "6", "--window", "6", "--stride", "3"), whole)


def test_sliding_windows_are_windows_reranked_one_after_the_other(made: Made, toy_run: Path, tmp_path: Path):
    slid = made("rerank", "--depth", "6", "--window", "4", "--stride", "2", "--cut")
    order = {qid: hits[:6] for qid, hits in read_run(toy_run).items()}
    for start in (2, 0):
        part = {
            qid: [Hit(hit.docid, -n) for n, hit in enumerate(hits[start : start + 4])] for qid, hits in order.items()
        }
        write_run(tmp_path / "part", part, "x")
        for qid, hits in made("rerank", "--window", "4", run=tmp_path / "part", name="again").items():
            order[qid][start : start + 4] = hits
    assert docids(slid) == docids(order)


def test_the_order_of_the_prompt_is_that_of_a_run_in_this_order(made: Made, toy_run: Path, tmp_path: Path):
    reversed_run = {
        qid: [Hit(hit.docid, -n) for n, hit in enumerate(hits[:5][::-1] + hits[5:])]
        for qid, hits in read_run(toy_run).items()
    }
    write_run(tmp_path / "reversed", reversed_run, "x")
    backwards = made("rerank", "--order", "reverse", "--window", "5")
    assert_same(backwards, made("rerank", "--window", "5", run=tmp_path / "reversed", name="other"))
    assert backwards != made("rerank", "--window", "5", name="initial")


def test_a_shuffled_order_is_the_seeds(made: Made):
    runs = [made("rerank", "--order", "shuffle", "--seed", seed, name=f"s{n}") for n, seed in enumerate("0012")]
    assert runs[0] == runs[1] == made("rerank", "--order", "shuffle")
    assert runs[2] not in (runs[0], runs[3])


def test_interpolation_with_all_the_weight_on_one_score_is_its_order(made: Made, toy_run: Path):
    prompt = made("rerank", "--depth", "12", "--window", "4", "--cut")
    alone = made("rerank", "--depth", "12", "--window", "4", "--cut", "--interpolate", "prompt=1", "first=0", "query=0")
    assert docids(alone) == docids(prompt)
    first = made(
        "rerank", "--depth", "12", "--window", "4", "--cut", "--interpolate", "prompt=1e-9", "first=1", name="first"
    )
    assert docids(first) == {qid: names[:12] for qid, names in docids(read_run(toy_run)).items()}
    by_query = made("rerank", "--by", "query", "--depth", "12", "--cut", name="query")
    found = made(
        "rerank", "--depth", "12", "--window", "4", "--cut", "--interpolate", "prompt=1e-9", "query=1", name="q"
    )
    assert docids(found) == docids(by_query)


@pytest.fixture
def steep(toy_run: Path, tmp_path: Path) -> Path:
    """The toy run with scores of which the first three of 30 stand out."""
    scores = [9.0, 8.5, 5.0, *(-float(n) / 100 for n in range(27))]
    steep = {
        qid: [Hit(hit.docid, score) for hit, score in zip(hits, scores, strict=True)]
        for qid, hits in read_run(toy_run).items()
    }
    write_run(tmp_path / "steep", steep, "x")
    return tmp_path / "steep"


def test_an_adaptive_window_is_scaled_by_depth(made: Made, steep: Path):
    for depth, window in (("3", "2"), ("30", "3")):  # 1, 0.875, 0 of three; 1, 0.95, 0.57, 0.03 of thirty
        words = ["rerank", "--depth", depth, "--cut"]
        adaptive = made(*words, "--adaptive", "0.5", "--window", "3", run=steep, name="a")
        assert_same(adaptive, made(*words, "--window", window, run=steep, name="b"))


def test_the_task_of_a_plain_query_is_the_retrieval_task(made: Made, beir: Path, tiny_index: Path, tmp_path: Path):
    words = ["--dataset", str(beir), "--index", str(tiny_index), "--hits", "30", "--task", "Sort them"]
    assert main(["search", *words, "--output", str(tmp_path / "searched")]) == 0
    by_query = made("rerank", "--by", "query", "--task", "Sort them", run=tmp_path / "searched")
    assert_same(by_query, read_run(tmp_path / "searched"))
    assert by_query != made("rerank", "--by", "query", run=tmp_path / "searched", name="other")


def test_task_words_mean_the_same_of_a_plain_query_everywhere(tiny_index: Path, beir: Path, tmp_path: Path):
    """`--dataset scifact` for its task alone: topics, corpus and index are the toy's."""
    own = ["--dataset", "scifact", "--topics", str(beir / "queries.jsonl"), "--corpus", str(beir)]
    own += ["--index", str(tiny_index), "--query-length", "24"]

    def found(command: str, task: str | None) -> dict[str, list[str]]:
        more = ["--run", str(tmp_path / "all"), "--by", "query"] if command == "rerank" else []
        words = [command, *own, *more, *(["--task", task] if task else [])]
        assert main([*words, "--output", str(tmp_path / "out")]) == 0
        return docids(read_run(tmp_path / "out"))

    assert main(["search", *own, "--output", str(tmp_path / "all")]) == 0
    its = dataset("scifact").retrieval_task
    for word, text in (("generic", RETRIEVAL_TASK), ("dataset", its), (None, its)):
        assert found("search", word) == found("search", text) == found("rerank", word) == found("rerank", text)
    assert found("search", "generic") != found("search", "dataset")


def test_an_adaptive_window_of_one_document_is_a_window_of_one(made: Made):
    assert_same(made("rerank", "--adaptive", "1"), made("rerank", "--window", "1", name="one"))


@pytest.mark.parametrize(
    ("rule", "alpha", "beta"), [("average", 0.25, 0.75), ("rocchio", 1.0, 0.5), ("rocchio", 0.9, 0.1)]
)
def test_feedback_by_rule_searches_the_whole_index(
    made: Made, toy_run: Path, beir: Path, tiny_index: Path, tiny_model: Path, rule: str, alpha: float, beta: float
):
    """The average of a query and three documents is a quarter of the query and three quarters of their mean."""
    index, encoder = DenseIndex(tiny_index), E2RankEncoder.load(str(tiny_model))
    topics = read_topics(beir / "queries.jsonl")
    first = read_run(toy_run)
    vectors = []
    for qid, hits in first.items():
        documents = index.vectors([hit.docid for hit in hits[:3]])[0]
        vectors.append(alpha * encoder.encode_queries([topics[qid]])[0] + beta * documents.mean(axis=0))
    expected = brute_force(index, np.stack(vectors), 15)
    more = ["--rocchio-alpha", str(alpha), "--rocchio-beta", str(beta)] if rule == "rocchio" and alpha != 1 else []
    found = made("feedback", "--by", rule, "--hits", "15", *more)
    assert list(docids(found).values()) == expected


def test_feedback_by_prompt_searches_the_whole_index_with_the_prompts_vector(
    made: Made, toy_run: Path, tiny_index: Path
):
    reranked = made("rerank", "--window", "5", "--depth", "30", name="reranked")
    found = made("feedback", "--window", "5", "--hits", "40")
    for qid, hits in found.items():
        assert len(hits) == 40
        scores = dict(hits)
        assert {hit.docid: scores[hit.docid] for hit in reranked[qid]} == pytest.approx(dict(reranked[qid]), abs=3e-6)


def test_feedback_interpolates_runs_of_the_whole_index(made: Made, toy_run: Path):
    found = made("feedback", "--window", "5", "--hits", "10", "--interpolate", "prompt=1e-9", "first=1")
    assert docids(found) == {qid: names[:10] for qid, names in docids(read_run(toy_run)).items()}


def test_what_was_cut_where_nothing_was_read_is_said_too():
    assert cut({}) == cut(vars(Tally())) == "nothing read, nothing cut"
    assert cut({"prompts": 2, "prompt_documents": 9}) == "0 of 9 documents in prompts, 0 of 2 queries in prompts cut"


def test_rules_need_no_texts(toy_run: Path, beir: Path, tiny_index: Path, tmp_path: Path):
    words = ["--run", str(toy_run), "--topics", str(beir / "queries.jsonl"), "--index", str(tiny_index)]
    for command in ("rerank", "feedback"):
        assert main([command, *words, "--by", "rocchio", "--output", str(tmp_path / command)]) == 0


def test_where_the_time_of_a_query_went_is_said(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The line's milliseconds are those of RUN.json over the queries, part by part."""
    run = made("rerank", "--window", "4")
    seconds = json.loads((tmp_path / "out.trec.json").read_text())["seconds"]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ms a query: ")]
    told = {part: float(number) for part, number in (word.split() for word in line[12:].split(", "))}
    assert list(told) == ["tokenise", "encode", "gather", "score"]
    for part, milliseconds in told.items():
        assert milliseconds == pytest.approx(1000 * seconds[part] / len(run), abs=0.11)


def test_a_corpus_that_is_not_the_indexs_is_told(
    made: Made, beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    told = "was built from"
    made("rerank", "--window", "2")
    assert told not in capsys.readouterr().err
    shutil.copy(beir / "corpus.jsonl", tmp_path / "corpus.jsonl")
    made("rerank", "--window", "2", "--corpus", str(tmp_path / "corpus.jsonl"))  # the same, elsewhere
    assert told not in capsys.readouterr().err
    (tmp_path / "corpus.jsonl").write_text((beir / "corpus.jsonl").read_text().replace("wing", "rudder"))
    made("rerank", "--window", "2", "--corpus", str(tmp_path / "corpus.jsonl"))
    said = [line for line in capsys.readouterr().err.splitlines() if told in line]
    assert len(said) == 1
    assert said[0].startswith("e2rank rerank: ")
    assert "is another corpus, or has changed since" in said[0]


def test_the_corpus_is_read_once_for_windows_and_absent_documents(
    made: Made, toy_run: Path, beir: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    corpus = (beir / "corpus.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "half.jsonl").write_text("".join(corpus[::2]))
    words = ["--encoder", str(tiny_model), "--output", str(tmp_path / "half")]
    assert main(["index", "--corpus", str(tmp_path / "half.jsonl"), *words]) == 0
    asked: list[set[str]] = []
    find_all = corpora.find_all
    monkeypatch.setattr(
        corpora, "find_all", lambda source, docids: asked.append(set(docids)) or find_all(source, docids)
    )
    words = ["--run", str(toy_run), "--dataset", str(beir), "--output", str(tmp_path / "out"), "--window", "3"]
    assert main(["rerank", *words, "--index", str(tmp_path / "half"), "--depth", "8"]) == 0
    hits = read_run(toy_run).values()
    stored = set((tmp_path / "half" / "docid").read_text().split())
    assert asked == [{hit.docid for row in hits for n, hit in enumerate(row[:8]) if n < 3 or hit.docid not in stored}]


def test_the_prompts_task_is_not_the_plain_querys(made: Made):
    words = ["rerank", "--depth", "12", "--window", "4", "--cut", "--task", "Sort them", "--interpolate"]
    found = made(*words, "prompt=1e-9", "query=1")
    assert docids(found) == docids(made("rerank", "--by", "query", "--depth", "12", "--cut", name="query"))


def test_an_adaptive_window_is_scaled_in_feedback_too(made: Made, steep: Path):
    for depth, window in (("3", "2"), ("30", "3")):
        options = ["--adaptive", "0.5", "--depth", depth, "--window", "3"]
        adaptive = made("feedback", *options, run=steep, name="a")
        assert_same(adaptive, made("feedback", "--window", window, run=steep, name="b"))


def test_in_every_pass_first_is_the_first_stage(made: Made, toy_run: Path, tmp_path: Path):
    words, both = ["rerank", "--depth", "12", "--window", "4", "--cut"], ["--interpolate", "prompt=0.5", "first=0.5"]
    twice = made(*words, *both, "--passes", "2", name="twice")
    made(*words, *both, name="once")
    scored = made(*words, run=tmp_path / "once", name="scored")
    first = {qid: hits[:12] for qid, hits in read_run(toy_run).items()}
    assert_same(twice, interpolate([Part(0.5, scored), Part(0.5, first)], hits=12))


def test_a_weight_of_nought_is_not_the_default(made: Made):
    by_query = made("rerank", "--by", "query", name="query")
    assert_same(made("rerank", "--by", "rocchio", "--rocchio-beta", "0"), by_query)
