"""A bounded queue of questions and the one thread that owns the model: what waits together is answered together."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol, TypeVar

from e2rank_pyserini.answering import Answer, Question

_TOGETHER = 64  # questions answered at once


class Full(Exception):
    """As many questions wait as may."""


class Stopped(Exception):
    """Nothing answers any more."""


class Answers(Protocol):
    """What the thread owns."""

    @property
    def batch_tokens(self) -> int: ...

    def answer(self, questions: Sequence[Question]) -> list[Answer]: ...


Opened = TypeVar("Opened", bound=Answers)


class Job(NamedTuple):
    """A question that waits, about how many tokens it is, and where its answer goes."""

    question: Question
    tokens: int
    future: "Future[Answer]"


class Worker:
    """Answers questions in the order they came, as many together as the encoder's token budget takes.

    `waiting` bounds the queue; `answered` is told how many were taken together. A question whose future is cancelled
    before its turn is not encoded. One that cannot be answered fails alone: the others of its batch are tried again
    without it.
    """

    def __init__(self, waiting: int, answered: Callable[[int], object]) -> None:
        self.most = waiting
        self.answered = answered
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._stopped = False
        self._opened: Future[Any] = Future()
        self._thread: threading.Thread | None = None

    def start(self, opened: Callable[[], Opened]) -> Opened:
        """Open what answers, in the thread that will own it, and wait for it; raises what that raises."""
        # a thread that hangs in the model must not keep the process alive
        self._thread = threading.Thread(target=self._run, args=(opened,), name="e2rank-model", daemon=True)
        self._thread.start()
        made: Opened = self._opened.result()
        return made

    @property
    def alive(self) -> bool:
        """Whether questions are answered."""
        return self._thread is not None and self._thread.is_alive() and not self._stopped

    @property
    def waiting(self) -> int:
        """How many questions wait."""
        return self._queue.qsize()

    def submit(self, question: Question, tokens: int) -> "Future[Answer]":
        """A future with the answer. Raises Full and Stopped. To be called from one thread."""
        if not self.alive:
            raise Stopped
        if self.waiting >= self.most:
            raise Full
        job = Job(question, tokens, Future())
        self._queue.put(job)
        return job.future

    def stop(self, timeout: float) -> bool:
        """Take no more, answer what waits; whether that was done within `timeout` seconds."""
        self._stopped = True
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(timeout)
        return self._thread is None or not self._thread.is_alive()

    def _run(self, opened: Callable[[], Answers]) -> None:
        try:
            answers = opened()
        except BaseException as error:  # noqa: BLE001  whoever waits for the start raises it
            self._opened.set_exception(error)
            return
        self._opened.set_result(answers)
        try:
            while batch := self._batch(answers.batch_tokens):
                self.answered(len(batch))
                _answer(batch, answers)
        finally:
            self._fail_rest()

    def _batch(self, most: int) -> list[Job]:
        """Wait for a question, then take those that wait behind it, until they are `most` tokens; empty at the end."""
        batch: list[Job] = []
        taken = 0
        while not batch or (taken < most and len(batch) < _TOGETHER):
            try:
                job = self._queue.get(block=not batch)
            except queue.Empty:
                break
            if job is None:
                self._queue.put(None)  # the end: also for the next call
                break
            if job.future.set_running_or_notify_cancel():
                batch.append(job)
                taken += job.tokens
        return batch

    def _fail_rest(self) -> None:
        self._stopped = True
        while not self._queue.empty():
            job = self._queue.get()
            if job is not None and job.future.set_running_or_notify_cancel():
                job.future.set_exception(Stopped())


def _answer(batch: Sequence[Job], answers: Answers) -> None:
    try:
        found = answers.answer([job.question for job in batch])
    except Exception as error:  # noqa: BLE001  whatever it is, it must not reach the questions that did not cause it
        if len(batch) == 1:
            batch[0].future.set_exception(error)
            return
        middle = len(batch) // 2
        _answer(batch[:middle], answers)
        _answer(batch[middle:], answers)
        return
    for job, answer in zip(batch, found, strict=True):
        job.future.set_result(answer)
