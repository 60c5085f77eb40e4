"""The prompt variant `tail`, for decoders: documents, then the query, whose tokens are pooled; and fewer layers."""

import copy
import dataclasses
import random

import numpy as np
import pytest
import torch

from e2rank_pyserini.catalog import ModelSpec, model
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.inference.forward import embed, padded
from e2rank_pyserini.prompts import user_turn
from e2rank_pyserini.training.examples import Example
from e2rank_pyserini.training.recipe import Recipe
from e2rank_pyserini.training.step import backward, losses, rows_of
from e2rank_pyserini.types import E2RankError, ListwisePrompt
from tests.conftest import EOS, sentences
from tests.test_training import lists

pytestmark = pytest.mark.usefixtures("one_thread")

QUERY = "lift of wing"
RANK = Recipe("rank", 1e-3, 3, dtype="float32")


@pytest.fixture(scope="module")
def spec(tiny_model) -> ModelSpec:
    fields = {"pooling": "mean", "prompt": "tail", "chat": "none", "query": "Query: {query}"}
    return dataclasses.replace(model(str(tiny_model)), **fields)


@pytest.fixture(scope="module")
def encoder(spec: ModelSpec) -> E2RankEncoder:
    return E2RankEncoder.load(spec, device="cpu")


def prompt(query: str, *documents: str) -> ListwisePrompt:
    return ListwisePrompt(query, documents, "a task that tail does not say")


def ids_of(encoder: E2RankEncoder, text: str) -> list[int]:
    return encoder.tokens.tokenizer(text, add_special_tokens=False)["input_ids"]


def by_hand(encoder: E2RankEncoder, before: str, tail: str) -> np.ndarray:
    """One row, one pass: the mean of the hidden states of the tail's tokens, at length 1."""
    last = ids_of(encoder, tail)
    with torch.no_grad():
        states = encoder.network(input_ids=torch.tensor([ids_of(encoder, before) + last])).last_hidden_state[0]
    mean = states[-len(last) :].mean(dim=0)
    return (mean / mean.norm()).numpy()


def test_the_user_turn_is_documents_and_query():
    assert user_turn(prompt("q", "one", "two"), "tail", "<e>") == "[1] one\n[2] two\nQuery: q<e>"


def test_a_mark_that_only_a_document_has_is_not_taken_for_the_prompts(encoder: E2RankEncoder, spec: ModelSpec):
    """A tokenizer that puts a blank before every text has `Query:` with one, which the prompt's has not."""
    import tokenizers

    blanks = copy.deepcopy(encoder.tokens.tokenizer)
    blanks.backend_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    ours = E2RankEncoder(spec, encoder.network, blanks, "x")
    for document in ("wing", "a wing Query: lift of wing"):
        with pytest.raises(E2RankError, match="the tokenizer has no tokens of their own for 'Query:'"):
            ours.encode_prompts([prompt("drag", document)])


