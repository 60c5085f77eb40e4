"""The pictures of a report in words: what each shows, with its main numbers, for those who cannot see it."""

from collections.abc import Iterable, Sequence

from e2rank_pyserini.comparison import Row, changes
from e2rank_pyserini.report.findings import MAIN, Entry, Interval, Sweep, movement
from e2rank_pyserini.report.markup import Markup, attribute, text


def measures(runs: Sequence[Entry]) -> str:
    means = "; ".join(f"{entry.name} {with_interval(entry.main.mean, entry.means[MAIN])}" for entry in runs)
    return (
        "Five panels, one a measure; in each a dot and a bar for every run: its mean over topics and the 95% interval "
        f"of it, in percent. {MAIN}: {means}. The other numbers are in the first table."
    )


def topics(runs: Sequence[Entry]) -> str:
    told = []
    for entry in runs[1:]:
        row, found = entry.main, changes(entry.main, runs[0].main)
        (first, most), (last, least) = found[0], found[-1]
        told.append(
            f"{entry.name}: {row.wins} topics gained, {row.losses} lost, {row.ties} equal; from {100 * most:+.2f} "
            f"(topic {first}) to {100 * least:+.2f} (topic {last}), mean {100 * row.difference:+.2f}"
        )
    return (
        f"A panel a run; in each a bar for every topic, its difference in {MAIN} to the baseline {runs[0].name}, in "
        f"percent, sorted from the most gained to the most lost. {sentences(told)}"
    )


def ranks(runs: Sequence[Entry]) -> str:
    told = []
    for entry in runs[1:]:
        count = movement(entry.all_moves)
        told.append(
            f"{entry.name}: {count.up} nearer to the top, {count.down} farther, {count.same} at the same rank, "
            f"{count.new} only in the run, {count.gone} only in the baseline"
        )
    return (
        "A panel a run; in each a mark for every relevant document of a topic, its rank in the run over its rank in "
        f"the baseline {runs[0].name}, both axes logarithmic. {sentences(told)}"
    )


def latency(found: Sequence[tuple[Entry, float]]) -> str:
    told = (
        f"{entry.name}: {seconds:.3g} seconds a query, {MAIN} {with_interval(entry.main.mean, entry.means[MAIN])}"
        for entry, seconds in found
    )
    return f"{MAIN} in percent over the seconds that a query costs, on a logarithmic axis. {sentences(told)}"


def window(found: Sequence[Sweep]) -> str:
    told = []
    for sweep in found:
        points = ", ".join(
            f"window {window} {with_interval(entry.main.mean, entry.means[MAIN])}" for window, entry in sweep.entries
        )
        told.append(f"{sweep.model} on {sweep.of}: {points}")
    return f"{MAIN} in percent over the window, which is the most documents that a prompt holds. {sentences(told)}"


def verdict(better: Sequence[Entry], worse: Sequence[Entry], others: Sequence[Entry], baseline: Entry) -> list[Markup]:
    """The sentences that the page begins with, each name apart: one in Hebrew turns round what stands beside it."""
    mean = with_interval(baseline.main.mean, baseline.means[MAIN])
    told = [Markup(f"By {MAIN} the baseline {text(baseline.name)} has {mean}.")]
    for runs, what in (
        (better, "Better than the baseline"),
        (worse, "Worse than the baseline"),
        (others, "Not told apart from the baseline"),
    ):
        if runs:
            names = (f"{text(entry.name)} ({attribute(_difference(entry.main))})" for entry in runs)
            told.append(Markup(f"{what}: {', '.join(names)}."))
    return told


def _difference(row: Row) -> str:
    return f"{100 * row.difference:+.2f}, Holm p {p(row.holm)}"


def with_interval(mean: float, interval: Interval) -> str:
    """In percent."""
    return f"{100 * mean:.2f} ({100 * interval.low:.2f} to {100 * interval.high:.2f})"


def p(value: float) -> str:
    """A p-value to four decimals."""
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


def sentences(told: Iterable[str]) -> str:
    return " ".join(f"{one}." for one in told)
