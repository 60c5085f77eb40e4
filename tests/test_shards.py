"""Shards: a build that is stopped anywhere goes on to the same bytes, wherever they are and whoever encodes them."""

import contextlib
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from e2rank_pyserini.ahead import ahead
from e2rank_pyserini.cli import main
from e2rank_pyserini.corpus import Corpus, documents, find, fingerprint
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.index import DenseIndex, first_found
from e2rank_pyserini.indexing import build_index
from e2rank_pyserini.kinds import faiss_module, read_faiss
from e2rank_pyserini.sealed import seal, unsealed
from e2rank_pyserini.shards import sharded, workers
from e2rank_pyserini.shards.encoding import Advance, Engine, encode_shard, here, planned
from e2rank_pyserini.shards.folder import Shard, Shards, Task, check_same
from e2rank_pyserini.shards.sharded import ShardedIndex, _Parts, open_index
from e2rank_pyserini.storage import Folder
from e2rank_pyserini.types import Document, E2RankError
from tests.conftest import sentences

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = 6  # documents a shard: the toy corpus of 40 makes seven


@pytest.fixture(scope="module")
def undisturbed(encoder: E2RankEncoder, beir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("undisturbed") / "index"
    build(encoder, beir, place)
    return place


def build(encoder: E2RankEncoder, beir: Path, place: Path | None, **options: object) -> dict:
    return build_index(Corpus(str(beir)), encoder, place, shard_documents=SIZE, **options)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def stopping(encoder: E2RankEncoder, after: int) -> Engine:
    """The engine of this process, which is stopped after so many shards."""

    def engine(corpus: Iterable[Document], shards: Shards, advance: Advance) -> Iterator[tuple[Shard, bool]]:
        for number, made in enumerate(here(encoder)(corpus, shards, advance)):
            if number == after:
                raise KeyboardInterrupt
            yield made

    return engine


def interrupted(encoder: E2RankEncoder, beir: Path, place: Path, after: int, **options: object) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(encoder, beir, place, engine=stopping(encoder, after), **options)


@pytest.mark.parametrize("after", range(7))
def test_a_stopped_build_goes_on_to_the_same_bytes(
    encoder: E2RankEncoder, beir: Path, undisturbed: Path, tmp_path: Path, after: int
):
    interrupted(encoder, beir, tmp_path / "i", after)
    assert not (tmp_path / "i").exists()
    before = encoder.tally.documents
    build(encoder, beir, tmp_path / "i")
    # the shard it was stopped at was written, and the next one was encoded meanwhile
    assert encoder.tally.documents - before == 40 - min(40, SIZE * (after + 2))
    assert contents(tmp_path / "i") == contents(undisturbed)
    assert [path.name for path in tmp_path.iterdir()] == ["i"]


def test_what_goes_on_is_said(encoder: E2RankEncoder, beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    interrupted(encoder, beir, tmp_path / "i", 2)
    build(encoder, beir, tmp_path / "i")
    assert "i.shards: 4 shards were finished before and are not encoded again" in capsys.readouterr().err


@pytest.mark.parametrize("factory", ["SQ8", "IVF2,Flat", "PQ8x4", "PCAR32,IVF4,PQ8x4"])
def test_other_kinds_go_on_to_the_same_bytes(encoder: E2RankEncoder, beir: Path, tmp_path: Path, factory: str):
    build(encoder, beir, tmp_path / "whole", factory=factory)
    interrupted(encoder, beir, tmp_path / "i", 3, factory=factory)
    build(encoder, beir, tmp_path / "i", factory=factory)
    assert contents(tmp_path / "i") == contents(tmp_path / "whole")


def test_a_kind_that_cannot_be_trained_keeps_what_is_encoded(
    tiny_model: Path, beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["index", "--dataset", str(beir), "--encoder", str(tiny_model), "--output", str(tmp_path / "i")]
    assert main([*words, "--index-type", "IVF4096,Flat"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("e2rank index: index type 'IVF4096,Flat': FAISS could not build it from 40 vectors: ")
    assert said.count("\n") == 1
    assert main([*words, "--index-type", "IVF4,Flat"]) == 0
    assert "1 shards were finished before" in capsys.readouterr().err


def test_a_changed_corpus_is_refused_with_the_way_out(encoder: E2RankEncoder, tmp_path: Path):
    corpus = [Document(str(n), "", text) for n, text in enumerate(sentences(20))]
    with pytest.raises(KeyboardInterrupt):
        build_index(corpus, encoder, tmp_path / "i", shard_documents=SIZE, engine=stopping(encoder, 1))
    changed = [*corpus[:7], corpus[7]._replace(text="another text"), *corpus[8:]]
    with pytest.raises(E2RankError, match=r"00001/shard.json: the corpus has changed .* remove .*i.shards to begin"):
        build_index(changed, encoder, tmp_path / "i", shard_documents=SIZE)
    with pytest.raises(E2RankError, match="begun with shard_documents 6, not 7; go on as"):
        build_index(corpus, encoder, tmp_path / "i", shard_documents=7)
    with pytest.raises(E2RankError, match="begun with document_template"):
        build_index(corpus, encoder, tmp_path / "i", shard_documents=SIZE, template="{text}")
    with pytest.raises(E2RankError, match="begun with corpus_fingerprint None, not 'x'"):
        build_index(corpus, encoder, tmp_path / "i", shard_documents=SIZE, provenance={"corpus_fingerprint": "x"})


def test_another_model_is_refused_with_both_names(encoder: E2RankEncoder, beir: Path, tmp_path: Path):
    interrupted(encoder, beir, tmp_path / "i", 1)
    other = E2RankEncoder(encoder.spec, encoder.network, encoder.tokens.tokenizer, "another")
    with pytest.raises(
        E2RankError, match=r"begun with model .*tiny-qwen3 \(identity .*, not with .* \(identity another"
    ):
        build(other, beir, tmp_path / "i")


def test_a_folder_that_is_not_ours_is_not_touched(encoder: E2RankEncoder, beir: Path, tmp_path: Path):
    (tmp_path / "i.shards").mkdir()
    (tmp_path / "i.shards" / "thesis.tex").write_text("all of it")
    with pytest.raises(E2RankError, match="expected a folder of shards or an empty one"):
        build(encoder, beir, tmp_path / "i")
    assert (tmp_path / "i.shards" / "thesis.tex").read_text() == "all of it"


@pytest.mark.parametrize("shards", ["i", "i/shards", "link/shards", "file://{tmp}/i/s", "x/../i"])
def test_shards_to_keep_are_not_put_where_the_index_replaces_them(
    tiny_model: Path,
    beir: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    shards: str,
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "i")
    place = shards.format(tmp=tmp_path)
    words = ["index", "--dataset", str(beir), "--encoder", str(tiny_model), "--output", "i", "--shards", place]
    assert main(words) == 1
    told = f"{place}: shards in {tmp_path / 'i'} itself, which the index replaces; name another folder"
    assert capfd.readouterr().err == f"e2rank index: {told}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_an_index_within_its_folder_of_shards_leaves_them(encoder: E2RankEncoder, beir: Path, tmp_path: Path):
    build(encoder, beir, tmp_path / "s" / "i", shards=str(tmp_path / "s"))
    assert len(open_index(str(tmp_path / "s"))) == len(open_index(str(tmp_path / "s" / "i"))) == 40
    with pytest.raises(E2RankError, match=r"shards in .*s/i itself"):
        build(encoder, beir, tmp_path / "s" / "i", shards=str(tmp_path / "s" / "i" / "t"), overwrite=True)


def test_of_what_is_hidden_only_what_a_killed_process_left_is_removed(
    encoder: E2RankEncoder, beir: Path, undisturbed: Path, tmp_path: Path
):
    place = tmp_path / "s"
    interrupted(encoder, beir, tmp_path / "i", 3, shards=str(place))
    left = [
        place / ".manifest.json.41",
        *(place / "00001" / f".{name}.417" for name in ("index", "docid", "shard.json")),
    ]
    own = [place / ".gitignore", place / ".manifest.json.old", place / "00001" / ".nfs0001", place / ".s" / ".docid.7"]
    (place / ".s").mkdir()
    for path in (*left, *own):
        path.write_text("*")
    build(encoder, beir, tmp_path / "i", shards=str(place))
    assert [path.exists() for path in left] == [False] * len(left)
    assert [path.read_text() for path in own] == ["*"] * len(own)
    assert contents(tmp_path / "i") == contents(undisturbed)


def damages() -> list[tuple[str, str, str]]:
    found = [(name, "cut", "") for name in ("index", "docid", "shard.json")]
    found += [(name, "flip", "") for name in ("index", "docid", "shard.json")]
    return [*found, ("index", "remove", ""), ("docid", "remove", "")]


@pytest.mark.parametrize(("name", "how", "_"), damages())
def test_a_damaged_shard_is_named_and_encoded_again(
    encoder: E2RankEncoder,
    beir: Path,
    undisturbed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    how: str,
    _: str,
):
    interrupted(encoder, beir, tmp_path / "i", 3)
    path = tmp_path / "i.shards" / "00001" / name
    whole = path.read_bytes()
    if how == "remove":
        path.unlink()
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :]
        path.write_bytes(whole[: middle - 1] if how == "cut" else flipped)
    try:
        build(encoder, beir, tmp_path / "i")
        said = capsys.readouterr().err
    except E2RankError as error:  # found where its bytes are read
        said = str(error)
        build(encoder, beir, tmp_path / "i")
    assert f"00001/{name}: " in said
    assert contents(tmp_path / "i") == contents(undisturbed)


def test_kept_shards_that_are_damaged_are_encoded_again(
    encoder: E2RankEncoder, beir: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Without an index nothing else reads their bytes; the first shard is as good as another."""
    place = tmp_path / "shards"
    for number in ("00000", "00003"):
        build(encoder, beir, None, shards=str(place))
        path = place / number / "index"
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        capsys.readouterr()
        build(encoder, beir, None, shards=str(place))
        assert f"{path}: is not what was written; encoded again" in capsys.readouterr().err
    build(encoder, beir, tmp_path / "index", shards=str(place))
    assert (tmp_path / "index" / "index").read_bytes() == (undisturbed / "index").read_bytes()


def test_shards_of_other_settings_are_encoded_again(
    encoder: E2RankEncoder, beir: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """As a worker leaves one that outlived its job."""
    place = tmp_path / "shards"
    build(encoder, beir, None, shards=str(place))
    path = place / "00001" / "shard.json"
    record = unsealed(path.read_text(), str(path))
    path.write_text(json.dumps(seal({**record, "made": "0" * 64})))
    build(encoder, beir, tmp_path / "index", shards=str(place))
    assert f"{path}: made with other settings; encoded again" in capsys.readouterr().err
    assert (tmp_path / "index" / "index").read_bytes() == (undisturbed / "index").read_bytes()


def test_what_is_finished_stays_though_the_first_shard_is_not(encoder: E2RankEncoder, beir: Path, tmp_path: Path):
    def engine(corpus: Any, shards: Shards, advance: Any) -> Any:
        tasks = [task for task in planned(corpus, shards) if isinstance(task, Task)]
        yield encode_shard(encoder, tasks[1], shards), True
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(encoder, beir, tmp_path / "index", engine=engine)
    assert (tmp_path / "index.shards" / "00001" / "shard.json").exists()


def test_complete_shards_that_cannot_be_written_become_an_index(encoder: E2RankEncoder, beir: Path, tmp_path: Path):
    place = tmp_path / "shards"
    build(encoder, beir, None, shards=str(place))
    before = (place / "manifest.json").stat().st_mtime_ns
    build(encoder, beir, tmp_path / "index", shards=str(place))
    assert (place / "manifest.json").stat().st_mtime_ns == before


def test_a_worker_ends_with_the_process_that_started_it(encoder: E2RankEncoder, beir: Path, tmp_path: Path):
    """Its parent is killed; nothing tells it so."""
    script = (
        "import subprocess, sys, time; "
        "words = [sys.executable, '-m', 'e2rank_pyserini.shards.worker', '{}']; "
        "child = subprocess.Popen(words, stdin=subprocess.PIPE); "
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pipe = parent.stdout
    assert pipe is not None
    child = Path(f"/proc/{pipe.readline().strip()}")
    time.sleep(1)  # it must have seen its parent
    held = os.open(child / "fd" / "0", os.O_WRONLY)  # so that its input does not end
    assert child.exists()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while child.exists() and "Z" not in (child / "stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.close(held)
    pipe.close()


def test_a_damaged_manifest_is_named(encoder: E2RankEncoder, beir: Path, tmp_path: Path):
    interrupted(encoder, beir, tmp_path / "i", 1)
    path = tmp_path / "i.shards" / "manifest.json"
    path.write_text(path.read_text().replace("float32", "float16"))
    with pytest.raises(E2RankError, match=r"manifest.json: is not what was written"):
        build(encoder, beir, tmp_path / "i")
    path.write_text(path.read_text()[:50])
    with pytest.raises(E2RankError, match=r"manifest\.json"):
        build(encoder, beir, tmp_path / "i")


def test_shards_are_indexes_of_pyserinis_form(encoder: E2RankEncoder, beir: Path, tmp_path: Path):
    build(encoder, beir, None, shards=str(tmp_path / "s"))
    part = DenseIndex(tmp_path / "s" / "00002")
    assert part.docids == [one.docid for one in documents(str(beir))][2 * SIZE : 3 * SIZE]
    record = json.loads((tmp_path / "s" / "00002" / "shard.json").read_text())
    for name in ("index", "docid"):
        assert record["files"][name] == hashlib.sha256((tmp_path / "s" / "00002" / name).read_bytes()).hexdigest()


@pytest.mark.parametrize("hits", [1, 5, 6, 7, 39, 40, 100])
def test_sharded_search_is_the_unsharded_one(
    encoder: E2RankEncoder, beir: Path, undisturbed: Path, tmp_path: Path, hits: int
):
    build(encoder, beir, None, shards=str(tmp_path / "s"))
    whole, parts = open_index(undisturbed), open_index(tmp_path / "s")
    assert isinstance(parts, ShardedIndex)
    queries = encoder.encode_queries(sentences(30, seed=3, most=9))
    assert parts.search(queries, hits) == whole.search(queries, hits)
    docids = [whole.docids[row] for row in np.random.default_rng(0).integers(0, 40, 25)] + ["none"]
    for ours, theirs in zip(parts.vectors(docids), whole.vectors(docids), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (parts.exact, parts.dim, len(parts), parts.built_with) == (True, 64, 40, whole.built_with)


def test_a_search_does_not_ask_for_each_shard_what_is_installed(
    encoder: E2RankEncoder, beir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    build(encoder, beir, None, shards=str(tmp_path / "s"))
    parts, asked = open_index(tmp_path / "s"), []
    monkeypatch.setattr("importlib.metadata.version", asked.append)
    parts.search(encoder.encode_queries(["wing"]), 3)
    assert asked == []


def test_ties_across_shards_keep_the_corpus_order(encoder: E2RankEncoder, tmp_path: Path):
    corpus = [Document(f"{n:02}", "", "wing" if n % 2 else "heat") for n in range(24)]
    build_index(corpus, encoder, tmp_path / "i", shards=str(tmp_path / "s"), shard_documents=5)
    query = encoder.encode_documents(["wing"])
    expected = [f"{n:02}" for n in range(1, 24, 2)][:8]
    for place in ("i", "s"):
        assert [hit.docid for hit in open_index(tmp_path / place).search(query, 8)[0]] == expected


def parts_of(place: Path, vectors: np.ndarray, edges: Sequence[int]) -> _Parts:
    """Flat indexes of the rows between the edges."""
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        index = faiss_module().IndexFlatIP(vectors.shape[1])
        index.add(vectors[start:stop])
        faiss_module().write_index(index, str(place / str(number)))
    sizes = np.diff(edges).tolist()
    return _Parts([place / str(number) for number in range(len(sizes))], sizes, vectors.shape[1])


def whole_numbers(draw: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Vectors whose products no order of adding up rounds, and of which many tie."""
    return draw.integers(-3, 4, shape).astype(np.float32)


@pytest.mark.parametrize("queries", [3, 40])  # FAISS computes few otherwise than many
@pytest.mark.parametrize("order", ["none", "best last", "best first", "twins"])
@pytest.mark.parametrize("seed", range(5))
def test_any_cut_of_any_shards_is_the_head_of_the_whole_order(tmp_path: Path, seed: int, order: str, queries: int):
    draw = np.random.default_rng(seed)
    vectors, asked = whole_numbers(draw, (900, 12)), whole_numbers(draw, (queries, 12))
    if order == "twins":
        vectors = vectors[draw.integers(0, 30, 900)]
    elif order != "none":  # for the queries that like the first one, that is most of them: the last shard has all
        asked[1:] = asked[0] + 0.125 * asked[1:]
        vectors = vectors[np.argsort(vectors @ asked[0] * (1 if order == "best last" else -1))]
    inner = np.sort(draw.choice(np.arange(1, 900), 19, replace=False)).tolist()
    parts = parts_of(tmp_path, vectors, [0, *inner, 900])
    products = asked.astype(np.float64) @ vectors.T.astype(np.float64)
    every = np.lexsort((np.broadcast_to(np.arange(900), products.shape), -products), axis=1)
    for hits in (1, 2, 10, 77, 300, 899, 900, 1000):
        scores, rows = parts.search(asked, hits)
        np.testing.assert_array_equal(rows, every[:, :hits])
        np.testing.assert_array_equal(scores, np.take_along_axis(products, every[:, :hits], 1))


def test_a_shard_that_is_asked_twice_gives_the_last_bits_of_one_that_is_asked_once(tmp_path: Path):
    """The product of fewer queries would have others at this width."""
    draw = np.random.default_rng(0)
    vectors, asked = draw.standard_normal((4000, 384), np.float32), draw.standard_normal((500, 384), np.float32)
    vectors = vectors[np.argsort(vectors @ asked[0])]  # which alone, or nearly so, has its best in the last shard
    edges = list(range(0, 4001, 1000))
    scores, rows = parts_of(tmp_path, vectors, edges).search(asked, 300)
    found = [first_found(read_faiss(tmp_path / str(number)), asked, 300) for number in range(4)]
    products = np.concatenate([some for some, _ in found], axis=1)
    places = np.concatenate([numbers + start for (_, numbers), start in zip(found, edges, strict=False)], axis=1)
    best = np.lexsort((places, -products), axis=1)[:, :300]
    np.testing.assert_array_equal(rows, np.take_along_axis(places, best, 1))
    np.testing.assert_array_equal(scores, np.take_along_axis(products, best, 1))
    assert (rows[0] >= 3000).mean() > 0.9


def test_once_the_hits_are_held_a_shard_is_asked_for_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    draw = np.random.default_rng(0)
    parts = parts_of(tmp_path, draw.standard_normal((8000, 8), np.float32), list(range(0, 8001, 400)))
    asked: list[int] = []

    class Counted:
        def __init__(self, path: Path) -> None:
            self.index = read_faiss(path)
            self.d, self.ntotal = self.index.d, self.index.ntotal

        def search(self, vectors: np.ndarray, hits: int) -> Any:
            asked.append(hits)
            return self.index.search(vectors, hits)

    monkeypatch.setattr(sharded, "read_faiss", Counted)
    parts.search(draw.standard_normal((30, 8), np.float32), 400)
    assert len(asked) == 20
    assert asked[:2] == [400, 400]
    assert asked[-1] == 16 + 2 * 400 * 400 // 7600
    assert sum(asked[2:]) < 2500  # 18 x 400 before


def test_commands_take_a_folder_of_shards(
    tiny_model: Path, beir: Path, tiny_index: Path, toy_run: Path, tmp_path: Path
):
    words = ["--dataset", str(beir), "--threads", "1"]
    made = ["index", *words, "--encoder", str(tiny_model), "--shards", f"file://{tmp_path}/s", "--shard-documents", "7"]
    assert main(made) == 0
    for place, name in ((tiny_index, "whole"), (tmp_path / "s", "parts")):
        assert main(["search", *words, "--index", str(place), "--output", str(tmp_path / f"{name}.d")]) == 0
        rest = ["--index", str(place), "--output", str(tmp_path / f"{name}.r")]
        assert main(["rerank", *words, "--run", str(toy_run), *rest]) == 0
    for kind, allowed in (("d", 2e-6), ("r", 2e-6)):  # other batches round otherwise
        whole, parts = (Path(tmp_path / f"{name}.{kind}").read_text().split() for name in ("whole", "parts"))
        assert whole[2::6] == parts[2::6]
        np.testing.assert_allclose(np.array(whole[4::6], float), np.array(parts[4::6], float), atol=allowed)


@pytest.mark.parametrize("name", ["index", "docid"])
def test_check_reads_every_byte_of_every_shard(
    encoder: E2RankEncoder, beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
):
    build(encoder, beir, None, shards=str(tmp_path / "s"))
    assert main(["check", str(tmp_path / "s")]) == 0
    assert "40 documents, 64 dimensions; every byte of every shard as written" in capsys.readouterr().out
    path = tmp_path / "s" / "00003" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert main(["check", str(tmp_path / "s")]) == 1
    assert f"damaged: {path}: its bytes are not those" in capsys.readouterr().out
    words = ["search", "--dataset", str(beir), "--index", str(tmp_path / "s"), "--output", str(tmp_path / "run")]
    assert main(words) == 1
    assert f"{path}: its bytes are not those" in capsys.readouterr().err


def test_unfinished_shards_are_not_searched(encoder: E2RankEncoder, beir: Path, tmp_path: Path):
    interrupted(encoder, beir, tmp_path / "i", 1)
    with pytest.raises(E2RankError, match=r"manifest.json: its shards are not all encoded"):
        open_index(tmp_path / "i.shards")


def test_shards_and_corpus_behind_urls(encoder: E2RankEncoder, beir: Path, undisturbed: Path, tmp_path: Path):
    memory = fsspec.filesystem("memory")
    memory.put(str(beir), "/bucket/toy", recursive=True)
    source = "memory://bucket/toy"
    assert list(documents(source)) == list(documents(str(beir)))
    assert fingerprint(source) == fingerprint(str(beir))
    assert find(source, ["004"]) == find(str(beir), ["004"])
    options = {"shards": "memory://bucket/shards", "shard_documents": SIZE}
    with pytest.raises(KeyboardInterrupt):
        build_index(Corpus(source), encoder, None, engine=stopping(encoder, 2), **options)
    before = encoder.tally.documents
    build_index(Corpus(source), encoder, tmp_path / "i", **options)
    assert encoder.tally.documents - before == 40 - 4 * SIZE
    assert contents(tmp_path / "i") == contents(undisturbed)
    assert memory.exists("/bucket/shards/00006/shard.json")  # what was named is kept
    with pytest.raises(E2RankError, match="memory-mapped: copy it"):
        open_index("memory://bucket/shards")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("memory://nowhere", "memory://nowhere: no such file or folder"),
        ("zip://x::file:///nofile", "zip://x::file:///nofile: cannot be opened: .*nofile"),
        ("dir://a", "dir://a: cannot be opened: "),
        ("nosuch://x", "nosuch://x: cannot be opened: Protocol not known"),
    ],
)
def test_a_url_that_leads_nowhere_is_one_line(source: str, message: str):
    with pytest.raises(E2RankError, match=message):
        list(documents(source))


@pytest.mark.parametrize(
    ("broken", "what"), [("info", "read"), ("open", "read"), ("pipe_file", "written"), ("rm", "removed")]
)
def test_what_a_file_system_raises_is_one_line(broken: str, what: str, monkeypatch: pytest.MonkeyPatch):
    """Each library has its own types, which are no OSErrors: s3fs botocore's where no server answers."""

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no server\nanswers")

    folder = Folder("memory://failing/shards")
    folder.write("00000/index", b"ab")
    assert folder.read("00000/index") == b"ab"
    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, broken, fails)
    asks = {
        "info": lambda: folder.size("00000/index"),
        "open": lambda: folder.read("00000/index"),
        "pipe_file": lambda: folder.write("00000/index", b"c"),
        "rm": lambda: folder.remove("00000/index"),
    }
    with pytest.raises(E2RankError, match=f"^memory://failing/shards/00000/index: cannot be {what}: no server$"):
        asks[broken]()


def test_a_url_without_a_bucket_is_one_line():
    with pytest.raises(E2RankError, match=r"^s3://: expected a bucket or a folder after ://"):
        Folder("s3://")


def test_a_folder_is_read_in_the_order_of_its_paths_behind_a_url_too(beir: Path, tmp_path: Path):
    rows = [json.dumps({"_id": str(number), "text": "a text"}) + "\n" for number in range(4)]
    for row, name in zip(rows, ("a/x.jsonl", "a-b.jsonl", "b/y.jsonl", "c.json"), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(row)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/ordered", recursive=True)
    assert list(documents("memory://ordered")) == list(documents(str(tmp_path)))
    assert fingerprint("memory://ordered") == fingerprint(str(tmp_path))


def test_a_second_process_is_refused(encoder: E2RankEncoder, beir: Path, tmp_path: Path):
    def engine(corpus: Iterable[Document], shards: Shards, advance: Advance) -> Iterator[tuple[Shard, bool]]:
        code = "from e2rank_pyserini.directories import held; from pathlib import Path\n"
        code += f"with held(Path({shards.place!r})): pass"
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "another process is writing it" in second.stderr
        yield from here(encoder)(corpus, shards, advance)

    build(encoder, beir, tmp_path / "i", engine=engine)


# several processes


def settings(encoder: E2RankEncoder, model: str | None = None) -> workers.Settings:
    record = {**encoder.record, "source": model or encoder.spec.source}
    return workers.Settings(record, "float32", None, 1)


def children() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, parent = int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and "e2rank_pyserini.shards.worker" in (path.parent / "cmdline").read_text():
                found.append(pid)
        except (OSError, ValueError):
            continue
    return found


def test_two_workers_give_the_same_bytes_and_a_killed_one_costs_its_shard(
    encoder: E2RankEncoder, beir: Path, undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    def kill() -> None:
        while not children():
            time.sleep(0.01)
        os.kill(children()[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    build(encoder, beir, tmp_path / "i", engine=workers.processes(settings(encoder), ["cpu", "cpu"]))
    killer.join()
    assert contents(tmp_path / "i") == contents(undisturbed)
    assert "(signal 9); started again" in capfd.readouterr().err
    assert not children()


def test_a_worker_that_keeps_failing_is_named(encoder: E2RankEncoder, beir: Path, tmp_path: Path, tiny_model: Path):
    gone = settings(encoder, str(tmp_path / "gone"))
    with pytest.raises(E2RankError, match=r"worker 0 \(cpu\): model .*gone"):
        build(encoder, beir, tmp_path / "i", engine=workers.processes(gone, ["cpu"]))
    poisoned = settings(encoder)._replace(dtype="float32", batch_tokens="many")  # type: ignore[arg-type]
    with pytest.raises(E2RankError, match=r"worker 0 \(cpu\): died 3 times over shard 00000 \(TypeError"):
        build(encoder, beir, tmp_path / "i", engine=workers.processes(poisoned, ["cpu"]))
    assert not children()


def test_what_is_made_ahead_comes_in_order_and_one_at_a_time():
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            yield number

    for number in ahead(items()):
        deadline = time.monotonic() + 30
        while len(made) < min(number + 2, 5):  # made by the thread, without being asked for
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert made == list(range(min(number + 2, 5)))


def test_an_error_made_ahead_is_raised_after_what_was_before():
    def items() -> Iterator[int]:
        yield 1
        raise E2RankError("corpus.jsonl:2: expected a text")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(E2RankError, match=r"corpus\.jsonl:2"):
        next(found)


def test_a_shard_that_cannot_be_written_stops_the_build_with_its_error(
    encoder: E2RankEncoder, beir: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write = Shards.write

    def failing(self: Shards, task: Task, *rest: object) -> Shard:
        if task.number == 2:
            raise E2RankError("no room for shard 2")
        return write(self, task, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Shards, "write", failing)
        with pytest.raises(E2RankError, match="no room for shard 2"):
            build(encoder, beir, tmp_path / "i")
    build(encoder, beir, tmp_path / "i")
    assert contents(tmp_path / "i") == contents(undisturbed)


def test_a_folder_is_removed_though_a_thread_is_at_its_last_file(tmp_path: Path):
    """As the one that writes shards is when its job is interrupted."""
    import threading
    import time

    from e2rank_pyserini.directories import removed

    place = tmp_path / "shards"
    place.mkdir()
    (place / "manifest.json").write_text("{}")
    until = time.monotonic() + 0.2

    def late() -> None:
        while time.monotonic() < until:
            with contextlib.suppress(FileNotFoundError):
                (place / "late").write_text("x")

    writer = threading.Thread(target=late)
    writer.start()
    removed(place, last="manifest.json")
    writer.join()
    assert not place.exists()


def test_shards_are_of_one_model_dtype_text_and_corpus():
    model = {"name": "m", "identity": "i", "pooling": "last", "eos": "e", "lengths": {"document": 8, "query": 4}}
    settings: dict[str, Any] = {"model": model, "dim": 4, "dtype": "float32", "document_template": "{text}"}
    settings |= {"shard_documents": 6, "corpus_fingerprint": "x"}
    others = [{**model, key: "other"} for key in ("identity", "pooling", "eos")]
    others.append({**model, "lengths": {"document": 9, "query": 4}})
    changed = [{**settings, "model": other} for other in others]
    changed += [{**settings, key: "other"} for key in settings if key != "model"]
    for other in changed:
        assert Shards("s", other).made != Shards("s", settings).made
        with pytest.raises(E2RankError, match="s: begun with "):
            check_same(settings, other, "s")
    longer_queries = {**settings, "model": {**model, "lengths": {"document": 8, "query": 5}}}
    assert Shards("s", longer_queries).made == Shards("s", settings).made
    check_same(settings, longer_queries, "s")


def test_documents_are_told_from_others_by_where_one_ends():
    tasks = [(("1", "2"), ("a", "b")), (("12",), ("ab",)), (("1",), ("2a", "b")), (("1", "2"), ("a", "c"))]
    assert len({Task(0, docids, texts).digest for docids, texts in tasks}) == 4


def test_damage_behind_a_url_is_seen_where_the_bytes_are_read(tmp_path: Path):
    fsspec.filesystem("memory").mkdirs("/bucket", exist_ok=True)
    shards = Shards("memory://bucket/damaged", {"model": {}, "dim": 4})
    shard = shards.write(Task(0, ("a",), ("x",)), np.eye(1, 4, dtype=np.float32), {})
    [found] = shards.vectors([shard])
    assert found.tolist() == [[1, 0, 0, 0]]
    content = shards.folder.read("00000/index")
    shards.folder.write("00000/index", content[:-1] + b"\x01")
    with pytest.raises(E2RankError, match="index: its bytes are not those that were written"):
        list(shards.vectors([shard]))
    assert shards.folder.size("00000/shard.json") is None  # or it would never be encoded again
