"""`e2rank compare`: p-values against closed forms and counting, its table and its errors."""

import itertools
import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import permutation_test

from e2rank_pyserini import comparison
from e2rank_pyserini.cli import main
from e2rank_pyserini.comparison import changes, compare, extremes, holm, moved, p_value
from e2rank_pyserini.types import E2RankError, Hit, Run


def test_a_topic_that_did_not_change_neither_gained_nor_lost():
    assert extremes([("a", 0.5), ("b", 0.0), ("c", -0.1)], 5) == [("a", 0.5), ("c", -0.1)]


def test_t_is_the_closed_form():
    """Three topics, two degrees of freedom: p = 1 - t / sqrt(2 + t^2)."""
    t = 2 / (1 / math.sqrt(3))  # gains 1, 2, 3: mean 2, standard deviation 1
    found = p_value(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0]), "t", 0)
    assert found == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-12)


@given(st.lists(st.integers(-8, 8), min_size=2, max_size=9))
def test_randomisation_counts_all_sign_flips(gains: list[int]):
    new = np.array(gains, dtype=float)
    means = [
        sum(sign * gain for sign, gain in zip(signs, gains, strict=True))
        for signs in itertools.product((1, -1), repeat=len(gains))
    ]
    as_far = sum(abs(mean) >= abs(sum(gains)) for mean in means)
    expected = as_far / len(means) if any(gains) else 1.0
    assert p_value(new, np.zeros(len(gains)), "randomisation", 0) == pytest.approx(expected, abs=1e-9)


