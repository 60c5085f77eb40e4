"""The forward pass of Llama-like decoders over rows that lie end to end: no padding, no cache of keys and values.

It computes what Transformers' LlamaModel, Qwen2Model and Qwen3Model compute, with their weights, in fewer and larger
products (queries, keys and values in one, gate and up in one) and with few temporaries, whose memory is otherwise as
dear on a CPU as the products are.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

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
        turns = cos[0, :, None, :half], sin[0, :, None, :half]  # (N, 1, d / 2)
        attend = _attention(hidden, lengths, self.room)
        spared = wanted is not None and spares(self.network)
        for layer in self.layers:
            attended = _attended(layer, hidden, turns, attend, self.room)
            if spared and layer is self.layers[-1]:
                hidden, attended = hidden[wanted], attended[wanted]
            hidden.add_(
                _mapped(attended, layer.output.weight, layer.output.bias, self.room("out", hidden, *hidden.shape))
            )
            hidden.add_(_transformed(layer, hidden, self.room))
        states = _normed(hidden, self.network.norm.weight, self.network.norm.variance_epsilon)
        return states if wanted is None or spared else states[wanted]


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


def _attended(
    layer: _Layer, hidden: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor], attend: Attend, room: Room
) -> torch.Tensor:
    normed = _normed(hidden, layer.first.weight, layer.first.variance_epsilon)
    states = _mapped(normed, *layer.qkv, room("states", hidden, len(hidden), len(layer.qkv[0])))
    heads = states.view(len(states), -1, layer.width)  # (N, H + 2 K, d)
    queries = layer.output.in_features // layer.width
    both = heads[:, : (queries + heads.shape[1]) // 2]  # queries and keys
    if layer.norms is not None:
        both = _normed(both, layer.norms, layer.first.variance_epsilon)
    both = _rotated(both, *turns, room("rotated", both, *both.shape))
    return attend(both[:, :queries], both[:, queries:], heads[:, both.shape[1] :], layer.scale).flatten(1)


def _transformed(layer: _Layer, hidden: torch.Tensor, room: Room) -> torch.Tensor:
    normed = _normed(hidden, layer.second.weight, layer.second.variance_epsilon)
    states = _mapped(normed, *layer.gate_up, room("gate_up", hidden, len(hidden), len(layer.gate_up[0])))
    gate, up = states.chunk(2, dim=-1)
    inner = torch.mul(functional.silu(gate, inplace=True), up, out=room("inner", gate, *gate.shape))
    return _mapped(inner, layer.down.weight, layer.down.bias, room("out", hidden, *hidden.shape))


def _mapped(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> torch.Tensor:
    return torch.mm(inputs, weight.t(), out=out) if bias is None else torch.addmm(bias, inputs, weight.t(), out=out)


def _normed(hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """RMSNorm over the last dimension (Zhang and Sennrich 2019), scaled in float32 and rounded once before `weight`."""
    if hidden.device.type != "cpu":
        return functional.rms_norm(hidden, hidden.shape[-1:], None, epsilon).mul_(weight)
    # on a CPU rms_norm makes float32 copies; batch_norm with the rows as its channels is the one kernel that does not
    rows = hidden.reshape(1, -1, hidden.shape[-1])
    norms = torch.linalg.vector_norm(rows[0], dim=-1, dtype=torch.float32)
    means, squares = torch.zeros_like(norms), norms.square_().div_(hidden.shape[-1])
    return functional.batch_norm(rows, means, squares, eps=epsilon).view(hidden.shape).mul_(weight)


def _rotated(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, rotated: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of heads (N, H, d): each pair (i, i + d / 2) turned by its angle."""
    first, second = heads.chunk(2, dim=-1)
    one, other = rotated.chunk(2, dim=-1)
    torch.mul(first, cos, out=one).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=other).addcmul_(first, sin)
    return rotated


def _attention(hidden: torch.Tensor, lengths: Sequence[int], room: Room) -> Attend:
    """Causal attention within each row: one kernel for all on a GPU where PyTorch has it, else rows of like length."""
    varlen = _varlen(hidden)
    if varlen is None:
        return lambda queries, keys, values, scale: _by_length(
            queries, keys, values, scale, lengths, room("found", queries, *queries.shape)
        )
    ends = np.cumsum([0, *lengths], dtype=np.int32)
    starts, longest = torch.from_numpy(ends).to(hidden.device), max(lengths)

    def attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
        bounds = (starts, starts, longest, longest)
        found: torch.Tensor = varlen(
            queries,
            keys,
            values,
            *bounds,
            scale=scale,
            window_size=(-1, 0),
            enable_gqa=queries.shape[1] > keys.shape[1],
        )
        return found

    return attend


def _varlen(hidden: torch.Tensor) -> Any:
    """torch.nn.attention.varlen.varlen_attn, where it runs and has the options needed here (PyTorch 2.6 does not)."""
    if not hidden.is_cuda or hidden.dtype not in (torch.bfloat16, torch.float16):
        return None
    if torch.cuda.get_device_capability(hidden.device) < (8, 0):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    needed = {"scale", "window_size", "enable_gqa"}
    return varlen_attn if needed <= inspect.signature(varlen_attn).parameters.keys() else None


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
