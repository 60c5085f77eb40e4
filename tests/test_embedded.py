"""The models that the package carries: e2rank-minilm and e2rank-smollm2-135m."""

import dataclasses
import functools
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
from e2rank_pyserini.inference.places import adapter_of
from e2rank_pyserini.training.recipe import recipe
from e2rank_pyserini.types import E2RankError, ListwisePrompt

PLACE = Path(e2rank_pyserini.__file__).parent / "models"
RUNS = {  # model -> the recipe of its first run and of its second
    "e2rank-minilm": ("e2rank-minilm", "e2rank-minilm-prompt"),
    "e2rank-smollm2-135m": ("e2rank-smollm2-135m-distil", "e2rank-smollm2-135m"),
}


@functools.cache  # half a minute for SmolLM2, whose GGUF file Transformers reads three times
def loaded(name: str, dtype: str) -> E2RankEncoder:
    try:
        return E2RankEncoder.load(name, device="cpu", dtype=dtype)
    except E2RankError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", RUNS)
def test_the_adapter_is_small_and_has_a_card_without_gaps(name: str):
    assert 0 < (PLACE / name / "delta.safetensors").stat().st_size <= 15_000_000
    card = (PLACE / name / "README.md").read_text()
    assert "@" not in card.replace("nDCG@10", "").replace("R@100", "").replace("MRR@10", "")


def test_a_directory_may_name_it(tmp_path: Path):
    fields = yaml.safe_load((Path(e2rank_pyserini.__file__).parent / "models.yaml").read_text())["models"][
        "e2rank-minilm"
    ]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "e2rank.yaml").write_text(yaml.safe_dump(fields))
    assert adapter_of(model(str(tmp_path / "mine"))) == adapter_of(model("e2rank-minilm"))


@pytest.mark.parametrize(
    ("name", "base", "changes", "weight"),
    [
        ("e2rank-minilm", "minilm", 6 * 6, "encoder.layer.3.output.dense.weight"),
        ("e2rank-smollm2-135m", "smollm2-135m", 7 * 7, "layers.19.mlp.down_proj.weight"),
    ],
)
def test_its_weights_are_the_base_plus_the_adapter(name: str, base: str, changes: int, weight: str):
    """Of the linear layers; not embeddings, norms, biases, nor the pooler that is not used."""
    untrained, tuned = loaded(base, "float32"), loaded(name, "float32")
    tensors = load_file(PLACE / name / "delta.safetensors")
    before, after = (dict(encoder.network.named_parameters()) for encoder in (untrained, tuned))
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed == {key.rpartition(".")[0] for key in tensors}
    assert len(changed) == changes
    # by hand: two codes to a byte, a scale for 32 weights
    codes, scales = tensors[f"{weight}.codes"].long(), tensors[f"{weight}.scales"].float()
    by_column = torch.empty(len(codes), 2 * codes.shape[1])
    by_column[:, 0::2], by_column[:, 1::2] = (codes % 16 - 8).float(), (codes // 16 - 8).float()
    expected = before[weight] + by_column * scales[:, torch.arange(by_column.shape[1]) // 32]
    assert torch.allclose(after[weight], expected, atol=1e-6)
    assert not torch.allclose(expected, before[weight], atol=1e-4)
    assert tuned.identity != untrained.identity


@pytest.mark.parametrize("name", RUNS)
def test_it_was_trained_by_its_recipes(name: str):
    for file, run in zip(("training.first.json", "training.json"), RUNS[name], strict=True):
        record = json.loads((PLACE / name / file).read_text())
        trained, named = record["recipe"], dataclasses.asdict(recipe(run, None))
        # how memory is spent, how often a state is saved and the dev lists are looked at: that decides nothing
        spent = {"chunk_tokens", "save_every", "evaluate_every"}
        assert (named.pop("dtype"), trained.pop("dtype")) == ("auto", "bfloat16")  # what it meant there
        assert {key: value for key, value in trained.items() if named[key] != value and key not in spent} == {}
        assert {"stage", "learning_rate", "batch", "steps", "ranknet_weight"} <= trained.keys()


@pytest.mark.parametrize(("name", "prompt"), [("e2rank-minilm", "pair"), ("e2rank-smollm2-135m", "tail")])
def test_it_reads_feedback(name: str, prompt: str):
    """The prompt's vector moves towards what its documents are about; the query alone is ambiguous."""
    encoder = loaded(name, "auto" if name == "e2rank-minilm" else "float32")
    assert model(name).prompt == prompt
    animals = ("The jaguar is a large cat of the Americas.", "Big cats hunt deer and capybara in the forest.")
    cars = ("The Jaguar XJ is a luxury saloon car.", "The car's engine was tuned for speed and comfort.")
    prompts = [ListwisePrompt("jaguar", documents, "") for documents in (animals, cars)]
    vectors = encoder.encode_prompts(prompts)
    documents = encoder.encode_documents(["A cat that hunts in the rainforest.", "A fast saloon with leather seats."])
    scores = vectors @ documents.T
    assert scores[0, 0] - scores[0, 1] > scores[1, 0] - scores[1, 1]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
