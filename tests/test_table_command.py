"""`e2rank table` on a toy of the DL pool's form: the same numbers as by hand, each thing made once."""

import json
import os
import shutil
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import pytest

from e2rank_pyserini.cli import main
from e2rank_pyserini.sealed import seal
from e2rank_pyserini.table.benchmarks import Benchmark
from e2rank_pyserini.table.freshness import Maker, index_is_fresh
from e2rank_pyserini.table.published import AVERAGE, BEIR
from e2rank_pyserini.table.table_command import Row, _averages, _lines, table
from e2rank_pyserini.trec import read_qrels, read_run
from tests.reference import plain
from tests.test_cli import make

POOL = "msmarco-dl-pool"


@pytest.fixture
def data(beir: Path, toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DL19 alone, over two first stages of 20 hits; the working directory is new and Pyserini's cache is empty."""
    monkeypatch.delenv("E2RANK_DATA", raising=False)
    monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path / "cache"))
    pool = tmp_path / "data" / POOL
    shutil.copytree(beir, pool)
    (pool / "qrels" / "test.tsv").rename(pool / "qrels" / "test-dl19.tsv")
    (pool / "runs").mkdir()
    for name, part in (("bm25", slice(0, 20)), ("tasb", slice(10, 30))):
        rows = [
            f"{qid} Q0 {hit.docid} 1 {hit.score} x\n" for qid, hits in read_run(toy_run).items() for hit in hits[part]
        ]
        (pool / "runs" / f"dl19.{name}.top100.trec").write_text("".join(rows))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "data"


def asked(model: Path, data: Path, **more: object) -> Namespace:
    given = {"device": "cpu", "dense": False, "json": True, **more}
    return Namespace(command="table", encoder=str(model), data=str(data), **given)


class Commands:
    """Runs commands as the command line does, and remembers them; of `bm25`, if it is given, Java need not make one."""

    def __init__(self, bm25: Path | None = None) -> None:
        self.words: list[Sequence[str]] = []
        self.bm25 = bm25

    def __call__(self, words: Sequence[str]) -> None:
        self.words.append(words)
        if self.bm25 and words[0] == "bm25":
            shutil.copy(self.bm25, words[words.index("--output") + 1])
        else:
            assert main(words) == 0


def ndcg(run: Path, data: Path) -> float:
    qrels, found = read_qrels(data / POOL / "qrels" / "test-dl19.tsv"), read_run(run)
    return sum(plain.ndcg(judged, [hit.docid for hit in found[qid]], 10) for qid, judged in qrels.items()) / len(qrels)


def test_the_numbers_are_those_of_the_commands_by_hand(
    tiny_model: Path, tiny_index: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    table(asked(tiny_model, data), Commands())
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["set"], row["first_stage"]) for row in rows] == [("dl19", "bm25"), ("dl19", "tasb")]
    for row in rows:
        first = data / POOL / "runs" / f"dl19.{row['first_stage']}.top100.trec"
        words = ["rerank", "--dataset", str(data / POOL), "--split", "test-dl19", "--index", str(tiny_index)]
        for column, more in (("query", ["--by", "query"]), ("prompt", [])):
            assert main([*words, "--run", str(first), "--output", str(tmp_path / "out"), *more]) == 0
            assert row[column]["nDCG@10"] == pytest.approx(ndcg(tmp_path / "out", data))
        assert row["first"]["nDCG@10"] == pytest.approx(ndcg(first, data))
        capsys.readouterr()
        assert (
            main(
                [
                    "eval",
                    "--qrels",
                    str(data / POOL / "qrels" / "test-dl19.tsv"),
                    "--relevance",
                    "2",
                    "--json",
                    str(first),
                ]
            )
            == 0
        )
        assert row["first"]["MAP"] == json.loads(capsys.readouterr().out)["MAP"]  # DL: grade 1 is not relevant
    assert rows[0]["paper"] == {"first": 0.5058, "peer": 0.6911, "prompt": 0.7084}
    assert rows[1]["paper"] == {}


