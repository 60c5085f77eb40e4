"""The three texts of the method, against strings written out by hand."""

import pytest

from e2rank_pyserini.prompts import document_text, query_text, user_turn
from e2rank_pyserini.types import ListwisePrompt

PROMPT = ListwisePrompt("what {query} is", ("first {text}", "second"), "Rank {task}", "Arguments")
HEAD = "Rank {task}:\nArguments:\n"


def test_paper_variant():
    expected = HEAD + "[1] first {text}\n[2] second\nSearch Query: what {query} is"
    assert user_turn(PROMPT, "paper", "<E>") == expected


def test_card_variant_has_eos_after_each_document_and_no_newline_before_the_query():
    expected = HEAD + "[1] first {text}<E>\n[2] second<E>Search Query:what {query} is"
    assert user_turn(PROMPT, "card", "<E>") == expected


def test_train_variant_has_the_eos_inside_the_turn():
    expected = HEAD + "[1] first {text}\n[2] second\nQuery: what {query} is<E>"
    assert user_turn(PROMPT, "train", "<E>") == expected


def test_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="paper, card, train"):
        user_turn(PROMPT, "papre", "<E>")


def test_query_text_has_no_space_after_query_and_leaves_braces_alone():
    template = "Instruct: {task}\nQuery:{query}"
    assert query_text("a {task} b", "find {query}", template) == "Instruct: find {query}\nQuery:a {task} b"


@pytest.mark.parametrize(
    ("title", "text", "expected"),
    [("T", "x", "T x"), ("", "x", "x"), ("T", "", "T"), ("", "", ""), ("{text}", "{title}", "{text} {title}")],
)
def test_document_text(title: str, text: str, expected: str):
    assert document_text(title, text, "{title} {text}") == expected
