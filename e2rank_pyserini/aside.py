"""Threads whose work can be waited for when an interrupt comes."""

import _thread
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class Later(Generic[T]):
    """What a thread is at."""

    def __init__(self) -> None:
        self._answers: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def make(self, function: Callable[..., T], *arguments: Any) -> None:
        try:
            self._answers.put((function(*arguments), None))
        except BaseException as error:  # noqa: BLE001  raised again by who asks for the result
            self._answers.put((None, error))

    def result(self) -> T:
        """Wait for it, once; raises what the function raised."""
        value, error = self._answers.get()
        if error is not None:
            raise error
        return cast(T, value)


class Aside:
    """Threads that do what they are given, in its order; on leaving, all of it is done.

    Not threading.Thread and ThreadPoolExecutor: an interrupt that comes while the main thread takes one of their locks,
    which are written in Python, leaves it locked, and the threads, and who waits for them, wait for ever.
    """

    def __init__(self, threads: int = 1) -> None:
        self._given: SimpleQueue[tuple[Any, ...] | None] = SimpleQueue()
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._threads = threads

    def __enter__(self) -> "Aside":
        for _ in range(self._threads):
            _thread.start_new_thread(self._run, ())
        return self

    def __exit__(self, *error: object) -> None:
        for _ in range(self._threads):
            self._given.put(None)
        for _ in range(self._threads):
            self._ended.get()

    def do(self, function: Callable[..., T], *arguments: Any) -> Later[T]:
        later: Later[T] = Later()
        self._given.put((later, function, *arguments))
        return later

    def _run(self) -> None:
        while (given := self._given.get()) is not None:
            later, *rest = given
            later.make(*rest)
            del given, later, rest  # what is waiting for work holds nothing
        self._ended.put(None)
