"""The index against a matrix product, for every kind that FAISS builds for us."""

import hashlib
import io
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2rank_pyserini.cli import main
from e2rank_pyserini.corpus import documents
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.index import DenseIndex
from e2rank_pyserini.indexing import _training_sample, build_index, empty_index, fill
from e2rank_pyserini.integrity import fingerprint
from e2rank_pyserini.kinds import faiss_module, faiss_package, flat_header
from e2rank_pyserini.prompts import document_text
from e2rank_pyserini.sealed import read_sealed
from e2rank_pyserini.shards.sharded import _Parts, open_index
from e2rank_pyserini.types import Document, E2RankError


def exact(beir: Path, encoder: E2RankEncoder) -> tuple[list[str], np.ndarray]:
    corpus = list(documents(str(beir)))
    texts = [document_text(document.title, document.text, "{title} {text}") for document in corpus]
    return [document.docid for document in corpus], encoder.encode_documents(texts)


def test_search_is_the_matrix_product(tiny_index: Path, beir: Path, encoder: E2RankEncoder):
    docids, vectors = exact(beir, encoder)
    queries = encoder.encode_queries(["wing flow", "heat"])
    opened = DenseIndex(tiny_index)
    for row, hits in enumerate(opened.search(queries, 7)):
        scores = vectors @ queries[row]
        best = np.argsort(-scores, kind="stable")[:7]
        assert [hit.docid for hit in hits] == [docids[n] for n in best]
        np.testing.assert_allclose([hit.score for hit in hits], scores[best], atol=1e-6)


def test_more_hits_than_documents_gives_every_document_once(tiny_index: Path, encoder: E2RankEncoder):
    opened = DenseIndex(tiny_index)
    (hits,) = opened.search(encoder.encode_queries(["wing"]), 1000)
    assert sorted(hit.docid for hit in hits) == sorted(opened.docids)


def test_what_is_asked_for_in_numpys_numbers_and_what_is_no_number(tiny_index: Path, encoder: E2RankEncoder):
    opened, queries = DenseIndex(tiny_index), encoder.encode_queries(["wing", "heat"])
    assert opened.search(queries, np.int64(3)) == opened.search(queries.astype(np.float64), 3)
    queries[1, 0] = np.nan
    with pytest.raises(E2RankError, match="expected vectors of finite numbers"):
        opened.search(queries, 3)


@pytest.mark.parametrize(
    ("docids", "told"), [("007", "a list of docids, got a single one"), ([7], "docids as text, got 7")]
)
def test_docids_that_are_none_are_refused(tiny_index: Path, docids: Any, told: str):
    opened = DenseIndex(tiny_index)
    for call in (opened.stored, opened.vectors):
        with pytest.raises(E2RankError, match=f"expected {told}"):
            call(docids)


def test_docids_come_in_any_sequence(tiny_index: Path):
    assert DenseIndex(tiny_index).stored(docid for docid in ("007", "nothing")).tolist() == [True, False]


def test_an_index_is_built_under_a_name(tmp_path: Path, encoder: E2RankEncoder):
    build_index([Document("a", "", "wing")], encoder, str(tmp_path / "i"), shards=tmp_path / "s")
    assert list(DenseIndex(str(tmp_path / "i")).docids) == ["a"] == list(open_index(tmp_path / "s").docids)


def test_stored_vectors_come_back(tiny_index: Path, beir: Path, encoder: E2RankEncoder):
    docids, vectors = exact(beir, encoder)
    found, stored = DenseIndex(tiny_index).vectors(["nothing", *docids[::-1]])
    assert stored.tolist() == [False] + [True] * len(docids)
    assert not found[0].any()
    np.testing.assert_allclose(found[1:], vectors[::-1], atol=1e-6)


