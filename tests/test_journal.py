"""The journal against every cut and flipped bit; an encoder with a memory against a plain one; every option resumed."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from e2rank_pyserini import directories
from e2rank_pyserini.cli import main
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.journal import Journal
from e2rank_pyserini.remembering import Memory
from e2rank_pyserini.timing import recording, so_far
from e2rank_pyserini.types import E2RankError, ListwisePrompt, Vectors
from tests.conftest import sentences

ENTRIES = [({"a": 1}, b""), ({"b": "ü\n"}, b"\n\x00" * 9), ({"c": [2]}, b"x"), ({}, bytes(range(50)))]
DOCUMENTS, QUERIES = sentences(50, seed=1), sentences(9, seed=2, most=9)
PROMPTS = [ListwisePrompt(query, tuple(DOCUMENTS[n : n + 5]), "Rank") for n, query in enumerate(QUERIES)]
Calls = list[Callable[[E2RankEncoder], Vectors]]
CALLS: Calls = [
    lambda encoder: encoder.encode_documents(DOCUMENTS),
    lambda encoder: encoder.encode_queries(QUERIES),
    lambda encoder: encoder.encode_queries(QUERIES, "Another task"),
    lambda encoder: encoder.encode_prompts(PROMPTS),
    lambda encoder: encoder.encode_documents([]),
    lambda encoder: encoder.encode_documents(DOCUMENTS[:3]),
]


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[int]]:
    """A journal of ENTRIES, and where each ends."""
    journal, ends = Journal(tmp_path / "out"), [0]
    for entry in ENTRIES:
        journal.append(*entry)
        ends.append(journal.path.stat().st_size)
    journal.close(keep=True)
    return journal.path, ends


def held(journal: Journal) -> list[tuple[dict[str, Any], bytes]]:
    return [(entry.about, journal.data(entry)) for entry in journal.entries]


def test_what_was_appended_is_held_and_gone_once_finished(written: tuple[Path, list[int]], tmp_path: Path):
    journal = Journal(tmp_path / "out")
    assert held(journal) == ENTRIES
    journal.close(keep=False)
    assert list(tmp_path.iterdir()) == []


def test_a_journal_broken_off_at_any_byte(written: tuple[Path, list[int]], tmp_path: Path, capsys):
    path, ends = written
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        journal = Journal(tmp_path / "out")
        sound = sum(end <= length for end in ends) - 1
        assert held(journal) == ENTRIES[:sound]
        cut = length - ends[sound]
        told = f"journal: {path}: broken off or damaged at byte {ends[sound]}: its last {cut} bytes are cut off"
        assert capsys.readouterr().err.startswith(told if cut else "")
        journal.append({"new": length}, b"data")
        journal.close(keep=True)
        again = Journal(tmp_path / "out")
        assert held(again) == [*ENTRIES[:sound], ({"new": length}, b"data")]
        assert capsys.readouterr().err == ""
        again.close(keep=True)


def test_any_flipped_bit_is_found_and_costs_what_follows(written: tuple[Path, list[int]], tmp_path: Path, capsys):
    path, ends = written
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        journal = Journal(tmp_path / "out")
        sound = sum(end <= bit // 8 for end in ends) - 1
        assert held(journal) == ENTRIES[:sound]
        assert f"damaged at byte {ends[sound]}:" in capsys.readouterr().err
        assert path.stat().st_size == ends[sound]
        journal.close(keep=True)


def test_a_second_holder_is_refused_until_the_first_lets_go(tmp_path: Path):
    (tmp_path / "link").symlink_to(tmp_path / "out")
    first = Journal(tmp_path / "out")
    for name in ("out", "link"):
        with pytest.raises(E2RankError, match="another process is making it"):
            Journal(tmp_path / name)
    first.append({}, b"kept")
    first.close(keep=True)
    second = Journal(tmp_path / "link")
    assert held(second) == [({}, b"kept")]
    second.close(keep=False)


def test_a_journal_that_goes_while_it_is_opened_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first holder finishes between our opening of its file and our lock."""
    first, flock = Journal(tmp_path / "out"), directories.fcntl.flock

    def finishing(file: int, how: int) -> None:
        monkeypatch.setattr(directories.fcntl, "flock", flock)
        first.close(keep=False)
        flock(file, how)

    monkeypatch.setattr(directories.fcntl, "flock", finishing)
    ours = Journal(tmp_path / "out")
    ours.append({}, b"ours")
    assert b"ours" in (tmp_path / ".out.unfinished").read_bytes()
    ours.close(keep=False)


