"""Feedback rules, what is read, sliding windows and interpolated scores, by hand and against Pyserini's own."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from e2rank_pyserini.feedback import (
    Part,
    average,
    interpolate,
    near_first,
    prf_vectors,
    reading,
    rocchio,
    search_again,
    slide,
    windows,
)
from e2rank_pyserini.trec import write_run
from e2rank_pyserini.types import E2RankError, Hit, Run
from tests.test_reranking import ANGLES, TEXTS, Compass, Stored, _unit

RUN = {"007": [Hit(docid, score) for docid, score in zip("abcde", (9.0, 8.5, 5.0, 2.0, 1.0), strict=True)]}


def docids(run: Run, qid: str = "007") -> str:
    return "".join(hit.docid for hit in run[qid])


# --- rules ------------------------------------------------------------------------------------------------------------


def test_nothing_to_feed_back_is_an_error():
    with pytest.raises(E2RankError, match="query q: no documents to feed back"):
        prf_vectors({"q": []}, {"q": _unit([40])[0]}, TEXTS, Stored(ANGLES), Compass(), average)


def test_the_rules_by_hand():
    query, documents = np.float32([1, 0]), np.float32([[0, 1], [0, 3]])
    np.testing.assert_allclose(average(query, documents), [1 / 3, 4 / 3])
    np.testing.assert_allclose(rocchio(query, documents), [1, 1])
    np.testing.assert_allclose(rocchio(query, documents, alpha=2, beta=0.25), [2, 0.5])


def test_the_vectors_have_length_one_and_point_between_query_and_documents():
    read = {"q": [Hit("a", 2.0), Hit("c", 1.0)]}  # 0 and 20 degrees; the query at 40
    found = prf_vectors(read, {"q": _unit([40])[0]}, TEXTS, Stored(ANGLES), Compass(), average)["q"]
    np.testing.assert_allclose(found, _unit([20])[0], atol=1e-6)  # the mean of 0, 20 and 40 degrees
    assert found.dtype == np.float32


def test_a_document_that_the_index_lacks_is_encoded():
    encoder, stored = Compass(), Stored({"a": 0.0})
    read = {"q": [Hit("a", 2.0), Hit("c", 1.0)]}
    found = prf_vectors(read, {"q": _unit([40])[0]}, TEXTS, stored, encoder, average)["q"]
    np.testing.assert_allclose(found, _unit([20])[0], atol=1e-6)
    assert encoder.encoded == [TEXTS["c"]]


def test_vectors_that_cancel_out_are_refused():
    with pytest.raises(E2RankError, match="query q: its vector and its feedback documents cancel out"):
        prf_vectors({"q": [Hit("x", 1.0)]}, {"q": _unit([180])[0]}, {}, Stored({"x": 0.0}), Compass(), rocchio_whole)


def rocchio_whole(query, documents):
    return np.round(rocchio(query, documents, beta=1.0), 6)


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "expected"), [("initial", "abc"), ("reverse", "cba")])
def test_the_order_of_what_is_read(order: str, expected: str):
    assert docids(reading(RUN, window=3, order=order)) == expected


def test_a_shuffle_depends_on_seed_and_query_alone():
    many = {"x": RUN["007"], **RUN}
    for seed in range(5):
        shuffled = reading(RUN, window=5, order="shuffle", seed=seed)
        assert sorted(docids(shuffled)) == list("abcde")
        assert reading(many, window=5, order="shuffle", seed=seed)["007"] == shuffled["007"]
    assert len({docids(reading(RUN, window=5, order="shuffle", seed=seed)) for seed in range(20)}) > 5


@pytest.mark.parametrize(
    ("share", "expected"),
    [(1.0, "a"), (0.95, "a"), (0.9, "ab"), (0.5, "abc"), (0.2, "abc"), (0.1, "abcd"), (0.0, "abcde")],
)
def test_an_adaptive_window_ends_where_the_score_falls_off(share: float, expected: str):
    assert docids(reading(RUN, window=5, share=share)) == expected  # scaled scores: 1, 0.9375, 0.5, 0.125, 0


def test_an_adaptive_window_scales_by_depth_and_stays_below_the_window():
    assert docids(reading(RUN, window=5, share=0.5, depth=3)) == "ab"  # 9, 8.5, 5 -> 1, 0.875, 0
    assert docids(reading(RUN, window=2, share=0.0)) == "ab"
    assert near_first([Hit("a", 1.0), Hit("b", 1.0)], 1.0) == 2  # equal scores do not fall off


def test_unknown_orders_and_empty_windows_are_refused():
    with pytest.raises(E2RankError, match="order 'backwards': expected one of initial, reverse, shuffle"):
        reading(RUN, window=3, order="backwards")
    with pytest.raises(E2RankError, match="window 0"):
        reading(RUN, window=0)


# --- the whole index --------------------------------------------------------------------------------------------------


class Searchable(Stored):
    def search(self, vectors, hits: int) -> list[list[Hit]]:
        names = list(self.angles)
        rows = vectors @ self.vectors(names)[0].T
        return [[Hit(names[n], float(row[n])) for n in np.argsort(-row, kind="stable")[:hits]] for row in rows]


def test_the_whole_index_is_searched_for_every_query_in_order():
    found = search_again({"q": _unit([12])[0], "p": _unit([66])[0]}, Searchable(ANGLES), hits=2)
    assert list(found) == ["q", "p"]
    assert (docids(found, "q"), docids(found, "p")) == ("be", "dc")
    assert search_again({}, Searchable(ANGLES), hits=2) == {}


# --- sliding windows --------------------------------------------------------------------------------------------------


def sliding_window_reference(names: Sequence[str], value: dict[str, float], window: int, stride: int) -> list[str]:
    """RankGPT's loop (Sun et al. 2023, section 3.2), as its paper words it: from the end, `stride` back each time."""
    order = list(names)
    end = len(order)
    while True:
        start = max(0, end - window)
        order[start:end] = sorted(order[start:end], key=lambda docid: -value[docid])
        if start == 0:
            return order
        end -= stride