def test_topics_without_hits_are_told(tiny_model: Path, data: Path, capsys: pytest.CaptureFixture[str]):
    run = data / POOL / "runs" / "dl19.tasb.top100.trec"
    run.write_text("".join(line + "\n" for line in run.read_text().splitlines() if line.startswith("007 ")))
    table(asked(tiny_model, data), Commands())
    judged = len(read_qrels(data / POOL / "qrels" / "test-dl19.tsv"))
    told = f"{run}: {judged - 1} of {judged} judged topics have no hits and count 0\n"
    assert told in capsys.readouterr().err


def test_a_second_call_makes_nothing_and_a_changed_run_only_what_depends_on_it(
    tiny_model: Path, data: Path, capsys: pytest.CaptureFixture[str]
):
    commands = Commands()
    table(asked(tiny_model, data), commands)
    printed = capsys.readouterr().out
    assert [words[0] for words in commands.words] == ["index", *["rerank"] * 4]
    commands.words.clear()
    table(asked(tiny_model, data), commands)
    assert commands.words == []
    assert capsys.readouterr().out == printed
    [output] = Path("runs").glob("*.dl19.tasb.top100-*.query.trec")
    output.unlink()
    table(asked(tiny_model, data), commands)
    assert [words[words.index("--output") + 1] for words in commands.words] == [str(output)]
    commands.words.clear()
    later = max(path.stat().st_mtime for path in (*Path("runs").iterdir(), *Path("indexes").rglob("*"))) + 5
    os.utime(data / POOL / "runs" / "dl19.bm25.top100.trec", (later, later))
    table(asked(tiny_model, data), commands)
    assert [words[0] for words in commands.words] == ["rerank", "rerank"]


