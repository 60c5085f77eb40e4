"""The prompt variant `pair`: an encoder reads query and documents at once; the mean over the query's tokens is added to
the bare query's vector."""

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from e2rank_pyserini.catalog import model
from e2rank_pyserini.cli import main
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.prompts import user_turn
from e2rank_pyserini.training.recipe import Recipe
from e2rank_pyserini.training.step import Losses, backward, losses, rows_of
from e2rank_pyserini.training.train import Training
from e2rank_pyserini.types import E2RankError, ListwisePrompt
from tests.conftest import sentences
from tests.reference import training as reference
from tests.test_training import DATA

QUERY = "lift of wing"
RANK = Recipe("rank", 1e-3, 3, dtype="float32")


@pytest.fixture(scope="module")
def encoder(bert: Path) -> E2RankEncoder:
    return E2RankEncoder.load(str(bert), device="cpu")


def by_hand(encoder: E2RankEncoder, query: str, documents: list[str]) -> np.ndarray:
    """[CLS] query [SEP] document [SEP] … [SEP] in one pass, and [CLS] query [SEP] in another; of both the mean of the
    hidden states up to the first [SEP], at length 1; their sum at length 1."""
    vocabulary = encoder.tokens.tokenizer.get_vocab()
    bare = ["[CLS]", *query.split(), "[SEP]"]
    whole = list(bare)
    for document in documents:
        whole += [*document.replace(".", " .").split(), "[SEP]"]
    assert all(word in vocabulary for word in whole)
    total = torch.zeros(32)
    for words in (bare, whole):
        ids = torch.tensor([[vocabulary[word] for word in words]])
        with torch.no_grad():
            mean = encoder.network(input_ids=ids).last_hidden_state[0, : len(bare)].mean(dim=0)
        total += mean / mean.norm()
    return (total / total.norm()).numpy()


def prompt(query: str, *documents: str) -> ListwisePrompt:
    return ListwisePrompt(query, documents, "a task that pair does not say")


def test_the_user_turn_is_query_and_documents_with_separators():
    assert user_turn(prompt("q", "one", "two"), "pair", "[SEP]") == "q[SEP]one[SEP]two"
    assert user_turn(prompt("q", "o[SEP]ne"), "pair", "[SEP]") == "q[SEP]o ne"
    assert user_turn(prompt("q[SEP]", "one"), "pair", "[SEP]") == "q [SEP]one"
    assert user_turn(prompt("q", "[SE[SEP]P]"), "pair", "[SEP]") == "q[SEP][SE P]"


def test_the_vector_is_that_of_the_formula(encoder: E2RankEncoder):
    """Prompts of different lengths in one batch, each as alone in one pass."""
    texts = [["wing flow.", "drag nose cone."], ["shock wave."], sentences(4, least=4, most=9)]
    found = encoder.encode_prompts([prompt(QUERY, *documents) for documents in texts])
    expected = [by_hand(encoder, QUERY, documents) for documents in texts]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3  # the documents were read
    assert np.abs(found[0] - encoder.encode_queries([QUERY])[0]).max() > 1e-3


def test_the_pooled_span_is_the_query_and_its_frame(encoder: E2RankEncoder):
    (ids,), (pooled,) = encoder.tokens.prompts([prompt(QUERY, "wing", "drag")])
    assert (
        encoder.tokens.tokenizer.convert_ids_to_tokens(ids) == "[CLS] lift of wing [SEP] wing [SEP] drag [SEP]".split()
    )
    assert pooled == 5


@pytest.mark.parametrize(
    "query", ["lift of [SEP] wing", "[SEP]lift of wing", "lift of wing[SEP]", "lift [sep] of wing"]
)
def test_a_separator_in_a_query_ends_nothing(encoder: E2RankEncoder, query: str):
    (ids,), (pooled,) = encoder.tokens.prompts([prompt(query, "drag [SEP] nose", "cone[SEP]")])
    words = encoder.tokens.tokenizer.convert_ids_to_tokens(ids)
    span = words[:pooled]
    assert (span[0], span[-1], span.count("[SEP]")) == ("[CLS]", "[SEP]", 1)
    assert [word for word in span if word in ("lift", "of", "wing")] == ["lift", "of", "wing"]
    assert words[len(span) :] == ["drag", "nose", "[SEP]", "cone", "[SEP]"]
    if "[SEP]" in query:
        plain = encoder.encode_prompts([prompt(QUERY, "drag nose", "cone")])
        np.testing.assert_allclose(encoder.encode_prompts([prompt(query, "drag [SEP] nose", "cone[SEP]")]), plain)


def test_truncation_keeps_the_query(encoder: E2RankEncoder):
    """60 tokens: [CLS] and five [SEP] leave 54, the query has 3; of the 51 each of four documents gets 12."""
    long = [" ".join(["wing"] * 40) for _ in range(4)]
    (ids,), (pooled,) = encoder.tokens.prompts([prompt(QUERY, *long)])
    words = encoder.tokens.tokenizer.convert_ids_to_tokens(ids)
    assert words[:5] == ["[CLS]", "lift", "of", "wing", "[SEP]"]
    assert pooled == 5
    assert len(ids) <= 60
    assert words[5:] == [*["wing"] * 12, "[SEP]"] * 4
    expected = by_hand(encoder, QUERY, [" ".join(["wing"] * 12)] * 4)
    np.testing.assert_allclose(encoder.encode_prompts([prompt(QUERY, *long)])[0], expected, atol=1e-5)


