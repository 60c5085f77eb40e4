"""The trainer against the slow reference, closed forms and itself undisturbed: loss, gradients, resuming, adapters."""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ir_measures
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file

from e2rank_pyserini.catalog import ModelSpec, model
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.inference.delta import Delta, restored
from e2rank_pyserini.inference.forward import embed, padded
from e2rank_pyserini.training.dev import look, ndcg
from e2rank_pyserini.training.examples import Example, positions, ranked
from e2rank_pyserini.training.log import Log, read_log
from e2rank_pyserini.training.network import _compile, compressed, is_compiled, learner, linear_layers
from e2rank_pyserini.training.recipe import Lora, Recipe, Tasks, recipe
from e2rank_pyserini.training.sampling import schedule
from e2rank_pyserini.training.step import Rows, _listwise, backward, chosen, losses, rows_of
from e2rank_pyserini.training.train import Training, batches_of, learning_rate, train
from e2rank_pyserini.types import E2RankError, ListwisePrompt
from tests.conftest import LENGTHS, sentences
from tests.reference import training as slow

pytestmark = pytest.mark.usefixtures("one_thread")

Gradients = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def spec(tiny_model: Path) -> ModelSpec:
    return model(str(tiny_model))


@pytest.fixture(scope="module")
def encoder(spec: ModelSpec) -> E2RankEncoder:
    """In float32, its parameters with gradients."""
    return learner(spec, RANK, "cpu")


def lists(count: int, size: int, *, seed: int = 0, source: str = "a", most: int = 20) -> list[Example]:
    """Ranked lists in a random first-stage order."""
    texts = iter(sentences(count * size, seed=seed, most=most))
    draw = random.Random(seed)
    made = []
    for query in sentences(count, seed=seed + 1000, most=6):
        ranking = tuple(draw.sample(range(size), size))
        made.append(Example(query, tuple(next(texts) for _ in range(size)), ranking, source, positions(ranking)))
    return made


def graded(query: str, documents: Sequence[str], relevance: Sequence[float], source: str = "a") -> Example:
    return Example(query, tuple(documents), ranked(relevance), source, tuple(map(float, relevance)))


RANK = Recipe("rank", 1e-3, 4, steps=6, dtype="float32", chunk_tokens=2000)
EMBED = dataclasses.replace(RANK, stage="embed")
QUERY = dataclasses.replace(RANK, listwise="query")
TEXTS = sentences(12, seed=77)
# Ties with the positive, ties below it, lists of other lengths, a text in two lists, a text twice in one, long ones.
AWKWARD = [
    graded("lift of a wing", TEXTS[:5], [0, 2, 2, 1, 0]),
    graded("shock wave", [TEXTS[5], TEXTS[1], TEXTS[6]], [3, 2, 1]),
    graded("heat transfer to a cone", [*TEXTS[7:11], TEXTS[7], TEXTS[0]], [1, 6, 2, 5, 1, 3]),
    graded("buckling " * 30, [TEXTS[11], "wing " * 80], [0, 1]),
]


def rows(encoder: E2RankEncoder, examples: Sequence[Example], chosen: Recipe, window: int = 5) -> Rows:
    return rows_of(examples, encoder.tokens, chosen, window, random.Random(0))


def gradients(
    encoder: E2RankEncoder, examples: Sequence[Example], chosen: Recipe, **options: Any
) -> tuple[dict[str, float], Gradients]:
    """One pass of `backward`: the losses and the gradient of every weight."""
    made = rows(encoder, examples, chosen)
    settings = {"chunk_tokens": chosen.chunk_tokens, "cached": False, "dtype": torch.float32, **options}
    encoder.network.zero_grad()
    parts = backward(encoder.network, "last", made, lambda vectors: losses(vectors, made, examples, chosen), **settings)
    found = {name: weight.grad.clone() for name, weight in encoder.network.named_parameters()}
    encoder.network.zero_grad()
    return {name: float(value) for name, value in parts.items()}, found


def assert_alike(found: Gradients, expected: Gradients, tolerance: float) -> None:
    """Every weight's gradient differs by at most `tolerance` of the norm of the whole."""
    assert found.keys() == expected.keys()
    size = math.sqrt(sum(float((value**2).sum()) for value in expected.values()))
    assert size > 0
    for name in expected:
        assert float(torch.linalg.norm(found[name] - expected[name])) <= tolerance * size, name


# --- the loss of a batch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [EMBED, RANK, QUERY], ids=["embed", "rank", "query"])
def test_the_loss_and_its_gradients_equal_the_slow_reference(encoder: E2RankEncoder, chosen: Recipe):
    """Padding, chunks and shared rows against one text at a time and loops over pairs."""
    found, ours = gradients(encoder, AWKWARD, chosen, chunk_tokens=300)
    network = encoder.network
    batch = [(example.query, example.documents, example.relevance) for example in AWKWARD]
    expected = slow.batch_loss(
        network,
        encoder.tokens.tokenizer,
        batch,
        stage=chosen.stage,
        listwise=chosen.listwise,
        window=5,
        lengths=LENGTHS,
    )
    assert found.keys() == expected.keys() | {"alike"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value.detach()), rel=1e-5, abs=1e-5), name
    network.zero_grad()
    expected["loss"].backward()
    theirs = {name: weight.grad.clone() for name, weight in network.named_parameters()}
    network.zero_grad()
    assert_alike(ours, theirs, 1e-5)


@pytest.mark.parametrize("chosen", [EMBED, RANK], ids=["embed", "rank"])
def test_the_positives_of_a_querys_other_lists_are_no_negatives(encoder: E2RankEncoder, chosen: Recipe):
    again = graded(AWKWARD[0].query, [TEXTS[6], TEXTS[4], TEXTS[9], TEXTS[10]], [3, 0, 1, 3])
    examples = [*AWKWARD, again]
    found, _ = gradients(encoder, examples, chosen)
    batch = [(example.query, example.documents, example.relevance) for example in examples]
    tokenizer, network = encoder.tokens.tokenizer, encoder.network
    expected = slow.batch_loss(network, tokenizer, batch, stage=chosen.stage, window=5, lengths=LENGTHS)
    assert found["infonce"] == pytest.approx(float(expected["infonce"].detach()), rel=1e-5)


