"""Docids against a plain list and dict, Seen against a plain set, under good hashes and bad ones."""

import json
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from e2rank_pyserini.corpus import Corpus, documents, unrepeated
from e2rank_pyserini.docids import Docids, Seen, polynomial
from e2rank_pyserini.shards.encoding import planned
from e2rank_pyserini.shards.folder import Shards, Task
from e2rank_pyserini.trec import read_lines
from e2rank_pyserini.types import Document, E2RankError

T = TypeVar("T")

SAME_PLACE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)  # files written anew
BITS = ["a", "b", "7", "é", "文", "😀", "\n", "\n", "\r", "\r\n", " ", "\t", "\x1c", "\x85", "\u3000", "\ufeff", "\0"]
BYTES = [b"a", b"\xc3", b"\xa9", b"\xef\xbb\xbf", b"\xff", b"\xed\xa0\x80", b"\n", b"\r", b" "]
DOCIDS = st.lists(st.text("ab7é文", min_size=1, max_size=4), max_size=40)
HASHES = {
    "good": polynomial,
    "the first byte": lambda text, starts: text[starts].astype(np.uint64) << np.uint64(56),
    "none": lambda text, starts: np.zeros(len(starts), np.uint64),
}
hashes = pytest.mark.parametrize("hashed", HASHES.values(), ids=HASHES)


def plain(path: Path) -> list[str]:
    docids = []
    for number, docid in enumerate(map(str.rstrip, read_lines(path)), start=1):
        if docid.split() != [docid]:
            raise E2RankError(f"{path}:{number}: expected a docid without blanks, got {docid!r}")
        docids.append(docid)
    return docids


def outcome(read: Callable[[], list[str]]) -> list[str] | str:
    try:
        return read()
    except E2RankError as error:
        return str(error)


def written(place: Path, docids: list[str]) -> Docids:
    (place / "docid").write_text("".join(f"{docid}\n" for docid in docids), encoding="utf-8")
    return Docids([place / "docid"])


def same(paths: list[Path]) -> None:
    """Docids says, or refuses, what the plain reader does."""
    expected = outcome(lambda: [docid for path in paths for docid in plain(path)])
    assert outcome(lambda: list(Docids(paths))) == expected


# the docid files of an index


@SAME_PLACE
@given(st.lists(st.lists(st.sampled_from(BITS)).map(lambda bits: "".join(bits).encode()), min_size=1, max_size=3))
def test_any_files_are_read_as_lines_are(tmp_path: Path, contents: list[bytes]):
    paths = [tmp_path / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    same(paths)


@SAME_PLACE
@given(
    st.lists(st.sampled_from([b"a", b"\xc3", b"\xa9", b"\xef\xbb\xbf", b"\xff", b"\xed\xa0\x80", b"\n", b"\r", b" "]))
)
def test_any_bytes_are_read_as_lines_are(tmp_path: Path, content: list[bytes]):
    (tmp_path / "docid").write_bytes(b"".join(content))
    same([tmp_path / "docid"])


@SAME_PLACE
@given(DOCIDS, st.sampled_from(["\n", "\r\n", " \n", "\u3000\n", "\t \r\n"]), st.sampled_from(["", "\ufeff"]))
def test_ends_of_lines_and_a_byte_order_mark_are_no_part_of_a_docid(
    tmp_path: Path, docids: list[str], end: str, mark: str
):
    whole = mark + "".join(docid + end for docid in docids)
    for content in (whole, whole.removesuffix(end)):
        (tmp_path / "docid").write_bytes(content.encode())
        assert list(Docids([tmp_path / "docid"])) == docids


@pytest.mark.parametrize("letter", ["x", "é"])
@pytest.mark.parametrize(
    ("line", "message"), [("a b", ":150001: expected a docid without blanks, got 'a b'"), ("", ":150001: .* got ''")]
)
def test_a_blank_far_down_is_named(tmp_path: Path, letter: str, line: str, message: str):
    lines = [*(f"{letter}{row}" for row in range(150_000)), line, "end"]
    with pytest.raises(E2RankError, match=f"docid{message}"):
        written(tmp_path, lines)


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, path: str):
    with pytest.raises(E2RankError, match=r"no such file|cannot be read"):
        Docids([tmp_path / path])