def test_a_long_query_is_cut_to_its_length(encoder: E2RankEncoder):
    query = " ".join(["lift"] * 50)
    _, (pooled,) = encoder.tokens.prompts([prompt(query, "wing")])
    assert pooled == 12 + 2
    _, (pooled,) = encoder.tokens.prompts([prompt(query, *[" ".join(["wing"] * 40)] * 4)])
    assert pooled == 12 + 2


@pytest.mark.parametrize("command", ["rerank", "train"])
def test_a_decoder_is_refused_in_one_line(
    tiny_model: Path,
    beir: Path,
    tiny_index: Path,
    toy_run: Path,
    tmp_path: Path,
    command: str,
    capfd: pytest.CaptureFixture[str],
):
    data = tmp_path / "data.jsonl"
    data.write_text('{"query": "q", "document": ["a", "b"], "ranking": [1, 2]}\n')
    words = {
        "rerank": ["--dataset", str(beir), "--index", str(tiny_index), "--run", str(toy_run)],
        "train": ["--encoder", str(tiny_model), "--stage", "rank", "--data", str(data), "--batch", "1"],
    }[command]
    capfd.readouterr()
    assert main([command, *words, "--prompt", "pair", "--output", str(tmp_path / "out")]) == 1
    printed, told = capfd.readouterr()
    assert printed == ""
    assert told.count("\n") == 1
    assert "the prompt variant pair is for encoders" in told
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]


def test_pair_has_no_place_for_a_task(encoder: E2RankEncoder):
    spec = dataclasses.replace(encoder.spec, query="Instruct: {task} Query: {query}")
    with pytest.raises(E2RankError, match="the prompt variant pair is for queries without a task, not for 'Instruct"):
        E2RankEncoder(spec, encoder.network, encoder.tokens.tokenizer, "x")


@pytest.mark.parametrize("task", [[], ["--task", "generic"], ["--task", "Sort them"], ["--noun", "Tweets"]])
def test_a_task_named_in_vain_is_told_and_not_recorded(bert: Path, beir: Path, tmp_path: Path, capsys, task: list[str]):
    words = ["--dataset", str(beir), "--index", str(tmp_path / "index")]
    assert main(["index", *words[:2], "--encoder", str(bert), "--output", words[-1]]) == 0
    assert main(["search", *words, *(task if "--noun" not in task else []), "--output", str(tmp_path / "a.trec")]) == 0
    told = capsys.readouterr().err
    assert ("queries say no task: that was named in vain" in told) is ("Sort them" in task)
    assert main(["rerank", *words, *task, "--run", str(tmp_path / "a.trec"), "--output", str(tmp_path / "b.trec")]) == 0
    told = capsys.readouterr().err
    assert ("prompts (pair) say no task: that was named in vain" in told) is (task[-1:] in (["Sort them"], ["Tweets"]))
    prompt = json.loads((tmp_path / "b.trec.json").read_text())["prompt"]
    assert (prompt["task"], prompt["noun"]) == (None, None)


def test_pair_without_a_separator_is_refused(encoder: E2RankEncoder):
    for wrong in ({"eos": "[SEP]"}, {"chat": "{{ messages[0].content }}"}):
        spec = dataclasses.replace(encoder.spec, **wrong)
        with pytest.raises(E2RankError, match="variant pair is for encoders"):
            E2RankEncoder(spec, encoder.network, encoder.tokens.tokenizer, "x")


def test_training_ranks_by_the_same_vectors(encoder: E2RankEncoder):
    """RankNet of a batch, from what the encoder says alone, by the slow reference."""
    rows = rows_of(DATA[:3], encoder.tokens, RANK, 4, random.Random(0))

    def loss_of(vectors: torch.Tensor) -> Losses:
        return losses(vectors, rows, DATA[:3], RANK, anchor=True)

    encoder.network.requires_grad_(True)
    found = backward(encoder.network, "mean", rows, loss_of, chunk_tokens=300, cached=False, dtype=torch.float32)
    encoder.network.zero_grad()
    lists = []
    for example in DATA[:3]:
        vector = encoder.encode_prompts([prompt(example.query, *example.documents[:4])])[0]
        lists.append((10 * encoder.encode_documents(example.documents) @ vector, example.relevance))
    assert float(found["ranknet"]) == pytest.approx(reference.ranknet(lists), abs=1e-5)


@pytest.mark.parametrize("compress", [None, 32])
def test_an_encoder_is_trained_by_pair(bert: Path, tmp_path: Path, compress: int | None):
    """Without dropout (twice the same), its unused pooler left as it is; what is written reads as it was trained."""
    chosen = Recipe(
        "rank", 5e-3, 4, steps=4, dtype="float32", chunk_tokens=300, cached=True, checkpointing=True, compress=compress
    )
    runs = []
    for name in ("one", "two"):
        run = Training(model(str(bert)), chosen, DATA, tmp_path / name, (), "cpu", 0, 1)
        run.go(None)
        runs.append(run)
    log = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("one", "two")]
    assert log[0] == log[1]
    read = E2RankEncoder.load(str(tmp_path / "one"), device="cpu", dtype="float32")
    asked = [prompt(QUERY, "wing", "drag nose"), prompt("shock", "cone")]
    tolerance = 5e-3 if compress else 2e-5
    np.testing.assert_allclose(read.encode_prompts(asked), runs[0].encoder.encode_prompts(asked), atol=tolerance)
    start = E2RankEncoder.load(str(bert), device="cpu")
    assert np.abs(read.encode_prompts(asked) - start.encode_prompts(asked)).max() > 0.02
