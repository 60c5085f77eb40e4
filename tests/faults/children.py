"""Commands run in forked children, so that one costs milliseconds and can be killed at any instant."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

SOAK = bool(os.environ.get("E2RANK_SOAK"))


class Ended(NamedTuple):
    """How a child ended: its exit code (minus the signal that killed it), and what it said on stderr."""

    code: int
    said: str


class Child:
    """`work` in a fork of this process; what it returns is its exit code. It says less than a pipe holds."""

    def __init__(self, work: Callable[[], int]) -> None:
        self.stderr, end = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(end)
            return
        code = 99
        try:
            os.dup2(end, 2)
            sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  pytest has its own
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = work()
        except BaseException:  # noqa: BLE001  a traceback is what the test looks for
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def wait(self) -> Ended:
        """Its end, when it comes."""
        _, status = os.waitpid(self.pid, 0)
        with os.fdopen(self.stderr, encoding="utf-8") as said:
            return Ended(os.waitstatus_to_exitcode(status), said.read())

    def signalled(self, number: int, after: float) -> Ended:
        """Send it a signal after so many seconds, unless it has ended by then."""
        time.sleep(after)
        os.kill(self.pid, number)  # it stays until it is waited for, so its number is its own
        return self.wait()
