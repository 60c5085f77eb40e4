"""The model that the package carries: e2rank-minilm."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import e2rank_pyserini
from e2rank_pyserini.catalog import model
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.types import E2RankError, ListwisePrompt

PLACE = Path(e2rank_pyserini.__file__).parent / "models" / "e2rank-minilm"


def loaded(name: str, dtype: str = "float32") -> E2RankEncoder:
    try:
        return E2RankEncoder.load(name, device="cpu", dtype=dtype)
    except E2RankError as error:
        pytest.skip(str(error))


def test_the_adapter_is_small_and_has_a_card_without_gaps():
    assert 0 < (PLACE / "adapter_model.safetensors").stat().st_size <= 15_000_000
    card = (PLACE / "README.md").read_text()
    assert "@" not in card.replace("nDCG@10", "").replace("R@100", "").replace("MRR@10", "")


def test_its_weights_are_the_base_plus_the_adapter():
    base, tuned = loaded("minilm"), loaded("e2rank-minilm")
    adapter = load_file(PLACE / "adapter_model.safetensors")
    name = "encoder.layer.3.intermediate.dense"
    down = adapter[f"base_model.model.{name}.lora_A.weight"].float()
    up = adapter[f"base_model.model.{name}.lora_B.weight"].float()
    expected = base.network.get_submodule(name).weight + up @ down  # alpha = rank: a scale of 1
    assert torch.allclose(tuned.network.get_submodule(name).weight, expected, atol=1e-6)
    assert not torch.allclose(expected, base.network.get_submodule(name).weight, atol=1e-4)
    same = "embeddings.word_embeddings"
    assert torch.equal(tuned.network.get_submodule(same).weight, base.network.get_submodule(same).weight)
    assert tuned.identity != base.identity


def test_it_reads_feedback():
    """The prompt's vector moves towards what its documents are about; the query alone is ambiguous."""
    encoder = loaded("e2rank-minilm", "auto")
    assert model("e2rank-minilm").prompt == "pair"
    animals = ("The jaguar is a large cat of the Americas.", "Big cats hunt deer and capybara in the forest.")
    cars = ("The Jaguar XJ is a luxury saloon car.", "The car's engine was tuned for speed and comfort.")
    prompts = [ListwisePrompt("jaguar", documents, "") for documents in (animals, cars)]
    vectors = encoder.encode_prompts(prompts)
    documents = encoder.encode_documents(["A cat that hunts in the rainforest.", "A fast saloon with leather seats."])
    scores = vectors @ documents.T
    assert scores[0, 0] - scores[0, 1] > scores[1, 0] - scores[1, 1]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
