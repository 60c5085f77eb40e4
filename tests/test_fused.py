"""The fused kernels against plain PyTorch in float64: on a GPU, or by Triton's interpreter where it is asked for:

TRITON_INTERPRET=1 pytest tests/test_fused.py
"""

import os
from typing import Any

import numpy as np
import pytest
import torch

from e2rank_pyserini.inference import packed
from e2rank_pyserini.inference.elementwise import Plain, Room
from tests.reference import plain
from tests.test_packed import FORMS, ROWS

EPSILON = 1e-6
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
if not (INTERPRETED or torch.cuda.is_available()):
    pytest.skip("no CUDA device, and TRITON_INTERPRET=1 is not set", allow_module_level=True)
pytest.importorskip("triton")
pytestmark = [] if INTERPRETED else pytest.mark.gpu


@pytest.fixture
def fused() -> Any:
    from e2rank_pyserini.inference.fused import Fused

    return Fused(Room())


def some(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE, dtype)


def near(found: torch.Tensor, exact: torch.Tensor) -> None:
    """Rounded once, to half a step of the dtype (Triton's interpreter cuts: a step), and float32's error before it."""
    step = torch.finfo(found.dtype).eps * (1 if INTERPRETED else 0.5)
    torch.testing.assert_close(found.double(), exact, rtol=step * 1.02, atol=1e-5)


def norm(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    scale = (states.square().mean(dim=-1, keepdim=True) + EPSILON).rsqrt()
    return states * scale * weight.double()


@pytest.mark.parametrize("width", [48, 576, 1024])
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norm_of_a_sum(fused: Any, width: int, adds: bool, dtype: torch.dtype):
    hidden, weight = some(5, width, dtype=dtype), some(width, dtype=dtype)
    added = some(6, width, dtype=dtype)[1:] if adds else None
    summed = hidden.double() if added is None else hidden.double() + added.double()
    found = fused.normed(hidden, added, weight, EPSILON)
    near(hidden, summed)
    near(found, norm(hidden.double(), weight))  # of what the next layer reads, rounded


@pytest.mark.parametrize(("heads", "width"), [(9, 64), (24, 128), (8, 16), (3, 24)])
@pytest.mark.parametrize("has_norms", [False, True])
def test_turned_heads(fused: Any, heads: int, width: int, has_norms: bool):
    states = some(7, heads + 3, width)[:, :heads]  # the values lie behind them
    norms = some(heads, width) if has_norms else None
    angles = torch.rand(7, width, generator=torch.Generator().manual_seed(1)).to(DEVICE) * 6
    cos, sin = (part.bfloat16()[:, : width // 2] for part in (angles.cos(), angles.sin()))
    exact = states.double() if norms is None else norm(states.double(), norms)
    one, other = exact.chunk(2, dim=-1)
    turns = [part.double().unsqueeze(1) for part in (cos, sin)]
    turned = torch.cat([one * turns[0] - other * turns[1], other * turns[0] + one * turns[1]], dim=-1)
    near(fused.turned(states, norms, (cos, sin), EPSILON), turned)
    plain = Plain(Room()).turned(
        states.float(), norms if norms is None else norms.float(), (cos.float(), sin.float()), EPSILON
    )
    torch.testing.assert_close(plain.double(), turned, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [80, 3072])
def test_gated(fused: Any, width: int):
    states = some(4, 2 * width)
    gate, value = states.double().chunk(2, dim=-1)
    near(fused.gated(states), torch.nn.functional.silu(gate) * value)


@pytest.mark.parametrize("form", FORMS)
def test_hidden_states_equal_transformers_of_each_row_alone(fused: Any, form: str, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(3)
    network = FORMS[form]().eval().requires_grad_(False)
    expected = np.concatenate([plain.hidden_states(network, row) for row in ROWS])
    monkeypatch.setattr(packed, "is_modern", lambda _: True)  # it is tried against PyTorch's own, and taken
    whole = packed.Packed(network.to(DEVICE))
    assert type(whole.between) is type(fused)
    ids = torch.tensor([number for row in ROWS for number in row], device=DEVICE)
    with torch.inference_mode():
        found = whole(ids, [len(row) for row in ROWS])
    np.testing.assert_allclose(found.cpu().numpy(), expected, atol=1e-5)
