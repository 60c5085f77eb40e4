"""The paper's data sets as they are found here, and artefacts that have make's names."""

import shutil
import subprocess
from pathlib import Path

import pytest

from e2rank_pyserini import catalog
from e2rank_pyserini.table.benchmarks import BENCHMARKS, Benchmark, find, mark
from e2rank_pyserini.types import E2RankError
from tests.test_cli import make


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of Pyserini's."""
    monkeypatch.delenv("E2RANK_DATA", raising=False)
    monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_benchmark_is_a_named_data_set():
    assert len(BENCHMARKS) == 10
    assert set(BENCHMARKS) <= set(catalog.dataset_names())


@pytest.mark.parametrize(
    "word", ["a/b", "./x", "../deep/er/data-set", "/data/scifact/", "/" + "long/" * 80 + "x", "/ü/é"]
)
def test_a_paths_mark_is_makes(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = str((tmp_path / "here" / word).resolve())  # nothing below tmp_path is a link
    said = subprocess.run(["cksum"], input=path.encode(), capture_output=True, check=True).stdout.decode()
    assert mark(word) == f"{Path(path).name}-{said[:6]}"
    assert mark("scifact") == "scifact"


def test_artefacts_have_makes_names(toy_run: Path, beir: Path):
    one = Benchmark("scifact", str(beir), "test", "corpus", {})
    printed = make("rerank", f"DATASET={beir}", "MODEL=minilm")
    assert f"--output {one.index('minilm')} " in printed
    bm25 = Path(f"runs/{one.topics}.bm25.trec")
    assert f"--output {bm25}\n" in printed
    assert f"--output {one.reranked(bm25, 'minilm', 'e2rank')} " in printed
    printed = make("rerank", f"DATASET={beir}", "MODEL=minilm", f"RUN={toy_run}", "SPLIT=dev")
    other = Benchmark("dl19", str(beir), "dev", "corpus", {})
    assert f"--output {other.reranked(toy_run, 'minilm', 'e2rank')} " in printed
    printed = make("rerank", "DATASET=dl19", "MODEL=e2rank-0.6b")
    named = Benchmark("dl19", "dl19", "test", "corpus", {})
    assert f"--output {named.index('e2rank-0.6b')} " in printed
    assert f"--output {named.dense('e2rank-0.6b')} " in printed
    assert f"--output {named.reranked(named.dense('e2rank-0.6b'), 'e2rank-0.6b', 'e2rank')} " in printed


def test_a_dense_run_under_another_task_than_makes_has_another_name(beir: Path):
    """make gives a folder the generic retrieval task, the table the named set's."""
    assert Benchmark("scifact", str(beir), "test", "c", {}).dense("minilm").name.endswith(".minilm.dense.task.trec")
    assert Benchmark("scifact", "scifact", "test", "c", {}).dense("minilm").name == "scifact.minilm.dense.trec"
    assert Benchmark("dl19", str(beir), "test", "c", {}).dense("minilm").name.endswith(".minilm.dense.trec")


def test_a_folder_by_its_name(beir: Path, tmp_path: Path):
    shutil.copytree(beir, tmp_path / "data" / "nfcorpus")
    one = find("nfcorpus", tmp_path / "data")
    assert (one.folder, one.split, one.runs) == (str(tmp_path / "data" / "nfcorpus"), "test", {})
    assert one.corpus == f"{one.folder}/corpus.jsonl"
    assert one.spec == catalog.dataset("nfcorpus")
    (tmp_path / "data" / "nfcorpus" / "corpus.jsonl").unlink()
    with pytest.raises(E2RankError, match=r"expected corpus\.jsonl"):
        find("nfcorpus", tmp_path / "data")
    (tmp_path / "data" / "nfcorpus" / "qrels" / "test.tsv").unlink()
    with pytest.raises(E2RankError, match=r"test\.tsv: no such file"):
        find("nfcorpus", tmp_path / "data")


def test_the_pool_with_every_first_stage_it_holds(shared: Path):
    one = find("dl20", shared)
    assert (one.name, one.split) == ("dl20", "test-dl20")
    assert list(one.runs) == ["ada2", "bm25", "bm25_rm3", "repllama", "splade_pp", "tasb"]
    assert one.spec.relevance == 2
    assert len(one.qrels()) == 54


def test_what_is_excluded_makes_runs_stale(beir: Path, tmp_path: Path):
    shutil.copytree(beir, tmp_path / "scifact")
    one = find("scifact", tmp_path)
    (tmp_path / "scifact" / "excluded").mkdir()
    (tmp_path / "scifact" / "excluded" / "test.tsv").touch()
    assert [path.name for path in one.topics_files()] == ["queries.jsonl", "test.tsv", "test.tsv"]


def test_a_first_stages_name_may_hold_dots(beir: Path, tmp_path: Path):
    pool = tmp_path / "msmarco-dl-pool"
    shutil.copytree(beir, pool)
    (pool / "qrels" / "test.tsv").rename(pool / "qrels" / "test-dl19.tsv")
    (pool / "runs").mkdir()
    for name in ("bm25", "bm25.rm3"):
        (pool / "runs" / f"dl19.{name}.top100.trec").touch()
    assert list(find("dl19", tmp_path).runs) == ["bm25.rm3", "bm25"]


def test_a_named_set_is_here_once_topics_qrels_and_index_are_cached(cache: Path):
    with pytest.raises(E2RankError) as told:
        find("scifact", None)
    names = ["topics.beir-v1.0.0-scifact.test.tsv.gz", "qrels.beir-v1.0.0-scifact.test.txt"]
    for name in [*names, "lucene:beir-v1.0.0-scifact.flat"]:
        assert name in str(told.value)
    (cache / "topics-and-qrels").mkdir(parents=True)
    for name in names:
        (cache / "topics-and-qrels" / name).touch()
    with pytest.raises(E2RankError, match=r"lacks lucene:beir-v1\.0\.0-scifact\.flat$"):
        find("scifact", None)
    for name in ("scifact.flat.20221116.aa.bb", "scifact.flat.20250101.cc.dd", "scifact.flat-other.20260101.ee"):
        (cache / "indexes" / f"lucene-inverted.beir-v1.0.0-{name}").mkdir(parents=True)
    old = cache / "indexes" / "lucene-inverted.beir-v1.0.0-scifact.flat.20221116.aa.bb"
    (old / "segments_1").touch()
    assert find("scifact", None) == Benchmark("scifact", "scifact", "test", str(old), {})  # the newer one is empty


def test_of_several_prebuilt_indexes_the_newest_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from e2rank_pyserini.corpus import cached_lucene

    monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path))
    for date in ("20220505", "20221004"):
        place = tmp_path / "indexes" / f"lucene-inverted.toy.{date}.abc"
        place.mkdir(parents=True)
        (place / "segments_1").touch()
    found = cached_lucene("toy")
    assert found is not None
    assert "20221004" in found.name
