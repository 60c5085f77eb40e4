"""The report as one HTML page: no script, nothing fetched, and what comes from files is escaped.

Its Content-Security-Policy forbids everything but the page's own style and pictures.
"""

import base64
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from e2rank_pyserini.comparison import DRAWS, Moved, changes, extremes
from e2rank_pyserini.provenance import STEPS
from e2rank_pyserini.report import captions
from e2rank_pyserini.report.captions import p, with_interval
from e2rank_pyserini.report.findings import (
    ALPHA,
    GENERATOR,
    MAIN,
    SHOWN,
    Entry,
    Sweep,
    latencies,
    latency,
    movement,
    verdicts,
)
from e2rank_pyserini.report.markup import Markup, attribute, box, table, text
from e2rank_pyserini.report.pictures import Picture
from e2rank_pyserini.types import Topics

LISTED = 10  # a document is listed when one of the two runs has it this high


class Facts(NamedTuple):
    """What the page says of its own making: files as (what, path, SHA-256), settings, versions."""

    files: list[tuple[str, str, str]]
    settings: dict[str, str]
    versions: dict[str, str]


def page(
    runs: Sequence[Entry],
    topics: Topics,
    pictures: Mapping[str, Picture],
    sweeps: Sequence[Sweep],
    facts: Facts,
    *,
    gains: int,
    relevance: int,
) -> str:
    """The whole text of the page; `pictures` by the name that their files have, `gains` topics listed either way."""
    sections = {
        "Measures": _measures(runs, pictures),
        "Differences to the baseline": _differences(runs),
        "Topic by topic": _topics(runs, topics, pictures, gains, relevance),
        "Where the relevant documents went": _ranks(runs, pictures, relevance),
        "Effectiveness and latency": _latency(runs, pictures),
    }
    if sweeps:
        sections["The window of the prompt"] = _window(pictures, sweeps)
    sections["How this page was made"] = _made(runs, facts)
    return _whole(runs, sections)