@given(some.data())
def test_sliding_windows_equal_the_reference(data):
    count = data.draw(some.integers(1, 30))
    window = data.draw(some.integers(1, 12))
    stride = data.draw(some.integers(1, window))
    names = [f"d{n}" for n in range(count)]
    value = {name: float(data.draw(some.integers(-3, 3))) for name in names}
    run = {"q": [Hit(name, 100.0 - n) for n, name in enumerate(names)], "short": [Hit("d0", 1.0)]}

    def by_value(part: Run) -> Run:
        return {
            qid: [Hit(hit.docid, value[hit.docid]) for hit in sorted(hits, key=lambda hit: -value[hit.docid])]
            for qid, hits in part.items()
        }

    found = slide(run, by_value, depth=100, window=window, stride=stride)
    assert [hit.docid for hit in found["q"]] == sliding_window_reference(names, value, window, stride)
    scores = [hit.score for hit in found["q"]]
    assert scores == sorted(scores, reverse=True)
    assert found["short"] == [Hit("d0", value["d0"])]


def test_windows_start_at_the_end_and_the_first_hits_are_always_read():
    assert windows(0, 4, 2) == []
    tens = [(start, start + 20) for start in range(80, -1, -10)]
    assert [(place.start, place.stop) for place in windows(100, 20, 10)] == tens
    assert windows(25, 20, 10) == [slice(5, 25), slice(0, 15)]
    assert windows(20, 20, 10) == [slice(0, 20)]
    assert windows(3, 20, 10) == [slice(0, 3)]


def test_a_stride_must_lie_within_the_window():
    for stride in (0, 4):
        with pytest.raises(E2RankError, match=f"stride {stride}: expected 1 to window"):
            slide(RUN, lambda part: part, depth=5, window=3, stride=stride)


def test_hits_below_depth_are_not_slid_over():
    assert docids(slide(RUN, lambda part: part, depth=3, window=2, stride=1)) == "abc"


# --- interpolation ----------------------------------------------------------------------------------------------------


def test_interpolation_by_hand():
    first = {"q": [Hit("a", 10.0), Hit("b", 6.0), Hit("c", 2.0)]}
    second = {"q": [Hit("c", 0.9), Hit("b", 0.8), Hit("d", 0.4)]}
    found = interpolate([Part(0.25, second), Part(0.75, first)], hits=3)["q"]
    assert [hit.docid for hit in found] == ["a", "b", "c"]  # 0.75, 0.2 + 0.375, 0.25; d has 0
    assert [hit.score for hit in found] == pytest.approx([0.75, 0.575, 0.25])


def test_ties_go_to_the_first_run_and_equal_scores_count_one():
    first = {"q": [Hit("b", 1.0), Hit("a", 1.0)]}
    found = interpolate([Part(0.5, first), Part(0.5, {"q": [Hit("a", 3.0), Hit("b", 3.0)]})], hits=9)["q"]
    assert found == [Hit("b", 1.0), Hit("a", 1.0)]


@pytest.mark.parametrize("seed", range(3))
def test_interpolation_equals_pyserinis_fusion(seed: int, tmp_path):
    """pyserini.fusion: `normalize` for equal weights, `interpolation` of normalised runs for others."""
    from pyserini.fusion import interpolation, normalize
    from pyserini.trectools import RescoreMethod, TrecRun

    draw = np.random.default_rng(seed)
    runs = []
    for _ in range(2):
        names = draw.permutation(30)[:20]
        scores = sorted(draw.random(20).round(6), reverse=True)
        hits = [Hit(f"d{name}", float(score)) for name, score in zip(names, scores, strict=True)]
        runs.append({"q1": hits, "q2": hits[::2]})
    for name, run in zip("ab", runs, strict=True):
        write_run(tmp_path / name, run, "x")
    theirs = [TrecRun(str(tmp_path / name)) for name in "ab"]
    even = interpolate([Part(0.5, run) for run in runs], hits=99)
    assert_same(even, normalize(theirs), factor=0.5)
    scaled = [run.clone().rescore(method=RescoreMethod.NORMALIZE) for run in theirs]
    assert_same(interpolate([Part(0.3, runs[0]), Part(0.7, runs[1])], hits=99), interpolation(scaled, alpha=0.3))


def assert_same(ours: Run, theirs, factor: float = 1.0) -> None:
    for qid, hits in ours.items():
        found = theirs.run_data[theirs.run_data["topic"] == qid]
        expected = dict(zip(found["docid"], found["score"] * factor, strict=True))
        assert dict(hits) == pytest.approx(expected, abs=1e-6)


def test_every_query_is_shuffled_otherwise():
    many = {str(number): RUN["007"] for number in range(20)}
    shuffled = reading(many, window=5, order="shuffle", seed=3)
    assert len({docids(shuffled, qid) for qid in many}) > 5