@pytest.mark.parametrize(
    ("factory", "least"),
    [
        ("SQfp16", 0.9999),
        ("SQ8", 0.999),
        ("HNSW16", 0.99999),
        ("IVF2,Flat", 0.99999),
        ("PQ8x4", 0.3),
        ("PCAR32,Flat", 0.3),
    ],
)
def test_other_kinds_search_and_give_vectors_back(
    tmp_path: Path, beir: Path, encoder: E2RankEncoder, factory: str, least: float
):
    docids, vectors = exact(beir, encoder)
    build_index(documents(str(beir)), encoder, tmp_path / "i", factory=factory)
    opened = DenseIndex(tmp_path / "i")
    found, stored = opened.vectors(docids)
    assert stored.all()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert (found * vectors).sum(axis=1).min() > least
    (hits,) = opened.search(vectors[5:6], 3)
    assert len(hits) == 3
    assert least < 0.9 or hits[0].docid == docids[5]


@pytest.mark.parametrize("factory", ["PCA24,Flat", "PCAR24,IVF4,Flat", "PCA24,HNSW16"])
def test_transformations_do_not_centre(factory: str):
    """A product of centred vectors orders otherwise. 24 of 24 dimensions: nothing but that could be lost."""
    faiss = faiss_module()
    draw = np.random.default_rng(4)
    vectors = draw.normal(0.8, 1, (900, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = empty_index(24, factory)
    fill(index, lambda: iter([vectors[:500], vectors[500:]]), factory)
    if "IVF" in factory:
        faiss.extract_index_ivf(index).nprobe = 4
    scores, rows = index.search(vectors[:40], 10)
    expected = vectors[:40] @ vectors.T
    np.testing.assert_allclose(scores, np.take_along_axis(expected, rows, axis=1), atol=1e-5)
    best = np.argsort(-expected, axis=1)[:, :10]
    assert np.mean([len({*found} & {*true}) for found, true in zip(rows, best, strict=True)]) > 9.5


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_sees_how_far_an_index_is_filled(monkeypatch: pytest.MonkeyPatch, terminal: bool):
    told = io.StringIO()
    monkeypatch.setattr(told, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("sys.stderr", told)
    fill(empty_index(8, "SQ8"), lambda: iter([np.eye(8, dtype=np.float32)] * 2), "SQ8")
    assert ("SQ8: 16 vectors" in told.getvalue()) == terminal
    assert terminal or not told.getvalue()


def test_a_graph_that_finds_lists_sees_more_than_are_looked_into():
    faiss = faiss_module()
    vectors = np.random.default_rng(6).normal(size=(3000, 16)).astype(np.float32)
    index = empty_index(16, "IVF400_HNSW8,Flat")
    fill(index, lambda: iter([vectors]), "IVF400_HNSW8,Flat")
    ivf = faiss.extract_index_ivf(index)
    assert (ivf.nprobe, faiss.downcast_index(ivf.quantizer).hnsw.efSearch) == (20, 40)


@pytest.mark.parametrize("factory", ["HNSW16", "RR32,HNSW16", "HNSW16,RFlat"])
def test_a_graph_is_searched_for_all_hits_that_are_asked_for(tmp_path: Path, factory: str):
    faiss = faiss_module()
    vectors = np.random.default_rng(5).normal(size=(3000, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    (tmp_path / "docid").write_text("".join(f"{row}\n" for row in range(3000)))
    index = empty_index(32, factory)
    fill(index, lambda: iter([vectors]), factory)
    faiss.write_index(index, str(tmp_path / "index"))
    opened = DenseIndex(tmp_path)
    before = opened.search(vectors[:20], 10)
    found = opened.search(vectors[:20], 1000)
    assert opened.search(vectors[:20], 10) == before  # whatever others asked for in between
    best = np.argsort(-(vectors[:20] @ vectors.T), axis=1)[:, :1000]
    recall = [len({int(hit.docid) for hit in hits} & {*true}) / 1000 for hits, true in zip(found, best, strict=True)]
    assert np.mean(recall) > 0.95


def test_threads_that_ask_a_graph_for_few_hits_take_none_from_one_that_asks_for_many(tmp_path: Path):
    """What FAISS keeps in view is a setting of the graph, not of a search."""
    import faiss

    vectors = np.random.default_rng(0).standard_normal((3000, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    (tmp_path / "docid").write_text("".join(f"{row}\n" for row in range(3000)))
    index = empty_index(32, "HNSW16")
    fill(index, lambda: iter([vectors]), "HNSW16")
    faiss.write_index(index, str(tmp_path / "index"))
    opened = DenseIndex(tmp_path)
    alone, ended = opened.search(vectors[:5], 1000), threading.Event()

    def ask_for_few() -> None:
        while not ended.is_set():
            opened.search(vectors[:1], 1)

    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(ask_for_few) for _ in range(2)]
        try:
            assert all(opened.search(vectors[:5], 1000) == alone for _ in range(60))
        finally:
            ended.set()
        assert [other.result() for other in others] == [None, None]


def test_threads_that_ask_for_vectors_first_all_get_them(tmp_path: Path):
    """FAISS says that an IVF index has its direct map before it is filled."""
    import faiss

    vectors = np.eye(32, dtype=np.float32)[np.arange(40_000) % 32]
    (tmp_path / "docid").write_text("".join(f"{row}\n" for row in range(len(vectors))))
    index = empty_index(32, "IVF16,Flat")
    fill(index, lambda: iter([vectors]), "IVF16,Flat")
    faiss.write_index(index, str(tmp_path / "index"))
    for _ in range(5):
        opened = DenseIndex(tmp_path)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _, opened=opened: opened.vectors(["39999", "0"])[0], range(4)))
        assert all(np.array_equal(one, vectors[[39_999, 0]]) for one in found)


@pytest.mark.parametrize("count", [1, 37, 70_000])
def test_a_flat_index_is_written_as_faiss_writes_it(tmp_path: Path, count: int):
    import faiss

    vectors = np.random.default_rng(count).standard_normal((count, 9), dtype=np.float32)
    (tmp_path / "ours").write_bytes(flat_header(9, count) + vectors.tobytes())
    expected = faiss.IndexFlatIP(9)
    expected.add(vectors)
    faiss.write_index(expected, str(tmp_path / "theirs"))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.usefixtures("one_thread")  # several share out so few rows in float32 that equal ones may differ
def test_ties_keep_the_corpus_order(tmp_path: Path, encoder: E2RankEncoder):
    corpus = [Document(docid, "", text) for docid, text in (("c", "wing"), ("b", "heat"), ("a", "wing"))]
    build_index(corpus, encoder, tmp_path / "i")
    opened = DenseIndex(tmp_path / "i")
    (hits,) = opened.search(encoder.encode_documents(["wing"]), 3)
    assert [hit.docid for hit in hits] == ["c", "a", "b"]


@pytest.mark.parametrize("queries", [1, 3, 30])  # FAISS computes many queries otherwise than few
def test_ties_at_the_cut_are_the_first_in_the_corpus(tmp_path: Path, queries: int):
    """Every cut is the head of the whole order, also where better documents come after those that tie."""
    faiss, draw = faiss_module(), np.random.default_rng(0)
    kinds = draw.normal(size=(12, 16)).astype(np.float32)
    kinds /= np.linalg.norm(kinds, axis=1, keepdims=True)
    of = np.concatenate([draw.integers(0, 4, 50), draw.integers(0, 12, 10)])  # the kind of each of 60 documents
    asked = kinds[draw.integers(0, 12, queries)]
    edges = [0, 7, 30, 31, 60]
    for name, start, stop in [("whole", 0, 60), *((str(one), *edges[one : one + 2]) for one in range(4))]:
        index = faiss.IndexFlatIP(16)
        index.add(kinds[of[start:stop]])
        (tmp_path / name).mkdir()
        faiss.write_index(index, str(tmp_path / name / "index"))
    (tmp_path / "whole" / "docid").write_text("".join(f"{row}\n" for row in range(60)))
    whole = DenseIndex(tmp_path / "whole")
    parts = _Parts([tmp_path / str(one) / "index" for one in range(4)], np.diff(edges).tolist(), 16)
    for hits in (1, 3, 9, 12, 30, 59, 60):
        found, (_, rows) = whole.search(asked, hits), parts.search(asked, hits)
        for number, query in enumerate(asked):
            expected = sorted(range(60), key=lambda row: (-float(kinds[of[row]].astype(float) @ query), row))[:hits]
            assert [hit.docid for hit in found[number]] == list(map(str, expected))
            assert rows[number].tolist() == expected


def test_vectors_of_other_lengths_are_refused(
    tiny_index: Path, tiny_model: Path, beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """As `pyserini.encode` leaves them without --l2-norm."""
    faiss = faiss_module()
    place = tmp_path / "theirs"
    place.mkdir()
    shutil.copy(tiny_index / "docid", place)
    words = ["--dataset", str(beir), "--index", str(place), "--encoder", str(tiny_model)]
    for length in (1.001, 1.02, 20):
        longer = faiss.IndexFlatIP(64)
        longer.add(DenseIndex(tiny_index).raw(0, 40) * np.linspace(1, length, 40, dtype=np.float32)[:, None])
        faiss.write_index(longer, str(place / "index"))
        refused = length > 1.01
        assert main(["search", *words, "--output", str(tmp_path / "x.trec")]) == refused
        told = f"expected vectors of length 1, found one of length {length:.3f} (document 039); encode with"
        assert (told in capsys.readouterr().err) == refused


def test_the_sidecar_says_what_was_built(tiny_index: Path, tiny_model: Path):
    sidecar = json.loads((tiny_index / "e2rank.json").read_text())
    assert sidecar["documents"] == 40
    assert sidecar["dim"] == 64
    assert sidecar["dtype"] == "float32"
    assert sidecar["model"]["source"] == str(tiny_model)
    assert sidecar["model"]["lengths"] == {"document": 48, "query": 24, "prompt": 512}
    assert sidecar["truncated"] > 0
    assert sidecar["versions"]["faiss"] == faiss_package()
    assert sorted(path.name for path in tiny_index.iterdir()) == ["docid", "e2rank.json", "index"]


def test_a_failed_build_leaves_nothing(tmp_path: Path, encoder: E2RankEncoder):
    def corpus():
        yield Document("1", "", "wing")
        raise E2RankError("c:2: broken")

    with pytest.raises(E2RankError, match="c:2: broken"):
        build_index(corpus(), encoder, tmp_path / "i")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("docids", "told"), [(["a", "b", "a"], "1 docids of the corpus appear more than once"), (["a "], "without blanks")]
)
def test_docids_that_no_index_may_have_are_refused(
    tmp_path: Path, encoder: E2RankEncoder, docids: list[str], told: str
):
    with pytest.raises(E2RankError, match=told):
        build_index([Document(docid, "", "wing") for docid in docids], encoder, tmp_path / "i")
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize(
    ("title", "text", "told"),
    [
        ("a title", None, "expected a text, got None"),
        ("", float("nan"), "expected a text, got nan"),
        ("", 7, "expected a text, got 7"),
        ("", "wing \ud800", r"expected a text, got 'wing \\ud800'"),
        (float("nan"), "wing", "expected a title as text, got nan"),
        (0, "wing", "expected a title as text, got 0"),
        ("\ud800", "wing", r"expected a title as text, got '\\ud800'"),
    ],
)
def test_a_document_that_holds_no_text_is_named(
    tmp_path: Path, encoder: E2RankEncoder, title: Any, text: Any, told: str
):
    """As a table of pandas has them, and unchecked JSON."""
    with pytest.raises(E2RankError, match=f"^the corpus: document b: {told}$"):
        build_index([Document("a", "", "jet"), Document("b", title, text)], encoder, tmp_path / "i")
    assert list(tmp_path.iterdir()) == []


def test_a_title_may_be_none(tmp_path: Path, encoder: E2RankEncoder):
    bare: Any = None
    build_index([Document("a", bare, "jet"), Document("b", "", "jet")], encoder, tmp_path / "i")
    vectors, _ = DenseIndex(tmp_path / "i").vectors(["a", "b"])
    np.testing.assert_allclose(vectors, encoder.encode_documents(["jet", "jet"]), atol=1e-6)


def test_no_documents_and_shards_of_none_are_one_line(tmp_path: Path, encoder: E2RankEncoder):
    for corpus in ([], iter(())):
        with pytest.raises(E2RankError, match=r"^the corpus is empty$"):
            build_index(corpus, encoder, tmp_path / "i")
    for size in (0, -1):
        with pytest.raises(E2RankError, match=rf"^shard_documents: expected at least 1, got {size}$"):
            build_index([Document("a", "", "jet")], encoder, tmp_path / "i", shard_documents=size)
    assert list(tmp_path.iterdir()) == []


def test_overwrite_replaces_only_after_success(tmp_path: Path, encoder: E2RankEncoder):
    build_index([Document("1", "", "wing")], encoder, tmp_path / "i")
    with pytest.raises(E2RankError, match="exists already"):
        build_index([Document("2", "", "jet")], encoder, tmp_path / "i")

    def broken():
        raise E2RankError("no corpus")
        yield

    with pytest.raises(E2RankError, match="no corpus"):
        build_index(broken(), encoder, tmp_path / "i", overwrite=True)
    assert DenseIndex(tmp_path / "i").docids == ["1"]
    build_index([Document("2", "", "jet")], encoder, tmp_path / "i", overwrite=True)
    assert DenseIndex(tmp_path / "i").docids == ["2"]
    assert [path.name for path in tmp_path.iterdir()] == ["i"]


def test_both_faiss_packages_are_refused(monkeypatch: pytest.MonkeyPatch):
    from e2rank_pyserini import kinds

    kinds.faiss_module.cache_clear()
    monkeypatch.setattr(kinds.importlib.metadata, "version", lambda name: "1.0")
    with pytest.raises(E2RankError, match="both installed"):
        kinds.faiss_module()


def test_an_ivf_index_is_searched_in_the_square_root_of_its_lists(tmp_path: Path, beir: Path, encoder: E2RankEncoder):
    import faiss

    for lists, looked_at in ((9, 3), (5, 3), (10, 4)):
        place = tmp_path / str(lists)
        build_index(documents(str(beir)), encoder, place, factory=f"IVF{lists},Flat")
        assert faiss.extract_index_ivf(faiss.read_index(str(place / "index"))).nprobe == looked_at


def test_fast_scan_is_refused_before_anything_is_encoded(tmp_path: Path, beir: Path, encoder: E2RankEncoder):
    before = encoder.tally.documents
    with pytest.raises(E2RankError, match="fast-scan"):
        build_index(documents(str(beir)), encoder, tmp_path / "i", factory="IVF4,PQ16x4fs")
    assert encoder.tally.documents == before


@pytest.mark.parametrize("factory", ["HNSW8_PQ8x4", "HNSW32_PQ8", "HNSW32_2+PQ8", "NSG32_PQ8", "PCA32,HNSW8_PQ8"])
def test_a_kind_of_another_metric_is_refused_before_anything_is_encoded(
    tmp_path: Path, beir: Path, encoder: E2RankEncoder, factory: str
):
    before = encoder.tally.documents
    with pytest.raises(E2RankError, match="FAISS builds it for metric 1, not inner product"):
        build_index(documents(str(beir)), encoder, tmp_path / "i", factory=factory)
    assert encoder.tally.documents == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("factory", ["ITQ16,Flat", "IVF4,FlatDedup"])
def test_a_kind_that_gives_no_vectors_back_is_refused_and_the_shards_stay(
    tmp_path: Path, beir: Path, encoder: E2RankEncoder, factory: str
):
    with pytest.raises(E2RankError, match=f"index type '{factory}': FAISS cannot give its vectors back: .*implemented"):
        build_index(documents(str(beir)), encoder, tmp_path / "i", factory=factory)
    assert [path.name for path in tmp_path.iterdir()] == ["i.shards"]
    before = encoder.tally.documents
    build_index(documents(str(beir)), encoder, tmp_path / "i")
    assert encoder.tally.documents == before
    assert len(DenseIndex(tmp_path / "i")) == 40


def test_the_file_of_an_ivf_index_holds_no_direct_map(tmp_path: Path, beir: Path, encoder: E2RankEncoder):
    import faiss

    build_index(documents(str(beir)), encoder, tmp_path / "i", factory="IVF4,Flat")
    opened = faiss.extract_index_ivf(faiss.read_index(str(tmp_path / "i" / "index")))
    assert opened.direct_map.type == faiss.DirectMap.NoMap


def test_opening_with_another_model_is_refused(tiny_index: Path, encoder: E2RankEncoder):
    assert len(DenseIndex(tiny_index, encoder)) == 40
    other = E2RankEncoder(encoder.spec, encoder.network, encoder.tokens.tokenizer, "another")
    with pytest.raises(E2RankError, match="identity another"):
        DenseIndex(tiny_index, other)


def test_the_sidecar_counts_this_build_alone(tmp_path: Path, beir: Path, encoder: E2RankEncoder):
    first, second = (build_index(documents(str(beir)), encoder, tmp_path / name) for name in "ab")
    assert [first[key] for key in ("truncated", "empty", "tokens")] == [
        second[key] for key in ("truncated", "empty", "tokens")
    ]


@pytest.mark.parametrize(
    ("factory", "exact"), [("Flat", True), ("HNSW8", True), ("HNSW8,SQ8", False), ("PCAR32,HNSW8", False)]
)
def test_whether_vectors_are_stored_in_full(tmp_path: Path, encoder: E2RankEncoder, factory: str, exact: bool):
    build_index([Document(str(n), "", f"wing {n}") for n in range(70)], encoder, tmp_path / "i", factory=factory)
    assert DenseIndex(tmp_path / "i").exact is exact


def test_the_sidecar_holds_the_hashes_of_the_files(tiny_index: Path):
    sidecar = read_sealed(tiny_index / "e2rank.json")
    assert sidecar["files"] == {
        name: hashlib.sha256((tiny_index / name).read_bytes()).hexdigest() for name in ("index", "docid")
    }
    assert sidecar["fingerprint"] == fingerprint(tiny_index)


def test_a_header_that_asks_for_too_much_memory_is_refused(tmp_path: Path):
    import faiss

    index = faiss.index_factory(32, "HNSW16", faiss.METRIC_INNER_PRODUCT)
    index.add(np.eye(32, dtype=np.float32))
    content = bytearray(faiss.serialize_index(index).tobytes())
    content[3] ^= 8  # of its type: FAISS takes it for another one and asks for what its next bytes say
    (tmp_path / "index").write_bytes(content)
    (tmp_path / "docid").write_text("".join(f"{n}\n" for n in range(32)))
    with pytest.raises(E2RankError, match="index: not readable by FAISS"):
        DenseIndex(tmp_path)


def test_stored_reads_no_vector(tiny_index: Path):
    assert DenseIndex(tiny_index).stored(["000", "nothing", "039"]).tolist() == [True, False, True]


def test_the_template_of_the_documents_is_kept_for_those_encoded_later(tmp_path: Path, encoder: E2RankEncoder):
    corpus = [Document("1", "wing", "flow")]
    assert build_index(corpus, encoder, tmp_path / "i", template="{text}")["document_template"] == "{text}"
    assert read_sealed(tmp_path / "i" / "e2rank.json")["document_template"] == "{text}"
    found, _ = DenseIndex(tmp_path / "i").vectors(["1"])
    np.testing.assert_allclose(found, encoder.encode_documents(["flow"]), atol=1e-6)


def test_a_graph_keeps_the_reach_that_its_file_says(tmp_path: Path):
    faiss = faiss_module()
    vectors = np.random.default_rng(5).normal(size=(500, 32)).astype(np.float32)
    index = empty_index(32, "HNSW16")
    fill(index, lambda: iter([vectors]), "HNSW16")
    index.hnsw.efSearch = 200
    faiss.write_index(index, str(tmp_path / "index"))
    (tmp_path / "docid").write_text("".join(f"{row}\n" for row in range(500)))
    opened = DenseIndex(tmp_path)
    opened.search(vectors[:1], 5)
    assert opened._graph.efSearch == 200


def test_documents_that_tie_in_any_kind_are_in_corpus_order(tmp_path: Path):
    faiss = faiss_module()
    vectors = np.repeat(np.eye(2, 8, dtype=np.float32), 20, axis=0)
    index = empty_index(8, "HNSW16")
    fill(index, lambda: iter([vectors]), "HNSW16")
    faiss.write_index(index, str(tmp_path / "index"))
    (tmp_path / "docid").write_text("".join(f"{row}\n" for row in range(40)))
    (hits,) = DenseIndex(tmp_path).search(vectors[:1], 20)
    assert [int(hit.docid) for hit in hits] == sorted(int(hit.docid) for hit in hits)


def test_half_precision_is_not_stored_in_full(tmp_path: Path, encoder: E2RankEncoder):
    build_index([Document(str(n), "", f"wing {n}") for n in range(70)], encoder, tmp_path / "i", factory="SQfp16")
    assert not DenseIndex(tmp_path / "i").exact


def test_a_search_that_finds_fewer_than_asked_gives_those_alone(tmp_path: Path):
    """IVF looks into some of its lists; FAISS fills up with row -1."""
    faiss = faiss_module()
    vectors = np.eye(8, dtype=np.float32)
    index = empty_index(8, "IVF8,Flat")
    fill(index, lambda: iter([vectors]), "IVF8,Flat")
    faiss.extract_index_ivf(index).nprobe = 1
    faiss.write_index(index, str(tmp_path / "index"))
    (tmp_path / "docid").write_text("".join(f"{row}\n" for row in range(8)))
    (hits,) = DenseIndex(tmp_path).search(vectors[3:4], 8)
    assert [hit.docid for hit in hits] == ["3"]


def test_vectors_shorter_than_one_are_refused(tmp_path: Path):
    faiss = faiss_module()
    index = faiss.IndexFlatIP(8)
    index.add(np.eye(8, dtype=np.float32) * np.linspace(1, 0.5, 8, dtype=np.float32)[:, None])
    faiss.write_index(index, str(tmp_path / "index"))
    (tmp_path / "docid").write_text("".join(f"{row}\n" for row in range(8)))
    with pytest.raises(E2RankError, match=r"found one of length 0\.500 \(document 7\)"):
        DenseIndex(tmp_path).check_lengths()


def test_a_training_sample_has_65536_vectors_though_there_are_few_lists():
    vectors = np.random.default_rng(1).normal(size=(70_000, 4)).astype(np.float32)
    for factory in ("IVF4,Flat", "SQ8"):
        assert len(_training_sample(empty_index(4, factory), lambda: iter([vectors]))) == 65536


def test_a_training_sample_is_drawn_by_one_seed_from_all_blocks():
    vectors = np.random.default_rng(1).normal(size=(140_000, 4)).astype(np.float32)
    blocks = np.split(vectors, [1, 50_000, 100_000])
    one, again = (_training_sample(empty_index(4, "SQ8"), lambda: iter(blocks)) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    rows = {row.tobytes(): number for number, row in enumerate(vectors)}
    drawn = [rows[row.tobytes()] for row in one]
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 65536
    assert drawn[-1] > 130_000


def test_stored_vectors_that_are_no_numbers_are_refused(tmp_path: Path):
    faiss = faiss_module()
    index = faiss.IndexFlatIP(8)
    index.add(np.full((1, 8), np.nan, dtype=np.float32))
    faiss.write_index(index, str(tmp_path / "index"))
    (tmp_path / "docid").write_text("1\n")
    with pytest.raises(E2RankError, match="holds vectors that are not numbers"):
        DenseIndex(tmp_path).vectors(["1"])


def own_numbers() -> dict[str, Any]:
    """Indexes of 64 vectors whose numbers are not their rows, and others that FAISS uses wrongly."""
    faiss, vectors = faiss_module(), np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    numbers = np.arange(64) * 7 + 1000
    mapped, lists, negative = faiss.IndexIDMap2(faiss.IndexFlatIP(8)), empty_index(8, "IVF2,Flat"), None
    mapped.add_with_ids(vectors, numbers)
    lists.train(vectors)
    negative = faiss.clone_index(lists)
    lists.add_with_ids(vectors, numbers)
    negative.add_with_ids(vectors, -5 - numbers)
    fast = faiss.index_factory(8, "IVF2,PQ4x4fs", faiss.METRIC_INNER_PRODUCT)
    graph = faiss.IndexHNSWPQ(8, 4, 8, 5)  # as Pyserini makes it: the metric is set when it is there already
    graph.metric_type = faiss.METRIC_INNER_PRODUCT
    for index in (fast, graph):
        index.train(vectors)
        index.add(vectors)
    return {"mapped": mapped, "lists": lists, "negative": negative, "fast": fast, "graph": graph}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mapped", "its vectors have numbers of their own, not the lines of their docids"),
        ("lists", "its vectors have numbers of their own|FAISS cannot give its vectors back: .*sequential ids"),
        ("negative", "its vectors have numbers of their own|FAISS cannot give its vectors back: .*sequential ids"),
        ("fast", "FAISS cannot give the vectors of a fast-scan IVF index back"),
        ("graph", "its graph is of metric 0, its vectors of 1: FAISS would find the farthest documents"),
    ],
)
def test_what_faiss_would_use_wrongly_is_refused(tmp_path: Path, name: str, told: str):
    faiss_module().write_index(own_numbers()[name], str(tmp_path / "index"))
    (tmp_path / "docid").write_text("".join(f"{row}\n" for row in range(64)))
    with pytest.raises(E2RankError, match=told):
        DenseIndex(tmp_path).search(np.eye(8, dtype=np.float32), 3)
    with pytest.raises(E2RankError, match=told):
        DenseIndex(tmp_path).vectors(["3"])


def test_a_kind_that_gives_nothing_back_is_searched_and_not_reranked(tmp_path: Path):
    faiss, vectors = faiss_module(), np.eye(8, dtype=np.float32)
    index = faiss.IndexIDMap(faiss.IndexFlatIP(8))
    index.add_with_ids(vectors, np.arange(8))
    faiss.write_index(index, str(tmp_path / "index"))
    (tmp_path / "docid").write_text("".join(f"{row}\n" for row in range(8)))
    opened = DenseIndex(tmp_path)
    assert opened.search(vectors[3:4], 1) == [[("3", 1.0)]]
    with pytest.raises(E2RankError, match="FAISS cannot give its vectors back: "):
        opened.vectors(["3"])


def test_rows_as_numbers_are_taken(tmp_path: Path):
    faiss, vectors = faiss_module(), np.eye(8, dtype=np.float32)
    index = faiss.IndexIDMap2(faiss.IndexFlatIP(8))
    index.add_with_ids(vectors, np.arange(8))
    faiss.write_index(index, str(tmp_path / "index"))
    (tmp_path / "docid").write_text("".join(f"{row}\n" for row in range(8)))
    (hits,) = DenseIndex(tmp_path).search(vectors[3:4], 1)
    assert hits == [("3", 1.0)]


def test_a_link_where_an_index_is_built_is_not_followed(tmp_path: Path, encoder: E2RankEncoder):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    (tmp_path / ".i.building").symlink_to("mine")
    with pytest.raises(E2RankError, match=r"\.i\.building: is a link where i is to be built; remove it"):
        build_index([Document("1", "", "wing")], encoder, tmp_path / "i")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"
