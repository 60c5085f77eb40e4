"""Is one run better than another? Paired tests over topics, wins and losses, and where the documents went."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from e2rank_pyserini.choices import TESTS
from e2rank_pyserini.evaluation import per_topic, ranked
from e2rank_pyserini.types import E2RankError, Qrels, Run

RESAMPLES = 100_000  # sign flips
_FLIPS = 2_000_000  # signs at a time, of some 70 bytes each
DRAWS = 10_000  # bootstrap samples
Values = NDArray[np.float64]  # (topics,)
Scores = dict[str, dict[str, float]]  # measure -> qid -> value, as evaluation.per_topic gives them


class Row(NamedTuple):
    """A run against the baseline, over all judged topics; measures are in [0, 1]."""

    run: str
    mean: float
    judged: float  # share of the first 10 hits that are judged
    difference: float
    p: float  # paired, two-sided
    holm: float  # the same for all runs of one comparison together (Holm 1979)
    wins: int
    losses: int
    ties: int
    by_topic: dict[str, float]  # qid -> value

    @property
    def robustness(self) -> float:
        """(wins - losses) / topics: the robustness index (Collins-Thompson 2009, CIKM)."""
        return (self.wins - self.losses) / (self.wins + self.losses + self.ties)


class Moved(NamedTuple):
    """A relevant document of a topic: its grade, and its rank in the baseline and in the run (None: not there)."""

    docid: str
    grade: int
    before: int | None
    after: int | None


def compare(
    runs: Sequence[tuple[str, Run]],
    qrels: Qrels,
    *,
    measure: str = "nDCG@10",
    relevance: int = 1,
    test: str = "t",
    seed: int = 0,
) -> list[Row]:
    """The first of `runs` is the baseline and the first row; topics without hits count 0.

    `test`: `t`, the paired t-test, or `randomisation`, the paired randomisation (sign flip) test of the mean, exact
    where 2 to the topics is at most RESAMPLES and sampled with `seed` otherwise. Raises E2RankError when a run and the
    qrels share no topic, and for an unknown test.
    """
    asked = list(dict.fromkeys((measure, "judged@10")))
    scores = [(name, per_topic(run, qrels, relevance=relevance, measures=asked)) for name, run in runs]
    return table(scores, measure, test=test, seed=seed)


def table(scores: Sequence[tuple[str, Scores]], measure: str, *, test: str = "t", seed: int = 0) -> list[Row]:
    """`compare` of runs whose scores (of `measure` and judged@10, over the same topics) are known."""
    qids = list(scores[0][1][measure])
    values = [np.array([found[measure][qid] for qid in qids]) for _, found in scores]
    base = values[0]
    ps = [1.0, *(p_value(value, base, test, seed) for value in values[1:])]
    adjusted = [1.0, *holm(ps[1:])]
    rows = []
    for (name, found), value, p, corrected in zip(scores, values, ps, adjusted, strict=True):
        gain = value - base
        wins, losses = int((gain > 0).sum()), int((gain < 0).sum())
        judged = float(np.mean(list(found["judged@10"].values())))
        ties = len(gain) - wins - losses
        rows.append(
            Row(name, float(value.mean()), judged, float(gain.mean()), p, corrected, wins, losses, ties, found[measure])
        )
    return rows


def intervals(values: NDArray[np.float64], *, seed: int = 0) -> NDArray[np.float64]:
    """(topics, n) -> (n, 2): the 95% percentile bootstrap interval of each column's mean over topics (Efron 1979).

    Topics are drawn with replacement, DRAWS times, the same for all columns.
    """
    draw = _generator(seed)
    topics = len(values)
    even = np.full(topics, 1 / topics)
    means = [draw.multinomial(topics, even, size=DRAWS // 10) @ values / topics for _ in range(10)]  # less memory
    return np.percentile(np.concatenate(means), (2.5, 97.5), axis=0).T


def p_value(new: Values, old: Values, test: str, seed: int) -> float:
    """Two-sided p of paired values, (n,) each; 1 where none differs. One topic alone proves nothing: 1.

    Where every topic gained the same, t is infinite however few they are: its p is that of the sign flips, 2^(1 - n).
    """
    from scipy.stats import permutation_test, ttest_rel

    if test not in TESTS:
        raise E2RankError(f"test {test!r}: expected one of {', '.join(TESTS)}")
    if len(new) < 2 or not (new != old).any():
        return 1.0
    if test == "t":
        differences = new - old
        if np.ptp(differences) <= 1e-9 * np.abs(differences).max():  # the same but for rounding
            return float(2.0 ** (1 - len(new)))
        return float(ttest_rel(new, old).pvalue)
    found = permutation_test(
        (new, old),
        lambda left, right, axis: (left - right).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(100, min(1000, _FLIPS // len(new))),  # of no account for p
        rng=_generator(seed),
    )
    return float(found.pvalue)


def _generator(seed: int) -> np.random.Generator:
    if seed < 0:
        raise E2RankError(f"seed {seed}: expected a whole number of at least 0")
    return np.random.default_rng(seed)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979): adjusted p-values in the order given."""
    adjusted = [0.0] * len(ps)
    highest = 0.0
    for place, number in enumerate(sorted(range(len(ps)), key=lambda number: ps[number])):
        highest = max(highest, min(1.0, (len(ps) - place) * ps[number]))
        adjusted[number] = highest
    return adjusted


def changes(new: Row, old: Row) -> list[tuple[str, float]]:
    """(qid, difference) of every topic, the one that gained most first."""
    found = [(qid, value - old.by_topic[qid]) for qid, value in new.by_topic.items()]
    return sorted(found, key=lambda one: (-one[1], one[0]))


def extremes(found: Sequence[tuple[str, float]], count: int) -> list[tuple[str, float]]:
    """Of `changes`: the topics that gained most, then those that lost most, `count` each at most."""
    gained = [one for one in found if one[1] > 0]
    lost = [one for one in reversed(found) if one[1] < 0]
    return gained[:count] + lost[:count]


def moved(new: Run, old: Run, qrels: Qrels, qid: str, *, relevance: int = 1, depth: int = 10) -> list[Moved]:
    """The topic's relevant documents that one of the runs has among its first `depth`, best grade first."""
    before, after = (
        {docid: rank for rank, docid in enumerate(ranked(run.get(qid, [])), start=1)} for run in (old, new)
    )
    found = [
        Moved(docid, grade, before.get(docid), after.get(docid))
        for docid, grade in qrels[qid].items()
        if grade >= relevance and min(before.get(docid, depth + 1), after.get(docid, depth + 1)) <= depth
    ]
    return sorted(found, key=lambda one: (-one.grade, one.after or math.inf, one.docid))