def test_a_source_is_told_its_own_tasks(encoder: E2RankEncoder):
    tasks = Tasks("Find the tweet", "Order the tweets", "Tweets")
    chosen = dataclasses.replace(RANK, tasks={"a": tasks, "b": Tasks("x", "y", "z")})
    found, _ = gradients(encoder, AWKWARD, chosen)
    batch = [(example.query, example.documents, example.relevance) for example in AWKWARD]
    expected = slow.batch_loss(
        encoder.network,
        encoder.tokens.tokenizer,
        batch,
        stage="rank",
        window=5,
        lengths=LENGTHS,
        tasks=("Find the tweet", "Order the tweets", "Tweets"),
    )
    assert found["loss"] == pytest.approx(float(expected["loss"].detach()), rel=1e-5)


def vectors_of(made: Rows, values: Sequence[float]) -> torch.Tensor:
    """Unit vectors in the plane: queries and prompts at cosine 1, the documents' rows at these cosines."""
    documents = sorted({row for members in made.documents for row in members})
    vectors = torch.zeros(len(made.ids), 2)
    vectors[:, 0] = 1.0
    for row, cosine in zip(documents, values, strict=True):
        vectors[row] = torch.tensor([cosine, math.sqrt(1 - cosine**2)])
    return vectors


def test_the_positive_of_infonce_is_the_first_of_the_ranking(encoder: E2RankEncoder):
    """By hand: the ranking puts the third document first, whatever the cosines and the first-stage order say."""
    example = graded("q", ["wing", "flow", "lift"], [1, 2, 3])
    made = rows(encoder, [example], QUERY)
    cosines = [0.9, 0.5, 0.2]
    found = losses(vectors_of(made, cosines), made, [example], dataclasses.replace(QUERY, temperature=0.5))
    expected = math.log(sum(math.exp(cosine / 0.5) for cosine in cosines)) - 0.2 / 0.5
    assert float(found["infonce"]) == pytest.approx(expected, rel=1e-5)
    better_than = [(0.2, 0.5), (0.2, 0.9), (0.5, 0.9)]
    ranking = sum(math.log1p(math.exp(10 * (worse - better))) for better, worse in better_than) / 3
    assert float(found["ranknet"]) == pytest.approx(ranking, rel=1e-5)
    assert float(found["loss"]) == pytest.approx(expected + 2 * ranking, rel=1e-5)


def test_documents_tied_with_the_positive_are_not_negatives(encoder: E2RankEncoder):
    """Two examples: the first's tie leaves its own denominator, but stays a negative of the second."""
    pair = [graded("q", ["wing", "flow", "lift"], [2, 2, 1]), graded("r", ["drag", "nose"], [1, 0])]
    made = rows(encoder, pair, EMBED)
    cosines = [0.3, 0.8, 0.1, 0.4, 0.6]
    found = losses(vectors_of(made, cosines), made, pair, dataclasses.replace(EMBED, temperature=1.0))
    first = math.log(sum(math.exp(cosine) for cosine in (0.3, 0.1, 0.4, 0.6))) - 0.3
    second = math.log(sum(math.exp(cosine) for cosine in cosines)) - 0.4
    assert float(found["infonce"]) == pytest.approx((first + second) / 2, rel=1e-6)


def test_equal_texts_share_a_row_and_are_no_negative_of_themselves(encoder: E2RankEncoder):
    pair = [graded("q", ["wing", "flow"], [1, 0]), graded("r", ["wing", "drag"], [1, 0])]
    made = rows(encoder, pair, RANK)
    assert made.documents[0][0] == made.documents[1][0]
    assert len(made.ids) == 2 + 3 + 2  # queries, texts, prompts
    assert len({row for members in made.documents for row in members}) == 3
    found = losses(vectors_of(made, [0.5, 0.5, 0.5]), made, pair, RANK)
    assert float(found["infonce"]) == pytest.approx(math.log(3), rel=1e-6)


def test_alike_is_the_mean_cosine_of_two_documents(encoder: E2RankEncoder):
    examples = [graded("q", ["wing", "flow", "lift"], [1, 2, 3]), graded("r", ["wing", "drag"], [1, 0])]
    made = rows(encoder, examples, QUERY)
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(len(made.ids), 8), dim=1)
    documents = vectors[2:6]  # after two queries: wing, flow, lift, drag
    cosines = [float(one @ other) for one, other in itertools.combinations(documents, 2)]
    found = losses(vectors, made, examples, QUERY)
    assert float(found["alike"]) == pytest.approx(sum(cosines) / 6, abs=1e-6)