def test_where_nothing_can_be_locked_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def refuse(file: int, how: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(directories.fcntl, "flock", refuse)
    Journal(tmp_path / "out").close(keep=False)
    assert "cannot be locked (Function not implemented)" in capsys.readouterr().err


def test_what_cannot_be_a_journal_is_one_line(tmp_path: Path):
    (tmp_path / ".out.unfinished").mkdir()
    with pytest.raises(E2RankError, match=r"\.out\.unfinished: cannot be written: it is a directory"):
        Journal(tmp_path / "out")


def test_a_link_in_a_journals_place_is_not_followed(tmp_path: Path):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / ".out.unfinished").symlink_to("mine")
    with pytest.raises(E2RankError, match=r"\.out\.unfinished: cannot be kept: "):
        Journal(tmp_path / "out")
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize("body", [b"hello\n", b"[1]\n", b"{}\n", b"[" * 50_000 + b"\n", b'{"settings": 1}\n'])
def test_sound_entries_that_are_not_ours_are_one_line(tmp_path: Path, plain: E2RankEncoder, body: bytes):
    head = len(body).to_bytes(8, "little") + hashlib.sha256(body).digest()
    (tmp_path / ".out.unfinished").write_bytes(head + body)
    with pytest.raises(E2RankError, match=r"^[^\n]*\.out\.unfinished: holds entries that are not ours; remove it$"):
        Memory(tmp_path / "out", plain)


@pytest.fixture
def passes() -> Iterator[list[int]]:
    """The rows of every forward pass; the one that is negative here, counted down to zero, kills."""
    seen: list[int] = []

    def done(module: torch.nn.Module, inputs: Any, _: Any) -> None:
        if type(module).__name__ == "Qwen3RotaryEmbedding":  # once a pass, told every token's position
            if seen[:1] == [-1]:
                raise KeyboardInterrupt
            if seen and seen[0] < 0:
                seen[0] += 1
            else:
                seen.append(int((inputs[1] == 0).sum()))

    hook = torch.nn.modules.module.register_module_forward_hook(done)
    yield seen
    hook.remove()


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> E2RankEncoder:
    return E2RankEncoder.load(str(tiny_model), device="cpu", batch_tokens=600)


def fresh(plain: E2RankEncoder) -> E2RankEncoder:
    return E2RankEncoder(plain.spec, plain.network, plain.tokens.tokenizer, plain.identity, batch_tokens=600)


@pytest.mark.usefixtures("one_thread")
def test_killed_after_any_pass_the_memory_gives_a_plain_encoders_bytes_and_counts(
    plain: E2RankEncoder, passes: list[int], tmp_path: Path, capsys
):
    once = fresh(plain)
    expected = [call(once).tobytes() for call in CALLS]
    rows = list(passes)
    assert len(rows) > 10
    for killed_at in range(1, len(rows) + 1, 3):
        encoder = fresh(plain)
        encoder.forward.memory = memory = Memory(tmp_path / "out", encoder)
        passes[:] = [-killed_at]
        with pytest.raises(KeyboardInterrupt):
            _ = [call(encoder) for call in CALLS]
        memory.leave(interrupted=True)
        before = sum(rows[: killed_at - 1])
        said = f"journal: {before} texts are encoded and kept; the same command goes on with them\n" if before else ""
        assert capsys.readouterr().err == said
        assert (tmp_path / ".out.unfinished").exists() == bool(before)
        passes.clear()
        encoder = fresh(plain)
        encoder.forward.memory = memory = Memory(tmp_path / "out", encoder)
        with recording():
            assert [call(encoder).tobytes() for call in CALLS] == expected
            seconds = so_far()
        assert sum(seconds[part] for part in ("tokenise", "encode", "journal")) <= seconds["total"]
        assert passes == rows[killed_at - 1 :]
        assert encoder.tally == once.tally
        memory.finish()
        told = f"journal: {before} of the {sum(rows)} texts were encoded before and not again"
        assert (told in capsys.readouterr().err) == bool(before)
        assert list(tmp_path.iterdir()) == []


def test_the_seconds_of_a_killed_process_count(plain: E2RankEncoder, tmp_path: Path):
    encoder = fresh(plain)
    memory = Memory(tmp_path / "out", encoder)
    memory([[1, 2]], [2], lambda: np.ones((1, encoder.dim), dtype=np.float32))
    memory.leave()
    path = tmp_path / ".out.unfinished"
    old = Journal(tmp_path / "out")
    (settings, _), (about, data) = held(old)
    old.close(keep=False)
    new = Journal(tmp_path / "out")
    new.append(settings)
    new.append({**about, "seconds": 100.0}, data)
    new.close(keep=True)
    assert path.exists()
    memory = Memory(tmp_path / "out", encoder)
    with recording():
        for _ in range(2):  # once spent, once counted
            memory([[1, 2]], [2], lambda: pytest.fail("encoded again"))
        assert so_far()["encode"] == 100
        assert 100 < so_far()["total"] < 110
    memory.finish()


def test_a_batch_is_known_by_all_that_makes_its_vectors(plain: E2RankEncoder, tmp_path: Path):
    memory = Memory(tmp_path / "out", plain)
    asked = [([[1, 2], [3]], [2, 1]), ([[1], [2, 3]], [1, 2]), ([[1, 2], [3]], [1, 1]), ([[1, 2, 3]], [3])]
    for number, (rows, ends) in enumerate(asked):
        made = np.full((len(rows), plain.dim), number, dtype=np.float32)
        assert (memory(rows, ends, lambda made=made: made) == number).all()
    for number, (rows, ends) in enumerate(asked):
        assert (memory(rows, ends, lambda: pytest.fail("not known")) == number).all()
    memory.finish()


