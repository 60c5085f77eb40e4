"""RUN.json: what it says is what was used, and `e2rank rerun` makes the run again or says why it cannot."""

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from e2rank_pyserini import provenance
from e2rank_pyserini.cli import main
from e2rank_pyserini.fingerprint import sha256
from e2rank_pyserini.integrity import hashes
from e2rank_pyserini.sealed import seal


@pytest.fixture
def reranked(toy_run: Path, beir: Path, tiny_index: Path, tmp_path: Path) -> Path:
    """A reranked run whose inputs lie in the test's own directory."""
    shutil.copy(toy_run, tmp_path / "first.trec")
    shutil.copytree(tiny_index, tmp_path / "index")
    shutil.copytree(beir, tmp_path / "toy")
    (tmp_path / "excluded.txt").write_text("007 000\n")
    words = ["--run", "first.trec", "--dataset", "toy", "--index", "index", "--window", "4", "--output", "out.trec"]
    words += ["--excluded", "excluded.txt"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert main(["rerank", *words]) == 0
    return tmp_path / "out.trec"


def record_of(run: Path) -> dict[str, Any]:
    return json.loads(Path(f"{run}.json").read_text())


def rewrite(path: Path, **changes: Any) -> None:
    Path(f"{path}.json").write_text(json.dumps({**record_of(path), **changes}))


def test_the_record_says_what_made_the_run(reranked: Path, tiny_model: Path):
    record = record_of(reranked)
    lines = reranked.read_text().splitlines()
    assert record["run"] == {
        "file": "out.trec",
        "sha256": hashlib.sha256(reranked.read_bytes()).hexdigest(),
        "topics": 6,
        "hits": len(lines),
    }
    assert record["command"][:3] == ["rerank", "--run", "first.trec"]
    assert record["directory"] == str(reranked.parent)
    assert (record["options"]["depth"], record["options"]["split"]) == (100, "test")
    assert (
        record["model"]["identity"]
        == json.loads((reranked.parent / "index/e2rank.json").read_text())["model"]["identity"]
    )
    assert record["prompt"]["window"] == 4
    assert record["prompt"]["variant"] == "paper"
    assert record["prompt"]["task"].startswith("Given a web search query and some relevant documents")
    first = hashlib.sha256((reranked.parent / "first.trec").read_bytes()).hexdigest()
    assert record["inputs"]["run"] == {"path": "first.trec", "sha256": first}
    assert record["inputs"].keys() == {"run", "topics", "excluded", "index", "corpus"}
    assert record["inputs"]["excluded"]["path"] == "excluded.txt"
    assert record["counts"]["prompts"] == 6
    assert record["counts"]["prompt_documents"] == 24
    assert record["dtype"] == "float32"
    parts = {"load", "read", "tokenise", "encode", "gather", "score", "write"}
    assert parts <= record["seconds"].keys()
    assert 0 < sum(record["seconds"][part] for part in parts) <= record["seconds"]["total"]
    assert record["versions"].keys() >= {"python", "torch", "transformers", "pyserini", "e2rank-pyserini"}


def test_search_and_bm25_leave_records_too(beir: Path, tiny_index: Path, tmp_path: Path):
    words = ["--dataset", str(beir), "--index", str(tiny_index), "--output", str(tmp_path / "dense")]
    assert main(["search", *words, "--hits", "5"]) == 0
    record = record_of(tmp_path / "dense")
    assert (record["run"]["hits"], record["prompt"], record["counts"]["queries"]) == (30, None, 6)
    words = ["--dataset", str(beir), "--index", str(tmp_path / "lucene"), "--output", str(tmp_path / "bm25")]
    assert main(["bm25", *words]) == 0
    record = record_of(tmp_path / "bm25")
    assert (record["model"], record["prompt"], record["threads"]) == (None, None, 1)
    assert main(["rerun", str(tmp_path / "bm25.json")]) == 0


def test_rerun_makes_the_same_bytes(reranked: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """What is checked is what is run: the options beside the command are for readers. Other versions are said."""
    versions = {**record_of(reranked)["versions"], "torch": "0.1"}
    rewrite(reranked, options={"dataset": None, "topics": "/nowhere"}, versions=versions)
    assert main(["rerun", f"{reranked}.json", "--output", str(tmp_path / "again.trec")]) == 0
    assert (tmp_path / "again.trec").read_bytes() == reranked.read_bytes()
    told = capfd.readouterr()
    assert told.out == f"identical: out.trec sha256 {record_of(reranked)['run']['sha256']}\n"
    assert "torch: then 0.1, now " in told.err
    assert record_of(tmp_path / "again.trec")["inputs"] == record_of(reranked)["inputs"]


def test_a_run_of_no_data_set_is_made_again(toy_run: Path, beir: Path, tiny_index: Path, tmp_path: Path):
    words = ["rerank", "--run", str(toy_run), "--index", str(tiny_index), "--window", "2", "--corpus", str(beir)]
    assert main([*words, "--topics", str(beir / "queries.jsonl"), "--output", str(tmp_path / "out.trec")]) == 0
    assert record_of(tmp_path / "out.trec")["options"]["split"] == "test"
    assert main(["rerun", str(tmp_path / "out.trec.json")]) == 0


@pytest.mark.parametrize("packed", [False, True])
def test_a_run_and_a_packed_one_are_not_compared(
    reranked: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], packed: bool
):
    if packed:
        record = record_of(reranked)
        record["run"]["file"] += ".gz"
        (reranked.parent / "out.trec.json").write_text(json.dumps(record))
    again = tmp_path / ("again.trec" if packed else "again.trec.gz")
    assert main(["rerun", f"{reranked}.json", "--output", str(again)]) == 1
    told = f"again.{'trec' if packed else 'trec.gz'}: expected a name {'with' if packed else 'without'} .gz, as the rec"
    assert told in capfd.readouterr().err
    assert not again.exists()


def swap_lines(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[1], lines[0], *lines[2:]]))