def test_other_first_stages_are_seen_whatever_their_dates(
    tiny_model: Path, toy_run: Path, data: Path, capsys: pytest.CaptureFixture[str]
):
    """As `cp -p`, rsync and tar leave them."""
    table(asked(tiny_model, data), Commands())
    runs = data / POOL / "runs"
    rows = {qid: [hit.docid for hit in hits[5:15]] for qid, hits in read_run(toy_run).items()}
    for name in ("tasb", "dense1"):  # another one in its place, and one more
        path = runs / f"dl19.{name}.top100.trec"
        lines = [f"{qid} Q0 {docid} 1 {-rank} x\n" for qid, docids in rows.items() for rank, docid in enumerate(docids)]
        path.write_text("".join(lines))
        os.utime(path, (1e9, 1e9))
    capsys.readouterr()
    table(asked(tiny_model, data), Commands())
    shown = {row["first_stage"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert shown["tasb"]["prompt"] == shown["dense1"]["prompt"]
    for path in Path("runs").glob("*.trec"):
        if ".tasb." in path.name or ".dense1." in path.name:
            assert {hit.docid for hit in read_run(path)["007"]} == set(rows["007"])


def test_excluded_documents_are_in_no_column(tiny_model: Path, data: Path, capsys: pytest.CaptureFixture[str]):
    run = data / POOL / "runs" / "dl19.bm25.top100.trec"
    qrels = read_qrels(data / POOL / "qrels" / "test-dl19.tsv")
    rows = [f"{qid}\t{hit.docid}\n" for qid, hits in read_run(run).items() for hit in hits[:3]
            if qid in qrels and hit.docid not in qrels[qid]]  # fmt: skip
    assert rows
    (data / POOL / "excluded").mkdir()
    (data / POOL / "excluded" / "test-dl19.tsv").write_text("query-id\tcorpus-id\n" + "".join(rows))
    table(asked(tiny_model, data), Commands())
    found = json.loads(capsys.readouterr().out.splitlines()[0])
    words = ["--dataset", str(data / POOL), "--split", "test-dl19", "--relevance", "2", "--json", str(run)]
    assert main(["eval", *words]) == 0
    assert found["first"]["nDCG@10"] == json.loads(capsys.readouterr().out)["nDCG@10"] != ndcg(run, data)


def test_a_model_that_is_trained_anew_is_measured_anew(
    tiny_model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from safetensors.torch import load_file, save_file

    mine = tmp_path / "mine"
    shutil.copytree(tiny_model, mine)
    commands = Commands()
    table(asked(mine, data), commands)
    before = capsys.readouterr().out
    weights = load_file(mine / "model.safetensors")
    save_file({name: weight + 0.1 for name, weight in weights.items()}, mine / "model.safetensors", {"format": "pt"})
    os.utime(mine / "model.safetensors", (0, 0))  # unpacked from an archive, say
    commands.words.clear()
    table(asked(mine, data), commands)
    after = capsys.readouterr().out
    assert [words[0] for words in commands.words] == ["index", *["rerank"] * 4]
    assert after != before
    shutil.rmtree("runs")
    shutil.rmtree("indexes")
    table(asked(mine, data), commands)
    assert capsys.readouterr().out == after


def test_only_what_is_rescored_is_encoded_unless_all_is_there(tiny_model: Path, data: Path, beir: Path):
    first = data / POOL / "runs" / "dl19.tasb.top100.trec"
    first.write_text("".join(line for line in first.read_text().splitlines(keepends=True) if line.startswith("007 ")))
    (data / POOL / "runs" / "dl19.bm25.top100.trec").unlink()
    table(asked(tiny_model, data), Commands())
    [docids] = Path("indexes").glob("*.test-dl19.candidates.tiny-qwen3-*/docid")
    assert sorted(docids.read_text().split()) == sorted(hit.docid for hit in read_run(first)["007"])
    commands = Commands()
    table(asked(tiny_model, data, dense=True), commands)
    assert [words[0] for words in commands.words] == ["index", "search", "rerank", "rerank", "rerank"]
    whole = commands.words[0][commands.words[0].index("--output") + 1]
    assert len(Path(whole, "docid").read_text().split()) == 40
    assert all(words[words.index("--index") + 1] == whole for words in commands.words[1:])


def test_a_folder_gets_bm25_and_the_named_sets_task(tiny_model: Path, data: Path, toy_run: Path, beir: Path, capsys):
    shutil.rmtree(data / POOL)
    shutil.copytree(beir, data / "scifact")
    commands = Commands(bm25=toy_run)
    Path("runs").mkdir()
    table(asked(tiny_model, data, json=False), commands)
    bm25, _, prompt, query = commands.words
    one = Benchmark("scifact", str(data / "scifact"), "test", "", {})
    assert bm25[bm25.index("--output") + 1] == f"runs/{one.topics}.bm25.trec"
    assert (
        query[query.index("--task") + 1]
        == "Given a scientific claim, retrieve documents that support or refute the claim"
    )
    assert "--task" not in prompt
    printed, told = capsys.readouterr()
    assert "E2Rank-0.6B are another model's, for reference" in printed
    assert "arXiv 2510.22733, Table 1: BM25, RankQwen3-0.6B, E2Rank-0.6B" in printed.splitlines()
    skipped = [line for line in told.splitlines() if " skipped: " in line]
    assert [line.split()[2] for line in skipped] == ["dl19", "dl20", *(one for one in BEIR if one != "scifact")]


def rows_of(names: Sequence[str]) -> list[Row]:
    return [
        Row(name, "bm25", {key: {"nDCG@10": (n + k) / 100} for k, key in enumerate(("first", "query", "prompt"))}, {})
        for n, name in enumerate(names, start=1)
    ]


def test_the_average_is_of_all_eight_or_not_at_all():
    [average] = _averages(rows_of(["dl19", *BEIR]), "e2rank-0.6b")
    assert (average.name, average.paper) == (AVERAGE, {"first": 43.43, "peer": 48.03, "prompt": 52.09})
    assert average.ours["prompt"]["nDCG@10"] == pytest.approx(sum(n + 2 for n in range(2, 10)) / 800)
    assert _averages(rows_of(["dl19", "dl20", *BEIR[1:]]), "e2rank-0.6b") == []


def test_a_model_with_published_numbers_gets_differences():
    row = Row(
        "nfcorpus",
        "bm25",
        {key: {"nDCG@10": value} for key, value in (("first", 0.3218), ("query", 0.3), ("prompt", 0.4))},
        {"first": 30.75, "prompt": 38.6, "peer": 36.41},
    )
    title, head, line, _, *notes = _lines([row], "e2rank-0.6b")
    assert head.split() == "set first stage first paper diff query prompt E2Rank-0.6B diff RankQwen3-0.6B".split()
    assert line.split() == "nfcorpus bm25 32.18 30.75 +1.43 30.00 40.00 38.60 +1.40 36.41".split()
    assert "BM25 on nfcorpus: Pyserini's flat index gives 32.18 here, so that its average is 43.60" in notes
    assert not any("reference" in note for note in notes)
    assert title == "e2rank-0.6b, nDCG@10"


def test_another_models_numbers_are_not_subtracted():
    values = {key: {"nDCG@10": value} for key, value in (("first", 0.5), ("prompt", 0.6))}
    line = _lines([Row("dl20", "dense", values, {"first": 66.77, "prompt": 74.4})], "minilm")[2]
    assert line.split() == "dl20 dense 50.00 66.77 - - 60.00 74.40 -".split()


def test_make_table():
    assert ".venv/bin/e2rank table --encoder e2rank-0.6b --data ../shared/data --device cpu" in " ".join(
        make("table", "MODEL=e2rank-0.6b", "DATA=../shared/data", "DEVICE=cpu").split()
    )


def test_nothing_here_is_an_error_of_one_line(tiny_model: Path, data: Path, capsys: pytest.CaptureFixture[str]):
    shutil.rmtree(data / POOL)
    capsys.readouterr()
    assert main(["table", "--encoder", str(tiny_model), "--data", str(data)]) == 1
    printed, told = capsys.readouterr()
    assert printed == ""
    assert told.count("\n") == 1
    assert told.startswith("e2rank table: no data set of the paper is on this machine (dl19 skipped: ")


def test_changed_topics_are_asked_anew(tiny_model: Path, data: Path):
    commands = Commands()
    table(asked(tiny_model, data, dense=True), commands)
    commands.words.clear()
    later = max(path.stat().st_mtime for path in (*Path("runs").iterdir(), *Path("indexes").rglob("*"))) + 5
    os.utime(data / POOL / "queries.jsonl", (later, later))
    table(asked(tiny_model, data, dense=True), commands)
    assert [words[0] for words in commands.words] == ["search", *["rerank"] * 5]


def test_a_changed_corpus_is_read_anew(tiny_model: Path, data: Path):
    commands, corpus = Commands(), data / POOL / "corpus.jsonl"
    table(asked(tiny_model, data), commands)
    commands.words.clear()
    corpus.write_text(corpus.read_text().replace("wing", "rudder"))
    later = max(path.stat().st_mtime for path in Path("indexes").rglob("*")) + 5
    os.utime(corpus, (later, later))
    table(asked(tiny_model, data), commands)
    assert [words[0] for words in commands.words] == ["index", *["rerank"] * 4]
    [candidates] = Path("indexes").glob("*.candidates.jsonl")
    assert "rudder" in candidates.read_text()


def test_a_dense_run_is_told_the_sets_task(tiny_model: Path, data: Path, beir: Path, toy_run: Path):
    shutil.rmtree(data / POOL)
    shutil.copytree(beir, data / "scifact")
    commands = Commands(bm25=toy_run)
    Path("runs").mkdir()
    table(asked(tiny_model, data, dense=True), commands)
    [search] = [words for words in commands.words if words[0] == "search"]
    assert search[search.index("--task") + 1].startswith("Given a scientific claim, retrieve")


def test_another_order_of_the_same_documents_is_seen_whatever_its_date(tiny_model: Path, data: Path):
    """No document is new, so that the index stays older than the runs."""
    commands, run = Commands(), data / POOL / "runs" / "dl19.tasb.top100.trec"
    table(asked(tiny_model, data), commands)
    commands.words.clear()
    rows = [line.split() for line in run.read_text().splitlines()]
    run.write_text("".join(f"{row[0]} Q0 {row[2]} 1 {-float(row[4])} x\n" for row in rows))
    os.utime(run, (1e9, 1e9))
    table(asked(tiny_model, data), commands)
    assert [words[0] for words in commands.words] == ["rerank", "rerank"]


def test_other_topics_and_another_corpus_are_seen_whatever_their_dates(tiny_model: Path, data: Path):
    """As `cp -p` leaves them: under the same ids other texts."""
    commands = Commands()
    table(asked(tiny_model, data), commands)
    for name, made in (("queries", ["rerank"] * 4), ("corpus", ["index", *["rerank"] * 4])):
        commands.words.clear()
        path = data / POOL / f"{name}.jsonl"
        path.write_text(path.read_text().replace("wing", "rudder"))
        os.utime(path, (1e9, 1e9))
        table(asked(tiny_model, data), commands)
        assert [words[0] for words in commands.words] == made
    [candidates] = Path("indexes").glob("*.candidates.jsonl")
    assert "rudder" in candidates.read_text()


@pytest.mark.parametrize(
    ("old", "new", "made"),
    [
        ("window: 5", "window: 2", ["rerank"] * 4),
        ("prompt: paper", "prompt: card", ["rerank"] * 4),
        ("Query:", "Ask ", ["rerank"] * 4),
        ("document: 48", "document: 8", ["index", *["rerank"] * 4]),
        ("pooling: last", "pooling: mean", ["index", *["rerank"] * 4]),
    ],
)
def test_a_model_that_is_used_otherwise_is_measured_anew(
    tiny_model: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    made: list[str],
):
    """Its weights are the same, and so are all dates but that of its record."""
    mine = tmp_path / "mine"
    shutil.copytree(tiny_model, mine)
    commands = Commands()
    table(asked(mine, data), commands)
    commands.words.clear()
    record = (mine / "e2rank.yaml").read_text()
    assert old in record
    (mine / "e2rank.yaml").write_text(record.replace(old, new))
    os.utime(mine / "e2rank.yaml", (1e9, 1e9))
    capsys.readouterr()
    table(asked(mine, data), commands)
    assert [words[0] for words in commands.words] == made
    assert ("and is made again" in capsys.readouterr().err) == ("index" in made)
    commands.words.clear()
    table(asked(mine, data), commands)
    assert commands.words == []


def test_a_corpus_by_its_prebuilt_name_is_not_compared_with_a_path(tiny_model: Path, data: Path, capsys):
    """make has Pyserini's index by its name, the table by where it lies."""
    table(asked(tiny_model, data), Commands())
    assert "made again" not in capsys.readouterr().err
    [index] = [place.parent for place in Path("indexes").glob("*/e2rank.json")]
    maker = Maker.of(str(tiny_model))
    [candidates] = Path("indexes").glob("*.candidates.jsonl")
    assert index_is_fresh(index, str(candidates), maker)
    other = str(data / POOL / "corpus.jsonl")
    os.utime(other, (1e9, 1e9))
    assert not index_is_fresh(index, other, maker)
    sidecar = json.loads((index / "e2rank.json").read_text())
    told = seal({**sidecar, "corpus_fingerprint": "lucene:msmarco-v1-passage"})
    (index / "e2rank.json").write_text(json.dumps(told))
    assert index_is_fresh(index, other, maker)


def test_the_average_is_printed(
    tiny_model: Path,
    data: Path,
    beir: Path,
    toy_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr("e2rank_pyserini.table.published.BEIR", ("scifact",))
    shutil.copytree(beir, data / "scifact")
    Path("runs").mkdir()
    table(asked(tiny_model, data), Commands(bm25=toy_run))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    [average], [scifact] = ([row for row in rows if row["set"] == name] for name in (AVERAGE, "scifact"))
    assert {key: average[key] for key in ("first", "prompt", "query")} == {
        key: scifact[key] for key in ("first", "prompt", "query")
    }
