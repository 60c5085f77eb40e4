"""An error is one line of a length that can be read, whatever a file holds."""

import pytest

from e2rank_pyserini.types import E2RankError, shown


def test_what_is_printable_stays_as_it_is():
    assert (
        str(E2RankError("x.trec:7: größer, 日本: expected 6 columns")) == "x.trec:7: größer, 日本: expected 6 columns"
    )


@pytest.mark.parametrize(
    ("odd", "told"),
    [("\n", "\\n"), ("\x1b[31m", "\\x1b[31m"), ("\u2028", "\\u2028"), ("\ud800", "\\ud800"), ("\0", "\\x00")],
)
def test_what_is_not_is_escaped(odd: str, told: str):
    assert str(E2RankError(f"docid a{odd}b, ü")) == f"docid a{told}b, ü"


def test_a_long_one_keeps_its_beginning_and_its_end():
    told = str(E2RankError(f"x.trec:1: document {'d' * 10**6} appears twice"))
    assert len(told) < 1500
    assert told.startswith("x.trec:1: document ddd")
    assert told.endswith("ddd appears twice")


def test_values_of_any_depth_and_size_are_shown():
    value: list[object] = ["x" * 10**6]
    for _ in range(100_000):
        value = [value, value]
    assert len(shown(value)) < 200
    assert len(shown({"k": "x" * 10**6})) < 200
    assert shown("a\nb") == repr("a\nb")
    assert shown(16**9999) == "a int too large to show"