def build_again(path: Path) -> None:
    """Another index in the same place, its sidecar in order."""
    swap_lines(path)
    sidecar = json.loads((path.parent / "e2rank.json").read_text())
    (path.parent / "e2rank.json").write_text(json.dumps(seal({**sidecar, **hashes(path.parent)})))


def reword(path: Path) -> None:
    path.write_text(path.read_text().replace('"text": "', '"text": "more '))


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("first.trec", swap_lines, "its run first.trec has changed since"),
        ("first.trec", Path.unlink, "its run first.trec has changed since, or is no file"),
        ("index/index", flip_byte, "index/index: its bytes are not those that were written"),
        ("index/docid", swap_lines, "index/docid: its bytes are not those that were written"),
        ("index/docid", build_again, "its index index has changed since"),
        ("index", shutil.rmtree, "index: expected a FAISS index"),
        ("toy/queries.jsonl", reword, "its topics toy has changed since"),
        ("excluded.txt", lambda path: path.write_text("007 001\n"), "its excluded excluded.txt has changed since"),
        ("toy", shutil.rmtree, "data set 'toy': expected a folder"),
        ("toy/corpus.jsonl", lambda path: path.write_text(path.read_text() + "\n"), "its corpus toy/corpus.jsonl has"),
    ],
)
def test_an_input_that_has_changed_is_refused_before_any_work(
    reranked: Path, file: str, change: Any, told: str, capfd: pytest.CaptureFixture[str]
):
    change(reranked.parent / file)
    before = reranked.read_bytes()
    assert main(["rerun", f"{reranked}.json"]) == 1
    printed, said = capfd.readouterr()
    assert (printed, said.count("\n")) == ("", 1)
    assert told in said
    assert reranked.read_bytes() == before


