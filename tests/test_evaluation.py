"""Measures against closed forms and the reference; against trec_eval itself in integration/."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2rank_pyserini.evaluation import evaluate, per_topic, table
from e2rank_pyserini.trec import read_qrels
from e2rank_pyserini.types import E2RankError, Hit
from tests.reference import plain


def run_of(**lists: str):
    return {qid: [Hit(docid, -float(rank)) for rank, docid in enumerate(docids)] for qid, docids in lists.items()}


def test_by_hand():
    qrels = {"1": {"a": 2, "b": 1, "c": 0}, "2": {"x": 1}}
    values = evaluate(run_of(**{"1": "cab", "2": "yx"}), qrels)
    ideal = 2 + 1 / math.log2(3)
    first = (2 / math.log2(3) + 1 / math.log2(4)) / ideal
    second = 1 / math.log2(3)
    assert values["nDCG@10"] == pytest.approx((first + second) / 2)
    assert values["MAP"] == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1 / 2) / 2)
    assert values["R@100"] == 1
    assert values["MRR@10"] == pytest.approx(1 / 2)


def test_the_highest_grade_that_is_read_is_measured(tmp_path: Path):
    (tmp_path / "qrels").write_text("1 0 a 1\n1 0 b 10000000\n1 0 c -10000000\n")
    values = evaluate(run_of(**{"1": "cab"}), read_qrels(tmp_path / "qrels"))
    gained = 1 / math.log2(3) + 10**7 / math.log2(4)
    assert values["nDCG@10"] == pytest.approx(gained / (10**7 + 1 / math.log2(3)))
    assert values["MAP"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_judged_topic_without_hits_counts_zero_and_an_unjudged_one_not_at_all():
    qrels = {"1": {"a": 1}, "2": {"a": 1}}
    values = evaluate(run_of(**{"1": "a", "unjudged": "a"}), qrels)
    assert values == {"nDCG@10": 0.5, "MAP": 0.5, "R@100": 0.5, "MRR@10": 0.5}


def test_a_topic_with_an_empty_list_of_hits_is_one_without_hits():
    qrels = {"1": {"a": 1}, "2": {"a": 1}}
    measures = ["nDCG@10", "MAP", "R@100", "MRR@10", "judged@10"]
    assert evaluate({"1": run_of(x="a")["x"], "2": []}, qrels, measures=measures) == dict.fromkeys(measures, 0.5)


def test_numpys_numbers_are_numbers():
    """As pandas and numpy give them."""
    run = {"q": [Hit("a", np.float32(0.9)), Hit("b", np.float16(0.5))]}
    assert evaluate(run, {"q": {"b": np.int64(1)}}) == evaluate({"q": [Hit("a", 0.9), Hit("b", 0.5)]}, {"q": {"b": 1}})
    assert evaluate(run, {"q": {"a": 1}}, measures=(name for name in ("MAP", "R@100"))) == {"MAP": 1, "R@100": 1}
    for grade in (1, 2):
        assert evaluate(run, {"q": {"a": 1, "b": 2}}, relevance=np.int64(grade)) == evaluate(
            run, {"q": {"a": 1, "b": 2}}, relevance=grade
        )


def test_plain_pairs_are_hits():
    run, qrels = run_of(**{"1": "cab", "2": "yx"}), {"1": {"a": 2, "b": 1}, "2": {"x": 1}}
    pairs: Any = {qid: [tuple(hit) for hit in hits] for qid, hits in run.items()}
    assert evaluate(pairs, qrels) == evaluate(run, qrels)


@pytest.mark.parametrize(
    ("run", "qrels", "more", "told"),
    [
        ([Hit("a", 3.0), Hit("b", 2.0), Hit("a", 1.0)], {"a": 1}, {}, "query q: a document appears twice"),
        ([Hit("a", math.nan)], {"a": 1}, {}, "query q: document a: expected a finite score, got nan"),
        ([Hit("a", "0.5")], {"a": 1}, {}, "query q: document a: expected a finite score, got '0.5'"),
        ([Hit("a", None)], {"a": 1}, {}, "query q: document a: expected a finite score, got None"),
        ([Hit("a", 1e300)], {"a": 1}, {}, r"query q: document a: expected a score of at most 1e\+38"),
        ([Hit("a", 1.0)], {"a": 2**31}, {}, "query q: document a: expected a grade of at most 10000000"),
        ([Hit("a", 1.0)], {"a": 1.0}, {}, "query q: document a: expected an integer grade, got 1.0"),
        ([Hit(7, 1.0)], {"a": 1}, {}, "expected ids of queries and documents as text without NUL, got 7"),
        ([Hit("a", 1.0)], {7: 1}, {}, "expected ids of queries and documents as text without NUL, got 7"),
        (
            [Hit("a\ud800", 1.0)],
            {"a": 1},
            {},
            r"expected ids of queries and documents as text without NUL, got 'a\\ud800'",
        ),
        (
            [Hit("a\0b", 1.0)],
            {"a\0c": 1},
            {},
            r"expected ids of queries and documents as text without NUL, got 'a.x00c'",
        ),
        ([Hit("a", 1.0)], {"a": 1}, {"relevance": 0}, "relevance 0: expected a grade of at least 1"),
        ([Hit("a", 1.0)], {"a": 1}, {"relevance": "2"}, "^relevance: expected an integer grade, got '2'$"),
        ([Hit("a", 1.0)], {"a": 1}, {"relevance": 2.5}, r"^relevance: expected an integer grade, got 2\.5$"),
        ([Hit("a", 1.0)], {"a": 1}, {"relevance": None}, "^relevance: expected an integer grade, got None$"),
        *(
            (run, {"a": 1}, {}, r"^query q: expected a list of hits \(docid, score\), best first, got a mapping$")
            for run in ({"d1": 1.0}, {"12": 0.5, "doc": 1.0})  # ids of two letters look like pairs
        ),
    ],
)
def test_what_no_file_could_hold_is_refused(run: Any, qrels: Any, more: dict[str, int], told: str):
    """trec_eval's own code would take the last of two, or crash."""
    with pytest.raises(E2RankError, match=told):
        evaluate({"q": run}, {"q": qrels}, **more)


