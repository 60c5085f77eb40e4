"""The forward pass of Llama-like decoders over rows that lie end to end: no padding, no cache of keys and values.

It computes what Transformers' LlamaModel, Qwen2Model and Qwen3Model compute, with their weights, in fewer and larger
products (queries, keys and values in one, gate and up in one) and with few temporaries, whose memory is otherwise as
dear on a CPU as the products are.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from e2rank_pyserini.elementwise import Plain, Room, Turns
from e2rank_pyserini.types import first_line

if TYPE_CHECKING:
    from e2rank_pyserini.fused import Fused

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]  # (N, H, d), (N, K, d) twice
_CLASSES = ("LlamaModel", "Qwen2Model", "Qwen3Model")
_BY_LENGTH = ("dynamic", "longrope")  # rotary embeddings that depend on how long the row is


def fits(network: Any) -> bool:
    """Whether `Packed` computes what this network does: plain layers of a known class, attending to all before."""
    config = network.config
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return (
        type(network).__name__ in _CLASSES
        and type(network).__module__.startswith("transformers.")
        and config.hidden_act == "silu"
        and is_causal(network)
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and rope.get("rope_type", rope.get("type", "default")) not in _BY_LENGTH
        and all(layer.self_attn.head_dim % 8 == 0 for layer in network.layers)  # as the GPU's kernel wants it
        and all(type(linear) is torch.nn.Linear for layer in network.layers for linear in _linears(layer))
    )


def spares(network: Any) -> bool:
    """Whether `Packed` leaves out what the last layer would make of tokens whose states nobody asked for."""
    return bool(network.dtype != torch.float32)


def is_causal(network: Any) -> bool:
    """Whether every attention of the network looks back only, by what Transformers' modules and configuration say."""
    attentions = [module.is_causal for module in network.modules() if hasattr(module, "is_causal")]
    configured = [module.config for module in network.modules() if hasattr(module, "config")]
    return bool(attentions) and all(attentions) and all(getattr(one, "is_causal", True) for one in configured)


class Packed:
    """The network as a function of packed rows. The weights of the network are joined in place; it must not change."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.layers = [_layer(layer) for layer in network.layers]
        self.room = Room()
        self.between = _between(network, self.room)
        self.varlen = _varlen(network)

    def __call__(self, ids: torch.Tensor, lengths: Sequence[int], wanted: torch.Tensor | None = None) -> torch.Tensor:
        """Ids (N,) of rows of these `lengths`, end to end -> their last hidden states (N, D).

        `wanted` (M,): the numbers of the tokens whose states are asked for, (M, D); of the others, the last layer gives
        keys and values alone (but in float32, where what a product of a few rows gives depends on which of them it is:
        equal texts shall have equal vectors).
        """
        positions = torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))
        hidden = self.network.embed_tokens(ids)
        cos, sin = self.network.rotary_emb(hidden, positions.to(ids.device)[None])
        half = cos.shape[-1] // 2  # both halves are alike
        turns = cos[0, :, :half], sin[0, :, :half]  # (N, d / 2)
        attend = _attention(self.varlen, hidden, lengths, self.room)
        spared = wanted is not None and spares(self.network)
        added = None
        for layer in self.layers:
            attended = self._attended(layer, self._normed(hidden, added, layer.first), turns, attend)
            if spared and layer is self.layers[-1]:
                hidden, attended = hidden[wanted], attended[wanted]
            added = self._mapped(attended, layer.output.weight, layer.output.bias, "out")
            added = self._transformed(layer, self._normed(hidden, added, layer.second))
        states = self._normed(hidden, added, self.network.norm)
        return states if wanted is None or spared else states[wanted]

    def _normed(self, hidden: torch.Tensor, added: torch.Tensor | None, norm: Any) -> torch.Tensor:
        return self.between.normed(hidden, added, norm.weight, norm.variance_epsilon)

    def _attended(self, layer: "_Layer", normed: torch.Tensor, turns: Turns, attend: Attend) -> torch.Tensor:
        states = self._mapped(normed, *layer.qkv, "states")
        heads = states.view(len(states), -1, layer.width)  # (N, H + 2 K, d)
        queries = layer.output.in_features // layer.width
        both = heads[:, : (queries + heads.shape[1]) // 2]  # queries and keys
        both = self.between.turned(both, layer.norms, turns, layer.first.variance_epsilon)
        return attend(both[:, :queries], both[:, queries:], heads[:, both.shape[1] :], layer.scale).flatten(1)

    def _transformed(self, layer: "_Layer", normed: torch.Tensor) -> torch.Tensor:
        inner = self.between.gated(self._mapped(normed, *layer.gate_up, "gate_up"))
        return self._mapped(inner, layer.down.weight, layer.down.bias, "out")

    def _mapped(self, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, name: str) -> torch.Tensor:
        out = self.room(name, inputs, len(inputs), len(weight))
        if bias is None:
            return torch.mm(inputs, weight.t(), out=out)
        return torch.addmm(bias, inputs, weight.t(), out=out)


class _Layer(NamedTuple):
    first: Any  # RMSNorm
    qkv: tuple[torch.Tensor, torch.Tensor | None]
    norms: torch.Tensor | None  # (H + K, d): of every head of queries and keys
    output: Any
    second: Any
    gate_up: tuple[torch.Tensor, torch.Tensor | None]
    down: Any
    width: int  # d, of a head
    scale: float


def _linears(layer: Any) -> list[Any]:
    attention, mlp = layer.self_attn, layer.mlp
    inputs = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    return [*inputs, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def _layer(layer: Any) -> _Layer:
    query, key, value, output, gate, up, down = _linears(layer)
    attention, norms = layer.self_attn, None
    width = attention.head_dim
    if hasattr(attention, "q_norm"):
        heads = [linear.out_features // width for linear in (query, key)]
        each = zip((attention.q_norm, attention.k_norm), heads, strict=True)
        norms = torch.cat([norm.weight.detach().expand(count, width) for norm, count in each])
    return _Layer(
        layer.input_layernorm,
        _together(query, key, value),
        norms,
        output,
        layer.post_attention_layernorm,
        _together(gate, up),
        down,
        width,
        attention.scaling,
    )


def _together(*linears: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The weights of linear maps of one input as those of one map; theirs become views of it, so nothing is twice."""
    joined = torch.cat([linear.weight.detach() for linear in linears])
    start = 0
    for linear in linears:
        linear.weight.data = joined[start : start + linear.out_features]
        start += linear.out_features
    biases = [linear.bias for linear in linears if linear.bias is not None]
    return joined, torch.cat([bias.detach() for bias in biases]) if biases else None


