"""Commands run as real processes that cost milliseconds, so that many can be killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

SOAK = bool(os.environ.get("E2RANK_SOAK"))


class Pipe:
    """A named pipe that processes write to: no limit on a file's size binds it."""

    def __init__(self, place: Path) -> None:
        os.mkfifo(place)
        self.place, self.text = str(place), ""
        self.file = os.open(place, os.O_RDWR | os.O_NONBLOCK)

    def read(self) -> str:
        """What was written since `clear`."""
        while True:
            try:
                self.text += os.read(self.file, 1 << 16).decode()
            except BlockingIOError:
                return self.text

    def clear(self) -> None:
        self.read()
        self.text = ""


class Nursery:
    """Runs commands as forked processes, one at a time; see nursery.py."""

    def __init__(self, work: Path) -> None:
        self.stderr, self.passes = Pipe(work / "stderr"), Pipe(work / "passes")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("nursery.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(self, words: list[str], limit: int | None = None) -> int:
        """The id of the process that was started."""
        self.passes.clear()
        self.stderr.clear()
        request = {"words": words, "stderr": self.stderr.place, "passes": self.passes.place, "limit": limit}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def end(self) -> int:
        """Wait for the process; its exit code, negative for a signal."""
        print(file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def signalled(self, words: list[str], number: int, after: float) -> int:
        """Send the process a signal after so many seconds, unless it has ended by then; its exit code."""
        process = self.start(words)
        time.sleep(after)
        os.kill(process, number)  # it stays until `end`, so its number is its own
        return self.end()

    def run(self, words: list[str], limit: int | None = None) -> int:
        self.start(words, limit)
        return self.end()

    def said(self) -> list[str]:
        """The lines that the last process wrote to stderr."""
        return self.stderr.read().splitlines()

    def rows(self) -> list[int]:
        """The rows of the forward passes that the last process had done."""
        return [int(line) for line in self.passes.read().splitlines()]

    def close(self) -> None:
        self.process.stdin.close()
        assert self.process.wait(60) == 0
        self.process.stdout.close()
        os.close(self.stderr.file)
        os.close(self.passes.file)