def test_many_docids_of_every_length(tmp_path: Path):
    """More than one piece, and a docid longer than a piece."""
    draw = np.random.default_rng(0)
    docids = [f"{row:x}" + "é~z"[row % 3] * int(draw.integers(0, 30)) for row in range(100_000)]
    docids[40_000] = "long" * 200_000
    opened = written(tmp_path, docids)
    assert (len(opened), list(opened), opened == docids) == (100_000, docids, True)
    assert opened.repeated() == 0
    rows = draw.permutation(100_000)[:20_000]
    np.testing.assert_array_equal(opened.rows([docids[row] for row in rows]), rows)
    assert opened.rows(["", "0\n", "long", docids[40_000], docids[40_000][:-1]]).tolist() == [-1, -1, -1, 40_000, -1]


@SAME_PLACE
@given(DOCIDS, st.integers(-50, 50), st.slices(40))
def test_it_is_a_sequence(tmp_path: Path, docids: list[str], row: int, part: slice):
    opened = written(tmp_path, docids)
    assert opened == docids
    assert opened != [*docids, "more"]
    assert opened[part] == docids[part]
    assert list(reversed(opened)) == docids[::-1]
    if -len(docids) <= row < len(docids):
        assert opened[row] == docids[row]
    else:
        with pytest.raises(IndexError):
            opened[row]


@hashes
@SAME_PLACE
@given(docids=DOCIDS, sought=st.lists(st.text("ab7é文\n \ud800", max_size=4)), cut=st.integers(0, 40))
def test_rows_and_repeated_are_those_of_a_dict(
    tmp_path: Path, hashed: Callable, docids: list[str], sought: list[str], cut: int
):
    for name, part in (("one", docids[:cut]), ("two", docids[cut:])):
        (tmp_path / name).write_text("".join(f"{docid}\n" for docid in part), encoding="utf-8")
    opened = Docids([tmp_path / "one", tmp_path / "two"], hashed)
    sought += docids
    first = {docid: row for row, docid in reversed(list(enumerate(docids)))}
    assert opened.rows(sought).tolist() == [first.get(docid, -1) for docid in sought]
    assert opened.repeated() == len(docids) - len(first)


@pytest.mark.parametrize("row", [1, 65534, 65535, 65536, 99_999])
def test_one_repetition_among_many_is_counted(tmp_path: Path, row: int):
    """Wherever it stands in the table: this hash keeps the order of the docids."""

    def ordered(text: np.ndarray, starts: np.ndarray) -> np.ndarray:
        return (text.reshape(-1, 7)[:, :6] @ 10 ** np.arange(6)[::-1]).astype(np.uint64) << np.uint64(32)

    written(tmp_path, [f"{number:06}" for number in [*range(100_000), row]])
    opened = Docids([tmp_path / "docid"], ordered)
    assert opened.repeated() == 1
    assert opened.rows([f"{row:06}", "099998"]).tolist() == [row, 99_998]


@given(st.lists(st.binary(max_size=30), min_size=1))
def test_the_hash_is_a_polynomial(stretches: list[bytes]):
    stretches = [one + b"\n" for one in stretches]
    expected = []
    for one in stretches:
        value = sum(byte * pow(0x9E3779B97F4A7C15, place, 1 << 64) for place, byte in enumerate(one)) % (1 << 64)
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            value = ((value ^ value >> 33) * factor) % (1 << 64)
        expected.append(value ^ value >> 33)
    starts = np.cumsum([0, *map(len, stretches)])[:-1]
    assert polynomial(np.frombuffer(b"".join(stretches), np.uint8), starts).tolist() == expected


def test_hashes_of_numbers_spread():
    """As many of 200,000 share their upper 32 bits as do of random numbers (4.7 pairs), or nearly."""
    text = "".join(f"{number:09}\n" for number in range(200_000)).encode()
    found = polynomial(np.frombuffer(text, np.uint8), np.arange(0, len(text), 10))
    assert len(np.unique(found)) == 200_000
    assert len(np.unique(found >> np.uint64(32))) > 200_000 - 25


def test_a_docid_takes_sixteen_bytes(tmp_path: Path):
    written(tmp_path, [f"doc{row:09}" for row in range(300_000)]).repeated()
    tracemalloc.start()
    opened = Docids([tmp_path / "docid"])
    assert opened.repeated() == 0
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / 300_000 < 17
    assert peak / 300_000 < 30  # with what is made of a piece, which is constant


# the docids of a corpus


def known_again(batches: list[list[str]], hashed: Callable[[str], int]) -> list[set[str]]:
    """For each batch the docids whose hash is in an earlier one, or in it more than once."""
    found, known = [], set()
    for batch in batches:
        times = Counter(map(hashed, batch))
        found.append({docid for docid in batch if hashed(docid) in known or times[hashed(docid)] > 1})
        known |= times.keys()
    return found