def _between(network: Any, room: Room) -> "Plain | Fused":
    """Fused kernels where they run: on a GPU of 2020 or later, in half precision, by PyTorch's own Triton."""
    weight = network.norm.weight
    if not _is_modern(weight):
        return Plain(room)
    try:
        from e2rank_pyserini.fused import Fused

        fused = Fused(room)
        fused.normed(torch.ones_like(weight)[None], None, weight, 1e-6)
    except Exception as error:  # noqa: BLE001  without Triton, a C compiler or room for its cache: of many types
        print(f"no fused kernels, somewhat slower: {first_line(error)}", file=sys.stderr)
        return Plain(room)
    return fused


def _is_modern(states: torch.Tensor) -> bool:
    """Whether these are half precision on a GPU whose kernels take all of it."""
    is_half = states.is_cuda and states.dtype in (torch.bfloat16, torch.float16)
    return is_half and torch.cuda.get_device_capability(states.device) >= (8, 0)


def _attention(varlen: Any, hidden: torch.Tensor, lengths: Sequence[int], room: Room) -> Attend:
    """Causal attention within each row: by the one kernel for all, or where there is none by rows of like length."""
    if varlen is None:
        return lambda queries, keys, values, scale: _by_length(
            queries, keys, values, scale, lengths, room("found", queries, *queries.shape)
        )
    starts = torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)).to(hidden.device)
    bounds = (starts, starts, max(lengths), max(lengths))

    def attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
        found: torch.Tensor = varlen(queries, keys, values, *bounds, scale=scale)
        return found

    return attend


def _varlen(network: Any) -> Any:
    """PyTorch's attention of rows of many lengths, made causal, where it runs for this network's heads; else None."""
    weight, attention = network.norm.weight, network.layers[0].self_attn
    if not _is_modern(weight):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    causal, width = causally(varlen_attn), attention.head_dim
    heads, groups = (linear.out_features // width for linear in (attention.q_proj, attention.k_proj))
    return causal if causal is not None and is_right(causal, weight, heads, groups, width) else None


def causally(varlen_attn: Any) -> Any:
    """`varlen_attn` that looks back only, and takes fewer heads of keys than of queries; None for one that cannot.

    PyTorch 2.10's knows no scale. 2.11's takes fewer heads without a word, since its kernel does; later ones refuse
    them unless they are told.
    """
    known = inspect.signature(varlen_attn).parameters.keys()
    if not {"scale", "window_size"} <= known:
        return None
    told = {"enable_gqa": True} if "enable_gqa" in known else {}
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
    except (RuntimeError, TypeError, ValueError):  # not built for this device, or not for such heads
        return False
    exact = _by_length(queries, keys, values, width**-0.5, (5, 2), torch.empty_like(queries))
    return bool(torch.allclose(found.float(), exact.float(), atol=0.03))  # values of about 1, rounded to 2^-8


def _by_length(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float,
    lengths: Sequence[int],
    found: torch.Tensor,
) -> torch.Tensor:
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
