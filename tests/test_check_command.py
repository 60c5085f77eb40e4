"""`e2rank check` on directories whose bytes are as written, or which do not say: counts and vectors."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from e2rank_pyserini.cli import main
from e2rank_pyserini.integrity import hashes
from e2rank_pyserini.sealed import seal

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def copy(tiny_index: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_index, tmp_path / "i")
    return tmp_path / "i"


def said(place: Path, capfd: Capture) -> tuple[int, str]:
    capfd.readouterr()
    return main(["check", str(place)]), capfd.readouterr().out.removeprefix(f"{place}: ").rstrip("\n")


def rewrite(place: Path, **changes: Any) -> None:
    """A sidecar that says something else, its hashes and its seal in order."""
    record = {**json.loads((place / "e2rank.json").read_text()), **changes, **hashes(place)}
    (place / "e2rank.json").write_text(json.dumps(seal(record)))


def vectors(place: Path, change: Callable[[np.ndarray], None]) -> None:
    stored = faiss.read_index(str(place / "index")).reconstruct_n(0, 40)
    change(stored)
    index = faiss.IndexFlatIP(64)
    index.add(stored)
    faiss.write_index(index, str(place / "index"))


def long(rows: np.ndarray) -> None:
    rows[7] *= 1.01


def not_numbers(rows: np.ndarray) -> None:
    rows[39, 5] = np.nan


def test_a_directory_of_this_machine_may_be_a_url_and_no_other(copy: Path, capfd: Capture):
    assert main(["check", f"file://{copy}"]) == 0
    assert capfd.readouterr().out.startswith(f"file://{copy}: ok: ")
    assert main(["check", "memory://there"]) == 1
    assert capfd.readouterr().err == "e2rank check: memory://there: is not on this machine; copy it here to check it\n"


def test_a_directory_without_sidecar_is_checked_as_far_as_it_can_be(copy: Path, capfd: Capture):
    (copy / "e2rank.json").unlink()
    vectors(copy, long)
    code, told = said(copy, capfd)
    assert (code, told[:42]) == (0, "ok: 40 documents, 64 dimensions; no e2rank")
    vectors(copy, not_numbers)
    assert said(copy, capfd) == (1, f"damaged: {copy}/index: the vector of document 039 has length nan, not 1")


def test_vectors_of_ours_have_length_1(copy: Path, capfd: Capture):
    vectors(copy, long)
    rewrite(copy)
    assert said(copy, capfd) == (1, f"damaged: {copy}/index: the vector of document 007 has length 1.01, not 1")


def test_the_hashes_cannot_be_taken_out_of_a_sidecar_by_losing_its_seal(copy: Path, capfd: Capture):
    record = json.loads((copy / "e2rank.json").read_text())
    del record["sha256"]
    (copy / "e2rank.json").write_text(json.dumps(record))
    assert said(copy, capfd)[1].endswith("/e2rank.json: expected a record with its seal (sha256), got none")


@pytest.mark.parametrize(("key", "value"), [("documents", 41), ("dim", 32)])
def test_counts_that_disagree(copy: Path, capfd: Capture, key: str, value: int):
    rewrite(copy, **{key: value})
    code, told = said(copy, capfd)
    assert (code, told.split(": ", 2)[2][:37]) == (1, f"e2rank.json says {key} {value}, the index holds"[:37])


def test_fewer_docids_than_vectors(copy: Path, capfd: Capture):
    (copy / "docid").write_text("000\n")
    rewrite(copy)
    code, told = said(copy, capfd)
    assert code == 1
    assert "40 vectors but 1 docids" in told


def test_both_files_are_named(copy: Path, capfd: Capture):
    for name in ("index", "docid"):
        (copy / name).write_bytes((copy / name).read_bytes()[:-1])
    _, told = said(copy, capfd)
    assert f"{copy}/index: its bytes" in told
    assert f"{copy}/docid: its bytes" in told
