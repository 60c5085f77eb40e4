"""The queue and its thread, with an answerer whose answers can be computed by hand."""

import threading
from collections.abc import Iterator, Sequence

import pytest

from e2rank_pyserini.serving.answering import Answer, Question, Search
from e2rank_pyserini.serving.batching import Full, Stopped, Worker
from e2rank_pyserini.types import E2RankError, Hit


class Echo:
    """Answers each query with itself, once `go` is set; a query `bad` cannot be answered, `die` ends the thread."""

    batch_tokens = 100

    def __init__(self) -> None:
        self.go, self.busy = threading.Event(), threading.Event()
        self.calls: list[list[str]] = []

    def check(self, question: Question) -> None:
        if question.query == "seen":
            raise E2RankError("seen")

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        self.busy.set()
        assert self.go.wait(10)
        queries = [question.query for question in questions]
        self.calls.append(queries)
        if "bad" in queries:
            raise E2RankError("bad")
        if "die" in queries:
            raise SystemExit
        return [Answer([Hit(query, 1.0)], {}) for query in queries]


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def taken() -> list[int]:
    return []


@pytest.fixture
def worker(echo: Echo, taken: list[int]) -> Iterator[Worker]:
    """Its thread holds one question, `first`, until `echo.go` is set: what comes after waits."""
    worker = Worker(8, taken.append)
    assert not worker.alive
    assert worker.start(lambda: echo) is echo
    assert said(worker, "first")
    assert echo.busy.wait(10)
    yield worker
    echo.go.set()
    assert worker.stop(10)
    assert not worker.alive


def said(worker: Worker, query: str, tokens: int = 1):
    return worker.submit(Search(query, 1), tokens)


def answer(future) -> str:
    return future.result(10).hits[0].docid


def test_what_waits_is_answered_together_in_its_order(worker: Worker, echo: Echo, taken: list[int]):
    futures = [said(worker, query) for query in "abc"]
    assert worker.waiting == 3
    echo.go.set()
    assert [answer(future) for future in futures] == ["a", "b", "c"]
    assert echo.calls == [["first"], ["a", "b", "c"]]
    assert taken == [1, 3]


def test_a_batch_ends_where_it_holds_the_encoders_tokens(worker: Worker, echo: Echo):
    futures = [said(worker, query, tokens) for query, tokens in (("a", 60), ("b", 60), ("c", 300), ("d", 1))]
    echo.go.set()
    assert [answer(future) for future in futures] == ["a", "b", "c", "d"]
    assert echo.calls[1:] == [["a", "b"], ["c"], ["d"]]


@pytest.mark.parametrize("place", range(5))
def test_a_bad_question_fails_alone(worker: Worker, echo: Echo, place: int):
    queries = ["a", "b", "c", "d"]
    queries.insert(place, "bad")
    futures = [said(worker, query) for query in queries]
    echo.go.set()
    for query, future in zip(queries, futures, strict=True):
        if query == "bad":
            with pytest.raises(E2RankError, match="bad"):
                future.result(10)
        else:
            assert answer(future) == query


def test_what_can_be_seen_to_be_bad_costs_the_others_nothing(worker: Worker, echo: Echo, taken: list[int]):
    futures = [said(worker, query) for query in ("a", "seen", "b")]
    echo.go.set()
    assert [answer(futures[0]), answer(futures[2])] == ["a", "b"]
    with pytest.raises(E2RankError, match="seen"):
        futures[1].result(10)
    assert echo.calls == [["first"], ["a", "b"]]
    assert taken == [1, 2]


def test_what_is_taken_back_before_its_turn_is_not_encoded(worker: Worker, echo: Echo):
    gone, kept = said(worker, "gone"), said(worker, "kept")
    assert worker.waiting == 2
    assert gone.cancel()
    assert worker.waiting == 1
    echo.go.set()
    assert answer(kept) == "kept"
    assert echo.calls == [["first"], ["kept"]]


def test_the_queue_is_bounded(worker: Worker, echo: Echo):
    futures = [said(worker, f"{number}") for number in range(8)]
    with pytest.raises(Full):
        said(worker, "one too many")
    assert futures.pop(3).cancel()
    futures.append(said(worker, "in its place"))
    with pytest.raises(Full):
        said(worker, "one too many")
    echo.go.set()
    assert [answer(future) for future in futures] == [*"012", *"4567", "in its place"]
    assert answer(said(worker, "again")) == "again"


def test_stopping_answers_what_waits_and_takes_no_more(worker: Worker, echo: Echo):
    futures = [said(worker, query) for query in "ab"]
    assert not worker.stop(0.01)
    with pytest.raises(Stopped):
        said(worker, "late")
    echo.go.set()
    assert worker.stop(10)
    assert [answer(future) for future in futures] == ["a", "b"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_is_noticed_and_leaves_nobody_waiting(worker: Worker, echo: Echo):
    said(worker, "die", 1000)
    late = said(worker, "late")
    echo.go.set()
    with pytest.raises(Stopped):
        late.result(10)
    assert not worker.alive
    with pytest.raises(Stopped):
        said(worker, "later")


def test_what_cannot_be_opened_is_raised_where_it_was_asked_for():
    def fails() -> Echo:
        raise E2RankError("no such model")

    with pytest.raises(E2RankError, match="no such model"):
        Worker(1, len).start(fails)
