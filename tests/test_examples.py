"""Training examples: what is read from each form, what is refused, and that writing keeps everything."""

import gzip
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2rank_pyserini.training.examples import Example, permutation, ranked, read_examples, write_examples
from e2rank_pyserini.types import E2RankError
from tests.faults.limits import within

OURS = {"query": "q", "document": ["a", "b", "c"], "ranking": [3, 1, 2], "source": "s"}
CHAT = [
    {"role": "system", "content": "You rank."},
    {
        "role": "user",
        "content": "Rank these 3 passages for the search query: why.\n\n[1] one\n[7] still one\n[2] two\n[3] three\n"
        "Search Query: why.\nRank them.",
    },
    {"role": "assistant", "content": "[2] > [3] > [1]"},
]


def put(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_the_authors_form(tmp_path: Path):
    bare = {key: value for key, value in OURS.items() if key != "source"}
    graded = {**OURS, "relevance": [0, 0, 2.5]}
    found = read_examples(put(tmp_path / "x.jsonl", OURS, "", bare, graded))
    # of three documents the third is best (3), then the first (2), then the second (1)
    assert found == [
        Example("q", ("a", "b", "c"), (2, 0, 1), "s", (2.0, 1.0, 3.0)),
        Example("q", ("a", "b", "c"), (2, 0, 1), "unknown", (2.0, 1.0, 3.0)),
        Example("q", ("a", "b", "c"), (2, 0, 1), "s", (0.0, 0.0, 2.5)),
    ]


def test_the_other_forms(tmp_path: Path):
    flag = {"query": "q", "pos": ["p"], "neg": ["n", "m"], "pos_scores": [1, 2], "prompt": ""}
    passages = {
        "query_id": "7",
        "query": "q",
        "positive_passages": [{"docid": "1", "title": "T", "text": "p"}],
        "negative_passages": [{"docid": "2", "title": "", "text": "n"}, {"docid": "3", "text": "m"}],
    }
    assert read_examples(put(tmp_path / "x.jsonl", flag, passages, {"id": "x", "messages": CHAT})) == [
        Example("q", ("p", "n", "m"), (0, 1, 2), "unknown", (1.0, 0.0, 0.0)),
        Example("q", ("T p", "n", "m"), (0, 1, 2), "unknown", (1.0, 0.0, 0.0)),
        Example("why", ("one\n[7] still one", "two", "three"), (1, 2, 0), "unknown", (1.0, 3.0, 2.0)),
    ]


def test_of_several_positives_none_is_a_negative(tmp_path: Path):
    """The first is before the negatives, as where it is the only one; the others tie with it."""
    flag = {"query": "q", "pos": ["p", "o", "p", "r"], "neg": ["n", "o", "m"]}
    [found] = read_examples(put(tmp_path / "x.jsonl", flag))
    assert (found.documents, found.relevance) == (("p", "n", "m", "o", "r"), (1.0, 0.0, 0.0, 1.0, 1.0))
    assert found.ranking == (0, 3, 4, 1, 2)
    write_examples(tmp_path / "y.jsonl", [found])
    assert read_examples(tmp_path / "y.jsonl") == [found]


def test_gzip_is_read_and_not_written(tmp_path: Path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(OURS).encode()))
    assert len(read_examples(path)) == 1
    with pytest.raises(E2RankError, match=r"x\.jsonl\.gz: examples are written as plain JSONL"):
        write_examples(path, [])


def test_the_bytes_that_are_written(tmp_path: Path):
    examples = [
        Example("é", ("a", "b"), (1, 0), "s", (1.0, 2.0)),  # what the ranking says by itself
        Example("q", ("a", "b"), (0, 1), "s", (1.0, 0.0)),
    ]
    assert write_examples(tmp_path / "x.jsonl", examples) == 2
    assert (tmp_path / "x.jsonl").read_text() == (
        '{"query": "é", "document": ["a", "b"], "ranking": [2, 1], "source": "s"}\n'
        '{"query": "q", "document": ["a", "b"], "ranking": [1, 2], "source": "s", "relevance": [1.0, 0.0]}\n'
    )


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path):
    (tmp_path / "x.jsonl").write_text("older\n")
    broken = Example("\ud83d", ("a", "b"), (1, 0), "s", (1.0, 2.0))
    with pytest.raises(E2RankError, match="example 1: holds half of a surrogate pair"):
        write_examples(tmp_path / "x.jsonl", [broken])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.jsonl", "older\n")]