def test_a_run_that_comes_out_differently_is_an_error(reranked: Path, capfd: pytest.CaptureFixture[str]):
    swap_lines(reranked)
    rewrite(reranked, run={**record_of(reranked)["run"], "sha256": sha256(reranked)})
    assert main(["rerun", f"{reranked}.json"]) == 1
    assert f"came out differently: {reranked}:1: " in capfd.readouterr().err
    reranked.unlink()
    rewrite(reranked, model={**record_of(reranked)["model"], "query": "another template {query}"})
    assert main(["rerun", f"{reranked}.json"]) == 1
    told = f"came out differently: another model (query); the recorded run is no longer at {reranked}"
    assert told in capfd.readouterr().err


def test_a_run_that_is_not_the_recorded_one_is_no_success(reranked: Path, capfd: pytest.CaptureFixture[str]):
    record = f"{reranked}.json"
    whole = reranked.read_text()
    reranked.write_text(whole.replace("007", "7", 1))
    assert main(["rerun", record]) == 1
    told = f"e2rank rerun: {reranked}: is not the run that out.trec.json records: its SHA-256 differs (--output FILE"
    assert told in capfd.readouterr().err
    assert main(["rerun", record, "--output", f"{reranked}.again"]) == 0
    assert Path(f"{reranked}.again").read_text() == whole
    assert " (as recorded: the run itself is not beside its record)\n" in capfd.readouterr().out
    reranked.unlink()
    assert main(["rerun", record]) == 0
    assert capfd.readouterr().out.endswith(" (as recorded: the run itself is not beside its record)\n")


def test_rerun_uses_as_many_threads_and_the_package_that_is_installed(
    reranked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words, threads = record_of(reranked)["command"], torch.get_num_threads()
    monkeypatch.chdir(reranked.parent)
    try:
        assert main([*words, "--threads", "1"]) == 0  # two threads may round otherwise
    finally:
        torch.set_num_threads(threads)
    rewrite(reranked, command=words)
    (reranked.parent / "e2rank_pyserini").mkdir()
    (reranked.parent / "e2rank_pyserini" / "__main__.py").write_text("raise SystemExit(3)\n")
    assert main(["rerun", f"{reranked}.json", "--output", str(tmp_path / "again")]) == 0
    assert record_of(tmp_path / "again")["threads"] == 1


@pytest.mark.parametrize("place", ["out.trec", "out.trec.json", "toy/corpus.jsonl"])
def test_rerun_writes_over_nothing(reranked: Path, place: str, monkeypatch: pytest.MonkeyPatch, capfd):
    (reranked.parent / "toy" / "corpus.jsonl.json").write_text("{}")
    monkeypatch.chdir(reranked.parent)
    before = {path: path.read_bytes() for path in reranked.parent.rglob("*") if path.is_file()}
    assert main(["rerun", "out.trec.json", "--output", place]) == 1
    assert capfd.readouterr().err.count("\n") == 1
    assert {path: path.read_bytes() for path in reranked.parent.rglob("*") if path.is_file()} == before


def test_the_run_that_is_read_is_not_written_over(reranked: Path, capfd: pytest.CaptureFixture[str]):
    place = reranked.parent
    words = ["--run", str(place / "first.trec"), "--dataset", str(place / "toy"), "--index", str(place / "index")]
    assert main(["rerank", *words, "--output", str(place / "toy" / ".." / "first.trec")]) == 1
    assert "first.trec: is what --run reads" in capfd.readouterr().err
    assert main(["convert", str(reranked), "--output", f"{reranked}.json"]) == 1
    assert "out.trec.json: is the record of the run out.trec" in capfd.readouterr().err


def test_a_lucene_index_as_corpus_is_known_again(beir: Path, toy_run: Path, tiny_index: Path, tmp_path: Path):
    from e2rank_pyserini.corpus import documents, fingerprint
    from e2rank_pyserini.pyserini.bm25 import build_lucene

    build_lucene(documents(str(beir)), tmp_path / "lucene", "x")
    shutil.copytree(tmp_path / "lucene", tmp_path / "copy")
    assert fingerprint(str(tmp_path / "lucene")) == fingerprint(str(tmp_path / "copy"))
    (tmp_path / "copy" / "more").write_text("x")
    assert fingerprint(str(tmp_path / "lucene")) != fingerprint(str(tmp_path / "copy"))


def test_a_record_of_another_file_is_no_record(reranked: Path, capfd: pytest.CaptureFixture[str]):
    assert provenance.of_run(reranked, sha256(reranked)) == record_of(reranked)
    assert provenance.of_run(reranked.with_name("first.trec"), "") is None
    swap_lines(reranked)
    assert provenance.of_run(reranked, sha256(reranked)) is None
    assert "out.trec.json: is of another run" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "x.json: not JSON"),
        ("[]", "x.json: expected an object, got list"),
        ('{"format": 1, "format": 1}', "x.json: not JSON: 'format' appears twice"),
        ('{"format": 2}', "expected the record of a run"),
        ('{"format": 1, "run": []}', "x.json: run: not as format 1 has it: []"),
        ('{"format": 1, "run": {"sha256": "0", "topics": 1, "file": "../x"}}', "x.json: run: not as format 1 has it"),
        (
            '{"format": 1, "run": {"sha256": "0", "topics": 1, "file": "x"}, "command": ["export"]}',
            "x.json: command: not as format 1 has it",
        ),
        ("\xff", "x.json: not UTF-8"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, content: str, told: str, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "x.json").write_bytes(content.encode("latin-1"))
    assert main(["rerun", str(tmp_path / "x.json")]) == 1
    assert told in capfd.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"directory": "\0"},
        {"command": ["search", "\0"]},
        {"command": ["search", "--depth", "5"]},
        {"command": ["search", "--help"]},
    ],
)
def test_a_record_without_a_command_is_refused(reranked: Path, change: Any, capfd: pytest.CaptureFixture[str]):
    rewrite(reranked, **change)
    assert main(["rerun", f"{reranked}.json"]) == 1
    told = capfd.readouterr().err
    assert told.startswith(f"e2rank rerun: {reranked}.json: ")
    assert told.count("\n") == 1


