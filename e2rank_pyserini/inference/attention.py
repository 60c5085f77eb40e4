"""Causal attention of rows that lie end to end: one kernel for all where PyTorch has one, else rows of like length."""

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from e2rank_pyserini.inference.elementwise import Room, is_modern, moved

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]  # (N, H, d), (N, K, d) twice


def attention(varlen: Any, hidden: torch.Tensor, lengths: Sequence[int], room: Room) -> Attend:
    """Causal attention within each row: by the one kernel for all, or where there is none by rows of like length."""
    if varlen is None:
        return lambda queries, keys, values, scale: by_length(
            queries, keys, values, scale, lengths, room("found", queries, *queries.shape)
        )
    starts = moved(np.cumsum([0, *lengths], dtype=np.int32), hidden.device)
    bounds = (starts, starts, max(lengths), max(lengths))

    def attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
        found: torch.Tensor = varlen(queries, keys, values, *bounds, scale=scale)
        return found

    return attend


def one_kernel(like: torch.Tensor, heads: int, groups: int, width: int) -> Any:
    """PyTorch's attention of rows of many lengths, made causal, where it runs for such heads (see `is_right`); or None.

    Where only a GPU's PyTorch is in the way, that is said on stderr.
    """
    if not is_modern(like):
        return None
    from torch.nn.attention.varlen import varlen_attn

    causal = causally(varlen_attn)
    if is_right(causal, like, heads, groups, width):
        return causal
    print(
        f"attention takes a call for the rows of each length, which is slower: PyTorch {torch.__version__} has no "
        f"varlen_attn that gives the same here for {heads} heads of width {width}",
        file=sys.stderr,
    )
    return None


def causally(varlen_attn: Any) -> Any:
    """`varlen_attn` that looks back only, and takes fewer heads of keys than of queries.

    PyTorch 2.11's takes fewer heads without a word, since its kernel does; later ones refuse them unless they are told.
    """
    told = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
    return functools.partial(varlen_attn, window_size=(-1, 0), **told)


def is_right(causal: Any, like: torch.Tensor, heads: int, groups: int, width: int) -> bool:
    """Whether this kernel gives what attention of each row by itself gives, tried on two rows.

    `heads` of queries and `groups` of keys and values of this `width`, of `like`'s dtype and on its device.
    """
    draw = torch.Generator().manual_seed(0)
    queries, keys, values = (
        torch.randn(7, number, width, generator=draw).to(like) for number in (heads, groups, groups)
    )
    starts = torch.tensor([0, 5, 7], dtype=torch.int32, device=like.device)
    try:
        found = causal(queries, keys, values, starts, starts, 5, 5, scale=width**-0.5)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError):  # not built for this device, or not for such heads
        return False
    exact = by_length(queries, keys, values, width**-0.5, (5, 2), torch.empty_like(queries))
    return bool(torch.allclose(found.float(), exact.float(), atol=0.03))  # values of about 1, rounded to 2^-8


def by_length(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float,
    lengths: Sequence[int],
    found: torch.Tensor,
) -> torch.Tensor:
    """The same row by row, those of one length that follow each other in one call; written to `found`, (N, H, d)."""
    start = 0
    for length, group in groupby(lengths):
        rows = len(list(group))
        part = slice(start, start + rows * length)
        start = part.stop
        query, key, value = (
            states[part].view(rows, length, *states.shape[1:]).transpose(1, 2) for states in (queries, keys, values)
        )
        attended = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=True
        )
        found[part] = attended.transpose(1, 2).flatten(0, 1)
    return found
