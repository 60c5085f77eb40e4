"""Excluded documents go before any cut by rank: against brute force, and the commands against runs filtered by hand."""

import gzip
import json
from argparse import Namespace
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2rank_pyserini import catalog
from e2rank_pyserini.cli import main
from e2rank_pyserini.commands.inputs import exclusions_of
from e2rank_pyserini.datasets import dataset
from e2rank_pyserini.exclusions import Exclusions, admitted, most_excluded, read_exclusions
from e2rank_pyserini.index import DenseIndex
from e2rank_pyserini.trec import read_run
from e2rank_pyserini.types import Hit

DOCUMENTS, QUERIES, DIM = 25, 4, 8
DOCIDS = [f"d{n:02}" for n in range(DOCUMENTS)]
QIDS = [f"{n:03}" for n in range(QUERIES)]
VECTORS = np.random.default_rng(0).standard_normal((DOCUMENTS + QUERIES, DIM)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DenseIndex:
    place = tmp_path_factory.mktemp("index")
    flat = faiss.IndexFlatIP(DIM)
    flat.add(VECTORS[:DOCUMENTS])
    faiss.write_index(flat, str(place / "index"))
    (place / "docid").write_text("".join(f"{docid}\n" for docid in DOCIDS))
    return DenseIndex(place)


@given(
    st.dictionaries(st.sampled_from(QIDS), st.frozensets(st.sampled_from([*DOCIDS, "elsewhere"]))),
    st.integers(1, DOCUMENTS + 5),
)
def test_exclusion_before_the_cut_is_brute_force(index: DenseIndex, excluded: Exclusions, hits: int):
    found = index.search(VECTORS[DOCUMENTS:], hits + most_excluded(excluded, QIDS))
    run, removed = admitted(dict(zip(QIDS, found, strict=True)), excluded, hits)
    for number, qid in enumerate(QIDS):
        scores = {docid: float(VECTORS[DOCUMENTS + number] @ VECTORS[row]) for row, docid in enumerate(DOCIDS)}
        allowed = sorted(scores.keys() - excluded.get(qid, frozenset()), key=lambda docid: -scores[docid])
        assert [hit.docid for hit in run.get(qid, [])] == allowed[:hits]
    assert removed <= sum(map(len, excluded.values()))


def test_order_and_scores_stay_and_a_query_without_hits_goes():
    run = {"1": [Hit("a", 3.0), Hit("b", 2.0), Hit("c", 1.0)], "2": [Hit("a", 1.0)]}
    excluded = {"1": frozenset({"b", "x"}), "2": frozenset({"a"})}
    assert admitted(run, excluded) == ({"1": [Hit("a", 3.0), Hit("c", 1.0)]}, 2)
    assert admitted(run, {}, 1) == ({"1": [Hit("a", 3.0)], "2": [Hit("a", 1.0)]}, 0)


EXPECTED = {"007": frozenset({"a", "b"}), "8": frozenset({"a"})}
BRIGHT = [
    {"id": "007", "query": "q", "excluded_ids": ["a", "b"], "gold_ids": ["g"]},
    {"id": 8, "query": "q", "excluded_ids": ["a", "N/A"]},
    {"id": "9", "query": "q", "excluded_ids": ["N/A"]},
]
FORMS = {
    "anserini.txt": "007 a\n8 a\n\n007 b\n",
    "beir.tsv": "query-id\tcorpus-id\n007\ta\n007\tb\n8\ta\n",
    "bright.jsonl": "".join(json.dumps(row) + "\n" for row in BRIGHT),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_says_the_same(tmp_path: Path, name: str):
    (tmp_path / name).write_text(FORMS[name])
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(FORMS[name].encode()))
    assert read_exclusions(tmp_path / name) == read_exclusions(tmp_path / f"{name}.gz") == EXPECTED


def test_the_bright_sets_that_exclude_are_those_of_pyserini_and_anserini():
    names = {name for name in catalog.dataset_names() if catalog.dataset(name).excluded}
    assert names == {"bright-aops", "bright-leetcode", "bright-theoremqa-questions"}


def test_a_named_set_takes_the_file_from_the_cache_or_says_that_it_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("E2RANK_DATA", raising=False)
    monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path))
    arguments = Namespace(command="search", excluded=None)
    assert exclusions_of(arguments, dataset("bright-biology")) == {}
    assert capsys.readouterr().err == ""
    assert exclusions_of(arguments, dataset("bright-aops")) == {}
    told = capsys.readouterr().err
    assert told.startswith("e2rank search: bright-aops excludes documents by query")
    assert told.count("\n") == 1
    (tmp_path / "topics-and-qrels").mkdir()
    (tmp_path / "topics-and-qrels" / "exclude.bright-aops.txt").write_text(FORMS["anserini.txt"])
    assert exclusions_of(arguments, dataset("bright-aops")) == EXPECTED
    assert capsys.readouterr().err == ""


@pytest.fixture
def excluded(toy_run: Path, tmp_path: Path) -> Path:
    """The first, third and fourth hit of every query but the last, and one document of nowhere."""
    run = list(read_run(toy_run).items())
    pairs = [f"{qid} {hits[row].docid}\n" for qid, hits in run[:-1] for row in (0, 2, 3)]
    (tmp_path / "excluded.txt").write_text("".join([*pairs, f"{run[0][0]} elsewhere\n"]))
    return tmp_path / "excluded.txt"