def test_a_record_replaces_no_other_file(toy_run: Path, beir: Path, tiny_index: Path, tmp_path: Path, capfd):
    (tmp_path / "out.trec.json").write_text('{"007": {"000": 0.5}}')
    words = ["--run", str(toy_run), "--dataset", str(beir), "--index", str(tiny_index)]
    assert main(["rerank", *words, "--output", str(tmp_path / "out.trec")]) == 1
    assert "out.trec.json: is no record of a run, and that of out.trec would replace it" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.trec.json"]


def test_a_packed_run_is_judged_and_made_again(
    tiny_index: Path, beir: Path, toy_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    path = tmp_path / "x.trec.gz"
    words = ["search", "--dataset", str(beir), "--index", str(tiny_index), "--hits", "30", "--output", str(path)]
    assert main(words) == 0
    assert gzip.decompress(path.read_bytes()) == toy_run.read_bytes()
    assert main(["eval", "--dataset", str(beir), str(path), str(toy_run)]) == 0
    packed, plain = capfd.readouterr().out.splitlines()[-2:]
    assert packed.split()[1:] == plain.split()[1:]
    assert main(["rerun", f"{path}.json"]) == 0
    assert "identical: x.trec.gz" in capfd.readouterr().out


@pytest.mark.parametrize("name", ["a\u3000b", "a b", "a\u2028 b"])
def test_the_last_column_has_no_blank(
    tiny_model: Path, beir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
):
    model = shutil.copytree(tiny_model, tmp_path / name)
    index, run = str(tmp_path / "index"), tmp_path / "x.trec"
    assert main(["index", "--dataset", str(beir), "--encoder", str(model), "--output", index]) == 0
    assert main(["search", "--dataset", str(beir), "--index", index, "--output", str(run)]) == 0
    assert {tuple(line.split()[5:]) for line in run.read_text().splitlines()} == {("e2rank-a_b",)}
