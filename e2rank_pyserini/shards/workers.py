"""Several processes on this machine that encode shards: one a device. One that dies is started again, twice."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple

from e2rank_pyserini.aside import Aside
from e2rank_pyserini.shards.encoding import Advance, Engine, planned
from e2rank_pyserini.shards.folder import Shard, Shards, Task
from e2rank_pyserini.types import Document, E2RankError

_ATTEMPTS = 3


class Settings(NamedTuple):
    """What a worker needs to load the model that the shards were begun with."""

    model: dict[str, Any]
    dtype: str
    batch_tokens: int | None
    threads: int | None


def processes(settings: Settings, devices: Sequence[str]) -> Engine:
    """The engine with one process on each of `devices`; on CPUs they share the cores.

    A shard's bytes do not depend on which process encodes it. Raises E2RankError, naming worker and shard, when a
    process dies a third time over the same shard; what is finished by then stays.
    """
    threads = settings.threads or max(1, (os.cpu_count() or 1) // len(devices))

    def engine(corpus: Iterable[Document], shards: Shards, advance: Advance) -> Iterator[tuple[Shard, bool]]:
        setup = {**settings._asdict(), "threads": threads, "place": shards.place, "settings": shards.settings}
        workers = [_Worker(number, {**setup, "device": device}) for number, device in enumerate(devices)]
        yield from _together(workers, planned(corpus, shards), advance)

    return engine


class _Worker:
    """A process that encodes one shard after the other: a line of JSON in, a line out (worker.py)."""

    def __init__(self, number: int, setup: dict[str, Any]) -> None:
        self.name = f"worker {number} ({setup['device']})"
        self.setup = setup
        self.process: subprocess.Popen[str] | None = None
        self.stopped = False

    def encode(self, task: Task) -> Shard:
        for attempt in range(1, _ATTEMPTS + 1):
            answer = self._asked(task)
            if "shard" in answer:
                return Shard(**answer["shard"])
            if "error" in answer or self.stopped:
                raise E2RankError(f"{self.name}: {answer.get('error', 'stopped')}")
            again = "; started again" if attempt < _ATTEMPTS else ""
            print(f"{self.name} died over shard {task.number:05} ({answer['died']}){again}", file=sys.stderr)
        raise E2RankError(f"{self.name}: died {_ATTEMPTS} times over shard {task.number:05} ({answer['died']})")

    def _asked(self, task: Task) -> dict[str, Any]:
        if self.process is None:
            environment = {**os.environ, "OMP_NUM_THREADS": str(self.setup["threads"])}
            self.process = subprocess.Popen(
                [sys.executable, "-m", "e2rank_pyserini.shards.worker", json.dumps(self.setup)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env=environment,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it died: there will be no answer
            self.process.stdin.write(json.dumps(task._asdict()) + "\n")
            self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline() or "{}")
        if "shard" in answer or "error" in answer:
            return answer
        code = self._ended()
        return {"died": answer.get("died") or (f"signal {-code}" if code < 0 else f"exit code {code}")}

    def _ended(self) -> int:
        assert self.process is not None
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        self.process = None
        return code

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self._ended()

    def stop(self) -> None:
        """Make another thread's `encode` end without an answer."""
        self.stopped = True
        process = self.process
        if process is not None:
            process.kill()


def _together(
    workers: Sequence[_Worker], plan: Iterator[Task | Shard], advance: Advance
) -> Iterator[tuple[Shard, bool]]:
    """Shards as they are finished; the first failure ends the others after the shard they are at, and is raised."""
    results: SimpleQueue[tuple[Shard, bool] | None] = SimpleQueue()
    failures: list[BaseException] = []
    ending, turn = threading.Event(), threading.Lock()

    def work(worker: _Worker) -> None:
        try:
            while not ending.is_set():
                with turn:
                    item = next(plan, None)
                if item is None:
                    break
                is_new = isinstance(item, Task)
                results.put((worker.encode(item) if isinstance(item, Task) else item, is_new))
        except BaseException as error:  # noqa: BLE001  raised again when all have ended
            failures.append(error)
            ending.set()
        finally:
            worker.close()
            results.put(None)

    with Aside(len(workers)) as threads:
        try:
            for worker in workers:
                threads.do(work, worker)
            for _ in workers:
                while (result := results.get()) is not None:
                    shard, is_new = result
                    advance(shard.documents, shard.counts.get("tokens", 0) if is_new else 0)
                    yield shard, is_new
        except BaseException:  # interrupted: no one waits for what they are at
            ending.set()
            for worker in workers:
                worker.stop()
            raise
    if failures:
        raise failures[0]
