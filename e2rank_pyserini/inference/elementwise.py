"""What lies between the matrix products of a packed pass: norms, rotary embeddings, gates; each op a kernel or two.

`fused.Fused` computes the same on a GPU in a kernel each.
"""

import math
from typing import Any

import torch
from torch.nn import functional

Turns = tuple[torch.Tensor, torch.Tensor]  # cos and sin (N, d / 2)


class Room:
    """Memory for what a layer computes, used again by the next one: fresh pages cost a CPU more than the arithmetic."""

    def __init__(self) -> None:
        self.held: dict[str, torch.Tensor] = {}

    def __call__(self, name: str, like: torch.Tensor, *shape: int) -> torch.Tensor:
        """A tensor of this shape, dtype and device as `like`'s, that holds what was last written under its name."""
        size = math.prod(shape)
        held = self.held.get(name)
        if held is None or len(held) < size:
            self.held.pop(name, None)  # its memory is for the new one
            held = self.held[name] = torch.empty(size, dtype=like.dtype, device=like.device)
        return held[:size].view(shape)


def is_modern(states: torch.Tensor) -> bool:
    """Whether these are half precision on a GPU of 2020 or later, whose kernels take all of it."""
    is_half = states.is_cuda and states.dtype in (torch.bfloat16, torch.float16)
    return is_half and torch.cuda.get_device_capability(states.device) >= (8, 0)


def moved(numbers: Any, device: torch.device) -> torch.Tensor:
    """Numbers as a tensor on this device; a GPU is not waited for."""
    tensor = torch.as_tensor(numbers)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Plain:
    """By PyTorch's own ops, on any device, in any dtype."""

    def __init__(self, room: Room) -> None:
        self.room = room

    def normed(
        self, hidden: torch.Tensor, added: torch.Tensor | None, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        """Adds `added` to hidden (N, D) in place -> its RMSNorm (N, D)."""
        return rms_norm(hidden if added is None else hidden.add_(added), weight, epsilon)

    def turned(self, heads: torch.Tensor, norms: torch.Tensor | None, turns: Turns, epsilon: float) -> torch.Tensor:
        """Heads (N, H, d), whose `norms` (H, d) are weights of their RMSNorms, turned by their places' angles."""
        if norms is not None:
            heads = rms_norm(heads, norms, epsilon)
        cos, sin = (part.unsqueeze(1) for part in turns)
        rotated = self.room("rotated", heads, *heads.shape)
        first, second = heads.chunk(2, dim=-1)
        one, other = rotated.chunk(2, dim=-1)
        torch.mul(first, cos, out=one).addcmul_(second, sin, value=-1)
        torch.mul(second, cos, out=other).addcmul_(first, sin)
        return rotated

    def gated(self, states: torch.Tensor) -> torch.Tensor:
        """Gates and values end to end, (N, 2 I), which are overwritten -> silu(gate) * value, (N, I)."""
        gate, value = states.chunk(2, dim=-1)
        return torch.mul(functional.silu(gate, inplace=True), value, out=self.room("inner", gate, *gate.shape))


def rms_norm(hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """RMSNorm over the last dimension (Zhang and Sennrich 2019), scaled in float32 and rounded once before `weight`."""
    if hidden.device.type != "cpu":
        return functional.rms_norm(hidden, hidden.shape[-1:], None, epsilon).mul_(weight)
    # on a CPU rms_norm makes float32 copies; batch_norm with the rows as its channels is the one kernel that does not
    rows = hidden.reshape(1, -1, hidden.shape[-1])
    norms = torch.linalg.vector_norm(rows[0], dim=-1, dtype=torch.float32)
    means, squares = torch.zeros_like(norms), norms.square_().div_(hidden.shape[-1])
    return functional.batch_norm(rows, means, squares, eps=epsilon).view(hidden.shape).mul_(weight)
