"""The pictures of a report, as PNG bytes: the same for the same input, whatever matplotlib's own settings are.

Colours are Okabe and Ito's, which the colour-blind tell apart; nothing is told by colour alone.
"""

import io
import textwrap
import warnings
from collections.abc import Callable, Sequence

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # no pyplot: no window system, no global state
from matplotlib.ticker import LogLocator, NullLocator

from e2rank_pyserini.comparison import Row, changes
from e2rank_pyserini.report.findings import MAIN, SHOWN, Entry, Interval, Sweep, movement

BLUE, VERMILLION, GREY = "#0072B2", "#D55E00", "#666666"
GRADES = (  # lowest first; more grades than these are rare, and look like the last
    (BLUE, "o"),
    (VERMILLION, "^"),
    ("#009E73", "s"),
    ("#CC79A7", "D"),
    ("#E69F00", "P"),
    ("#56B4E9", "X"),
    ("#000000", "v"),
)
_KEY = "dot: mean over topics; bar: 95% bootstrap interval; hollow dot, dashed line: the baseline, "
WIDTH = 7.6  # inches
DPI = 160
_LOOKS = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "legend.frameon": False,
}


def measures(runs: Sequence[Entry]) -> bytes:
    """A panel a measure: mean and interval by run, and a line at the baseline's mean."""
    names = [wrapped(entry.name, 30) for entry in runs]

    def draw(figure: Figure) -> None:
        *panels, last = figure.subplots(3, 2, sharey=True).flat
        for axis, measure in zip(panels, SHOWN, strict=True):
            for place, entry in enumerate(runs):
                low, high = entry.means[measure]
                axis.plot([100 * low, 100 * high], [place, place], color=BLUE, linewidth=2, solid_capstyle="butt")
                face = "white" if entry is runs[0] else BLUE
                axis.plot(100 * entry.rows[measure].mean, place, "o", color=BLUE, markerfacecolor=face)
            axis.axvline(100 * runs[0].rows[measure].mean, color=GREY, linestyle="--", linewidth=0.8)
            axis.set_title(measure, loc="left", fontweight="bold")
            axis.set_yticks(range(len(runs)), names, parse_math=False)
            axis.grid(axis="y", visible=False)
        panels[0].set_ylim(len(runs) - 0.5, -0.5)
        last.axis("off")
        told = "dot: mean over topics, in percent\nbar: 95% bootstrap interval\nhollow dot, dashed line: the baseline"
        last.text(0, 0.9, told, transform=last.transAxes, verticalalignment="top")

    lines = max(1 + name.count("\n") for name in names)  # rows lie evenly, so each is as high as the longest label
    return _drawn(3 * (0.6 + 0.17 * lines * len(names)), draw)


def topics(runs: Sequence[Entry]) -> bytes:
    """A panel a run: the difference to the baseline of every topic, from the most gained to the most lost."""
    gains = [[100 * gain for _, gain in changes(entry.main, runs[0].main)] for entry in runs[1:]]
    least, most = (edge([gain for of_run in gains for gain in of_run]) for edge in (min, max))
    margin = max(1.0, 0.06 * (most - least))

    def draw(figure: Figure) -> None:
        for axis, entry, of_run in zip(_panels(figure, runs), runs[1:], gains, strict=True):
            edges = np.arange(len(of_run) + 1)
            axis.stairs(np.clip(of_run, 0, None), edges, fill=True, color=BLUE)
            axis.stairs(np.clip(of_run, None, 0), edges, fill=True, color=VERMILLION)
            axis.axhline(0, color="black", linewidth=0.8)
            axis.set_ylim(min(least, 0) - margin, max(most, 0) + margin)
            row = entry.main
            told = f"{row.wins} gained, {row.losses} lost, {row.ties} equal\nmean {100 * row.difference:+.2f}"
            around = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2}
            axis.text(0.98, 0.96, told, transform=axis.transAxes, ha="right", va="top", bbox=around)
            axis.set_xlabel("topics, sorted by difference")
            axis.set_ylabel(f"{MAIN}, difference")
        _tell(figure, f"baseline: {runs[0].name}")

    return _drawn(_height(runs, 2.3), draw)


