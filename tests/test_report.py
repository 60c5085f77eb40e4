"""`e2rank report`: its numbers against other tools and closed forms, its pictures, its page with hostile input."""

import hashlib
import itertools
import json
import os
import re
import struct
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import ir_measures
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy.stats import binom, bootstrap, ttest_rel

from e2rank_pyserini.cli import main
from e2rank_pyserini.comparison import Row, intervals
from e2rank_pyserini.report import plots
from e2rank_pyserini.report.findings import MAIN, Entry, Interval, names, sweeps
from e2rank_pyserini.types import E2RankError, clean

QUERIES = {f"q{number}": f"query {number}" for number in range(12)}
HOSTILE = "</td></table><script>alert(1)</script>&amp;\u202e\x07 \"'"


def hits(seed: int, qid: str) -> list[str]:
    """30 of the documents d00 to d39 in an order of their own."""
    order = np.random.default_rng([seed, int(qid[1:])]).permutation(40)
    return [f"d{number:02}" for number in order[:30]]


def put_run(path: Path, seed: int) -> str:
    lines = [f"{qid} Q0 {docid} {rank} {-rank} x" for qid in QUERIES for rank, docid in enumerate(hits(seed, qid), 1)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def put_kept(path: str, **changes: Any) -> None:
    """The provenance beside a run, as `e2rank rerank` writes it."""
    kept = {
        "format": 1,
        "run": {"file": "x", "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(), "topics": 12, "hits": 360},
        "command": ["rerank", "--run", "first run.trec"],
        "model": {"name": "tiny"},
        "dtype": "float32",
        "device": "cpu",
        "threads": 2,
        "prompt": None,
        "inputs": {},
        "directory": "/",
        "versions": {},
        "machine": {"processor": "a processor"},
        "options": {"command": "rerank", "output": path},
        "seconds": {
            "load": 9.0,
            "tokenise": 0.12,
            "encode": 1.2,
            "gather": 0.06,
            "score": 0.06,
            "search": 0.6,
            "total": 12.0,
        },
    }
    Path(f"{path}.json").write_text(json.dumps(kept | changes))


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Three runs (the baseline first), judgments and topics."""
    runs = [put_run(tmp_path / f"{name}.trec", seed) for seed, name in enumerate(("base", "one", "two"))]
    judged = [f"{qid} 0 d{number:02} {number % 4}" for qid in QUERIES for number in range(0, 40, 2 + int(qid[1:]) % 3)]
    (tmp_path / "qrels.txt").write_text("\n".join(judged) + "\n")
    (tmp_path / "topics.tsv").write_text("".join(f"{qid}\t{query}\n" for qid, query in QUERIES.items()))
    options = f"--qrels {tmp_path}/qrels.txt --topics {tmp_path}/topics.tsv --output {tmp_path}/out"
    return ["report", *runs, *options.split(), "--relevance", "2"]


class Page(HTMLParser):
    """The tags with their attributes, the rows of every table, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("th", "td")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.inside:
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def made(words: list[str], place: Path) -> Page:
    assert main(words) == 0
    return Page((place / "out" / "report.html").read_text(encoding="utf-8"))


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_interval_of_two_topics():
    """0 and 1: the mean is 0, 1/2, 1 with chances 1/4, 1/2, 1/4."""
    assert intervals(np.array([[0.0], [1.0]])).tolist() == [[0.0, 1.0]]
    assert intervals(np.array([[0.3, 0.0]])).tolist() == [[0.3, 0.3], [0.0, 0.0]]  # one topic: nothing to draw


@pytest.mark.parametrize(("ones", "topics"), [(12, 40), (5, 25), (70, 100)])
def test_interval_of_binary_values_is_binomial(ones: int, topics: int):
    values = np.zeros((topics, 1))
    values[:ones] = 1
    expected = binom.ppf([0.025, 0.975], topics, ones / topics) / topics
    assert intervals(values, seed=3)[0] == pytest.approx(expected, abs=1e-12)


def test_interval_as_scipy_has_it():
    values = np.random.default_rng(1).beta(0.7, 0.4, size=(43, 2))
    for found, column in zip(intervals(values), values.T, strict=True):
        other = bootstrap((column,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(9))
        assert found == pytest.approx(other.confidence_interval, abs=0.005)
    assert (intervals(values, seed=1) == intervals(values, seed=1)).all()
    assert (intervals(values, seed=1) != intervals(values, seed=2)).any()
    with pytest.raises(E2RankError, match="seed -1: expected a whole number of at least 0"):
        intervals(values, seed=-1)


def test_the_tables(words: list[str], tmp_path: Path):
    """Every mean, difference, p, win and count on the page, computed apart."""
    page = made(words, tmp_path)
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.txt")))
    own = {
        "nDCG@10": ir_measures.nDCG @ 10,
        "MAP": ir_measures.AP(rel=2),
        "R@100": ir_measures.R(rel=2) @ 100,
        "MRR@10": ir_measures.RR(rel=2) @ 10,
        "judged@10": ir_measures.Judged @ 10,
    }
    values = {
        (name, shown): np.array(
            [
                found.value
                for found in sorted(
                    ir_measures.iter_calc(
                        [measure],
                        qrels,
                        list(ir_measures.read_trec_run(str(tmp_path / f"{name}.trec"))),
                    ),
                    key=lambda found: found.query_id,
                )
            ]
        )
        for name in ("base", "one", "two")
        for shown, measure in own.items()
    }
    means, differences, *_ = page.tables
    assert means[0] == ["run", *own]
    for name, *cells in means[1:]:
        for measure, cell in zip(own, cells, strict=True):
            mean, low, high = map(float, re.fullmatch(r"(.*) \((.*) to (.*)\)", cell).groups())
            column = values[name, measure]
            assert mean == pytest.approx(100 * column.mean(), abs=0.00501)
            assert low <= mean <= high
            spread = 100 * column.std() / len(column) ** 0.5  # the standard error
            assert (high - low) / 2 == pytest.approx(1.96 * spread, rel=0.15, abs=0.02)
    rows = iter(differences[1:])
    for measure in own:
        assert next(rows) == [measure]
        pair = [next(rows), next(rows)]
        ps = [float(row[2].replace("< ", "")) for row in pair]
        for row, p in zip(pair, ps, strict=True):
            new, old = values[row[0], measure], values["base", measure]
            mean, low, high = map(float, re.fullmatch(r"(.*) \((.*) to (.*)\)", row[1]).groups())
            assert mean == pytest.approx(100 * (new - old).mean(), abs=0.00501)
            assert (high - low) / 2 == pytest.approx(196 * (new - old).std() / 12**0.5, rel=0.15, abs=0.02)
            assert p == pytest.approx(ttest_rel(new, old).pvalue, abs=0.000051)
            wins, losses = int((new > old).sum()), int((new < old).sum())
            assert list(map(int, row[4:7])) == [wins, losses, 12 - wins - losses]
            assert float(row[7]) == pytest.approx((wins - losses) / 12, abs=0.00501)
            first = p == min(ps)
            assert float(row[3]) == pytest.approx(min(1, 2 * p) if first else max(p, min(1, 2 * min(ps))), abs=0.0003)


def test_topics_and_movements(words: list[str], tmp_path: Path):
    """The movement of every relevant document, counted apart; the lists begin with the greatest gain."""
    page = made([*words, "--gains", "2"], tmp_path)
    relevant = {qid: [] for qid in QUERIES}
    for line in (tmp_path / "qrels.txt").read_text().splitlines():
        qid, _, docid, grade = line.split()
        relevant[qid] += [docid] if int(grade) >= 2 else []
    counts = [0] * 5
    for qid, docids in relevant.items():
        old, new = hits(0, qid), hits(1, qid)
        for docid in docids:
            if docid in old and docid in new:
                before, after = old.index(docid), new.index(docid)
                counts[0 if after < before else 1 if after > before else 2] += 1
            elif docid in old or docid in new:
                counts[4 if docid in old else 3] += 1
    _, _, topics, _, movements, *_ = page.tables
    assert movements[1] == ["one", *map(str, counts)]
    gains = [float(row[2]) for row in topics[1:]]
    assert gains[0] >= gains[1] > 0 > gains[3] >= gains[2]
    assert gains[2] == min(gains)
    for qid, query, gain, before, after, documents in topics[1:]:
        assert query == QUERIES[qid]
        assert float(after) - float(before) == pytest.approx(float(gain), abs=0.011)
        listed = {docid for docid in relevant[qid] if docid in hits(0, qid)[:10] or docid in hits(1, qid)[:10]}
        assert set(re.findall(r"d\d\d", documents)) == listed
        for before_rank, after_rank, docid in re.findall(r"(\d+|not in) → (\d+|not in), grade \d: (d\d\d)", documents):
            for rank, order in ((before_rank, hits(0, qid)), (after_rank, hits(1, qid))):
                assert (order.index(docid) + 1 if docid in order else "not in") == (
                    int(rank) if rank.isdigit() else rank
                )


# --- provenance -------------------------------------------------------------------------------------------------------


def test_latency_window_and_commands(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    prompt = {"variant": "pair", "task": "t", "noun": "Documents", "order": "initial"}
    for window, path in zip((2, 8), words[2:4], strict=True):
        inputs = {"run": {"path": f"runs/{HOSTILE}", "sha256": "aa"}}
        put_kept(path, prompt={**prompt, "window": window}, inputs=inputs)
    page = made(words, tmp_path)
    assert "Left out, because no file beside them says what they cost: base." in page.text
    alts = [image["alt"] or "" for image in page.all("img")]
    assert len(alts) == 5
    assert "one: 0.17 seconds a query, nDCG@10 " in alts[3]
    assert re.search(r"tiny on script>.*: window 2 \d+\.\d\d \(.*\), window 8 \d", alts[4])
    (costs,) = [table for table in page.tables if "seconds a query" in table[0]]
    assert costs[1] == [
        "one",
        "0.1700",
        "0.0100",
        "0.1000",
        "0.0500",
        "0.0050",
        "0.0050",
        "a processor",
        "cpu",
        "2",
        "float32",
    ]
    assert "e2rank rerank --run 'first run.trec'" in page.text
    put_kept(words[3], prompt={**prompt, "window": 8}, inputs=inputs, options={"command": "feedback"})
    assert "The window of the prompt" not in made([*words, "--overwrite"], tmp_path).text
    put_kept(words[3], prompt={**prompt, "window": 8, "noun": "Passages"}, inputs=inputs)  # differs in more
    put_kept(words[2], run={"file": "x", "sha256": "00", "topics": 12})
    capsys.readouterr()
    page = made([*words, "--overwrite"], tmp_path)
    assert "one.trec.json: is of another run (its SHA-256 differs) and is not used" in capsys.readouterr().err
    assert len(page.all("img")) == 4
    assert "The window of the prompt" not in page.text
    assert not (tmp_path / "out" / "window.png").exists()


def test_sweeps_differ_in_the_window_only():
    def entry(name: str, window: int, *, model: str = "m", digest: str | None = "aa", noun: str = "Documents") -> Entry:
        kept = {
            "model": {"name": model},
            "prompt": {"window": window, "noun": noun},
            "inputs": {"run": {"path": "x/r.trec", "sha256": digest}},
        }
        return Entry(name, {}, {}, {}, {}, kept, 0)

    runs = [
        entry("a", 8),
        entry("b", 2),
        entry("c", 8),
        entry("d", 4, model="n"),
        entry("e", 4, digest="bb"),
        entry("f", 4, noun="Passages"),
        entry("g", 1, noun="Passages"),
        Entry("h", {}, {}, {}, {}, None, 0),
    ]
    first, second = sweeps(runs)
    assert [(window, one.name) for window, one in first.entries] == [(2, "b"), (8, "a")]
    assert (first.model, first.of, first.left) == ("m", "r.trec", ["c"])
    assert [(window, one.name) for window, one in second.entries] == [(1, "g"), (4, "f")]
    assert sweeps(runs[2:6]) == []
    assert sweeps([entry("pipe", 2, digest=None), entry("pipe", 8, digest=None)]) == []  # maybe of two runs
    adaptive = [entry("x", 2), entry("y", 8)]
    for one in adaptive:
        one.kept["options"] = {"adaptive": 0.5}
    assert sweeps(adaptive) == []  # whose prompts hold fewer


def test_a_baseline_above_all_others_is_on_the_picture(monkeypatch: pytest.MonkeyPatch):
    def entry(mean: float) -> Entry:
        row = Row("x", mean, 1.0, 0.0, 1.0, 1.0, 0, 0, 1, {})
        return Entry("x", {MAIN: row}, {MAIN: Interval(mean - 0.1, mean + 0.1)}, {}, {}, None, 0)

    figure = Figure()
    monkeypatch.setattr(plots, "_drawn", lambda height, draw: draw(figure))
    plots.latency([(entry(0.3), 0.1), (entry(0.4), 0.2)], entry(0.9))
    low, high = figure.axes[0].get_ylim()
    assert low < 20
    assert high > 90


def test_what_came_through_a_pipe_has_no_hash(words: list[str], tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(Path(words[3]).read_text()))
    writer.start()
    page = made([*words[:3], str(pipe), *words[4:]], tmp_path)
    writer.join()
    (files,) = [table for table in page.tables if any("qrels.txt" in cell for row in table for cell in row)]
    told = {row[1]: row[2] for row in files if len(row) == 3}
    assert told[str(pipe)] == "no file: read once, from a pipe"
    assert told[words[2]] == hashlib.sha256(Path(words[2]).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("{", "one.trec.json: not JSON"),
        ("[" * 100_000, "one.trec.json: not JSON"),
        ("[]", "one.trec.json: expected an object, got list"),
        ('{"format": 2}', "expected the record of a run, an object of format 1"),
        ({"run": None}, "run: not as format 1 has it: None"),
        ({"run": {"sha256": "00", "topics": 0}}, "run: not as"),
        ({"seconds": {"encode": -1}}, "seconds: not as"),
        ({"seconds": {"encode": float("nan")}}, "seconds: not as"),
        ({"seconds": {"encode": "1"}}, "seconds: not as"),
        ({"seconds": {"encode": 1e300}}, "seconds: not as"),
        ({"prompt": {"window": 10**400}}, "prompt: not as"),
        ({"prompt": {"window": "8"}}, "prompt: not as"),
        ({"inputs": {"run": "x"}}, "inputs: not as"),
        ({"model": "x"}, "model: not as"),
        ({"command": "rerank"}, "command: not as"),
    ],
)
def test_bad_provenance_is_one_line(
    words: list[str], tmp_path: Path, text: str | dict[str, Any], fragment: str, capsys: pytest.CaptureFixture[str]
):
    if isinstance(text, dict):
        put_kept(words[2], **text)
    else:
        Path(f"{words[2]}.json").write_text(text)
    assert main(words) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert fragment in told
    assert "one.trec.json" in told
    assert not (tmp_path / "out").exists()


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_pictures(words: list[str], tmp_path: Path):
    """PNGs of a width that the page counts on, the same whatever matplotlib is told, and those of the page."""
    page = made(words, tmp_path)
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    assert set(found) == {"measures.png", "topics.png", "ranks.png"}
    for content in found.values():
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", content[16:24])
        assert width == round(plots.WIDTH * plots.DPI)
        assert 300 < height < 3000
        assert b"matplotlib" not in content
    text = (tmp_path / "out" / "report.html").read_bytes()
    with matplotlib.rc_context({"figure.facecolor": "black", "font.size": 30, "savefig.dpi": 50}):
        page = made([*words, "--overwrite"], tmp_path)
    assert (tmp_path / "out" / "report.html").read_bytes() == text
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.png")} == found
    assert len(page.all("img")) == 3


def share(path: Path, colour: str) -> float:
    """Of the pixels, those that have exactly this colour."""
    pixels = (imread(path)[..., :3] * 255).round()
    return float((pixels == [*bytes.fromhex(colour[1:])]).all(axis=-1).mean())


def test_gains_are_blue_and_losses_vermillion(words: list[str], tmp_path: Path):
    made(words, tmp_path)
    picture = tmp_path / "out" / "topics.png"
    assert min(share(picture, plots.BLUE), share(picture, plots.VERMILLION)) > 0.01
    best = [f"{qid} Q0 d{n:02} 1 {n % 4} x" for qid in QUERIES for n in range(0, 40, 2 + int(qid[1:]) % 3)]
    Path(words[2]).write_text("\n".join(best))
    made([*words[:3], *words[4:], "--overwrite"], tmp_path)
    assert share(picture, plots.BLUE) > 0.01
    assert share(picture, plots.VERMILLION) == 0


def test_labels_keep_apart():
    for heights in ([0.5] * 10, [0.99, 1.0, 0.98], [0.0, 0.0], [0.2, 0.8]):
        found = plots.spread(heights, 0.1)
        assert all(0 <= height <= 1 + 1e-9 for height in found)
        ordered = sorted(found)
        assert all(high - low >= 0.1 - 1e-9 for low, high in itertools.pairwise(ordered))
    assert plots.spread([0.2, 0.8], 0.1) == [0.2, 0.8]


def test_windows_that_have_room_for_their_numbers():
    assert plots.apart([5]) == [5]
    assert plots.apart([1, 2, 3, 5, 8, 12, 16, 20]) == [1, 2, 3, 5, 8, 12, 16, 20]
    assert plots.apart([*range(1, 9), 10, 50, 51, 100]) == [1, 5, 10, 50, 100]


def test_long_names():
    assert plots.wrapped("short", 30) == "short"
    lines = plots.wrapped("a" * 100 + "b" * 100, 30).split("\n")
    assert len(lines) == 3
    assert all(len(line) <= 30 for line in lines)
    assert lines[0][0] + lines[-1][-1] == "ab"


# --- page -------------------------------------------------------------------------------------------------------------


def test_names():
    assert names(["runs/a.trec", "b.trec.gz", "c"]) == ["a", "b", "c"]
    assert names(["x/a.trec", "y/a.trec", "b"]) == ["x/a.trec", "y/a.trec", "b"]
    assert clean("a\tb\n c\x07\x85\udce9é") == "a b c\ufffd \ufffdé"
    assert clean("a\u202eb\u2067c") == "a\ufffdb\ufffdc"


def check_form(page: Page) -> None:
    """What every page promises."""
    (root,) = page.all("html")
    assert root["lang"] == "en"
    assert page.all("title")
    assert [one for one in page.all("meta") if one.get("name") == "viewport"]
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "base", "form"})
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/png;base64,"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(len(image["alt"] or "") > 80 for image in page.all("img"))
    assert all(head.get("scope") in ("col", "row", "rowgroup") for head in page.all("th"))
    anchors = {one["href"] for one in page.all("a")}
    assert anchors == {f"#{one['id']}" for one in page.all("h2")}


def test_the_form_of_the_page(words: list[str], tmp_path: Path):
    page = made(words, tmp_path)
    check_form(page)
    for path in (*words[1:4], words[5], words[7]):
        assert hashlib.sha256(Path(path).read_bytes()).hexdigest() in page.text
    assert f"matplotlib{matplotlib.__version__}" in re.sub(r"\s", "", page.text)


@pytest.mark.parametrize("place", [1, 2], ids=["baseline", "run"])
def test_hostile_input(words: list[str], tmp_path: Path, place: int):
    """What files say stays text: names of runs, queries, docids; signs that no font, no encoding has."""
    name = "<img src=x onerror=alert(1)> $\\frac{ 漢 _\n\"'&lt;\udce9"
    hostile = tmp_path / f"_{name}.trec"
    hostile.write_text(Path(words[place]).read_text().replace(" d0", " <b>&\"'d0"))
    qrels = Path(words[5])
    qrels.write_text(qrels.read_text().replace(" d0", " <b>&\"'d0"))
    topics = "".join(json.dumps({"_id": qid, "text": HOSTILE + query}) + "\n" for qid, query in QUERIES.items())
    (tmp_path / "topics.jsonl").write_text(topics)
    words[place], words[7] = str(hostile), str(tmp_path / "topics.jsonl")
    page = made(words, tmp_path)
    check_form(page)
    assert len(page.all("img")) == 3
    assert "_<img src=x onerror=alert(1)> $\\frac{ 漢 _ \"'&lt;\ufffd" in page.text
    assert "</td></table><script>alert(1)</script>&amp;\ufffd\ufffd \"'query" in page.text
    assert "<b>&\"'d0" in page.text
    assert not page.all("b")


def test_without_topics_and_with_topics_lacking_hits(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    Path(words[2]).write_text("q1 Q0 d04 1 1 x\n")
    page = made([*words[:6], *words[8:]], tmp_path)
    assert "11 of 12 judged topics have no hits and count 0" in capsys.readouterr().err
    assert "(no text given)" in page.text
    assert "Judged topics without hits: one 11." in page.text
    check_form(page)


def test_one_topic_and_nothing_relevant(words: list[str], tmp_path: Path):
    Path(words[5]).write_text("q1 0 d01 0\n")
    page = made(words, tmp_path)
    assert "1 judged topic." in page.text
    check_form(page)


# --- output -----------------------------------------------------------------------------------------------------------


def test_only_a_report_is_replaced(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made(words, tmp_path)
    assert main(words) == 1
    assert "out: exists already; remove it, or say --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    capsys.readouterr()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert main([*words, "--overwrite"]) == 1
    assert "out: is not a report, so --overwrite does not replace it" in capsys.readouterr().err
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    (tmp_path / "out" / "notes.txt").unlink()
    (tmp_path / "out" / "report.html").write_text("<p>somebody's own")
    assert main([*words, "--overwrite"]) == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_failure_leaves_nothing(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The last picture cannot be written: no directory, not even a hidden one."""
    before = sorted(tmp_path.iterdir())
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == "ranks.png":
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(words) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_without_matplotlib(words: list[str]):
    code = "import sys; sys.modules['matplotlib'] = None; from e2rank_pyserini.cli import main; main(sys.argv[1:])"
    found = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert found.stderr == "e2rank report: a report needs matplotlib; pip install 'e2rank-pyserini[eval]'\n"


def test_too_many_runs(words: list[str], capsys: pytest.CaptureFixture[str]):
    assert main([*words[:3], *[words[3]] * 40, *words[4:]]) == 1
    assert "a report shows at most 40 runs beside the baseline, got 41" in capsys.readouterr().err