def test_the_least_relevant_grade_moves_the_binary_measures_only():
    qrels = {"1": {"a": 1, "b": 2}}
    one, two = (evaluate(run_of(**{"1": "ab"}), qrels, relevance=grade) for grade in (1, 2))
    assert one["nDCG@10"] == two["nDCG@10"]
    assert (one["MRR@10"], two["MRR@10"]) == (1, 0.5)
    assert (one["MAP"], two["MAP"]) == (1, 0.5)


def test_mrr_looks_no_deeper_than_ten():
    docids = [f"d{n:02}" for n in range(20)]
    run = {"1": [Hit(docid, -float(n)) for n, docid in enumerate(docids)]}
    assert evaluate(run, {"1": {"d09": 1}})["MRR@10"] == pytest.approx(0.1)
    assert evaluate(run, {"1": {"d10": 1}})["MRR@10"] == 0


def test_grades_under_minus_one_are_worth_minus_one():
    """trec_eval's code crashed on a topic that has no others."""
    run = run_of(**{"1": "b", "2": "ab", "3": "cab"})
    low, least = ({"1": {"a": low}, "2": {"b": 1, "a": low}, "3": {"c": low, "b": 2}} for low in (-1, -2))
    values = evaluate(run, least)
    assert values == evaluate(run, low)
    assert values["MRR@10"] == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)


def test_judged_hits_are_the_first_ten_that_the_other_measures_see():
    run = {"1": [Hit(f"d{number:02}", 1.0) for number in range(20)]}  # ties: d19 to d10 come first
    of_ten = {"1": {f"d{number:02}": 1 for number in range(13)}}
    values = evaluate(run, of_ten, measures=["judged@10", "MRR@10"])
    assert values == {"judged@10": pytest.approx(0.3), "MRR@10": pytest.approx(1 / 8)}


def test_ndcg_equals_the_reference_on_random_lists():
    draw = random.Random(1)
    for _ in range(50):
        docids = [f"d{n}" for n in range(30)]
        qrels = {"1": {docid: draw.choice([-1, 0, 0, 1, 2, 3]) for docid in draw.sample(docids, 15)}}
        ranking = draw.sample(docids, 20)
        found = per_topic(run_of(**{"1": ranking}), qrels, measures=["nDCG@10"])["nDCG@10"]["1"]  # type: ignore[arg-type]
        assert found == pytest.approx(plain.ndcg(qrels["1"], ranking, 10))


def test_nothing_in_common_and_unknown_measures_are_refused():
    with pytest.raises(E2RankError, match="share no topic"):
        evaluate(run_of(**{"1": "a"}), {"2": {"a": 1}})
    with pytest.raises(E2RankError, match="measure 'P@7'"):
        evaluate(run_of(**{"1": "a"}), {"1": {"a": 1}}, measures=["P@7"])


def test_table_prints_percent():
    assert table([("first", {"nDCG@10": 0.5058}), ("x", {"nDCG@10": 1.0})]) == (
        "run     nDCG@10\nfirst     50.58\nx        100.00"
    )


@pytest.mark.parametrize(("year", "expected"), [("19", 0.5058), ("20", 0.4796)])
def test_published_bm25_numbers(shared, year: str, expected: float):
    from e2rank_pyserini.trec import read_qrels, read_run

    folder = shared / "msmarco-dl-pool"
    run = read_run(folder / "runs" / f"dl{year}.bm25.top100.trec")
    values = evaluate(run, read_qrels(folder / "qrels" / f"test-dl{year}.tsv"), relevance=2)
    assert values["nDCG@10"] == pytest.approx(expected, abs=5e-5)


def test_recall_is_of_the_first_hundred_and_of_what_is_relevant():
    run = {"1": [Hit(f"d{n:03}", -float(n)) for n in range(150)]}
    qrels = {"1": {"d000": 1, "d099": 2, "d100": 2}}
    one, two = (evaluate(run, qrels, relevance=grade)["R@100"] for grade in (1, 2))
    assert (one, two) == (pytest.approx(2 / 3), pytest.approx(1 / 2))


def test_scores_that_tie_in_float32_are_cut_as_trec_eval_cuts_them():
    run = {"1": [Hit(f"d{n:02}", 20 - n * 1e-8) for n in range(11)]}  # trec_eval: d10 first, d00 last
    assert evaluate(run, {"1": {"d10": 1}})["MRR@10"] == 1
    assert evaluate(run, {"1": {"d00": 1}})["MRR@10"] == 0
