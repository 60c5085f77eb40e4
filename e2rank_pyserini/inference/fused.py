"""What lies between the matrix products of a packed pass, in Triton: each a single pass over the GPU's memory.

By PyTorch's ops (`elementwise.Plain`) it is read and written several times, which on a GPU takes as long as the
products. Sums are float32, and what is stored is rounded once. It needs Triton, which PyTorch's CUDA builds bring.
"""

import torch
import triton
import triton.language as tl

from e2rank_pyserini.inference.elementwise import Plain, Turns

_PIECE = 2048  # numbers that one program of `gated` makes


class Fused(Plain):
    """The same for states that lie dense in a GPU's memory; all that is given back is in the room."""

    def normed(
        self, hidden: torch.Tensor, added: torch.Tensor | None, weight: torch.Tensor, epsilon: float
    ) -> torch.Tensor:
        rows, width = hidden.shape
        found = self.room("normed", hidden, rows, width)
        block = triton.next_power_of_2(width)
        _norm[(rows,)](hidden, added, weight, found, epsilon, width, block, added is not None, num_warps=_warps(block))
        return found

    def turned(self, heads: torch.Tensor, norms: torch.Tensor | None, turns: Turns, epsilon: float) -> torch.Tensor:
        rows, number, width = heads.shape
        found = self.room("rotated", heads, rows, number, width)
        all_heads, half = triton.next_power_of_2(number), triton.next_power_of_2(width // 2)
        _turn[(rows,)](
            heads,
            norms,
            *turns,
            found,
            epsilon,
            heads.stride(0),
            turns[0].stride(0),
            number,
            width // 2,
            all_heads,
            half,
            norms is not None,
            num_warps=_warps(all_heads * half),
        )
        return found

    def gated(self, states: torch.Tensor) -> torch.Tensor:
        rows, width = len(states), states.shape[1] // 2
        found = self.room("inner", states, rows, width)
        _gate[(rows, triton.cdiv(width, _PIECE))](states, found, width, _PIECE, num_warps=8)
        return found


def _warps(numbers: int) -> int:
    """How many warps share a program's numbers: 8 to a thread, as one load of 16 bytes has them."""
    return min(16, max(1, numbers // 256))


@triton.jit
def _norm(
    hidden, added, weight, found, epsilon,
    width: tl.constexpr, block: tl.constexpr, adds: tl.constexpr,
) -> None:  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * width
    numbers = tl.arange(0, block)
    inside = numbers < width
    states = tl.load(hidden + at + numbers, mask=inside, other=0.0).to(tl.float32)
    if adds:
        states += tl.load(added + at + numbers, mask=inside, other=0.0).to(tl.float32)
        stored = states.to(hidden.dtype.element_ty)
        tl.store(hidden + at + numbers, stored, mask=inside)
        states = stored.to(tl.float32)  # the norm is that of what the next layer adds to
    scale = tl.rsqrt(tl.sum(states * states) / width + epsilon)
    weights = tl.load(weight + numbers, mask=inside, other=0.0).to(tl.float32)
    tl.store(found + at + numbers, (states * scale * weights).to(found.dtype.element_ty), mask=inside)


@triton.jit
def _turn(
    heads, norms, cos, sin, found, epsilon, stride, turns_stride,
    number: tl.constexpr, half: tl.constexpr, all_heads: tl.constexpr, block: tl.constexpr, has_norms: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head, place = tl.arange(0, all_heads)[:, None], tl.arange(0, block)[None, :]
    inside = (head < number) & (place < half)
    first = head * (2 * half) + place
    ones = tl.load(heads + row * stride + first, mask=inside, other=0.0).to(tl.float32)
    others = tl.load(heads + row * stride + first + half, mask=inside, other=0.0).to(tl.float32)
    if has_norms:
        squares = tl.sum(ones * ones + others * others, axis=1)[:, None]
        scale = tl.rsqrt(squares / (2 * half) + epsilon)
        ones *= scale * tl.load(norms + first, mask=inside, other=0.0).to(tl.float32)
        others *= scale * tl.load(norms + first + half, mask=inside, other=0.0).to(tl.float32)
    known = place < half
    cosine = tl.load(cos + row * turns_stride + place, mask=known, other=0.0).to(tl.float32)
    sine = tl.load(sin + row * turns_stride + place, mask=known, other=0.0).to(tl.float32)
    to = found + row * (2 * half * number) + first
    tl.store(to, (ones * cosine - others * sine).to(found.dtype.element_ty), mask=inside)
    tl.store(to + half, (others * cosine + ones * sine).to(found.dtype.element_ty), mask=inside)


@triton.jit
def _gate(states, found, width: tl.constexpr, block: tl.constexpr) -> None:
    row = tl.program_id(0).to(tl.int64)
    numbers = tl.program_id(1) * block + tl.arange(0, block)
    inside = numbers < width
    gates = tl.load(states + row * (2 * width) + numbers, mask=inside, other=0.0).to(tl.float32)
    values = tl.load(states + row * (2 * width) + width + numbers, mask=inside, other=0.0).to(tl.float32)
    tl.store(
        found + row * width + numbers, (gates * tl.sigmoid(gates) * values).to(found.dtype.element_ty), mask=inside
    )
