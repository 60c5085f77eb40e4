"""A bounded queue of questions and the one thread that owns the model: what waits together is answered together."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from e2rank_pyserini.serving.answering import Answer, Answering, Question

_TOGETHER = 64  # questions answered at once


class Full(Exception):
    """As many questions wait as may."""


class Stopped(Exception):
    """Nothing answers any more."""


class Job(NamedTuple):
    """A question that waits, about how many tokens it is, and where its answer goes."""

    question: Question
    tokens: int
    future: "Future[Answer]"


class Worker:
    """Answers questions in the order they came, as many together as the encoder's token budget takes.

    `most` may wait; `answered` is told how many were taken together. A question whose future is cancelled before its
    turn gives its place up and is not encoded. One that cannot be answered fails alone: what is not seen beforehand
    costs the others of its batch another try without it.
    """

    def __init__(self, most: int, answered: Callable[[int], object]) -> None:
        self.most = most
        self.answered = answered
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()  # guards _jobs and _stopped
        self._stopped = False
        self._opened: Future[Answering] = Future()
        self._thread: threading.Thread | None = None

    def start(self, opened: Callable[[], Answering]) -> Answering:
        """Open what answers, in the thread that will own it, and wait for it; raises what that raises."""
        # a thread that hangs in the model must not keep the process alive
        self._thread = threading.Thread(target=self._run, args=(opened,), name="e2rank-model", daemon=True)
        self._thread.start()
        return self._opened.result()

    @property
    def alive(self) -> bool:
        """Whether questions are answered."""
        return self._thread is not None and self._thread.is_alive() and not self._stopped

    @property
    def waiting(self) -> int:
        """How many questions wait."""
        with self._changed:
            return sum(not job.future.cancelled() for job in self._jobs)

    def submit(self, question: Question, tokens: int) -> "Future[Answer]":
        """A future with the answer. Raises Full and Stopped."""
        job = Job(question, tokens, Future())
        with self._changed:
            if not self.alive:
                raise Stopped
            if len(self._jobs) >= self.most:
                self._jobs = deque(one for one in self._jobs if not one.future.cancelled())
            if len(self._jobs) >= self.most:
                raise Full
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def stop(self, timeout: float) -> bool:
        """Take no more, answer what waits; whether that was done within `timeout` seconds."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout)
        return self._thread is None or not self._thread.is_alive()

    def _run(self, opened: Callable[[], Answering]) -> None:
        try:
            answers = opened()
        except BaseException as error:  # noqa: BLE001  whoever waits for the start raises it
            self._opened.set_exception(error)
            return
        self._opened.set_result(answers)
        try:
            while (batch := self._batch(answers.batch_tokens)) is not None:
                sound = [job for job in batch if _is_sound(job, answers)]
                if sound:
                    self.answered(len(sound))
                    _answer(sound, answers)
        finally:
            self._fail_rest()

    def _batch(self, most: int) -> list[Job] | None:
        """Wait for a question, take it and those behind it until they are `most` tokens; None at the end."""
        batch: list[Job] = []
        taken = 0
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._stopped)
            if not self._jobs:
                return None
            while self._jobs and taken < most and len(batch) < _TOGETHER:
                job = self._jobs.popleft()
                if job.future.set_running_or_notify_cancel():
                    batch.append(job)
                    taken += job.tokens
        return batch

    def _fail_rest(self) -> None:
        with self._changed:
            self._stopped = True
            rest, self._jobs = self._jobs, deque()
        for job in rest:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(Stopped())


def _is_sound(job: Job, answers: Answering) -> bool:
    """Whether nothing is wrong that can be seen without the model; what is, is the job's answer."""
    try:
        answers.check(job.question)
    except Exception as error:  # noqa: BLE001  as in _answer
        job.future.set_exception(error)
        return False
    return True


def _answer(batch: Sequence[Job], answers: Answering) -> None:
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
