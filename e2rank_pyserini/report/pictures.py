"""Every picture of a report with the words for those who cannot see it."""

from collections.abc import Sequence
from typing import NamedTuple

from e2rank_pyserini.report import captions, plots
from e2rank_pyserini.report.findings import Entry, Sweep, latencies


class Picture(NamedTuple):
    """A PNG, and in words what it shows."""

    png: bytes
    alt: str


def pictures(runs: Sequence[Entry], sweeps: Sequence[Sweep]) -> dict[str, Picture]:
    """By the name of its file; what cannot be drawn for want of data is not there."""
    made = {
        "measures": Picture(plots.measures(runs), captions.measures(runs)),
        "topics": Picture(plots.topics(runs), captions.topics(runs)),
        "ranks": Picture(plots.ranks(runs), captions.ranks(runs)),
    }
    found, _ = latencies(runs)
    if found:
        made["latency"] = Picture(plots.latency(found, runs[0]), captions.latency(found))
    if sweeps:
        made["window"] = Picture(plots.window(sweeps, runs[0]), captions.window(sweeps))
    return made