def ours(**changes: Any) -> dict[str, Any]:
    return {**OURS, **changes}


def said(number: int, content: Any) -> dict[str, Any]:
    return {"messages": [{**row, "content": content} if place == number else row for place, row in enumerate(CHAT)]}


BAD = [
    ("not-json", "q\ta", "not JSON"),
    ("half-a-line", '{"query": "q", "docu', "not JSON"),
    ("list", "[1]", "expected an object, got list"),
    ("unknown-keys", {"query": "q", "docs": []}, "expected the keys query, document, ranking; or query, pos, neg; or"),
    ("no-ranking", {"query": "q", "document": ["a", "b"]}, 'got ["query", "document"]'),
    ("query-empty", ours(query=" "), 'query: expected text, got text " "'),
    ("query-null", ours(query=None), "query: expected text, got null"),
    ("document-text", ours(document="a b"), "document: expected a list of texts"),
    ("document-number", ours(document=["a", 2, "c"]), 'document: expected a list of texts, got ["a", 2, "c"]'),
    ("one-document", ours(document=["a"], ranking=[1]), "expected at least two documents, got 1"),
    ("ranking-from-zero", ours(ranking=[0, 1, 2]), "ranking: expected each of 1 to 3 once, got [0, 1, 2]"),
    ("ranking-short", ours(ranking=[1, 2]), "ranking: expected each of 1 to 3 once"),
    ("ranking-twice", ours(ranking=[1, 2, 2]), "ranking: expected each of 1 to 3 once"),
    ("ranking-fraction", ours(ranking=[1, 2, 3.0]), "ranking: expected each of 1 to 3 once"),
    ("ranking-true", ours(ranking=[True, 2, 3]), "ranking: expected each of 1 to 3 once"),
    ("ranking-text", ours(ranking="[1] > [2] > [3]"), "ranking: expected each of 1 to 3 once"),
    ("source-number", ours(source=3), "source: expected text, got 3"),
    ("relevance-short", ours(relevance=[1, 0]), "relevance: expected 3 numbers"),
    ("relevance-text", ours(relevance=["1", 0, 2]), 'relevance: expected finite numbers, got text "1"'),
    ("relevance-true", ours(relevance=[1, 0, True]), "relevance: expected finite numbers, got true"),
    ("relevance-nan", ours(relevance=[1, float("nan"), 2]), "relevance: expected finite numbers, got NaN"),
    ("relevance-beyond-floats", ours(relevance=[1, 0, 10**400]), "relevance: expected finite numbers, got 1000"),
    ("relevance-contradicts", ours(relevance=[3, 0, 2]), "document 3 (2) is ranked before document 1 (3)"),
    ("half-surrogate", '{"query": "\\ud83d", "document": ["a", "b"], "ranking": [1, 2]}', "surrogate"),
    ("no-positive", {"query": "q", "pos": [], "neg": ["a", "b"]}, "expected at least one positive"),
    ("no-negative", {"query": "q", "pos": ["a"], "neg": []}, "expected at least one negative that is no positive"),
    ("negatives-positive", {"query": "q", "pos": ["a", "b"], "neg": ["b"]}, "expected at least one negative that is"),
    ("pos-text", {"query": "q", "pos": "abc", "neg": ["a"]}, "pos: expected a list of texts"),
    ("passage-text", {"query": "q", "positive_passages": ["a"], "negative_passages": []}, "expected passages with"),
    ("passages-null", {"query": "q", "positive_passages": None, "negative_passages": []}, "expected passages with"),
    ("messages-text", {"messages": "hello"}, "messages: expected the user's to hold"),
    ("message-without-role", {"messages": [{"content": "x"}]}, "messages: expected a role and a content each"),
    ("no-passages", said(1, "hello"), "messages: expected the user's to hold"),
    ("order-short", said(2, "[2] > [1]"), 'expected an order of the 3 passages ([2] > [1] > …), got text "[2] > [1]"'),
    ("order-with-words", said(2, "Sure: [2] > [3] > [1]"), "expected an order of the 3 passages"),
]