def test_vectors_that_become_one_are_told_of_once(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("e2rank_pyserini.training.train.EARLY", 2)
    monkeypatch.setattr("e2rank_pyserini.training.train.ALIKE", -1.0)
    trained_run(spec, dataclasses.replace(RANK, steps=4), tmp_path / "out")
    told = [line for line in capsys.readouterr().err.splitlines() if "are nearly one" in line]
    assert len(told) == 1
    assert told[0].startswith("step 3: ")
    monkeypatch.setattr("e2rank_pyserini.training.train.ALIKE", 1.1)
    trained_run(spec, dataclasses.replace(RANK, steps=4), tmp_path / "quiet")
    assert "nearly one" not in capsys.readouterr().err


def test_the_weights_weigh_the_parts(encoder: E2RankEncoder):
    whole, _ = gradients(encoder, AWKWARD, dataclasses.replace(RANK, infonce_weight=0.25, ranknet_weight=3.0))
    assert whole["loss"] == pytest.approx(0.25 * whole["infonce"] + 3.0 * whole["ranknet"], rel=1e-6)
    alone, _ = gradients(encoder, AWKWARD, dataclasses.replace(RANK, infonce_weight=0.0))
    assert alone.keys() == {"ranknet", "loss", "alike"}
    assert alone["loss"] == pytest.approx(2 * whole["ranknet"], rel=1e-6)
    plain, _ = gradients(encoder, AWKWARD, dataclasses.replace(RANK, ranknet_weight=0.0))
    assert plain.keys() == {"infonce", "loss", "alike"}
    assert plain["loss"] == pytest.approx(whole["infonce"], rel=1e-6)


@pytest.mark.parametrize("order", ["given", "reverse", "shuffle"])
def test_the_prompt_reads_the_window_in_the_order_asked_for(encoder: E2RankEncoder, order: str):
    example = lists(1, 6)[0]
    made = rows(encoder, [example], dataclasses.replace(RANK, order=order), window=4)
    text = encoder.tokens.tokenizer.decode(made.ids[made.prompts[0]])
    places = [text.index(document) if document in text else -1 for document in example.documents]
    assert places[4:] == [-1, -1]
    assert min(places[:4]) >= 0
    turns = sorted(range(4), key=lambda number: places[number])
    if order == "shuffle":
        orders = set()
        for seed in range(30):
            again = rows_of([example], encoder.tokens, dataclasses.replace(RANK, order=order), 4, random.Random(seed))
            orders.add(tuple(again.ids[again.prompts[0]]))
        assert len(orders) > 8  # of 24
    else:
        assert turns == ([0, 1, 2, 3] if order == "given" else [3, 2, 1, 0])
    assert made.pooled == [len(row) for row in made.ids]


def test_the_documents_used_are_the_first_ones_and_the_best():
    example = graded("q", "abcdef", [1, 6, 3, 2, 5, 4])
    assert chosen(example, dataclasses.replace(RANK, documents=3)) == graded("q", "abc", [1, 6, 3])
    example = graded("q", "abcdef", [1, 2, 3, 4, 5, 6])
    assert chosen(example, dataclasses.replace(RANK, documents=3)) == graded("q", "abf", [1, 2, 6])
    assert chosen(example, dataclasses.replace(RANK, documents=6)) == example
    assert chosen(example, RANK) == example


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_tokens", [1, 120, 700, 100000])
def test_cached_gradients_equal_direct_ones(encoder: E2RankEncoder, chunk_tokens: int):
    direct, expected = gradients(encoder, AWKWARD, RANK, chunk_tokens=100000)
    cached, found = gradients(encoder, AWKWARD, RANK, chunk_tokens=chunk_tokens, cached=True)
    assert cached == pytest.approx(direct, rel=1e-5)
    assert_alike(found, expected, 1e-6)
    chunked, found = gradients(encoder, AWKWARD, RANK, chunk_tokens=chunk_tokens)
    assert chunked == pytest.approx(direct, rel=1e-5)
    assert_alike(found, expected, 1e-6)


@pytest.mark.parametrize("cached", [False, True])
def test_checkpointed_gradients_equal_direct_ones(spec: ModelSpec, encoder: E2RankEncoder, cached: bool):
    _, expected = gradients(encoder, AWKWARD, RANK)
    saving = learner(spec, dataclasses.replace(RANK, checkpointing=True), "cpu")
    layer, calls = saving.network.layers[0], []
    layer.mlp.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    _, found = gradients(saving, AWKWARD, RANK, cached=cached, chunk_tokens=100000)
    assert_alike(found, expected, 1e-6)
    assert len(calls) == (3 if cached else 2)  # each encoded chunk with a graph is computed again


def test_a_longer_neighbour_changes_nothing(encoder: E2RankEncoder):
    """Pads are inert, in the vector and in the gradient."""
    short = encoder.tokens.documents(["wing flow pressure", "nose cone"])
    (long,), _ = encoder.tokens.prompts([ListwisePrompt("q", tuple(sentences(5)), "order")])
    weights = list(encoder.network.parameters())
    target = torch.nn.functional.normalize(torch.randn(2, encoder.dim, generator=torch.Generator().manual_seed(0)))

    def both(batch: list[list[int]]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        ids, mask = padded(batch)
        vectors = embed(encoder.network, ids, mask, "last")[:2]
        return vectors.detach(), list(torch.autograd.grad((vectors * target).sum(), weights))

    alone, slopes = both(short)
    beside, again = both([*short, long])
    assert len(long) > 5 * len(short[0])
    np.testing.assert_allclose(beside, alone, atol=1e-6)
    size = max(float(slope.abs().max()) for slope in slopes)
    for one, other in zip(slopes, again, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6 * max(1.0, size))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_sends_back_its_share_alone(encoder: E2RankEncoder, monkeypatch: pytest.MonkeyPatch, rank: int):
    """What two processes send back adds up to the whole; each encodes about half of the rows."""
    _, expected = gradients(encoder, AWKWARD, RANK)
    made = rows(encoder, AWKWARD, RANK)
    ids, mask = padded(made.ids)
    whole = embed(encoder.network, ids, mask, "last", torch.tensor(made.pooled)).detach()
    shares, encoded = [], []

    def add_up(tensors: Sequence[torch.Tensor]) -> None:
        if len(tensors) == 1 and tensors[0].shape == whole.shape:  # the vectors: the other process's rows come in
            encoded.append(int(tensors[0].any(dim=1).sum()))
            tensors[0].copy_(whole)

    monkeypatch.setattr("e2rank_pyserini.training.step.add_up", add_up)
    for one in (rank, 1 - rank):
        _, share = gradients(encoder, AWKWARD, RANK, rank=one, world=2, cached=bool(rank))
        shares.append(share)
    assert sum(encoded) == len(made.ids)
    assert max(encoded) - min(encoded) <= 1
    assert_alike({name: shares[0][name] + shares[1][name] for name in expected}, expected, 1e-6)


# --- the order of the batches and the rate ----------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(1, 6), st.integers(0, 5), st.integers(0, 3))
def test_batches_are_of_one_source_and_use_an_example_once(sources: list[str], batch: int, seed: int, epoch: int):
    found = schedule(sources, batch, seed, epoch)
    assert found == schedule(list(sources), batch, seed, epoch)
    assert all(len(members) == batch for members in found)
    assert all(len({sources[number] for number in members}) == 1 for members in found)
    used = [number for members in found for number in members]
    assert len(used) == len(set(used))
    whole = {source: count // batch for source, count in Counter(sources).items() if count >= batch}
    assert Counter(sources[members[0]] for members in found) == whole


def test_epochs_and_seeds_differ_and_mix_the_sources():
    sources = ["a"] * 43 + ["b"] * 43
    orders = [schedule(sources, 4, seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({str(order) for order in orders}) == 6
    for order in orders:
        turns = "".join(sources[members[0]] for members in order)
        assert "ab" in turns
        assert "ba" in turns  # not one source after the other
    left_out = [set(range(86)) - {number for members in order for number in members} for order in orders]
    assert all(len(left) == 6 for left in left_out)
    assert len({frozenset(left) for left in left_out}) > 1


def test_steps_decide_over_epochs():
    examples = lists(10, 2)
    assert len(batches_of(examples, dataclasses.replace(RANK, steps=None, epochs=3))) == 6
    seven = batches_of(examples, dataclasses.replace(RANK, steps=7))
    assert len(seven) == 7
    assert seven[:2] == schedule(["a"] * 10, 4, 0, 0)
    assert seven[2:4] == schedule(["a"] * 10, 4, 0, 1)
    assert len(batches_of(examples, dataclasses.replace(RANK, steps=1))) == 1


def test_the_learning_rate_by_hand():
    of = dataclasses.replace(RANK, learning_rate=2.0, warmup=0.3)
    assert [learning_rate(step, 10, of) for step in range(10)] == pytest.approx(
        [2 / 3, 4 / 3, 2, 2, 12 / 7, 10 / 7, 8 / 7, 6 / 7, 4 / 7, 2 / 7]
    )
    of = dataclasses.replace(of, warmup=0.0)
    assert [learning_rate(step, 4, of) for step in range(4)] == pytest.approx([2, 2, 4 / 3, 2 / 3])
    of = dataclasses.replace(of, warmup=1.0)
    assert [learning_rate(step, 4, of) for step in range(4)] == pytest.approx([0.5, 1, 1.5, 2])
    assert learning_rate(0, 1, of) == 2


def test_a_warm_up_is_a_share_of_the_steps():
    with pytest.raises(E2RankError, match=r"warmup: expected a share of at most 1, got 300"):
        dataclasses.replace(RANK, warmup=300)


# --- the dev lists ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_ndcg_equals_ir_measures(seed: int):
    draw = random.Random(seed)
    count = draw.choice([2, 5, 10, 25])
    relevance = [draw.randint(0, 3) for _ in range(count)]
    scores = np.array(draw.sample(range(1000), count), dtype=np.float32) / 7
    qrels = {"q": {f"d{number}": grade for number, grade in enumerate(relevance)}}
    run = {"q": {f"d{number}": float(score) for number, score in enumerate(scores)}}
    expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10]
    assert ndcg(scores, relevance) == pytest.approx(expected, abs=1e-9)


def test_ndcg_of_awkward_lists():
    assert ndcg(np.zeros(3, np.float32), [0, 1, 0]) == pytest.approx(1 / math.log2(3))  # ties: first-stage order
    assert ndcg(np.array([1, 2], np.float32), [0, 0]) == 0.0
    assert ndcg(np.array([1, 2], np.float32), [1, -1]) == pytest.approx(1 / math.log2(3))


def test_a_look_is_the_ndcg_of_the_encoders_own_order(encoder: E2RankEncoder):
    dev = [example._replace(source=source) for example, source in zip(lists(3, 12, seed=4), "abb", strict=True)]
    chosen = dataclasses.replace(RANK, tasks={"b": Tasks("Find it", "Order it", "Tweets")})
    told = {"a": Tasks(), "b": Tasks("Find it", "Order it", "Tweets")}
    sums = {"dev_query": 0.0, "dev_prompt": 0.0}
    for example in dev:
        tasks = told[example.source]
        documents = encoder.encode_documents(example.documents)
        prompt = ListwisePrompt(example.query, example.documents[:5], tasks.rerank, tasks.noun)
        readers = {
            "dev_query": encoder.encode_queries([example.query], tasks.retrieval),
            "dev_prompt": encoder.encode_prompts([prompt]),
        }
        for name, reader in readers.items():
            sums[name] += ndcg(documents @ reader[0], example.relevance) / 3
    assert look(encoder, dev, 5, chosen) == pytest.approx(sums, abs=1e-6)
    assert look(encoder, dev, 5, EMBED).keys() == {"dev_query"}


@pytest.mark.parametrize("length", [4, 96])
def test_the_last_look_is_what_the_written_model_does(spec: ModelSpec, tmp_path: Path, length: int):
    """Texts of up to 60 words; the model reads 48 tokens of one."""
    dev = lists(6, 8, seed=5, most=60)
    chosen = dataclasses.replace(RANK, steps=2, evaluate_every=2, document_length=length, query_length=length)
    train(spec, chosen, lists(8, 4, seed=1), tmp_path / "out", dev=dev, device="cpu")
    used = E2RankEncoder.load(str(tmp_path / "out"), device="cpu", dtype="float32")
    longest = (max(length, LENGTHS["document"]), max(length, LENGTHS["query"]), LENGTHS["prompt"])
    assert dataclasses.astuple(used.spec.lengths) == longest
    last = [row for row in read_log(tmp_path / "out" / "metrics.jsonl") if "dev_query" in row][-1]
    assert look(used, dev, used.spec.window, chosen) == pytest.approx(
        {name: last[name] for name in ("dev_query", "dev_prompt")}, abs=1e-6
    )


# --- going on ---------------------------------------------------------------------------------------------------------

DATA = [*lists(9, 4, seed=1), *lists(6, 3, seed=2, source="b")]
DEV = lists(2, 4, seed=3)
RUN = dataclasses.replace(RANK, steps=7, save_every=2, evaluate_every=3, order="shuffle", cached=True)


def weights_of(directory: Path) -> Gradients:
    return load_file(next(directory.glob("*.safetensors")))


def curve(directory: Path) -> list[dict[str, Any]]:
    return read_log(directory / "metrics.jsonl")


@pytest.fixture(scope="module")
def undisturbed(spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "out"
    train(spec, RUN, DATA, output, dev=DEV, device="cpu")
    return output


def test_a_run_leaves_a_whole_model_and_its_log(undisturbed: Path, spec: ModelSpec):
    assert [path.name for path in undisturbed.parent.iterdir()] == ["out"]  # the working directory is gone
    found = curve(undisturbed)
    assert [row["step"] for row in found if "loss" in row] == list(range(1, 8))
    assert [row["step"] for row in found if "dev_query" in row] == [0, 3, 6, 7]
    record = json.loads((undisturbed / "training.json").read_text())
    assert (record["steps"], record["examples"]) == (7, {"a": 9, "b": 6})
    assert record["tokens"] == sum(row.get("tokens", 0) for row in found)
    assert (undisturbed / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert any((undisturbed / "tensorboard").iterdir())
    read = model(str(undisturbed))
    assert (read.pooling, read.eos, read.window, read.adapter) == (spec.pooling, spec.eos, 5, None)
    assert weights_of(undisturbed).keys() == weights_of(Path(spec.source)).keys()
    before, after = weights_of(Path(spec.source)), weights_of(undisturbed)
    assert all(not torch.equal(before[name], after[name]) for name in before if "norm" not in name)


@pytest.mark.parametrize("stops", [(4,), (3, 6), (1, 2, 7)])
def test_a_run_that_stops_goes_on_as_if_it_had_not(
    spec: ModelSpec, undisturbed: Path, tmp_path: Path, stops: tuple[int, ...]
):
    for stop in stops:
        record = train(spec, RUN, DATA, tmp_path / "out", dev=DEV, device="cpu", stop_after=stop)
        assert record["steps"] == stop
    if stops[-1] < 7:
        record = train(spec, RUN, DATA, tmp_path / "out", dev=DEV, device="cpu")
    assert record["tokens"] == json.loads((undisturbed / "training.json").read_text())["tokens"]
    assert curve(tmp_path / "out") == curve(undisturbed)
    expected, found = weights_of(undisturbed), weights_of(tmp_path / "out")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_run_that_dies_goes_on_from_its_last_state(spec: ModelSpec, undisturbed: Path, tmp_path: Path):
    """As a kill in step 6, between two renames of the state, leaves it: step 5 is done again."""
    train(spec, RUN, DATA, tmp_path / "out", dev=DEV, device="cpu", stop_after=4)
    working = tmp_path / "out.training"
    (working / "state").rename(working / "state.old")
    after = next(row for row in curve(undisturbed) if row["step"] == 5)
    with (working / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({**after, "loss": -1.0}) + '\n{"step": 6, "lo')
    train(spec, RUN, DATA, tmp_path / "out", dev=DEV, device="cpu")
    assert curve(tmp_path / "out") == curve(undisturbed)


def test_a_kill_while_the_log_is_taken_up_again_loses_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with contextlib.closing(Log(tmp_path, 0)) as log:
        for step in range(1, 6):
            log.add(step, {"loss": float(step)})
    monkeypatch.setattr("json.dumps", lambda row: 1 / 0)  # in the midst of what is written again
    with pytest.raises(ZeroDivisionError):
        Log(tmp_path, 4)
    monkeypatch.undo()
    assert [row["step"] for row in read_log(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    Log(tmp_path, 4).close()
    assert [row["step"] for row in read_log(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_run_that_dies_before_its_first_state_begins_again(spec: ModelSpec, undisturbed: Path, tmp_path: Path):
    (tmp_path / "out.training").mkdir()
    lines = (undisturbed / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out.training" / "metrics.jsonl").write_text("".join(lines[:2]))
    train(spec, RUN, DATA, tmp_path / "out", dev=DEV, device="cpu")
    assert curve(tmp_path / "out") == curve(undisturbed)


def test_a_run_that_begins_again_leaves_no_events_of_the_one_before(tmp_path: Path):
    for _ in range(2):
        with contextlib.closing(Log(tmp_path, 0)) as log:
            log.add(1, {"loss": 1.0})
        assert len(list((tmp_path / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize("form", [4, "int4"])
def test_a_run_that_changes_nothing_has_no_adapter(spec: ModelSpec, tmp_path: Path, form: int | str):
    """All documents tie, and nothing else is asked: the gradient is 0."""
    tied = [example._replace(relevance=(0.0, 0.0)) for example in lists(4, 2)]
    chosen = dataclasses.replace(RANK, steps=1, infonce_weight=0.0, compress=form)
    with pytest.raises(E2RankError, match=r"^no weight has changed: "):
        train(spec, chosen, tied, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_tasks_that_no_text_says_are_refused(spec: ModelSpec, tmp_path: Path):
    chosen = dataclasses.replace(RANK, steps=1, tasks={"a": Tasks("Find it", "Order it", "Tweets")})
    silent = dataclasses.replace(spec, query="Query: {query}", prompt="tail", chat="none")
    with pytest.raises(E2RankError, match=r"^recipe: tasks: .*'s queries and prompts \(tail\) say no task$"):
        train(silent, chosen, lists(4, 3), tmp_path / "out", device="cpu")
    for says in (dataclasses.replace(silent, query=spec.query), dataclasses.replace(silent, prompt="paper")):
        train(says, chosen, lists(4, 3), tmp_path / says.prompt, device="cpu")


@pytest.fixture(scope="module")
def half_way(spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("half") / "out"
    train(spec, RUN, DATA, output, device="cpu", stop_after=2)
    return output


def changed(spec: ModelSpec, what: str) -> tuple[ModelSpec, Recipe, list[Example], list[Example]]:
    """The call of `half_way` with one thing changed."""
    lora, other = Lora(2, 4), dataclasses.replace
    return {
        "nothing": (spec, RUN, DATA, []),
        "memory": (spec, other(RUN, chunk_tokens=333, cached=False, checkpointing=True, save_every=5), DATA, []),
        "rate": (spec, other(RUN, learning_rate=2e-3), DATA, []),
        "lora": (spec, other(RUN, lora=lora), DATA, []),
        "tasks": (spec, other(RUN, tasks={"a": Tasks("x")}), DATA, []),
        "data": (spec, RUN, [*DATA[:-1], DATA[-1]._replace(query="another")], []),
        "order": (spec, RUN, DATA[::-1], []),
        "dev": (spec, RUN, DATA, DEV),
        "variant": (other(spec, prompt="card"), RUN, DATA, []),
        "length": (spec, other(RUN, document_length=20), DATA, []),
        "model": (other(spec, lengths=other(spec.lengths, document=20)), RUN, DATA, []),
        "window": (other(spec, window=3), RUN, DATA, []),
    }[what]


@pytest.mark.parametrize("what", "rate lora tasks data order dev variant length model window".split())
def test_the_state_of_another_run_is_refused(spec: ModelSpec, half_way: Path, what: str):
    words = r"^[^\n]*out\.training: holds the state of another run [^\n]*$"
    examples = changed(spec, what)
    with pytest.raises(E2RankError, match=words):
        train(*examples[:3], half_way, dev=examples[3], device="cpu")
    assert not half_way.exists()


@pytest.mark.parametrize("what", ["nothing", "memory"])
def test_how_memory_is_spent_may_change(spec: ModelSpec, undisturbed: Path, half_way: Path, tmp_path: Path, what: str):
    shutil.copytree(half_way.with_name("out.training"), tmp_path / "out.training")
    train(*changed(spec, what)[:3], tmp_path / "out", device="cpu")
    expected = [row["loss"] for row in curve(undisturbed) if "loss" in row]
    assert [row["loss"] for row in curve(tmp_path / "out")] == pytest.approx(expected, rel=1e-3)


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


@pytest.mark.parametrize(
    "harm",
    [
        lambda state: cut(state / "weights.safetensors", 0.5),
        lambda state: cut(state / "optimizer.safetensors", 0.9),
        lambda state: cut(state / "step.json", 0.5),
        lambda state: (state / "step.json").write_text("{}"),
        lambda state: (state / "step.json").write_text("[1]"),
        lambda state: (state / "weights.safetensors").unlink(),
    ],
    ids=["weights", "moments", "record", "empty-record", "no-record", "absent"],
)
def test_a_broken_state_is_one_line(spec: ModelSpec, half_way: Path, tmp_path: Path, harm: Callable[[Path], object]):
    shutil.copytree(half_way.with_name("out.training"), tmp_path / "out.training")
    harm(tmp_path / "out.training" / "state")
    with pytest.raises(E2RankError, match=r"^[^\n]*state: the saved state cannot be read \([^\n]+\); [^\n]*$"):
        train(spec, RUN, DATA, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


# --- what is learned and what is written ------------------------------------------------------------------------------


def test_a_tiny_model_learns_eight_lists_by_heart(spec: ModelSpec, tmp_path: Path):
    examples = lists(8, 4, seed=11, most=8)
    heart = dataclasses.replace(RANK, batch=8, steps=60, learning_rate=3e-3, infonce_weight=0.0, warmup=0.1)
    train(spec, heart, examples, tmp_path / "out", device="cpu")
    assert curve(tmp_path / "out")[0]["ranknet"] > 0.3
    assert curve(tmp_path / "out")[-1]["ranknet"] < 0.05
    read = E2RankEncoder.load(str(tmp_path / "out"), device="cpu")
    for example in examples:
        prompt = ListwisePrompt(example.query, example.documents, slow.RERANK)
        scores = read.encode_documents(example.documents) @ read.encode_prompts([prompt])[0]
        assert tuple(np.argsort(-scores)) == example.ranking


def vectors(encoder: E2RankEncoder) -> np.ndarray:
    prompt = ListwisePrompt("lift of a wing", tuple(TEXTS[:4]), slow.RERANK)
    return np.concatenate(
        [encoder.encode_documents(TEXTS), encoder.encode_queries(TEXTS[:3]), encoder.encode_prompts([prompt])]
    )


def trained_run(spec: ModelSpec, chosen: Recipe, output: Path) -> Training:
    run = Training(spec, chosen, DATA, output, (), "cpu", 0, 1)
    run.go(None)
    return run


FORMS = {
    "whole": RANK,
    "lora": dataclasses.replace(RANK, lora=Lora(4, 8), learning_rate=1e-2),
    "lora-targets": dataclasses.replace(
        RANK, lora=Lora(4, 8, ("q_proj", "v_proj")), learning_rate=5e-2, checkpointing=True
    ),
    "compress": dataclasses.replace(RANK, compress=64),  # the full rank: the hidden size
    "int4": dataclasses.replace(RANK, compress="int4", layers=1, learning_rate=2e-2),
}


@pytest.fixture(scope="module")
def made(spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Training]:
    place = tmp_path_factory.mktemp("forms")
    return {name: trained_run(spec, chosen, place / name) for name, chosen in FORMS.items()}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_what_was_trained(made: dict[str, Training], spec: ModelSpec, form: str):
    run = made[form]
    read = E2RankEncoder.load(str(run.output), device="cpu", dtype="float32")
    expected = vectors(run.encoder)
    start = vectors(E2RankEncoder.load(spec, device="cpu"))
    moved = np.abs(expected - start).max()
    assert moved > 0.05  # it did learn something
    tolerance = {"whole": 2e-5, "int4": moved / 4}.get(form, 2e-3)  # an adapter is written in 16 bits, or in 4
    np.testing.assert_allclose(vectors(read), expected, atol=tolerance)
    adapter = any((run.output / name).exists() for name in ("adapter_model.safetensors", "delta.safetensors"))
    assert adapter is (form != "whole")
    assert (run.output / "tokenizer.json").exists() is not adapter


def test_an_adapter_is_found_from_any_directory(
    made: dict[str, Training], spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(Path(spec.source).parent)
    relative = model(Path(spec.source).name)
    train(relative, dataclasses.replace(FORMS["lora"], steps=1), DATA, tmp_path / "out", device="cpu")
    monkeypatch.chdir(tmp_path)
    found = vectors(E2RankEncoder.load("out", device="cpu", dtype="float32"))
    monkeypatch.chdir("/")
    again = vectors(E2RankEncoder.load(str(tmp_path / "out"), device="cpu", dtype="float32"))
    np.testing.assert_array_equal(found, again)
    base = vectors(E2RankEncoder.load(spec, device="cpu", dtype="float32"))
    assert np.abs(found - base).max() > 1e-4  # the adapter is in it


def test_lora_leaves_the_base_alone(made: dict[str, Training], spec: ModelSpec):
    network = made["lora-targets"].encoder.network
    trained = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert len(trained) == 2 * 2 * 2  # two layers, q and v, A and B
    assert all("lora_" in name and ("q_proj" in name or "v_proj" in name) for name in trained)
    base = weights_of(Path(spec.source))
    for name, weight in network.named_parameters():
        if "lora_" not in name:
            plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
            assert torch.equal(weight, base[plain]), name


def test_compress_at_full_rank_is_the_change_itself(made: dict[str, Training], spec: ModelSpec):
    """B A of the adapter against the difference of the weights; only linear layers were trained."""
    run = made["compress"]
    kept = json.loads((run.output / "training.json").read_text())["energy_kept"]
    assert kept == pytest.approx(1.0)
    before, adapter = weights_of(Path(spec.source)), load_file(run.output / "adapter_model.safetensors")
    layers = 0
    for name, weight in run.encoder.network.named_parameters():
        change = weight.detach() - before[name]
        if "norm" in name or "embed" in name:
            assert not change.any(), name
            continue
        layers += 1
        place = f"base_model.model.{name.removesuffix('.weight')}"
        product = adapter[f"{place}.lora_B.weight"].float() @ adapter[f"{place}.lora_A.weight"].float()
        assert float(torch.linalg.norm(product - change)) < 2e-3 * float(torch.linalg.norm(change)), name
    assert layers == 2 * 7


def test_compress_at_a_low_rank_keeps_the_share_that_it_says(made: dict[str, Training], spec: ModelSpec):
    network = made["compress"].encoder.network
    before = E2RankEncoder.load(spec, device="cpu").network
    changes = {
        name: module.weight.detach() - linear_layers(before)[name].weight.detach()
        for name, module in linear_layers(network).items()
    }
    adapted, share = compressed(network, before, 3)
    left = sum(
        float(
            (
                (adapted.get_submodule(f"base_model.model.{name}").get_delta_weight("default").detach() - change) ** 2
            ).sum()
        )
        for name, change in changes.items()
    )
    whole = sum(float((change**2).sum()) for change in changes.values())
    assert 0.05 < share < 0.999
    assert left == pytest.approx((1 - share) * whole, rel=1e-3)


def test_an_adapter_that_is_there_is_trained_further(made: dict[str, Training], tmp_path: Path):
    first = made["lora"].output
    again = model(str(first))
    still = learner(again, FORMS["lora"], "cpu")
    np.testing.assert_allclose(vectors(still), vectors(made["lora"].encoder), atol=2e-3)  # written in 16 bits
    run = trained_run(again, FORMS["lora"], tmp_path / "out")
    old, new = load_file(first / "adapter_model.safetensors"), load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert old.keys() == new.keys()
    assert all(not torch.equal(old[name], new[name]) for name in old)
    read = E2RankEncoder.load(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(vectors(read), vectors(run.encoder), atol=2e-3)
    base = json.loads((tmp_path / "out" / "training.json").read_text())["base"]
    assert base["adapter"] == str(first)
    assert base["identity"] == E2RankEncoder.load(str(first), device="cpu").identity


def test_lora_in_layers_that_are_not_trained_is_refused(made: dict[str, Training], tmp_path: Path):
    import peft
    from transformers import AutoModel

    spec, lora = made["lora"].result, FORMS["lora"].lora
    network = AutoModel.from_pretrained(spec.source, dtype=torch.float32)
    config = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=["layers.0.self_attn.q_proj"])
    peft.get_peft_model(network, config).save_pretrained(tmp_path / "first")
    chosen = dataclasses.replace(FORMS["lora"], layers=1, lora=dataclasses.replace(lora, targets=()))
    with pytest.raises(E2RankError, match="there is nothing to train"):
        learner(dataclasses.replace(spec, adapter=str(tmp_path / "first")), chosen, "cpu")


def test_an_adapter_of_another_model_is_not_trained_further(made: dict[str, Training], tmp_path: Path):
    import peft
    from transformers import AutoModelForCausalLM

    spec, lora = made["lora"].result, FORMS["lora"].lora
    network = AutoModelForCausalLM.from_pretrained(spec.source)
    config = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=["q_proj"])
    peft.get_peft_model(network, config).save_pretrained(tmp_path / "first")
    chosen = dataclasses.replace(FORMS["lora"], lora=dataclasses.replace(lora, targets=()))
    with pytest.raises(E2RankError, match="its adapter cannot be read: it lacks base_model"):
        learner(dataclasses.replace(spec, adapter=str(tmp_path / "first")), chosen, "cpu")


def test_compress_of_an_adapter_that_changes_more_than_linear_layers_is_refused(spec: ModelSpec, tmp_path: Path):
    import peft
    from transformers import AutoModel

    network = AutoModel.from_pretrained(spec.source, dtype=torch.float32)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"])
    adapted = peft.get_peft_model(network, config)
    with torch.no_grad():
        adapted.base_model.model.norm.modules_to_save["default"].weight.add_(1)
    adapted.save_pretrained(tmp_path / "more")
    with pytest.raises(E2RankError, match=r"its adapter changes norm\.weight, and compress keeps linear layers alone"):
        learner(dataclasses.replace(spec, adapter=str(tmp_path / "more")), FORMS["int4"], "cpu")


def test_two_adapters_on_one_base_are_two_starts(made: dict[str, Training]):
    """Else a run from one would go on from the state of a run from the other."""
    chosen = FORMS["lora"]
    starts = [learner(model(str(made[name].output)), chosen, "cpu").identity for name in ("lora", "lora-targets")]
    assert starts[0] != starts[1]


@pytest.mark.parametrize("form", ["compress", "int4"])
def test_compress_of_an_adapter_begins_with_it_and_holds_it(made: dict[str, Training], tmp_path: Path, form: str):
    """What is written is for the base: the adapter that was there is in it."""
    first = model(str(made[form].output))
    start = learner(first, FORMS[form], "cpu")
    run = trained_run(first, dataclasses.replace(FORMS[form], steps=2), tmp_path / "out")
    read = E2RankEncoder.load(str(tmp_path / "out"), device="cpu", dtype="float32")
    assert read.spec.source == first.source
    moved = np.abs(vectors(run.encoder) - vectors(start)).max()
    missed = np.abs(vectors(read) - vectors(run.encoder)).max()
    assert moved > 0
    assert missed < (2e-3 if form == "compress" else 0.2)
    plain = E2RankEncoder.load(dataclasses.replace(first, adapter=None), device="cpu", dtype="float32")
    assert np.abs(vectors(read) - vectors(plain)).max() > 4 * missed


def test_lora_on_a_change_in_4_bits_is_refused(made: dict[str, Training]):
    with pytest.raises(E2RankError, match="`compress: int4` trains it further"):
        learner(model(str(made["int4"].output)), FORMS["lora"], "cpu")


def test_only_the_last_layers_are_trained(made: dict[str, Training], spec: ModelSpec):
    network = made["int4"].encoder.network
    names = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert len(names) == 7
    assert all("layers.1." in name and "norm" not in name for name in names)
    whole = learner(spec, dataclasses.replace(RANK, layers=1), "cpu").network
    assert {name.split(".")[1] for name, weight in whole.named_parameters() if weight.requires_grad} == {"1"}
    before = weights_of(Path(spec.source))
    for name, weight in network.named_parameters():
        assert torch.equal(weight, before[name]) is (name not in names), name


def test_the_share_that_4_bits_keep_is_what_is_written(made: dict[str, Training], spec: ModelSpec):
    run = made["int4"]
    before, delta = weights_of(Path(spec.source)), Delta.read(run.output)
    lost = total = 0.0
    for name, weight in run.encoder.network.named_parameters():
        if weight.requires_grad:
            change = weight.detach() - before[name]
            found = restored(delta.tensors[f"{name}.codes"], delta.tensors[f"{name}.scales"])
            lost, total = lost + float(((found - change) ** 2).sum()), total + float((change**2).sum())
    kept = json.loads((run.output / "training.json").read_text())["energy_kept"]
    assert kept == pytest.approx(1 - lost / total, abs=1e-6)
    assert kept > 0.98


@pytest.mark.filterwarnings("ignore")  # torch.compile raises its own
def test_compiled_layers_take_the_same_steps(spec: ModelSpec, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("torch.compile needs a C++ compiler")
    plain = dataclasses.replace(RANK, steps=3, chunk_tokens=400)
    for name, each in (("plain", plain), ("compiled", dataclasses.replace(plain, compile=True))):
        trained_run(spec, each, tmp_path / name)
    found, expected = (read_log(tmp_path / name / "metrics.jsonl") for name in ("compiled", "plain"))
    for one, other in zip(found, expected, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert one["norm"] == pytest.approx(other["norm"], rel=1e-2)
    assert "recompile_limit" not in capfd.readouterr().err
    assert [
        json.loads((tmp_path / name / "training.json").read_text())["compiled"] for name in ("plain", "compiled")
    ] == [
        False,
        True,
    ]


def test_without_a_compiler_it_trains_all_the_same(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("CXX", "no-such-compiler")
    trained_run(spec, dataclasses.replace(RANK, steps=1, compile=True), tmp_path / "out")
    assert capsys.readouterr().err.count("no C++ compiler (no-such-compiler): trains without torch.compile") == 1
    assert json.loads((tmp_path / "out" / "training.json").read_text())["compiled"] is False


def test_on_a_gpu_a_compiler_is_needed_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("CC", "no-such-compiler")
    network = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    _compile(SimpleNamespace(device=torch.device("cuda"), network=network))
    assert capsys.readouterr().err == "no C compiler (no-such-compiler): trains without torch.compile, more slowly\n"
    assert not is_compiled(network)


def test_all_weights_of_a_model_with_an_adapter_become_a_whole_model(made: dict[str, Training], tmp_path: Path):
    run = trained_run(model(str(made["lora"].output)), dataclasses.replace(RANK, steps=2), tmp_path / "out")
    read = E2RankEncoder.load(str(tmp_path / "out"), device="cpu")
    assert read.spec.adapter is None
    np.testing.assert_allclose(vectors(read), vectors(run.encoder), atol=2e-5)


@pytest.mark.parametrize("relevance", [(1e8 + 1, 1e8 + 3, 1e8 + 2), (0.0, 3e39, 2e39), (1.0, 1.0 + 2e-9, 1.0 + 1e-9)])
def test_ranknet_tells_apart_what_examples_tell_apart(relevance: tuple[float, ...]):
    """Numbers that are one number in float32."""
    vectors = torch.nn.functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    order = positions((1, 2, 0))
    found, expected = (
        _listwise(
            vectors,
            vectors[:1],
            Rows([], [], [0], [], [[1, 2, 3]]),
            [Example("q", ("a", "b", "c"), (1, 2, 0), "s", its)],
            10.0,
        )
        for its in (relevance, order)
    )
    assert found > 0
    torch.testing.assert_close(found, expected)


def test_a_full_disk_is_one_line(spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    chosen = Recipe("rank", 1e-3, 2, steps=3, save_every=1, dtype="float32")

    def full(*_: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("e2rank_pyserini.training.state.save_file", full)
    with pytest.raises(E2RankError, match=r"^[^\n]*out: cannot be written \([^\n]*No space left on device[^\n]*$"):
        train(spec, chosen, lists(4, 3), tmp_path / "out", device="cpu")


def test_lora_targets_that_the_model_lacks_are_one_line(spec: ModelSpec):
    with pytest.raises(
        E2RankError, match=r"^[^\n]*lora: targets: the model has no linear layer 'query_projection' [^\n]*$"
    ):
        learner(spec, dataclasses.replace(RANK, lora=Lora(2, 4, ("query_projection",))), "cpu")


def test_bfloat16_trains_float32_weights(spec: ModelSpec, tmp_path: Path):
    chosen = dataclasses.replace(RANK, dtype="bfloat16", steps=2, evaluate_every=1)
    train(spec, chosen, DATA, tmp_path / "half", dev=DEV, device="cpu")
    train(spec, dataclasses.replace(chosen, dtype="float32"), DATA, tmp_path / "full", dev=DEV, device="cpu")
    assert all(weight.dtype == torch.float32 for weight in weights_of(tmp_path / "half").values())
    half, full = ([row["loss"] for row in curve(tmp_path / name) if "loss" in row] for name in ("half", "full"))
    assert half == pytest.approx(full, rel=0.1)
    assert half != full


@pytest.mark.parametrize(("native", "meant"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_where_the_hardware_computes_in_it(
    native: bool, meant: str, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Elsewhere it is emulated, and trains several times as slowly as float32."""
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": native})
    auto, named = (
        train(spec, dataclasses.replace(RANK, dtype=dtype, steps=1), DATA, tmp_path / dtype, device="cpu")
        for dtype in ("auto", meant)
    )
    assert auto["recipe"]["dtype"] == meant
    assert auto["fingerprint"] == named["fingerprint"]
    ours, theirs = weights_of(tmp_path / "auto"), weights_of(tmp_path / meant)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def test_a_process_without_a_row_is_refused(spec: ModelSpec, tmp_path: Path):
    with pytest.raises(E2RankError, match="a batch of 4 is too small for 5 processes"):
        Training(spec, RANK, DATA, tmp_path / "out", (), "cpu", 0, 5)


def test_a_rate_as_everyone_writes_it_is_a_number(tmp_path: Path):
    """YAML 1.1 takes 5e-4 for text."""
    (tmp_path / "r.yaml").write_text("stage: rank\nlearning_rate: 5e-4\nwarmup: 1.5E-1\n")
    made = recipe(str(tmp_path / "r.yaml"), None)
    assert (made.learning_rate, made.warmup) == (5e-4, 0.15)


def test_what_is_written_of_a_low_rank_is_looked_at(spec: ModelSpec, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """The looks before are of the whole change."""
    dev = lists(6, 8, seed=5)
    chosen = dataclasses.replace(RANK, learning_rate=1e-2, steps=4, compress=1)
    record = train(spec, chosen, DATA, tmp_path / "out", dev=dev, device="cpu")
    used = E2RankEncoder.load(str(tmp_path / "out"), device="cpu", dtype="float32")
    assert look(used, dev, used.spec.window, chosen) == pytest.approx(record["dev"], abs=1e-3)
    last = [row for row in read_log(tmp_path / "out" / "metrics.jsonl") if "dev_query" in row][-1]
    assert record["dev"]["dev_prompt"] != pytest.approx(last["dev_prompt"], abs=1e-3)
    assert "as written: " in capfd.readouterr().err


def test_the_papers_recipes():
    embed, rank = recipe("embed", None), recipe(None, "rank")
    assert (embed.temperature, embed.batch, embed.document_length, embed.query_length) == (0.03, 512, 512, 512)
    assert embed.learning_rate in (5e-6, 2e-5)  # the paper has both
    assert (rank.temperature, rank.batch, rank.learning_rate, rank.warmup, rank.epochs) == (0.03, 128, 5e-6, 0.03, 1)
    assert (rank.infonce_weight, rank.ranknet_weight, rank.ranknet_scale) == (1.0, 2.0, 10.0)
    assert (rank.document_length, rank.query_length, rank.dtype) == (1024, 512, "auto")
