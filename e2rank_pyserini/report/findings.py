"""What a report shows: every run by every measure with intervals, where documents went, what a query cost.

Nothing is drawn or written here: `plots` draws it, `page` writes it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from e2rank_pyserini.choices import MEASURES
from e2rank_pyserini.comparison import Moved, Row, Scores, intervals, moved, table
from e2rank_pyserini.provenance import STEPS
from e2rank_pyserini.types import Qrels, Run, clean

MAIN = "nDCG@10"  # of the pictures that show one measure
SHOWN = (*MEASURES, "judged@10")
ALPHA = 0.05
_APART = ("window", "output", "run", "threads")  # options in which the runs of a sweep may differ
GENERATOR = "e2rank report"  # by this a page of ours is known


class Interval(NamedTuple):
    """95%, of a mean over topics."""

    low: float
    high: float


class Entry(NamedTuple):
    """A run of the report; the first one is the baseline. Measures are in [0, 1]."""

    name: str
    rows: dict[str, Row]  # by measure
    means: dict[str, Interval]
    differences: dict[str, Interval]  # of the paired difference to the baseline
    moves: dict[str, list[Moved]]  # qid -> its relevant documents that this run or the baseline has
    kept: dict[str, Any] | None  # what is known of how the run was made
    lacking: int  # judged topics without hits

    @property
    def main(self) -> Row:
        return self.rows[MAIN]

    @property
    def all_moves(self) -> list[Moved]:
        """The documents of all topics."""
        return [one for moves in self.moves.values() for one in moves]


class Movement(NamedTuple):
    """How many relevant documents stand nearer to the top than in the baseline, farther, and so on."""

    up: int
    down: int
    same: int
    new: int  # only in the run
    gone: int  # only in the baseline


class Sweep(NamedTuple):
    """Runs that differ in the window of their prompt only, by window."""

    model: str
    of: str  # the file name of the run that they rerank
    entries: list[tuple[int, Entry]]
    left: list[str]  # runs whose window another one before them has already


def entries(
    runs: Sequence[tuple[str, Run]],
    scores: Sequence[Scores],
    qrels: Qrels,
    kept: Sequence[dict[str, Any] | None],
    *,
    relevance: int,
    test: str,
    seed: int,
) -> list[Entry]:
    """One entry a run, the baseline first; `scores` of every measure of SHOWN over all judged topics."""
    named = [(name, found) for (name, _), found in zip(runs, scores, strict=True)]
    tables = {measure: table(named, measure, test=test, seed=seed) for measure in SHOWN}
    values = np.array([[list(found[measure].values()) for measure in SHOWN] for found in scores])
    both = np.stack([values, values - values[0]])  # (2, runs, measures, topics)
    means, differences = intervals(both.reshape(-1, len(qrels)).T, seed=seed).reshape(2, len(runs), len(SHOWN), 2)
    made = []
    for number, (name, run) in enumerate(runs):
        depth = max(len(hits) for one in (run, runs[0][1]) for hits in one.values())
        made.append(
            Entry(
                name,
                {measure: rows[number] for measure, rows in tables.items()},
                {measure: Interval(*map(float, means[number, place])) for place, measure in enumerate(SHOWN)},
                {measure: Interval(*map(float, differences[number, place])) for place, measure in enumerate(SHOWN)},
                {qid: moved(run, runs[0][1], qrels, qid, relevance=relevance, depth=depth) for qid in qrels}
                if number
                else {},
                kept[number],
                len(qrels.keys() - run.keys()),
            )
        )
    return made


def names(paths: Sequence[str]) -> list[str]:
    """What the runs are called: their file names, or where two have the same one, their paths."""
    short = [Path(path).name.removesuffix(".gz").removesuffix(".trec") for path in paths]
    return [clean(path if short.count(name) > 1 else name) for path, name in zip(paths, short, strict=True)]


def movement(moves: Sequence[Moved]) -> Movement:
    """Count where the documents went."""
    both = [(one.before, one.after) for one in moves if one.before is not None and one.after is not None]
    up, down = sum(after < before for before, after in both), sum(after > before for before, after in both)
    new, gone = sum(one.before is None for one in moves), sum(one.after is None for one in moves)
    return Movement(up, down, len(both) - up - down, new, gone)


def verdicts(runs: Sequence[Entry]) -> tuple[list[Entry], list[Entry], list[Entry]]:
    """The runs that are better than the baseline by MAIN, those that are worse, and those that cannot be told apart.

    Told apart at ALPHA after Holm's correction.
    """
    told, others = ([entry for entry in runs[1:] if (entry.main.holm < ALPHA) is side] for side in (True, False))
    better, worse = ([entry for entry in told if (entry.main.difference > 0) is side] for side in (True, False))
    return better, worse, others


def latency(kept: Mapping[str, Any]) -> dict[str, float]:
    """Seconds a query of each of STEPS; 0 of what was not measured."""
    return {step: kept["seconds"].get(step, 0.0) / kept["run"]["topics"] for step in STEPS}


def latencies(runs: Sequence[Entry]) -> tuple[list[tuple[Entry, float]], list[str]]:
    """(entry, seconds a query) of the runs whose costs are known, and the names of the others."""
    found = [(entry, sum(latency(entry.kept).values()) if entry.kept else 0.0) for entry in runs]
    return [one for one in found if one[1] > 0], [entry.name for entry, seconds in found if seconds == 0]


def sweeps(runs: Sequence[Entry]) -> list[Sweep]:
    """The runs by one model, of one input run and with one prompt that differ in its window; two windows at least."""
    groups: dict[str, list[tuple[int, Entry]]] = {}
    for entry in runs:
        if entry.kept and entry.kept["prompt"] and entry.kept["inputs"].get("run"):
            prompt = dict(entry.kept["prompt"])
            window = prompt.pop("window")
            options = {key: value for key, value in entry.kept.get("options", {}).items() if key not in _APART}
            of = entry.kept["inputs"]["run"].get("sha256")
            if of is None or options.get("adaptive") is not None:  # a pipe may have held anything; prompts are shorter
                continue
            same = (entry.kept["model"], entry.kept.get("dtype"), prompt, of, options)
            groups.setdefault(json.dumps(same, sort_keys=True), []).append((window, entry))
    return [_sweep(found) for found in groups.values() if len({window for window, _ in found}) > 1]


def _sweep(found: list[tuple[int, Entry]]) -> Sweep:
    by_window: dict[int, Entry] = {}
    for window, entry in found:
        by_window.setdefault(window, entry)
    kept = found[0][1].kept or {}
    model, run = kept["model"] or {}, kept["inputs"]["run"]
    left = [entry.name for window, entry in found if by_window[window] is not entry]
    return Sweep(clean(str(model.get("name"))), clean(Path(str(run.get("path"))).name), sorted(by_window.items()), left)
