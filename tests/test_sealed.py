"""A sealed record comes back as it was; any other content is refused by name."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from e2rank_pyserini.sealed import read_sealed, seal
from e2rank_pyserini.types import E2RankError

RECORD = {"format": 1, "model": {"name": "größer", "eos": None}, "sizes": [3, 2.5, 1e-7], "kept": True}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


def written(path: Path, record: dict[str, Any], **layout: Any) -> Path:
    path.write_text(json.dumps(record, **layout) + "\n", encoding="utf-8")
    return path


def test_the_seal_is_the_hash_of_the_canonical_text():
    canonical = '{"a":[1,2],"b":"\\u00e9"}'
    assert seal({"b": "é", "a": [1, 2]}) == {
        "b": "é",
        "a": [1, 2],
        "sha256": hashlib.sha256(canonical.encode()).hexdigest(),
    }


def test_sealing_again_changes_nothing():
    assert seal(seal(RECORD)) == seal(RECORD)


@pytest.mark.parametrize("layout", [{}, {"indent": 1, "ensure_ascii": False}, {"sort_keys": True}])
def test_the_layout_of_the_file_does_not_matter(tmp_path: Path, layout: dict[str, Any]):
    assert read_sealed(written(tmp_path / "r.json", seal(RECORD), **layout)) == seal(RECORD)


@settings(derandomize=True, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(record=st.dictionaries(st.text(), VALUES))
def test_every_record_comes_back(tmp_path: Path, record: dict[str, Any]):
    assert read_sealed(written(tmp_path / "r.json", seal(record))) == seal(record)


def test_every_flipped_bit_is_found(tmp_path: Path):
    path = written(tmp_path / "r.json", seal(RECORD), indent=1, ensure_ascii=False)
    sound = path.read_bytes()
    for position in range(8 * len(sound)):
        damaged = bytearray(sound)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        if b"1e-07".swapcase() in damaged:  # 1E-07 is the same number
            assert read_sealed(path) == seal(RECORD)
            continue
        with pytest.raises(E2RankError, match=r"r\.json") as caught:
            read_sealed(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 40, -2])
def test_a_file_cut_short_is_refused(tmp_path: Path, length: int):
    path = written(tmp_path / "r.json", seal(RECORD))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(E2RankError, match=r"r\.json: not JSON"):
        read_sealed(path)


def test_a_record_without_seal_is_refused(tmp_path: Path):
    path = written(tmp_path / "r.json", RECORD)
    with pytest.raises(E2RankError, match=r"r\.json: expected a record with its seal"):
        read_sealed(path)


@pytest.mark.parametrize("content", ["[1]", '{"a": "\\ud800"}', '{"sha256": ' + "[" * 90_000, "NaN", "{}\0"])
def test_what_is_no_object_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "r.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(E2RankError, match=r"r\.json"):
        read_sealed(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(E2RankError, match=r"r\.json: no such file"):
        read_sealed(tmp_path / "r.json")
