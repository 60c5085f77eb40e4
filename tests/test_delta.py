"""Changes of weights in 4 bits: against a plain loop, closed forms, and whole models."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from e2rank_pyserini.catalog import model
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.inference.delta import FILE, Delta, quantised, restored
from e2rank_pyserini.types import E2RankError

GROUP = 32


def drawn(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.01


def by_hand(codes: torch.Tensor, scales: torch.Tensor) -> np.ndarray:
    """One weight at a time: the low half of a byte is the earlier of two."""
    found = np.zeros((len(codes), 2 * codes.shape[1]))
    for row in range(len(codes)):
        for column in range(found.shape[1]):
            byte = int(codes[row, column // 2])
            code = byte % 16 if column % 2 == 0 else byte // 16
            found[row, column] = (code - 8) * float(scales[row, column // GROUP])
    return found


def test_restored_is_what_the_format_says():
    codes, scales = quantised(drawn(3, 96))
    assert codes.dtype == torch.uint8
    assert codes.shape == (3, 48)
    assert scales.dtype == torch.float16
    assert scales.shape == (3, 3)
    np.testing.assert_allclose(restored(codes, scales).numpy(), by_hand(codes, scales), rtol=1e-6)


def test_what_4_bits_can_say_is_said_exactly():
    """A scale that is a power of two, times -7.5 (the code -8 but for rounding) to 7."""
    codes = torch.arange(-7, 8).repeat(5)[:64].view(2, 32).float()
    codes[:, 0] = 7.5  # so that the largest is 7.5 scales: the first scale tried is the one
    change = codes * 2.0**-9
    found = restored(*quantised(change))
    torch.testing.assert_close(found[:, 1:], change[:, 1:], rtol=0, atol=0)


@pytest.mark.parametrize("columns", [1, 31, 32, 33, 576])
def test_every_weight_is_within_half_a_step_or_cut_at_the_end(columns: int):
    change = drawn(4, columns)
    codes, scales = quantised(change)
    found = restored(codes, scales)[:, :columns]
    step = scales.float().repeat_interleave(GROUP, dim=1)[:, :columns]
    error = (found - change).abs()
    within = change.abs() <= 7.5 * step
    assert bool((error[within] <= 0.5001 * step[within]).all())
    lost = float((error**2).sum() / (change**2).sum())
    assert lost < 0.012  # a normal distribution's, at 4 bits in groups of 32


def test_no_scale_that_was_tried_is_better():
    change = drawn(8, GROUP)
    codes, scales = quantised(change)
    lost = (restored(codes, scales) - change).square().sum(dim=1)
    for share in (1.0, 0.9, 0.8, 0.7):
        scale = (change.abs().amax(dim=1, keepdim=True) / 7.5 * share).half().float()
        other = ((change / scale).round().clamp(-8, 7) * scale - change).square().sum(dim=1)
        assert bool((lost <= other + 1e-12).all())


def test_zeros_and_what_is_too_small_for_16_bits_stay_zero():
    change = torch.zeros(2, 64)
    change[1, 40] = 1e-9
    codes, scales = quantised(change)
    assert bool(torch.isfinite(scales).all())
    torch.testing.assert_close(restored(codes, scales), torch.zeros(2, 64), rtol=0, atol=0)


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def adapted(tiny_model: Path, tmp_path: Path) -> Path:
    """A directory with a change of the last layer's value projection."""
    place = tmp_path / "adapted"
    weight = (
        E2RankEncoder.load(str(tiny_model), device="cpu", dtype="float32").network.layers[1].self_attn.v_proj.weight
    )
    Delta.of({"layers.1.self_attn.v_proj.weight": drawn(*weight.shape) * 10}).save(place)
    (place / "e2rank.yaml").write_text(
        (tiny_model / "e2rank.yaml").read_text() + f"source: {tiny_model}\nadapter: .\n", encoding="utf-8"
    )
    return place


def test_a_model_is_loaded_with_its_change(tiny_model: Path, adapted: Path):
    base, changed = (E2RankEncoder.load(str(path), device="cpu", dtype="float32") for path in (tiny_model, adapted))
    assert base.identity != changed.identity
    before, after = (dict(encoder.network.named_parameters()) for encoder in (base, changed))
    tensors = Delta.read(adapted).tensors
    name = "layers.1.self_attn.v_proj.weight"
    expected = before[name] + torch.from_numpy(by_hand(tensors[f"{name}.codes"], tensors[f"{name}.scales"])).float()
    torch.testing.assert_close(after.pop(name), expected)
    assert all(torch.equal(weight, before[other]) for other, weight in after.items())
    assert np.abs(base.encode_documents(["a text"]) - changed.encode_documents(["a text"])).max() > 1e-3


@pytest.mark.parametrize("damage", ["cut", "other model", "other shape"])
def test_a_change_that_cannot_be_read_is_one_line(adapted: Path, damage: str):
    if damage == "cut":
        (adapted / FILE).write_bytes((adapted / FILE).read_bytes()[:100])
    else:
        name = "layers.7.self_attn.v_proj.weight" if damage == "other model" else "layers.1.self_attn.v_proj.weight"
        shutil.rmtree(adapted / FILE, ignore_errors=True)
        Delta.of({name: drawn(5, 64)}).save(adapted)
    with pytest.raises(E2RankError, match="is not a readable model") as caught:
        E2RankEncoder.load(model(str(adapted)), device="cpu")
    assert "\n" not in str(caught.value)
