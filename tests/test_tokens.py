"""Where texts are cut: EOS survives, the query and the tail survive, budgets are the largest that fit."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2rank_pyserini.catalog import model
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.tokens import common_budget
from e2rank_pyserini.types import ListwisePrompt
from tests.conftest import EOS, LENGTHS, sentences
from tests.reference import plain


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> E2RankEncoder:
    return E2RankEncoder.load(str(tiny_model), device="cpu")


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(-10, 300), st.integers(1, 60))
def test_common_budget_is_the_largest_that_fits(sizes: list[int], room: int, most: int):
    def used(budget: int) -> int:
        return sum(min(size, budget) for size in sizes)

    budget = common_budget(sizes, room, most)
    assert 0 <= budget <= most
    assert used(budget) <= max(room, 0)
    assert budget == most or used(budget + 1) > room


def test_eos_survives_every_cut(encoder: E2RankEncoder):
    eos = encoder.tokens.eos_id
    for row in encoder.tokens.documents(["", "wing", " ".join(sentences(5))]):
        assert row[-1] == eos
        assert row.count(eos) == 1
        assert len(row) <= LENGTHS["document"]
    for row in encoder.tokens.queries(["", " ".join(sentences(5))], "a task"):
        assert row[-1] == eos
        assert len(row) <= LENGTHS["query"]


def test_what_is_cut_is_counted(tiny_model: Path):
    encoder = E2RankEncoder.load(str(tiny_model), device="cpu")
    long = " ".join(sentences(5))
    encoder.encode_documents(["wing", "", long])
    encoder.encode_queries(["wing", long], "t")
    encoder.encode_prompts([ListwisePrompt(long, (long, "wing", long), "t")])
    tally = encoder.tally
    assert (tally.documents, tally.documents_truncated, tally.documents_empty) == (3, 1, 1)
    assert (tally.queries, tally.queries_truncated) == (2, 1)
    assert (tally.prompts, tally.prompts_query_truncated) == (1, 1)
    assert (tally.prompt_documents, tally.prompt_documents_truncated) == (3, 2)


@pytest.mark.parametrize("variant", ["paper", "card", "train"])
@pytest.mark.parametrize("length", [110, 160, 512, 2000])
def test_fit_equals_the_reference(tiny_model: Path, encoder: E2RankEncoder, variant: str, length: int):
    import dataclasses

    lengths = dataclasses.replace(encoder.spec.lengths, prompt=length)
    spec = dataclasses.replace(model(str(tiny_model)), prompt=variant, lengths=lengths)
    ours = E2RankEncoder(spec, encoder.network, encoder.tokens.tokenizer, "x")
    for seed in range(6):
        documents = (*sentences(4, seed=seed), "")
        query = sentences(1, seed=seed, most=30)[0]
        fitted, ids = ours.tokens.fit(ListwisePrompt(query, documents, "Rank these"))
        expected_query, expected_documents = plain.fit(
            encoder.tokens.tokenizer,
            query,
            documents,
            task="Rank these",
            noun="Documents",
            variant=variant,
            eos=EOS,
            document_length=LENGTHS["document"],
            query_length=LENGTHS["query"],
            prompt_length=length,
        )
        assert fitted.query == expected_query
        assert list(fitted.documents) == list(expected_documents)
        assert len(ids) <= length
        text = encoder.tokens.tokenizer.decode(ids)
        assert text.endswith("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
        assert fitted.query in text


def test_the_prompt_ends_in_the_newlines_after_think(encoder: E2RankEncoder):
    """The vector is taken where the paper takes it: no EOS after the chat template."""
    _, ids = encoder.tokens.fit(ListwisePrompt("q", ("d",), "t"))
    tail = encoder.tokens.tokenizer("</think>\n\n", add_special_tokens=False)["input_ids"]
    assert ids[-len(tail) :] == tail
    assert ids[-1] != encoder.tokens.eos_id