def ranks(runs: Sequence[Entry]) -> bytes:
    """A panel a run: the rank of every relevant document in the run over that in the baseline, by grade."""
    moves = [entry.all_moves for entry in runs[1:]]
    grades = sorted({one.grade for of_run in moves for one in of_run})
    deepest = max([10, *(rank for of_run in moves for one in of_run for rank in (one.before, one.after) if rank)])
    absent = 1.9 * deepest  # where a document stands that one of the two runs lacks

    def draw(figure: Figure) -> None:
        for axis, of_run in zip(_panels(figure, runs), moves, strict=True):
            for grade in grades:
                colour, marker = GRADES[min(grades.index(grade), len(GRADES) - 1)]
                before = [one.before or absent for one in of_run if one.grade == grade]
                after = [one.after or absent for one in of_run if one.grade == grade]
                label = f"grade {grade}"
                axis.scatter(before, after, s=14, c=colour, marker=marker, alpha=0.5, linewidths=0, label=label)
            axis.plot([1, deepest], [1, deepest], color="black", linewidth=0.8)
            axis.axvline(1.35 * deepest, color=GREY, linewidth=0.8, linestyle=":")
            axis.axhline(1.35 * deepest, color=GREY, linewidth=0.8, linestyle=":")
            _rank_axes(axis, deepest, absent)
            count = movement(of_run)
            axis.set_xlabel(
                f"rank in the baseline\nbelow the line, nearer to the top: {count.up}\n"
                f"above it, farther: {count.down}; on it: {count.same}\n"
                f"only in the run: {count.new}; only in the baseline: {count.gone}"
            )
        if grades:
            handles, labels = figure.axes[0].get_legend_handles_labels()
            key = figure.legend(handles, labels, loc="outside upper center", ncols=len(grades), markerscale=1.6)
            key.set_title(wrapped(f"baseline: {runs[0].name}", 90))
            key.get_title().set_parse_math(False)

    return _drawn(_height(runs, 4.2) + 0.3, draw)


def _rank_axes(axis: Axes, deepest: int, absent: float) -> None:
    axis.set(xscale="log", yscale="log", xlim=(0.85, 1.2 * absent), ylim=(0.85, 1.2 * absent), aspect="equal")
    ticks = [tick for tick in (1, 3, 10, 30, 100, 300, 1000, 10_000, 100_000) if tick <= deepest]
    for side in (axis.xaxis, axis.yaxis):
        side.set_minor_locator(NullLocator())
        side.set_ticks([*ticks, absent], labels=[*map(str, ticks), "none"])
    axis.set_ylabel("rank in the run")


def latency(found: Sequence[tuple[Entry, float]], baseline: Entry) -> bytes:
    """MAIN with its interval over seconds a query, each run named."""
    highs, lows = (100 * np.array([entry.means[MAIN][side] for entry, _ in found]) for side in (1, 0))
    level = 100 * baseline.main.mean  # on the picture, whether its own costs are known or not
    bottom, top = min(lows.min(), level) - 2, max(highs.max(), level) + 2
    heights = [(100 * entry.main.mean - bottom) / (top - bottom) for entry, _ in found]
    labels = [wrapped(entry.name, 34) for entry, _ in found]
    line = 0.17 * max(1 + label.count("\n") for label in labels)  # what the highest label takes, in inches
    high = max(3.6, 0.6 + line * len(found))

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        axis.set(xscale="log", ylim=(bottom, top), xlabel="seconds per query", ylabel=f"{MAIN}, percent")
        axis.axhline(level, color=GREY, linestyle="--", linewidth=0.8)
        for (entry, seconds), label, height in zip(found, labels, spread(heights, line / (high - 0.6)), strict=True):
            _bar(axis, seconds, entry.main, entry.means[MAIN], hollow=entry is baseline)
            axis.annotate(
                label,
                (seconds, 100 * entry.main.mean),
                xytext=(1.04, height),
                textcoords="axes fraction",
                verticalalignment="center",
                annotation_clip=False,
                parse_math=False,
                arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "linestyle": ":", "relpos": (0, 0.5)},
            )
        left, right = axis.get_xlim()
        axis.set_xlim(left / 1.3, right * 1.3)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter("{x:g}")
        _tell(figure, _KEY + baseline.name)

    return _drawn(high, draw)