def test_many_topics_are_sampled_by_the_seed():
    """40 topics: near the normal law, where the t-test is right too."""
    gains = np.random.default_rng(5).normal(0.3, 1.0, 40)
    zero = np.zeros(40)
    one, again, other = (p_value(gains, zero, "randomisation", seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert one == pytest.approx(p_value(gains, zero, "t", 0), abs=0.01)


def test_thousands_of_topics_take_no_more_memory(monkeypatch: pytest.MonkeyPatch):
    """And p is what one draw of all signs gives."""
    monkeypatch.setattr(comparison, "RESAMPLES", 1000)
    gains = np.random.default_rng(5).normal(0.01, 1.0, 7000)
    tracemalloc.start()
    found = p_value(gains, np.zeros(7000), "randomisation", 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200e6
    flipped = permutation_test(
        (gains, np.zeros(7000)),
        lambda left, right, axis: (left - right).mean(axis=axis),
        permutation_type="samples",
        n_resamples=1000,
        rng=np.random.default_rng(3),
    )
    assert found == flipped.pvalue


def test_nothing_differs_or_all_alike():
    same = np.array([0.5, 0.25])
    assert p_value(same, same, "t", 0) == 1.0
    for topics in (2, 5):  # t is infinite: the sign flips decide
        every, flips = np.full(topics, 0.5), 0.5 ** (topics - 1)
        assert p_value(every + 0.25, every, "t", 0) == flips
        assert p_value(every + 0.25, every, "randomisation", 0) == pytest.approx(flips)
    assert p_value(np.array([0.3, 0.4]), np.array([0.2, 0.3]), "t", 0) == 0.5  # equal but for rounding
    assert p_value(same[:1] + 0.25, same[:1], "t", 0) == 1.0  # one topic
    with pytest.raises(E2RankError, match="test 'z': expected one of t, randomisation"):
        p_value(same, same, "z", 0)


def test_holm_by_hand():
    """Holm 1979: 3 x the least, 2 x the next, never falling, at most 1."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


QRELS = {"q1": {"a": 2, "b": 0, "c": 1}, "q2": {"a": 1}, "q3": {"z": 1}}


def run(**hits: str) -> Run:
    return {qid: [Hit(docid, float(-rank)) for rank, docid in enumerate(docids)] for qid, docids in hits.items()}


OLD, NEW = run(q1="bxca", q2="xa"), run(q1="acbx", q2="xya")


def test_rows_by_hand():
    log = math.log2
    old = [(1 / log(4) + 2 / log(5)) / (2 + 1 / log(3)), 1 / log(3), 0.0]
    new = [1.0, 1 / log(4), 0.0]  # q3 has no hits
    base, row = compare([("old", OLD), ("new", NEW)], QRELS)
    assert (base.mean, row.mean) == (pytest.approx(sum(old) / 3), pytest.approx(sum(new) / 3))
    assert row.difference == pytest.approx((sum(new) - sum(old)) / 3)
    assert (base.wins, base.losses, base.ties, base.p) == (0, 0, 3, 1.0)
    assert (row.wins, row.losses, row.ties) == (1, 1, 1)
    assert row.robustness == 0
    assert row.judged == pytest.approx((3 / 4 + 1 / 3 + 0) / 3)  # of the hits that there are


def test_several_runs_are_corrected_together():
    rows = compare([("old", OLD), ("new", NEW), ("again", NEW)], QRELS)
    assert rows[1].holm == rows[2].holm == pytest.approx(min(1.0, 2 * rows[1].p))


def test_where_the_documents_went():
    old, new = compare([("old", OLD), ("new", NEW)], QRELS)
    assert [qid for qid, _ in changes(new, old)] == ["q1", "q3", "q2"]  # by gain
    assert moved(NEW, OLD, QRELS, "q1") == [("a", 2, 4, 1), ("c", 1, 3, 2)]
    assert moved(NEW, OLD, QRELS, "q1", depth=1) == [("a", 2, 4, 1)]
    assert moved(run(q2="xy"), OLD, QRELS, "q2") == [("a", 1, 2, None)]
    assert moved(NEW, OLD, QRELS, "q3") == []


def written(place: Path) -> list[str]:
    for name, found in (("old", OLD), ("new", NEW)):
        lines = [f"{qid} Q0 {hit.docid} 1 {hit.score} x\n" for qid, hits in found.items() for hit in hits]
        (place / f"{name}.trec").write_text("".join(lines))
    lines = [f"{qid} 0 {docid} {grade}\n" for qid, judged in QRELS.items() for docid, grade in judged.items()]
    (place / "qrels.txt").write_text("".join(lines))
    return [str(place / "old.trec"), str(place / "new.trec"), "--qrels", str(place / "qrels.txt")]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = written(tmp_path)
    assert main(["compare", *words, "--gains", "1"]) == 0
    printed, told = capsys.readouterr()
    assert told.count("1 of 3 judged topics have no hits and count 0") == 2
    head, old, new, gap, title, *gains = printed.splitlines()
    assert head.split() == ["run", "nDCG@10", "diff", "p", "p", "Holm", "+", "-", "=", "RI", "judged@10"]
    assert len(head) == len(old) == len(new)
    assert old.split() == ["old", f"{100 * compare([('old', OLD)], QRELS)[0].mean:.2f}", "41.7"]
    assert new.split()[0] == "new"
    assert new.split()[-5:] == ["1", "1", "1", "+0.00", "36.1"]
    assert (gap, title) == ("", "new against old")
    assert [line.split()[-1] for line in gains] == ["q1", "a", "c", "q2", "a"]
    assert gains[1].split() == ["4", "->", "1", "grade", "2", "a"]
    rows = [{"_id": docid, "title": "", "text": f"text of\n{docid} " + "word " * 99} for docid in "ac"]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["compare", *words, "--gains", "1", "--corpus", str(tmp_path / "corpus.jsonl")]) == 0
    told = capsys.readouterr().out.splitlines()[5:]
    assert told[1].startswith(f"{gains[1]}  text of a word word")
    assert 70 < len(told[1]) - len(gains[1]) <= 82
    assert told[0] == gains[0]
    assert main(["compare", *words, "--json", "--test", "randomisation"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["run"] for row in rows] == ["old", "new"]
    assert rows[1]["p"] == 1.0  # one gain, one loss: no flip comes nearer to 0 than they do
    assert rows[1]["topics"] == 3


def test_runs_of_one_name_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = written(tmp_path)
    (tmp_path / "other").mkdir()
    other = (tmp_path / "new.trec").rename(tmp_path / "other" / "old.trec")
    for command in ("compare", "eval"):
        assert main([command, words[0], str(other), *words[2:], "--json"]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert [json.loads(line)["run"] for line in printed] == [words[0], str(other)]


def test_a_run_that_is_named_again_is_one_of_the_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """`compare old.trec *.trec` names the baseline among the runs."""
    words = written(tmp_path)
    assert main(["compare", *words, "--json"]) == 0
    once = capsys.readouterr().out
    assert main(["compare", words[0], words[1], *words, "--json"]) == 0
    printed, told = capsys.readouterr()
    assert printed == once
    assert "runs that are named again count once (2 such)" in told
    assert main(["compare", words[0], words[0], *words[2:], "--json"]) == 0
    assert [json.loads(line)["p"] for line in capsys.readouterr().out.splitlines()] == [1.0, 1.0]


def test_p_values_too_small_to_print_are_not_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name, places in (("old", (9, 8, 7)), ("new", (1, 2, 1))):
        lines = [
            f"q{topic} Q0 {'a' if rank == places[topic % 3] else f'x{rank}'} {rank} {-rank} x\n"
            for topic in range(40)
            for rank in range(1, 11)
        ]
        (tmp_path / f"{name}.trec").write_text("".join(lines))
    (tmp_path / "qrels.txt").write_text("".join(f"q{topic} 0 a 1\n" for topic in range(40)))
    words = [str(tmp_path / "old.trec"), str(tmp_path / "new.trec"), "--qrels", str(tmp_path / "qrels.txt")]
    assert main(["compare", *words]) == 0
    head, _, new = capsys.readouterr().out.splitlines()
    assert len(head) == len(new)
    assert "  < 0.0001  < 0.0001  " in new


def test_topics_are_read_only_where_they_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A named data set whose judgments alone are here."""
    words = written(tmp_path)
    monkeypatch.setenv("E2RANK_DATA", str(tmp_path))
    (tmp_path / "qrels.txt").rename(tmp_path / "qrels.beir-v1.0.0-scifact.test.txt")
    assert main(["compare", *words[:2], "--dataset", "scifact"]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("new")
    assert main(["compare", *words[:2], "--dataset", "scifact", "--topics", "t.tsv"]) == 1
    assert capsys.readouterr().err == "e2rank compare: --topics goes with --gains N\n"


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ("{place}/old.trec {place}/none.trec --qrels {place}/qrels.txt", "none.trec: no such file"),
        ("{place}/old.trec {place}/new.trec", "name the judgments with --qrels FILE or --dataset"),
        (
            "{place}/old.trec {place}/far.trec --qrels {place}/qrels.txt",
            "far.trec: the run and the qrels share no topic (run: z …",
        ),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, words: str, fragment: str, capsys: pytest.CaptureFixture[str]):
    written(tmp_path)
    (tmp_path / "far.trec").write_text("z Q0 a 1 1 x\n")
    assert main(["compare", *words.format(place=tmp_path).split()]) == 1
    printed, told = capsys.readouterr()
    assert printed == ""
    assert told.count("\n") == 1
    assert fragment in told


def test_documents_of_one_grade_are_shown_by_where_they_are_now():
    qrels = {"q": dict.fromkeys("abc", 1)}
    found = moved(run(q="xb" + "a"), run(q="cab"), qrels, "q")
    assert found == [("b", 1, 3, 2), ("a", 1, 2, 3), ("c", 1, 1, None)]


def test_the_relevance_and_the_seed_are_those_asked_for():
    qrels = {str(n): {"a": 1, "b": 2} for n in range(20)}
    old = {qid: [Hit("a", 2.0), Hit("b", 1.0)] for qid in qrels}
    new = {qid: [Hit("b", 2.0), Hit("a", 1.0)] if int(qid) % 3 else old[qid][:1] for qid in qrels}
    runs, asked = [("old", old), ("new", new)], {"measure": "MRR@10", "relevance": 2}
    assert [row.mean for row in compare(runs, qrels, **asked)] == pytest.approx([0.5, 13 / 20])
    ps = [compare(runs, qrels, test="randomisation", seed=seed, **asked)[1].p for seed in (0, 0, 1)]
    assert ps[0] == ps[1] != ps[2]


def test_no_file_speaks_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = written(tmp_path)
    rows = [{"_id": docid, "text": "wing \x1b]0;title\x07\x1b[2J flow"} for docid in "ac"]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "topics.tsv").write_text("q1\tflow \x1b[31m red\nq2\ta\nq3\tb\n")
    more = ["--corpus", str(tmp_path / "corpus.jsonl"), "--topics", str(tmp_path / "topics.tsv")]
    assert main(["compare", *words, "--gains", "1", *more]) == 0
    told = capsys.readouterr().out
    assert "wing" in told
    assert "red" in told
    assert not set(told) & {"\x1b", "\x07"}
