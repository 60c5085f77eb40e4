"""RUN.json: what it says is what was used, and `e2rank rerun` makes the run again or says why it cannot."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from e2rank_pyserini import provenance
from e2rank_pyserini.cli import main
from e2rank_pyserini.types import E2RankError


@pytest.fixture
def reranked(toy_run: Path, beir: Path, tiny_index: Path, tmp_path: Path) -> Path:
    """A reranked run whose inputs lie in the test's own directory."""
    shutil.copy(toy_run, tmp_path / "first.trec")
    shutil.copytree(tiny_index, tmp_path / "index")
    shutil.copytree(beir, tmp_path / "toy")
    words = ["--run", "first.trec", "--dataset", "toy", "--index", "index", "--window", "4", "--output", "out.trec"]
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
    assert record["options"]["depth"] == 100
    assert (
        record["model"]["identity"]
        == json.loads((reranked.parent / "index/e2rank.json").read_text())["model"]["identity"]
    )
    assert record["prompt"]["window"] == 4
    assert record["prompt"]["variant"] == "paper"
    assert record["prompt"]["task"].startswith("Given a web search query and some relevant documents")
    first = hashlib.sha256((reranked.parent / "first.trec").read_bytes()).hexdigest()
    assert record["inputs"]["run"] == {"path": "first.trec", "sha256": first}
    assert record["inputs"].keys() == {"run", "topics", "index", "corpus"}
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
    for name in ("dense", "bm25"):
        assert main(["rerun", str(tmp_path / f"{name}.json")]) == 0


def test_rerun_makes_the_same_bytes(reranked: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["rerun", f"{reranked}.json", "--output", str(tmp_path / "again.trec")]) == 0
    assert (tmp_path / "again.trec").read_bytes() == reranked.read_bytes()
    assert capfd.readouterr().out == f"identical: out.trec sha256 {record_of(reranked)['run']['sha256']}\n"
    assert record_of(tmp_path / "again.trec")["inputs"] == record_of(reranked)["inputs"]


def swap_lines(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[1], lines[0], *lines[2:]]))


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("first.trec", swap_lines, "its run first.trec has changed since"),
        ("first.trec", Path.unlink, "its run first.trec cannot be read: No such file"),
        ("index/index", flip_byte, "its index index has changed since"),
        ("index/docid", swap_lines, "its index index has changed since"),
        ("index", shutil.rmtree, "its index index cannot be read"),
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
    rewrite(reranked, run={**record_of(reranked)["run"], "sha256": provenance.fingerprint.sha256(reranked)})
    assert main(["rerun", f"{reranked}.json"]) == 1
    assert f"came out differently: {reranked}:1: " in capfd.readouterr().err


def test_other_versions_are_said(reranked: Path, capfd: pytest.CaptureFixture[str]):
    rewrite(reranked, versions={**record_of(reranked)["versions"], "torch": "0.1"})
    assert main(["rerun", f"{reranked}.json"]) == 0
    assert "torch: then 0.1, now " in capfd.readouterr().err


def test_a_record_of_another_file_is_no_record(reranked: Path):
    assert provenance.of_run(reranked) == record_of(reranked)
    assert provenance.of_run(reranked.with_name("first.trec")) is None
    swap_lines(reranked)
    with pytest.raises(E2RankError, match="is the record of another file"):
        provenance.of_run(reranked)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not readable as JSON"),
        ("[]", "expected the record of a run"),
        ('{"format": 2}', "expected the record of a run"),
        ('{"format": 1, "run": []}', "expected run as dict, got list"),
        ("\xff", "not readable as JSON"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, content: str, told: str, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "x.json").write_bytes(content.encode("latin-1"))
    assert main(["rerun", str(tmp_path / "x.json")]) == 1
    assert told in capfd.readouterr().err


def test_a_record_replaces_no_other_file(toy_run: Path, beir: Path, tiny_index: Path, tmp_path: Path, capfd):
    (tmp_path / "out.trec.json").write_text('{"007": {"000": 0.5}}')
    words = ["--run", str(toy_run), "--dataset", str(beir), "--index", str(tiny_index)]
    assert main(["rerank", *words, "--output", str(tmp_path / "out.trec")]) == 1
    assert "out.trec.json: is no record of a run, and that of out.trec would replace it" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.trec.json"]