@pytest.mark.parametrize(("row", "fragment"), [pytest.param(row, part, id=name) for name, row, part in BAD])
def test_a_bad_line_is_told_with_its_place(tmp_path: Path, row: Any, fragment: str):
    path = put(tmp_path / "x.jsonl", OURS, row)
    with pytest.raises(E2RankError) as error:
        read_examples(path)
    assert str(error.value).startswith(f"{path}:2: ")
    assert fragment in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_without_examples(tmp_path: Path):
    with pytest.raises(E2RankError, match="no training examples found"):
        read_examples(put(tmp_path / "x.jsonl", "", " "))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[2] > [1] > [3]", (1, 0, 2)),
        (" [2]>[1] >\n[3]\n", (1, 0, 2)),
        ("[2] > [1]", None),
        ("[2] > [1] > [1]", None),
        ("[2] > [1] > [4]", None),
        ("[2] > [1] > [3] > [3]", None),
        ("[0] > [1] > [2]", None),
        ("2 > 1 > 3", None),
        ("[2], [1], [3]", None),
        ("[2] > [1] > [3].", None),
        ("[2] > [1] > [٣]", None),
        ("", None),
    ],
)
def test_permutation(text: str, expected: tuple[int, ...] | None):
    assert permutation(text, 3) == expected


@st.composite
def examples(draw: st.DrawFn) -> Example:
    documents = draw(st.lists(st.text(), min_size=2, max_size=6))
    ranking = draw(st.permutations(range(len(documents))))
    finite = st.floats(allow_nan=False, allow_infinity=False)
    numbers = draw(st.lists(finite, min_size=len(documents), max_size=len(documents)))
    relevance = dict(zip(ranking, sorted(numbers, reverse=True), strict=True))
    query = draw(st.text().filter(str.strip))
    ordered = tuple(relevance[number] for number in range(len(documents)))
    return Example(query, tuple(documents), tuple(ranking), draw(st.text()), ordered)


