"""A limit on time that ends what hangs, Python's loops and its regular expressions included."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """Fail where the body takes so much of the processor, or waits ten times as long; on the main thread."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"hangs: {what}")

    clocks = ((signal.ITIMER_PROF, signal.SIGPROF, seconds), (signal.ITIMER_REAL, signal.SIGALRM, 10 * seconds))
    before = [signal.signal(sign, late) for _, sign, _ in clocks]
    for clock, _, most in clocks:
        signal.setitimer(clock, most)
    try:
        yield
    finally:
        for (clock, sign, _), handler in zip(clocks, before, strict=True):
            signal.setitimer(clock, 0)
            signal.signal(sign, handler)
