"""Data sets from source packages: pinned, checksummed, and of the known size."""

import dataclasses
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from e2rank_pyserini import carried, catalog, java
from e2rank_pyserini.datasets import dataset
from e2rank_pyserini.types import E2RankError


def small_semanlink(cache: Path) -> str:
    """A source archive of the right form with five documents; returns its SHA-256."""
    long = "word " * 25

    def row(number: int, *tags: str, text: str = long) -> dict:
        return {"document": f"http://d/{number}", "title": "T", "comment": text, "arxiv_summary": "", "tag": list(tags)}

    docs = [row(1, "u/a", "u/b"), row(2, "u/a"), row(3, "u/a", "u/good"), row(4, "u/good"), row(5, "u/a", text="short")]
    tags = {"u/a": {"prefLabel": ["Label A"]}, "u/b": {"prefLabel": ["B"]}, "u/good": {"prefLabel": ["Good"]}}
    path = cache / "cherche-2.2.1.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, value in (("docs", docs), ("tags", tags)):
            content = json.dumps(value).encode()
            info = tarfile.TarInfo(f"cherche-2.2.1/cherche/data/semanlink/{name}.json")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("E2RANK_CACHE", str(tmp_path))
    return tmp_path


def test_what_becomes_a_document_and_what_a_query(cache: Path):
    spec = dataclasses.replace(catalog.dataset("semanlink"), sha256=small_semanlink(cache))
    place = carried.folder(spec)
    docids = [json.loads(line)["_id"] for line in (place / "corpus.jsonl").read_text().splitlines()]
    assert docids == [f"http://d/{n}" for n in (1, 2, 3, 4)]  # the fifth has too few words
    queries = [json.loads(line) for line in (place / "queries.jsonl").read_text().splitlines()]
    assert queries == [{"_id": "a", "text": "Label A"}]  # b has too few documents, Good is housekeeping
    assert len((place / "qrels" / "test.tsv").read_text().splitlines()) == 4
    assert sorted(path.name for path in cache.iterdir()) == ["cherche-2.2.1.tar.gz", "semanlink-2.2.1"]


def test_other_bytes_are_refused(cache: Path):
    small_semanlink(cache)
    with pytest.raises(E2RankError, match="does not have SHA-256"):
        carried.folder(catalog.dataset("semanlink"))
    assert [path.name for path in cache.iterdir()] == ["cherche-2.2.1.tar.gz"]


@pytest.mark.parametrize(
    ("variable", "ask"),
    [("E2RANK_CACHE", lambda: carried.folder(catalog.dataset("semanlink"))), ("PYSERINI_CACHE", java.cache_home)],
)
def test_a_user_without_a_home_is_told_what_to_set(
    variable: str, ask: Callable[[], object], monkeypatch: pytest.MonkeyPatch
):
    """As in containers that run under a number."""
    for name in ("HOME", variable):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    with pytest.raises(E2RankError, match=f"no home directory: set HOME, or {variable} to a folder"):
        ask()


@pytest.fixture(scope="module")
def real(request: pytest.FixtureRequest) -> None:
    try:
        carried.folder(catalog.dataset("semanlink"))
        carried.folder(catalog.dataset("trec-rag24"))
    except E2RankError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("real")
def test_semanlink_has_its_known_size():
    data = dataset("semanlink")
    assert len(Path(data.corpus()).read_text().splitlines()) == 1853
    assert len(data.topics()) == 526
    assert sum(map(len, data.qrels().values())) == 3020
    demo = dataset("semanlink", "demo")
    assert len(demo.topics()) == 100
    assert demo.qrels().items() <= data.qrels().items()


@pytest.mark.usefixtures("real")
def test_trec_rag24_has_its_known_size():
    from e2rank_pyserini.trec import read_run

    data, llm = dataset("trec-rag24"), dataset("trec-rag24", "llm")
    assert (len(data.topics()), len(llm.topics())) == (86, 215)
    assert not data.topics().keys() & llm.topics().keys()
    assert data.folder is not None
    references = read_run(data.folder / "runs" / "test.references.trec")
    shuffled = read_run(data.folder / "runs" / "test.shuffled.trec")
    assert references.keys() == data.topics().keys()
    for qid, hits in references.items():
        assert {hit.docid for hit in hits} == {hit.docid for hit in shuffled[qid]}
        assert len(hits) == 20


@pytest.mark.usefixtures("real")
def test_an_unknown_split_names_the_others():
    with pytest.raises(E2RankError, match="splits of this data set: demo, test"):
        dataset("semanlink", "dev").qrels()