@given(st.lists(DOCIDS))
def test_suspects_are_what_a_set_says(batches: list[list[str]]):
    seen = Seen()
    assert [seen.suspects(batch) for batch in batches] == known_again(batches, str)


@given(st.lists(st.lists(st.integers(0, 300).map(str), max_size=30), max_size=30), st.integers(1, 400))
def test_a_weak_hash_overlooks_none(batches: list[list[str]], values: int):
    def hashed(docid: str) -> int:
        return int(docid) % values

    seen = Seen(hashed)
    assert [seen.suspects(batch) for batch in batches] == known_again(batches, hashed)


def test_a_seen_docid_takes_eight_bytes():
    seen = Seen()
    tracemalloc.start()
    for start in range(0, 500_000, 1000):
        assert not seen.suspects([str(number) for number in range(start, start + 1000)])
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / 500_000 < 9
    assert peak / 500_000 < 20
    docids = [str(number) for number in range(0, 600_000, 100)]
    assert seen.suspects(docids) == set(docids[:5000])


def corpus(path: Path, docids: list[str], end: str = "") -> str:
    path.write_text("".join(json.dumps({"_id": docid, "text": "x"}) + "\n" for docid in docids) + end)
    return str(path)


def ended(items: Iterator[T]) -> tuple[list[T], str]:
    """What is given before an error, and the error."""
    before: list[T] = []
    try:
        for item in items:
            before.append(item)
    except E2RankError as error:
        return before, str(error)
    return before, ""


def docids_of(found: Iterator[Document]) -> tuple[list[str], str]:
    before, error = ended(found)
    return [document.docid for document in before], error


@SAME_PLACE
@given(docids=st.lists(st.integers(0, 60).map(str), min_size=1, max_size=30), values=st.integers(1, 80))
def test_a_shared_hash_refuses_no_sound_corpus(tmp_path: Path, docids: list[str], values: int):
    source = corpus(tmp_path / "c.jsonl", docids)
    second = next((line for line, docid in enumerate(docids, start=1) if docid in docids[: line - 1]), None)
    expected = (docids, "")
    if second is not None:
        expected = ([], f"{source}:{second}: document {docids[second - 1]} appears twice")
    assert docids_of(unrepeated(source, Seen(lambda docid: int(docid) % values))) == expected


@pytest.mark.parametrize(("second", "first"), [(2999, 2998), (2999, 0), (2048, 2047), (2047, 400), (1, 0)])
@pytest.mark.parametrize("hashed", [hash, lambda docid: min(int(docid), 2990)], ids=["good", "weak"])
def test_a_repeated_docid_is_found_before_its_batch_is_given(
    tmp_path: Path, second: int, first: int, hashed: Callable[[str], int]
):
    docids = [str(number) for number in range(3000)]
    docids[second] = docids[first]
    source = corpus(tmp_path / "c.jsonl", docids)
    expected = (docids[: second // 1024 * 1024], f"{source}:{second + 1}: document {first} appears twice")
    assert docids_of(unrepeated(source, Seen(hashed))) == expected


@pytest.mark.parametrize("count", [0, 3, 1024, 1500])
def test_what_stands_before_a_broken_line_is_given(tmp_path: Path, count: int):
    docids = [str(number) for number in range(count)]
    source = corpus(tmp_path / "c.jsonl", docids, "{")
    before, error = docids_of(documents(source))
    assert before == docids
    assert error.startswith(f"{source}:{count + 1}: not JSON")


def test_a_repeated_docid_before_a_broken_line_is_told_first(tmp_path: Path):
    source = corpus(tmp_path / "c.jsonl", ["a", "b", "a"], "{")
    assert docids_of(documents(source)) == ([], f"{source}:3: document a appears twice")


@pytest.mark.parametrize("size", [999, 1024, 4096, 5000])
def test_no_shard_with_a_repeated_docid_is_planned(tmp_path: Path, size: int):
    docids = [str(number) for number in range(9000)]
    docids[8500] = "8499"
    source = corpus(tmp_path / "c.jsonl", docids)
    shards = Shards(str(tmp_path / "s"), {"shard_documents": size, "document_template": "{text}", "dim": 4})
    tasks, error = ended(planned(Corpus(source), shards))
    assert error == f"{source}:8501: document 8499 appears twice"
    given = [docid for task in tasks if isinstance(task, Task) for docid in task.docids]
    assert given == docids[: 8192 // size * size]  # of eight whole batches the whole shards