def window(found: Sequence[Sweep], baseline: Entry) -> bytes:
    """A panel a sweep: MAIN with its interval over the prompt's window, and a line at the baseline's mean."""

    def draw(figure: Figure) -> None:
        for axis, sweep in zip(figure.subplots(len(found), squeeze=False).flat, found, strict=True):
            windows = [window for window, _ in sweep.entries]
            axis.plot(windows, [100 * entry.main.mean for _, entry in sweep.entries], color=BLUE)
            for place, entry in sweep.entries:
                _bar(axis, place, entry.main, entry.means[MAIN], hollow=entry is baseline)
            axis.axhline(100 * baseline.main.mean, color=GREY, linestyle="--", linewidth=0.8)
            axis.set_xticks(apart(windows))
            title = wrapped(f"{sweep.model} on {sweep.of}", 90)
            axis.set_title(title, loc="left", fontweight="bold", parse_math=False)
            axis.set_xlabel("window: documents in a prompt, at most")
            axis.set_ylabel(f"{MAIN}, percent")
        _tell(figure, _KEY + baseline.name)

    return _drawn(2.9 * len(found), draw)


def _tell(figure: Figure, words: str) -> None:
    """What a picture means that is taken out of the page."""
    figure.supxlabel(wrapped(words, 100), fontsize=8, parse_math=False)


def _bar(axis: Axes, place: float, row: Row, interval: Interval, *, hollow: bool) -> None:
    """A mean and its interval, upright, in percent."""
    axis.plot([place, place], [100 * interval.low, 100 * interval.high], color=BLUE, linewidth=1.5)
    axis.plot(place, 100 * row.mean, "o", color=BLUE, markerfacecolor="white" if hollow else BLUE)


def _panels(figure: Figure, runs: Sequence[Entry]) -> list[Axes]:
    """A panel for each run but the baseline, two in a row where there are two, titled."""
    axes = list(figure.subplots(-(-(len(runs) - 1) // 2), min(len(runs) - 1, 2), squeeze=False).flat)
    for axis, entry in zip(axes, runs[1:], strict=False):
        axis.set_title(wrapped(entry.name, 32), loc="left", fontweight="bold", parse_math=False)
    for axis in axes[len(runs) - 1 :]:
        axis.axis("off")
    return axes[: len(runs) - 1]


def _height(runs: Sequence[Entry], panel: float) -> float:
    return 0.4 + panel * -(-(len(runs) - 1) // 2)


def apart(windows: Sequence[int]) -> list[int]:
    """Those of ascending windows whose numbers have room below an axis over all of them."""
    least = (windows[-1] - windows[0]) / 25
    kept = [windows[0]]
    for window in windows[1:]:
        if window - kept[-1] >= least:
            kept.append(window)
    return kept


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights in [0, 1] moved apart by `gap`, at most 1 / their number, so that labels do not cover each other.

    Their order stays.
    """
    order = sorted(range(len(heights)), key=lambda number: heights[number])
    moved = list(heights)
    for below, number in zip([None, *order], order, strict=False):
        moved[number] = max(heights[number], 0.0 if below is None else moved[below] + gap)
    ceiling = 1.0
    for number in reversed(order):
        moved[number] = min(moved[number], ceiling)
        ceiling = moved[number] - gap
    return moved


def wrapped(name: str, width: int) -> str:
    """A long name in at most three lines; its middle goes first."""
    if len(name) > 3 * width:
        name = f"{name[: 3 * width // 2 - 1]}…{name[-(3 * width // 2 - 1) :]}"
    lines = textwrap.wrap(name, width, break_on_hyphens=False)
    return "\n".join(lines)


def _drawn(height: float, draw: Callable[[Figure], None]) -> bytes:
    with matplotlib.style.context(["default", _LOOKS]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box in the picture; the page has the name
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        draw(figure)
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