def filtered(run: Path, excluded: Path, output: Path, hits: int | None = None) -> Path:
    """`run` without the excluded lines and then the first `hits` of each query, by string handling alone."""
    pairs = {tuple(line.split()) for line in excluded.read_text().splitlines()}
    kept: dict[str, list[str]] = {}
    for line in run.read_text().splitlines():
        qid, _, docid, *_ = line.split()
        if (qid, docid) not in pairs:
            kept.setdefault(qid, []).append(line)
    output.write_text("".join(line + "\n" for lines in kept.values() for line in lines[:hits]))
    return output


def test_search_still_gives_k_hits(beir: Path, tiny_index: Path, excluded: Path, tmp_path: Path, capsys):
    words = ["search", "--dataset", str(beir), "--index", str(tiny_index), "--output"]
    assert main([*words, str(tmp_path / "whole"), "--hits", "40"]) == 0
    capsys.readouterr()
    assert main([*words, str(tmp_path / "out"), "--hits", "7", "--excluded", str(excluded)]) == 0
    expected = read_run(filtered(tmp_path / "whole", excluded, tmp_path / "expected", 7))
    assert read_run(tmp_path / "out") == expected
    assert {len(hits) for hits in expected.values()} == {7}
    told = capsys.readouterr().err
    assert "e2rank search: 15 excluded hits removed, 0 queries without hits" in told
    assert "fewer" not in told


@pytest.mark.parametrize("by", ["prompt", "query"])
def test_rerank_neither_reads_nor_rescores_them(
    toy_run: Path, beir: Path, tiny_index: Path, excluded: Path, tmp_path: Path, by: str
):
    """The same bytes as from a run that never held them: the window, the depth and what follows it."""
    words = ["rerank", "--dataset", str(beir), "--index", str(tiny_index), "--by", by, "--depth", "10"]
    by_hand = filtered(toy_run, excluded, tmp_path / "filtered.trec")
    assert main([*words, "--run", str(by_hand), "--output", str(tmp_path / "expected")]) == 0
    assert main([*words, "--run", str(toy_run), "--excluded", str(excluded), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "expected").read_bytes()


def test_the_whole_index_gives_k_hits_without_them(
    toy_run: Path, beir: Path, tiny_index: Path, excluded: Path, tmp_path: Path
):
    words = ["feedback", "--dataset", str(beir), "--index", str(tiny_index), "--by", "rocchio"]
    by_hand = filtered(toy_run, excluded, tmp_path / "filtered.trec")
    assert main([*words, "--run", str(by_hand), "--hits", "40", "--output", str(tmp_path / "whole")]) == 0
    more = ["--run", str(toy_run), "--excluded", str(excluded), "--hits", "7"]
    assert main([*words, *more, "--output", str(tmp_path / "out")]) == 0
    assert read_run(tmp_path / "out") == read_run(filtered(tmp_path / "whole", excluded, tmp_path / "expected", 7))


@pytest.mark.parametrize("command", ["eval", "compare"])
def test_measures_do_not_see_them(toy_run: Path, beir: Path, excluded: Path, tmp_path: Path, capsys, command: str):
    """Qrels of which no relevant document is excluded, as the protocol has it."""
    pairs = {tuple(line.split()) for line in excluded.read_text().splitlines()}
    header, *lines = (beir / "qrels" / "test.tsv").read_text().splitlines()
    kept = [line for line in lines if tuple(line.split()[:2]) not in pairs or line.endswith("\t0")]
    (tmp_path / "qrels.tsv").write_text("\n".join([header, *kept]) + "\n")
    words = [command, "--qrels", str(tmp_path / "qrels.tsv"), "--json"]
    (tmp_path / "sub").mkdir()
    by_hand = filtered(toy_run, excluded, tmp_path / "sub" / toy_run.name)
    assert main([*words, str(by_hand), str(by_hand)]) == 0
    expected = capsys.readouterr().out
    assert main([*words, str(toy_run), str(toy_run), "--excluded", str(excluded)]) == 0
    printed, told = capsys.readouterr()
    assert printed == expected.replace(str(by_hand), str(toy_run))  # told apart by their paths
    assert told.count(f"{toy_run}: 15 hits are excluded and do not count") == 2


def test_a_folder_may_hold_them(
    beir: Path, tiny_index: Path, toy_run: Path, excluded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    import shutil

    shutil.copytree(beir, tmp_path / "toy")
    (tmp_path / "toy" / "excluded").mkdir()
    shutil.copy(excluded, tmp_path / "toy" / "excluded" / "test.tsv")
    words = ["rerank", "--index", str(tiny_index), "--run", str(toy_run)]
    assert main([*words, "--dataset", str(tmp_path / "toy"), "--output", str(tmp_path / "a")]) == 0
    assert "15 excluded hits removed" in capsys.readouterr().err
    more = ["--excluded", str(excluded), "--output", str(tmp_path / "b")]
    assert main([*words, "--dataset", str(beir), *more]) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