def _whole(runs: Sequence[Entry], sections: Mapping[str, str]) -> str:
    """The page around its sections, by their headings."""
    title = f"{len(runs) - 1} run{'s' * (len(runs) > 2)} against {runs[0].name}"
    count = len(runs[0].main.by_topic)
    alone = " (of one topic it is a point, and says nothing of others)" if count == 1 else ""
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    links = "".join(f'<li><a href="#{_anchor(name)}">{name}</a></li>' for name in sections)
    verdict = "".join(f"<li>{text(one)}</li>" for one in captions.verdict(*verdicts(runs), runs[0]))
    bodies = "".join(
        f'<section aria-labelledby="{_anchor(name)}">\n<h2 id="{_anchor(name)}">{name}</h2>\n{body}</section>\n'
        for name, body in sections.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="{GENERATOR}">
<title>{attribute(title)}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{text(title)}</h1>
<p>{count} judged topic{"s" * (count != 1)}. Values are percent, in brackets the 95% interval over topics{alone}. A run
is told apart from the baseline where the paired test by {MAIN}, corrected by Holm over the runs of this page, gives
p &lt; {ALPHA}.</p>
<ul>{verdict}</ul>
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{bodies}</main>
</body>
</html>
"""


def _measures(runs: Sequence[Entry], pictures: Mapping[str, Picture]) -> str:
    rows = [
        [entry.name, *(with_interval(entry.rows[measure].mean, entry.means[measure]) for measure in SHOWN)]
        for entry in runs
    ]
    caption = (
        "Mean over all judged topics, a topic without hits counting 0; percentile bootstrap over topics. judged@10 is "
        "the share of the first 10 hits that is judged: no measure of quality; where it is low because hits are not "
        "judged, and not because topics have none, the others understate the run."
    )
    told = (
        "Intervals of two runs may overlap although the runs differ: both meet the same topics, which the paired "
        "differences in the next section take into account."
    )
    lacking = ", ".join(f"{text(entry.name)} {entry.lacking}" for entry in runs if entry.lacking)
    more = f"<p>Judged topics without hits: {lacking}.</p>\n" if lacking else ""
    return table(("run", *SHOWN), rows, caption) + more + _picture(pictures, "measures", told)


def _differences(runs: Sequence[Entry]) -> str:
    groups: dict[str, list[list[str]]] = {}
    for measure in SHOWN:
        groups[measure] = []
        for entry in runs[1:]:
            row = entry.rows[measure]
            low, high = entry.differences[measure]
            difference = f"{100 * row.difference:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
            counts = map(str, (row.wins, row.losses, row.ties))
            groups[measure].append([entry.name, difference, p(row.p), p(row.holm), *counts, f"{row.robustness:+.2f}"])
    caption = (
        "Difference of the means and its interval (the same bootstrap samples of topics for both runs); paired "
        "two-sided p, and p by Holm over the runs of one measure; topics won, lost and equal; robustness index: "
        "(won - lost) / topics."
    )
    return table(("run", "difference", "p", "Holm p", "won", "lost", "equal", "robustness"), groups, caption)


def _topics(runs: Sequence[Entry], topics: Topics, pictures: Mapping[str, Picture], gains: int, relevance: int) -> str:
    parts = [_picture(pictures, "topics", f"Difference in {MAIN} of every topic. All panels have the same scale.")]
    documents = f"relevant documents in either's first {LISTED}"
    caption = (
        f"The topics that gained most by {MAIN}, then those that lost most, {gains} of each at most. Documents count "
        f"as relevant from grade {relevance}, for {MAIN} itself from grade 1."
    )
    for entry in runs[1:]:
        rows = []
        for qid, gain in extremes(changes(entry.main, runs[0].main), gains):
            before, after = runs[0].main.by_topic[qid], entry.main.by_topic[qid]
            numbers = f"{100 * gain:+.2f}", f"{100 * before:.2f}", f"{100 * after:.2f}"
            rows.append([qid, topics.get(qid, "(no text given)"), *numbers, _moves(entry.moves[qid])])
        columns = ("topic", "query", "difference", "baseline", "run", documents)
        listed = table(columns, rows, caption, wordy=("query", documents)) if rows else "<p>No topic differs.</p>\n"
        parts.append(f"<h3>{text(entry.name)}</h3>\n{listed}")
    return "".join(parts)


def _moves(moves: Iterable[Moved]) -> str:
    """The documents as a list that opens."""
    found = [one for one in moves if min(one.before or LISTED + 1, one.after or LISTED + 1) <= LISTED]
    if not found:
        return "none"
    count = movement(found)
    told = {"nearer": count.up, "farther": count.down, "same rank": count.same, "new": count.new, "gone": count.gone}
    items = "".join(
        f"<li>{one.before or 'not in'} → {one.after or 'not in'}, grade {one.grade}: {text(one.docid)}</li>"
        for one in found
    )
    summary = ", ".join(f"{number} {what}" for what, number in told.items() if number)
    return Markup(f"<details><summary>{summary}</summary><ul>{items}</ul></details>")


def _ranks(runs: Sequence[Entry], pictures: Mapping[str, Picture], relevance: int) -> str:
    rows = [[entry.name, *map(str, movement(entry.all_moves))] for entry in runs[1:]]
    caption = f"Relevant documents (grade {relevance} or more) of all topics that the run or the baseline has."
    told = (
        "Under the diagonal the document stands nearer to the top than in the baseline. Beyond the dotted lines: only "
        "one of the two runs has it. Several documents in one place look darker."
    )
    columns = ("run", "nearer", "farther", "same rank", "only in the run", "only in the baseline")
    return _picture(pictures, "ranks", told) + table(columns, rows, caption)


def _latency(runs: Sequence[Entry], pictures: Mapping[str, Picture]) -> str:
    found, others = latencies(runs)
    parts = []
    if found:
        told = (
            "Seconds a query: tokenise, encode, search, gather and score, from the file beside the run, by its topics. "
            "What made a run's input is not in it. Times of different machines do not compare: see the table."
        )
        parts.append(_picture(pictures, "latency", told))
        rows = []
        for entry, seconds in found:
            kept = entry.kept or {}
            steps = (f"{one:.4f}" for one in latency(kept).values())
            machine = kept.get("device_name") or kept.get("machine", {}).get("processor")
            where = (str(value) for value in (machine, *(kept.get(name) for name in ("device", "threads", "dtype"))))
            rows.append([entry.name, f"{seconds:.4f}", *steps, *where])
        columns = ("run", "seconds a query", *STEPS, "machine", "device", "threads", "dtype")
        parts.append(table(columns, rows, "Seconds a query by step, and where they were measured."))
    if others:
        names = ", ".join(map(text, others))
        parts.append(f"<p>Left out, because no file beside them says what they cost: {names}.</p>\n")
    return "".join(parts)


def _window(pictures: Mapping[str, Picture], sweeps: Sequence[Sweep]) -> str:
    told = (
        "Runs by one model of one input run that differ in the window of the prompt only. The bars are intervals of "
        "the means; dashed line: the baseline."
    )
    left = [name for sweep in sweeps for name in sweep.left]
    more = f"<p>Left out, for a run before them has the same window: {', '.join(map(text, left))}.</p>\n"
    return _picture(pictures, "window", told) + (more if left else "")


def _made(runs: Sequence[Entry], facts: Facts) -> str:
    commands = [(entry.name, _code(_command(entry))) for entry in runs]
    files = [(what, path, _code(digest)) for what, path, digest in facts.files]
    settings = {**facts.settings, "bootstrap": f"percentile, {DRAWS} samples of the topics, 95%", **facts.versions}
    return (
        table(("what", "file", "SHA-256"), files, "The files that were read.", wordy=("file", "SHA-256"))
        + table(("run", "command"), commands, "What made the runs, by the files beside them.", wordy=("command",))
        + table(("setting or version", "value"), list(settings.items()), "Settings and versions.", wordy=("value",))
    )


def _command(entry: Entry) -> str:
    return shlex.join(["e2rank", *map(str, entry.kept["command"])]) if entry.kept else "not known"


def _code(words: str) -> Markup:
    return Markup(f"<code>{text(words)}</code>")


def _picture(pictures: Mapping[str, Picture], name: str, told: str) -> str:
    one = pictures[name]
    data = base64.b64encode(one.png).decode()
    image = box(f'<img src="data:image/png;base64,{data}" alt="{attribute(one.alt)}">')
    return f"<figure>{image}<figcaption>{told} File: {name}.png.</figcaption></figure>\n"


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")
