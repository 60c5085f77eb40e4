"""Reranking with an encoder and an index whose answers can be computed by hand; no torch."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest

from e2rank_pyserini.reranking import missing, order, prompt_vectors, rerank, rescore, texts_needed
from e2rank_pyserini.retrieval import search
from e2rank_pyserini.types import E2RankError, Hit, ListwisePrompt, Vectors


class Compass:
    """A two-dimensional encoder: a text is the angle in degrees that it names, a prompt the mean of its documents'."""

    dim = 2

    def __init__(self) -> None:
        self.prompts: list[ListwisePrompt] = []
        self.encoded: list[str] = []

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        self.encoded += texts
        return _unit([float(text) for text in texts])

    def encode_queries(self, texts: Sequence[str], task: str | None = None) -> Vectors:
        return _unit([float(text) for text in texts])

    def encode_prompts(self, prompts: Sequence[ListwisePrompt]) -> Vectors:
        self.prompts += prompts
        return _unit([float(np.mean([float(text) for text in prompt.documents])) for prompt in prompts])


class Stored:
    def __init__(self, angles: dict[str, float]) -> None:
        self.angles = angles

    def vectors(self, docids: Sequence[str]):
        found = np.zeros((len(docids), 2), dtype=np.float32)
        stored = np.array([docid in self.angles for docid in docids], dtype=bool)
        for row, docid in enumerate(docids):
            if docid in self.angles:
                found[row] = _unit([self.angles[docid]])[0]
        return found, stored

    def stored(self, docids: Sequence[str]):
        return np.array([docid in self.angles for docid in docids], dtype=bool)

    def search(self, vectors: Vectors, hits: int) -> list[list[Hit]]:
        raise AssertionError("reranking does not search")


def _unit(degrees: Sequence[float]) -> Vectors:
    radians = np.radians(np.array(degrees, dtype=np.float64)).reshape(-1)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


ANGLES = {"a": 0.0, "b": 10.0, "c": 20.0, "d": 70.0, "e": 15.0}
TEXTS = {docid: str(angle) for docid, angle in ANGLES.items()}
RUN = {"007": [Hit(docid, 10.0 - rank) for rank, docid in enumerate("abcde")]}
TOPICS = {"007": "40", "other": "1"}


def test_the_prompt_reads_the_window_in_first_stage_order():
    encoder = Compass()
    rerank(RUN, TOPICS, TEXTS, Stored(ANGLES), encoder, depth=5, window=3, task="T", noun="N")
    assert encoder.prompts == [ListwisePrompt("40", ("0.0", "10.0", "20.0"), "T", "N")]
    assert encoder.encoded == []


def test_the_depth_is_rescored_by_cosine_with_the_prompt():
    hits = rerank(RUN, TOPICS, TEXTS, Stored(ANGLES), Compass(), depth=5, window=3)["007"]
    assert [hit.docid for hit in hits] == ["b", "e", "a", "c", "d"]  # the prompt points at 10 degrees
    expected = [np.cos(np.radians(angle)) for angle in (0, 5, 10, 10, 60)]
    np.testing.assert_allclose([hit.score for hit in hits], expected, atol=1e-6)


def test_hits_below_depth_follow_in_order_under_minus_one_or_are_cut():
    hits = rerank(RUN, TOPICS, TEXTS, Stored(ANGLES), Compass(), depth=2, window=2)["007"]
    assert [hit.docid for hit in hits[2:]] == ["c", "d", "e"]
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    np.testing.assert_allclose(scores[2:], [-1.000001, -1.000002, -1.000003], atol=1e-9)
    cut = rerank(RUN, TOPICS, TEXTS, Stored(ANGLES), Compass(), depth=2, window=2, cut=True)["007"]
    assert cut == hits[:2]


def test_ties_keep_the_first_stage_order():
    angles = {"x": 30.0, "y": -30.0, "z": 30.0}
    run = {"q": [Hit("y", 3.0), Hit("z", 2.0), Hit("x", 1.0)]}
    vectors, _ = Stored(angles).vectors(["y", "z", "x"])
    assert [hit.docid for hit in order(["y", "z", "x"], vectors, _unit([0.0])[0])] == ["y", "z", "x"]
    assert [hit.docid for hit in rescore(run, {"q": _unit([0.0])[0]}, {}, Stored(angles), Compass())["q"]] == [
        "y",
        "z",
        "x",
    ]


def test_a_score_does_not_depend_on_how_many_are_computed():
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((500, 1024)).astype(np.float32)
    query = draw.standard_normal(1024).astype(np.float32)
    docids = [str(n) for n in range(500)]
    together = {hit.docid: hit.score for hit in order(docids, vectors, query)}
    for count in (1, 3, 17, 333):
        for hit in order(docids[:count], vectors[:count], query):
            assert hit.score == together[hit.docid]


