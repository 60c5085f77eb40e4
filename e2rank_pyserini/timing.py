"""Where the time goes: seconds by part, added up for the command that asked for them."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from contextvars import ContextVar


@dataclasses.dataclass
class _Recording:
    started: float
    seconds: dict[str, float]


_recording: ContextVar[_Recording | None] = ContextVar("recording", default=None)


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Within the block, `timed` counts and `so_far` tells."""
    token = _recording.set(_Recording(time.perf_counter(), {}))
    try:
        yield
    finally:
        _recording.reset(token)


@contextlib.contextmanager
def timed(part: str) -> Iterator[None]:
    """Count the block's wall-clock time as `part`; free where nothing records. Parts do not nest: each second once."""
    current = _recording.get()
    if current is None:
        yield
        return
    started = time.perf_counter()
    try:
        yield
    finally:
        current.seconds[part] = current.seconds.get(part, 0.0) + time.perf_counter() - started


def credit(part: str, seconds: float) -> None:
    """Count as `part`, and in the total, what a killed process of the same command has spent on what is used now."""
    current = _recording.get()
    if current is not None:
        current.seconds[part] = current.seconds.get(part, 0.0) + seconds
        current.started -= seconds


def so_far() -> dict[str, float]:
    """part -> seconds until now, and the `total` since the recording began; empty where nothing records."""
    current = _recording.get()
    if current is None:
        return {}
    return {**current.seconds, "total": time.perf_counter() - current.started}