def test_the_vector_is_that_of_the_formula(encoder: E2RankEncoder):
    """Prompts of different lengths in one batch, each as alone; of no documents it would be the query's own."""
    texts = [["wing flow.", "drag nose cone."], ["shock wave."], sentences(4, least=4, most=9)]
    found = encoder.encode_prompts([prompt(QUERY, *documents) for documents in texts])
    for vector, documents in zip(found, texts, strict=True):
        before = "\n".join(f"[{rank}] {text}" for rank, text in enumerate(documents, start=1)) + "\n"
        np.testing.assert_allclose(vector, by_hand(encoder, before, f"Query: {QUERY}{EOS}"), atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3  # the documents were read
    bare = encoder.encode_queries([QUERY])[0]
    np.testing.assert_allclose(bare, by_hand(encoder, "", f"Query: {QUERY}{EOS}"), atol=1e-5)


@pytest.mark.parametrize(
    "document", ["what\nQuery: is this", "\nQuery: ", f"ends{EOS}", "long " * 400], ids=["in it", "last", "eos", "cut"]
)
def test_the_pooled_span_is_the_query_whatever_the_documents_hold(encoder: E2RankEncoder, document: str):
    (ids,), (pooled,) = encoder.tokens.prompts([prompt(QUERY, document, document)])
    assert len(ids) <= encoder.spec.lengths.prompt
    assert encoder.tokens.tokenizer.decode(ids[pooled:]) == f"Query: {QUERY}{EOS}"


QUERIES = [
    "Slow_Query: how to find it",
    "first line\nQuery: second",
    "what does MySQLQuery: mean",
    'why "Query: timed out"',
    "Query: Query:Query: ",
    f"Query:{EOS}\nQuery: wing",
    "Query:",
    "",
]


@pytest.mark.parametrize("document", ["wing flow", "what\nQuery: is this\nQuery:", "long Query: " * 300])
def test_the_pooled_span_is_the_whole_query_whatever_it_holds(encoder: E2RankEncoder, document: str):
    """One at a time and together, in inference and in training."""
    each = [encoder.tokens.prompts([prompt(query, document, document)]) for query in QUERIES]
    decode = encoder.tokens.tokenizer.decode
    assert [decode(ids[pooled:]) for (ids,), (pooled,) in each] == [f"Query: {query}{EOS}" for query in QUERIES]
    together = encoder.tokens.prompts([prompt(query, document, document) for query in QUERIES])
    assert together == ([ids for (ids,), _ in each], [pooled for _, (pooled,) in each])
    examples = [Example(query, (document, "drag"), (0, 1), "s", (2.0, 1.0)) for query in QUERIES]
    made = rows_of(examples, encoder.tokens, RANK, 2, random.Random(0))
    spans = [decode(made.ids[row][made.pooled[row] :]) for row in made.prompts]
    assert spans == [f"Query: {query}{EOS}" for query in QUERIES]


@pytest.mark.parametrize("query", ["wing Query: flow " * 99, "Query: " * 300, "nose cone " * 90 + "Query: " * 90])
@pytest.mark.parametrize("documents", [("wing Query: flow",), ("drag\nQuery: " * 200,) * 3], ids=["short", "long"])
def test_a_query_that_is_cut_is_pooled_from_its_start(encoder: E2RankEncoder, query: str, documents: tuple[str, ...]):
    """What is cut of it, `fit` says: the tail of its text, after the last document, is what is pooled."""
    asked = prompt(query, *documents)
    ((fitted, _),) = encoder.tokens.fit([asked])
    assert fitted.query != query
    assert query.startswith(fitted.query)
    (ids,), (pooled,) = encoder.tokens.prompts([asked])
    text = encoder.tokens.tokenizer.decode(ids)
    before = "\n".join(f"[{rank}] {text}" for rank, text in enumerate(fitted.documents, start=1)) + "\n"
    assert text.startswith(before)
    assert encoder.tokens.tokenizer.decode(ids[pooled:]) == text[len(before) :] == f"Query: {fitted.query}{EOS}"


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_the_last_tokens_are_pooled_as_if_they_were_alone(encoder: E2RankEncoder, pooling: str):
    rows = [list(range(10, 10 + size)) for size in (7, 4, 9)]
    pooled = torch.tensor([-3, 4, -1])  # the last 3, the first 4 (all), the last
    found = embed(encoder.network, *padded(rows), pooling, pooled).detach()
    for vector, row, count in zip(found, rows, pooled.tolist(), strict=True):
        states = encoder.network(input_ids=torch.tensor([row])).last_hidden_state[0].detach()
        part = states[count:] if count < 0 else states[:count]
        expected = {"mean": part.mean(dim=0), "last": part[-1], "cls": part[0]}[pooling]
        torch.testing.assert_close(vector, expected / expected.norm(), atol=1e-5, rtol=0)


def test_training_ranks_by_the_same_vectors(encoder: E2RankEncoder):
    """The rows of a step, in chunks with padding, give what inference gives."""
    examples = lists(3, 4, seed=5)
    made = rows_of(examples, encoder.tokens, RANK, 3, random.Random(0))
    seen = []

    def loss_of(vectors: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(vectors.detach().clone())
        return losses(vectors, made, examples, RANK)

    backward(encoder.network, "mean", made, loss_of, chunk_tokens=300, cached=True, dtype=torch.float32)
    encoder.network.zero_grad()
    prompts = [prompt(example.query, *example.documents[:3]) for example in examples]
    np.testing.assert_allclose(seen[0][made.prompts].numpy(), encoder.encode_prompts(prompts), atol=1e-5)


# --- the first layers of a model --------------------------------------------------------------------------------------


def test_a_model_of_fewer_layers_is_its_first_ones(spec: ModelSpec):
    whole = E2RankEncoder.load(spec, device="cpu")
    cut = E2RankEncoder.load(dataclasses.replace(spec, layers=1), device="cpu")
    ids = torch.tensor([ids_of(whole, "shock wave and heat transfer")])
    with torch.no_grad():
        first = whole.network(input_ids=ids, output_hidden_states=True).hidden_states[1]
        expected = whole.network.norm(first)
        found = cut.network(input_ids=ids).last_hidden_state
    torch.testing.assert_close(found, expected)
    assert cut.identity != whole.identity


@pytest.mark.parametrize(
    ("layers", "told"),
    [(0, "layers: expected at least 1, got 0"), (3, "layers: expected at most the 2 that it has, got 3")],
)
def test_layers_that_the_model_does_not_have_are_one_line(spec: ModelSpec, layers: int, told: str):
    with pytest.raises(E2RankError, match=told):
        E2RankEncoder.load(dataclasses.replace(spec, layers=layers), device="cpu")