def test_what_the_index_lacks_is_encoded_once():
    stored = Stored({docid: angle for docid, angle in ANGLES.items() if docid not in "bd"})
    run = {**RUN, "other": [Hit("b", 2.0), Hit("a", 1.0)]}
    encoder = Compass()
    assert missing(run, stored, depth=5) == ["b", "d"]
    full = rerank(run, TOPICS, TEXTS, Stored(ANGLES), Compass(), depth=5, window=3)
    assert rerank(run, TOPICS, TEXTS, stored, encoder, depth=5, window=3) == full
    assert encoder.encoded == ["10.0", "70.0"]


def test_only_the_texts_that_are_needed_are_asked_for():
    stored = Stored({docid: angle for docid, angle in ANGLES.items() if docid != "d"})
    assert texts_needed(RUN, stored, depth=5, window=2) == {"a", "b", "d"}
    assert texts_needed(RUN, stored, depth=3, window=0) == set()


def test_a_query_without_a_topic_and_a_document_without_a_text_are_named():
    with pytest.raises(E2RankError, match="query 007: in the run but not in the topics"):
        prompt_vectors(RUN, {}, TEXTS, Compass())
    with pytest.raises(E2RankError, match="document c: in the run but not in the corpus"):
        prompt_vectors(RUN, TOPICS, {"a": "1", "b": "2"}, Compass(), window=3)
    with pytest.raises(E2RankError, match="query 007"):
        rescore(RUN, {}, TEXTS, Stored(ANGLES), Compass())
    with pytest.raises(E2RankError, match="document e"):
        rescore(RUN, {"007": _unit([0.0])[0]}, {}, Stored(dict.fromkeys("abcd", 1.0)), Compass())


@pytest.mark.parametrize(("window", "depth"), [(0, 5), (6, 5)])
def test_a_window_must_lie_within_the_depth(window: int, depth: int):
    with pytest.raises(E2RankError, match=f"window {window}"):
        rerank(RUN, TOPICS, TEXTS, Stored(ANGLES), Compass(), window=window, depth=depth)


def test_what_would_read_or_rescore_from_the_end_is_refused():
    with pytest.raises(E2RankError, match="window -1: expected at least 1"):
        prompt_vectors(RUN, TOPICS, TEXTS, Compass(), window=-1)
    with pytest.raises(E2RankError, match="depth -1: expected at least 1"):
        rescore(RUN, {"007": _unit([0.0])[0]}, TEXTS, Stored(ANGLES), Compass(), depth=-1)


@pytest.mark.parametrize("vector", [_unit([0.0]), np.zeros(3), np.array([np.nan, 1.0])])
def test_a_vector_that_is_none_is_refused(vector: Vectors):
    """A row of a matrix, of another width, of no numbers."""
    with pytest.raises(E2RankError, match=r"query 007: expected a vector of (2 numbers, got \(.*\)|finite numbers)"):
        rescore(RUN, {"007": vector}, TEXTS, Stored(ANGLES), Compass())


def test_an_index_of_another_model_is_refused():
    class Ours(Compass):
        record: ClassVar = {"name": "ours"}

    class Theirs(Stored):
        def check_model(self, model: dict[str, str], dim: int) -> None:
            raise E2RankError(f"built with another model than {model['name']} of {dim}")

    stored, encoder = Theirs(ANGLES), Ours()
    for call in (
        lambda: rerank(RUN, TOPICS, TEXTS, stored, encoder),
        lambda: rescore(RUN, {"007": _unit([0.0])[0]}, TEXTS, stored, encoder),
        lambda: search(TOPICS, stored, encoder),
    ):
        with pytest.raises(E2RankError, match="built with another model than ours of 2"):
            call()
    assert not encoder.prompts


def test_many_queries_are_all_there_in_order():
    run = {f"{n:03}": RUN["007"] for n in range(150)}
    topics = dict.fromkeys(run, "1")
    finished = []
    vectors = prompt_vectors(run, topics, TEXTS, Compass(), window=1, done=finished.append)
    assert list(vectors) == list(run)
    assert sum(finished) == 150


def test_hits_below_depth_are_not_encoded():
    stored, encoder = Stored({docid: ANGLES[docid] for docid in "abc"}), Compass()
    texts = {docid: TEXTS[docid] for docid in "abc"}  # nor are their texts needed
    hits = rescore(RUN, {"007": _unit([0.0])[0]}, texts, stored, encoder, depth=3)["007"]
    assert [hit.docid for hit in hits] == ["a", "b", "c", "d", "e"]
    assert encoder.encoded == []


def test_a_prompt_reads_as_many_as_the_model_says():
    class Says(Compass):
        class spec:
            window = 2

    for encoder, window, depth, read in ((Compass(), None, 100, 3), (Says(), None, 100, 2), (Says(), None, 1, 1)):
        run = {"q": [Hit(docid, 0.0) for docid in "abc"]}
        texts = {"a": "0", "b": "10", "c": "20"}
        rerank(run, {"q": "0"}, texts, Stored({"a": 0, "b": 10, "c": 20}), encoder, window=window, depth=depth)
        assert [len(prompt.documents) for prompt in encoder.prompts] == [read]
