"""The model that the package carries: e2rank-minilm."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import e2rank_pyserini
from e2rank_pyserini.catalog import model
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.loading import adapter_of
from e2rank_pyserini.training.recipe import recipe
from e2rank_pyserini.types import E2RankError, ListwisePrompt

PLACE = Path(e2rank_pyserini.__file__).parent / "models" / "e2rank-minilm"


def loaded(name: str, dtype: str = "float32") -> E2RankEncoder:
    try:
        return E2RankEncoder.load(name, device="cpu", dtype=dtype)
    except E2RankError as error:
        pytest.skip(str(error))


def test_the_adapter_is_small_and_has_a_card_without_gaps():
    assert 0 < (PLACE / "delta.safetensors").stat().st_size <= 15_000_000
    card = (PLACE / "README.md").read_text()
    assert "@" not in card.replace("nDCG@10", "").replace("R@100", "").replace("MRR@10", "")


def test_a_directory_may_name_it(tmp_path: Path):
    fields = yaml.safe_load((Path(e2rank_pyserini.__file__).parent / "models.yaml").read_text())["models"][
        "e2rank-minilm"
    ]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "e2rank.yaml").write_text(yaml.safe_dump(fields))
    assert adapter_of(model(str(tmp_path / "mine"))) == adapter_of(model("e2rank-minilm"))


def test_its_weights_are_the_base_plus_the_adapter():
    base, tuned = loaded("minilm"), loaded("e2rank-minilm")
    tensors = load_file(PLACE / "delta.safetensors")
    before, after = (dict(encoder.network.named_parameters()) for encoder in (base, tuned))
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed == {key.rpartition(".")[0] for key in tensors}
    assert len(changed) == 6 * 6  # the linear layers; not embeddings, norms, biases, nor the pooler that is not used
    name = "encoder.layer.3.output.dense.weight"  # by hand: two codes to a byte, a scale for 32 weights
    codes, scales = tensors[f"{name}.codes"].long(), tensors[f"{name}.scales"].float()
    by_column = torch.empty(len(codes), 2 * codes.shape[1])
    by_column[:, 0::2], by_column[:, 1::2] = (codes % 16 - 8).float(), (codes // 16 - 8).float()
    expected = before[name] + by_column * scales[:, torch.arange(by_column.shape[1]) // 32]
    assert torch.allclose(after[name], expected, atol=1e-6)
    assert not torch.allclose(expected, before[name], atol=1e-4)
    assert tuned.identity != base.identity


def test_it_was_trained_by_its_recipes():
    for file, name in (("training.first.json", "e2rank-minilm"), ("training.json", "e2rank-minilm-prompt")):
        trained, named = json.loads((PLACE / file).read_text())["recipe"], dataclasses.asdict(recipe(name, None))
        spent = {"chunk_tokens", "save_every"}  # how memory is spent, and how often a state is saved, decide nothing
        assert {key: value for key, value in trained.items() if named[key] != value and key not in spent} == {}
        assert {"stage", "learning_rate", "batch", "steps", "ranknet_weight"} <= trained.keys()


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
