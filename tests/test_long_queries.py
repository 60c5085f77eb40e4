"""Queries of up to 32 k tokens (BRIGHT's): read whole where the model has the positions, cut and counted where not."""

import dataclasses
import gzip
import json
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import yaml

from e2rank_pyserini.catalog import DatasetSpec
from e2rank_pyserini.cli import main
from e2rank_pyserini.commands.opening import loaded_encoder
from e2rank_pyserini.datasets import Dataset
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.prompts import RERANK_TASK, RETRIEVAL_TASK
from e2rank_pyserini.trec import read_run
from e2rank_pyserini.types import ListwisePrompt
from tests.conftest import LENGTHS, sentences
from tests.reference import plain

LONG = 32768


@pytest.fixture(scope="module")
def long_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smaller Qwen3 of one layer with 32 k positions, and the tiny model's tokenizer."""
    import torch
    from transformers import Qwen3Config, Qwen3Model

    place = tmp_path_factory.mktemp("models") / "long-qwen3"
    shutil.copytree(tiny_model, place)
    own = json.loads((place / "config.json").read_text())
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=own["vocab_size"],
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=LONG,
        initializer_range=0.2,
    )
    Qwen3Model(config).save_pretrained(place)
    record = yaml.safe_load((place / "e2rank.yaml").read_text())
    record["lengths"] = {**LENGTHS, "prompt": LONG}
    (place / "e2rank.yaml").write_text(yaml.safe_dump(record))
    return place


def options(model: Path, **given: int) -> Namespace:
    names = ("like", "device", "dtype", "batch_tokens", "threads", "max_length", "query_length", "prompt_length")
    return Namespace(**{**dict.fromkeys(names), "encoder": str(model), "device": "cpu", **given})


@pytest.mark.parametrize(
    ("given", "length"),
    [({}, LONG), ({"query_length": 99}, 99), ({"prompt_length": 1000}, 1000)],
    ids=["data-set", "option", "no-longer-than-the-prompt"],
)
def test_the_data_sets_query_length(long_model: Path, given: dict[str, int], length: int):
    data = Dataset(DatasetSpec(name="bright", corpus="x", query_length=LONG), None)
    assert loaded_encoder(options(long_model, **given), None, data).spec.lengths.query == length


def test_a_shorter_model_gives_the_query_what_its_prompt_has(tiny_model: Path):
    data = Dataset(DatasetSpec(name="bright", corpus="x", query_length=LONG), None)
    assert loaded_encoder(options(tiny_model), None, data).spec.lengths.query == LENGTHS["prompt"]
    plain_set = Dataset(DatasetSpec(name="other", corpus="x"), None)
    assert loaded_encoder(options(tiny_model), None, plain_set).spec.lengths.query == LENGTHS["query"]


def test_a_query_far_beyond_512_tokens_equals_the_reference(long_model: Path):
    short = E2RankEncoder.load(str(long_model), device="cpu")
    lengths = dataclasses.replace(short.spec.lengths, query=LONG)
    network, tokenizer = short.network, short.tokens.tokenizer
    encoder = E2RankEncoder(dataclasses.replace(short.spec, lengths=lengths), network, tokenizer, "x")
    query, documents = " ".join(sentences(60, seed=3)), tuple(sentences(5, seed=4))
    assert len(plain.token_ids(tokenizer, query)) > 1000
    expected = plain.query_vector(network, tokenizer, query, task=RETRIEVAL_TASK, max_length=LONG)
    np.testing.assert_allclose(encoder.encode_queries([query])[0], expected, atol=1e-5)
    prompt = plain.prompt_vector(
        network,
        tokenizer,
        query,
        documents,
        task=RERANK_TASK,
        variant="paper",
        document_length=LENGTHS["document"],
        query_length=LONG,
        prompt_length=LONG,
    )
    np.testing.assert_allclose(
        encoder.encode_prompts([ListwisePrompt(query, documents, RERANK_TASK)])[0], prompt, atol=1e-5
    )
    assert (encoder.tally.queries_truncated, encoder.tally.prompts_query_truncated) == (0, 0)


def test_a_query_of_more_than_32k_tokens_end_to_end(
    long_model: Path, beir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A named BRIGHT set with its topics by file; nothing fails, and what was cut is counted."""
    words = " ".join(sentences(1200, seed=6))
    topics = f"0\t{words}\n1\t{words[:9000]}\n"
    (tmp_path / "topics.bright-biology.tsv.gz").write_bytes(gzip.compress(topics.encode()))
    monkeypatch.setenv("E2RANK_DATA", str(tmp_path))
    index = str(tmp_path / "index")
    assert main(["index", "--corpus", str(beir), "--encoder", str(long_model), "--output", index]) == 0
    data = ["--dataset", "bright-biology", "--index", index, "--device", "cpu"]
    assert main(["search", *data, "--hits", "10", "--output", str(tmp_path / "dense")]) == 0
    assert "2 topics, 1 truncated" in capsys.readouterr().err
    more = ["--run", str(tmp_path / "dense"), "--corpus", str(beir), "--output", str(tmp_path / "out")]
    assert main(["rerank", *data, *more]) == 0
    assert "1 of 2 queries in prompts cut" in capsys.readouterr().err
    assert {qid: len(hits) for qid, hits in read_run(tmp_path / "out").items()} == {"0": 10, "1": 10}