def test_other_settings_are_named_not_used_and_not_lost(
    plain: E2RankEncoder, passes: list[int], tmp_path: Path, capsys
):
    encoder = fresh(plain)

    def encoded() -> str:
        """With a memory, without finishing; what was said at its beginning."""
        passes.clear()
        encoder.forward.memory = memory = Memory(tmp_path / "out", encoder)
        said = capsys.readouterr().err
        encoder.encode_queries(QUERIES)
        memory.leave()
        capsys.readouterr()
        return said

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert encoded() == ""
        assert passes
        torch.set_num_threads(2)
        assert encoded() == "journal: 9 texts were encoded with other settings (threads 1, now 2): not used\n"
        assert passes
        encoder.identity = "another"
        assert "(model's identity 'another', now" not in (said := encoded())
        assert "other settings (model's identity" in said
        assert passes
        encoder.identity = plain.identity
        torch.set_num_threads(1)
        assert "journal: goes on with 9 texts" in encoded()
        assert not passes
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def half_index(tiny_model: Path, beir: Path, tmp_path: Path) -> Path:
    """An index that lacks every other document."""
    lines = (beir / "corpus.jsonl").read_text().splitlines()
    (tmp_path / "half.jsonl").write_text("\n".join(lines[::2]) + "\n")
    place = tmp_path / "half"
    words = ["--corpus", str(tmp_path / "half.jsonl"), "--encoder", str(tiny_model), "--output", str(place)]
    assert main(["index", *words]) == 0
    return place


@pytest.mark.usefixtures("one_thread")
def test_every_kind_of_refining_goes_on(
    toy_run: Path, beir: Path, half_index: Path, passes: list[int], tmp_path: Path, capsys
):
    output = tmp_path / "out" / "run.trec"
    common = ["--run", str(toy_run), "--dataset", str(beir), "--index", str(half_index), "--output", str(output)]
    for words in (
        ["rerank", "--passes", "2", "--depth", "12"],
        ["rerank", "--window", "4", "--stride", "2", "--depth", "8"],
        ["rerank", "--by", "query"],
        ["rerank", "--by", "rocchio", "--interpolate", "rocchio=1", "query=1", "first=1"],
        ["feedback", "--by", "average", "--window", "9"],
        ["feedback", "--order", "shuffle"],
    ):
        words = [*words, *common, "--batch-tokens", "700"]
        passes.clear()
        assert main(words) == 0
        expected, record, rows = output.read_bytes(), _record(output), list(passes)
        output.unlink()
        Path(f"{output}.json").unlink()
        killed_at = max(2, len(rows) // 2 + 1)
        passes[:] = [-killed_at]
        capsys.readouterr()
        assert main(words) == 130
        kept = re.search(r"journal: (\d+) texts are encoded and kept; the same command", capsys.readouterr().err)
        assert int(kept[1]) == sum(rows[: killed_at - 1])
        assert [file.name for file in output.parent.iterdir()] == [".run.trec.unfinished"]
        passes.clear()
        assert main(words) == 0
        assert passes == rows[killed_at - 1 :]
        assert f"journal: {kept[1]} of the {sum(rows)} texts were encoded before" in capsys.readouterr().err
        assert output.read_bytes() == expected
        assert _record(output) == record
        assert sorted(file.name for file in output.parent.iterdir()) == ["run.trec", "run.trec.json"]


def test_other_options_take_what_is_the_same(toy_run: Path, beir: Path, tiny_index: Path, passes: list[int], tmp_path):
    words = ["rerank", "--run", str(toy_run), "--dataset", str(beir), "--index", str(tiny_index)]
    words += ["--window", "4", "--batch-tokens", "1"]  # a prompt a batch
    assert main([*words, "--output", str(tmp_path / "expected")]) == 0
    rows = list(passes)
    passes[:] = [-3]
    assert main([*words, "--output", str(tmp_path / "out")]) == 130
    passes.clear()
    assert main([*words, "--depth", "20", "--output", str(tmp_path / "out")]) == 0
    assert passes == rows[2:]


def _record(output: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(Path(f"{output}.json").read_text())
    assert record.pop("seconds")
    return record


def test_an_entry_is_whole_though_it_is_taken_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    journal, write = Journal(tmp_path / "out"), os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, content: write(file, content[:7]))
        journal.append({"batch": 1}, b"x" * 100)
        journal.append({"batch": 2}, b"y" * 100)
    journal.close(keep=True)
    again = Journal(tmp_path / "out")
    assert [again.data(entry) for entry in again.entries] == [b"x" * 100, b"y" * 100]
    again.close(keep=False)
