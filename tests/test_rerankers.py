"""The example for the `rerankers` library: its own classes come back, ordered as our commands order."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2rank_pyserini.cli import main
from e2rank_pyserini.corpus import documents
from e2rank_pyserini.topics import read_topics
from e2rank_pyserini.trec import read_run

rerankers = pytest.importorskip("rerankers", reason="the library rerankers is not installed")
EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "rerankers_listwise.py"


@pytest.fixture(scope="module")
def ranker(tiny_model: Path) -> Any:
    spec = importlib.util.spec_from_file_location("rerankers_listwise", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.E2RankRanker(str(tiny_model), device="cpu")


def test_it_orders_as_e2rank_rerank_does(
    ranker: Any, tiny_model: Path, tiny_index: Path, toy_run: Path, beir: Path, tmp_path: Path
):
    words = ["--run", str(toy_run), "--index", str(tiny_index), "--dataset", str(beir), "--output", str(tmp_path / "x")]
    assert main(["rerank", *words]) == 0
    texts = {one.docid: f"{one.title} {one.text}".strip() for one in documents(str(beir))}
    run, expected, topics = read_run(toy_run), read_run(tmp_path / "x"), read_topics(beir / "queries.jsonl")
    assert len(run["007"]) > yaml.safe_load((tiny_model / "e2rank.yaml").read_text())["window"]
    for qid, hits in run.items():
        docids = [hit.docid for hit in hits]
        found = ranker.rank(topics[qid], [texts[docid] for docid in docids], doc_ids=docids)
        assert [one.doc_id for one in found] == [hit.docid for hit in expected[qid]]
        assert [one.rank for one in found] == list(range(1, len(docids) + 1))
        assert [one.score for one in found] == pytest.approx([hit.score for hit in expected[qid]], abs=2e-6)
        assert [one.doc_id for one in found.top_k(3)] == [hit.docid for hit in expected[qid][:3]]


def test_it_takes_what_the_library_takes(ranker: Any):
    assert isinstance(ranker, rerankers.models.ranker.BaseRanker)
    texts = ["wing flow", "shock wave", "nozzle"]
    found = ranker.rank("shock", texts, metadata=[{"page": page} for page in range(3)])
    assert sorted(one.doc_id for one in found) == [0, 1, 2]  # the library numbers what has no id
    assert all(one.text == texts[one.doc_id] and one.metadata == {"page": one.doc_id} for one in found)
    same = ranker.rank("shock", [rerankers.Document(text, doc_id=f"d{row}") for row, text in enumerate(texts)])
    assert [one.doc_id for one in same] == [f"d{one.doc_id}" for one in found]
    assert found.has_scores
    assert ranker.score("shock", "shock wave") == ranker.rank("shock", "shock wave")[0].score