@given(st.lists(examples(), min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_what_is_written_is_read_again(written: list[Example]):
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.jsonl"
        assert write_examples(path, written) == len(written)
        assert read_examples(path) == written


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    "query document ranking source relevance pos neg positive_passages negative_passages messages role content".split()
)
LIKELY = st.one_of(
    JSON,
    st.lists(st.text(max_size=4), max_size=4),
    st.lists(st.integers(0, 5), max_size=4),
    st.lists(st.dictionaries(st.sampled_from(["role", "content", "title", "text"]), JSON, max_size=2), max_size=3),
)
LINES = st.one_of(st.text(), JSON.map(json.dumps), st.dictionaries(KEYS, LIKELY, max_size=6).map(json.dumps))


@given(LINES)
@settings(deadline=None, max_examples=300)
def test_junk_is_an_error_of_ours_or_an_example(line: str):
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "x.jsonl"
        path.write_text(line, encoding="utf-8")
        found, refusal = [], f"{path}: "
        try:
            found = read_examples(path)
        except E2RankError as error:
            refusal = str(error)
    assert re.match(rf"{re.escape(str(path))}(:\d+)?: ", refusal)
    for example in found:
        assert sorted(example.ranking) == list(range(len(example.documents)))
        assert len(example.relevance) == len(example.documents) >= 2


# --- the samples of other projects ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["msmarco", "nq", "reranker_examples"])
def test_flagembedding(shared: Path, name: str):
    path = shared / "train-extra" / f"flagembedding_{name}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = read_examples(path)
    assert len(found) == len(rows) == 10
    for row, example in zip(rows, found, strict=True):
        assert example.query == row["query"]
        assert list(example.documents) == row["pos"] + row["neg"]
        assert example.relevance == (1.0, *[0.0] * len(row["neg"]))
        assert example.ranking[0] == 0


def test_llm4ranking_listwise(shared: Path):
    path = shared / "train-extra" / "llm4ranking_listwise_train.jsonl"
    rows = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
    found = read_examples(path)
    assert len(found) == len(rows) == 100
    for (_, user, assistant), example in zip(rows, found, strict=True):
        numbered = "\n".join(f"[{number}] {text}" for number, text in enumerate(example.documents, start=1))
        count = len(example.documents)
        assert user["content"].startswith(f"I will provide you with {count} passages, ")
        assert f"search query: {example.query}.\n\n{numbered}\nSearch Query: {example.query}.\n" in user["content"]
        assert " > ".join(f"[{number + 1}]" for number in example.ranking) == assistant["content"]


def test_llm4ranking_pointwise(shared: Path):
    path = shared / "train-extra" / "llm4ranking_pointwise_train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = read_examples(path)
    assert len(found) == len(rows) == 20
    for row, example in zip(rows, found, strict=True):
        first, *others = row["positive_passages"]
        assert example.documents[0] == f"{first['title']} {first['text']}".strip()
        passages = [first, *row["negative_passages"], *others]
        for text, one in zip(example.documents, passages, strict=True):
            assert text.endswith(one["text"].strip())
        assert example.relevance == (1.0, *[0.0] * 30, *[1.0] * len(others))
    assert {len(example.documents) for example in found} == {31, 32}


def test_many_passages_are_read_once(tmp_path: Path):
    count = 50_000
    user = "".join(f"\n[{n}] p" for n in range(1, count + 1)) + "\n[1] p" * count + "\nSearch Query: why."
    order = " > ".join(f"[{n}]" for n in range(1, count + 1))
    chat = [{"role": "user", "content": user}, {"role": "assistant", "content": order}]
    with within(5, "many passages"):
        (example,) = read_examples(put(tmp_path / "x.jsonl", {"messages": chat}))
    assert len(example.documents) == count
    unasked = [{"role": "user", "content": user.replace("Search", "")}, chat[1]]
    with within(5, "no query"), pytest.raises(E2RankError, match="Search Query"):
        read_examples(put(tmp_path / "x.jsonl", {"messages": unasked}))


def test_an_empty_last_passage_is_a_passage(tmp_path: Path):
    user = "Rank.\n[1] one\n[2] two\n[3] \nSearch Query: why.\n"
    chat = [{"role": "user", "content": user}, {"role": "assistant", "content": "[2] > [3] > [1]"}]
    (example,) = read_examples(put(tmp_path / "x.jsonl", {"messages": chat}))
    assert example.documents == ("one", "two", "")


def test_what_ties_keeps_its_order():
    assert ranked([1, 2, 2, 0]) == (1, 2, 0, 3)


def test_a_passage_may_hold_what_marks_the_query_and_a_query_its_own_full_stop(tmp_path: Path):
    user = "Rank.\n[1] one\nSearch Query: no.\n[2] two\nSearch Query: wings etc..\nAnswer."
    chat = [{"role": "user", "content": user}, {"role": "assistant", "content": "[2] > [1]"}]
    (tmp_path / "own_marks").write_text(json.dumps({"messages": chat}) + "\n")
    [found] = read_examples(tmp_path / "own_marks")
    assert (found.query, found.documents, found.ranking) == ("wings etc.", ("one\nSearch Query: no.", "two"), (1, 0))


def test_a_title_of_blanks_is_none(tmp_path: Path):
    passages = [{"docid": "1", "title": " ", "text": " a "}]
    row = {"query": "q", "positive_passages": passages, "negative_passages": [{"docid": "2", "text": "b"}]}
    (tmp_path / "x").write_text(json.dumps(row) + "\n")
    assert read_examples(tmp_path / "x")[0].documents == ("a", "b")
