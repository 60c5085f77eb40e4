"""The forward pass of Llama-like decoders over rows that lie end to end: no padding, no cache of keys and values.

It computes what Transformers' LlamaModel, Qwen2Model and Qwen3Model compute, with their weights, in fewer and larger
products (queries, keys and values in one, gate and up in one) and with few temporaries, whose memory is otherwise as
dear on a CPU as the products are.
"""

import sys
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from e2rank_pyserini.inference.attention import Attend, attention, one_kernel
from e2rank_pyserini.inference.elementwise import Plain, Room, Turns, is_modern, moved
from e2rank_pyserini.types import first_line

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
        first = self.layers[0]
        heads, groups = (linear.out_features // first.width for linear in _linears(network.layers[0])[:2])
        self.between = _between(first, heads + groups, self.room)
        self.varlen = one_kernel(first.down.weight, heads, groups, first.width)

    def __call__(self, ids: torch.Tensor, lengths: Sequence[int], wanted: torch.Tensor | None = None) -> torch.Tensor:
        """Ids (N,) of rows of these `lengths`, end to end -> their last hidden states (N, D).

        `wanted` (M,): the numbers of the tokens whose states are asked for, (M, D); of the others, the last layer gives
        keys and values alone (but in float32, where what a product of a few rows gives depends on which of them it is:
        equal texts shall have equal vectors). What is given back may lie in memory that the next call writes again.
        """
        positions = moved(np.concatenate([np.arange(length) for length in lengths]), ids.device)
        hidden = self.network.embed_tokens(ids)
        cos, sin = self.network.rotary_emb(hidden, positions[None])
        half = cos.shape[-1] // 2  # both halves are alike
        turns = cos[0, :, :half], sin[0, :, :half]  # (N, d / 2)
        attend = attention(self.varlen, hidden, lengths, self.room)
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


def _between(layer: _Layer, heads: int, room: Room) -> Plain:
    """Fused kernels where they run and give the same: on a GPU of 2020 or later, in half precision, by Triton."""
    plain, weight = Plain(room), layer.first.weight
    if not is_modern(weight):
        return plain
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some versions of Triton tell of their defaults
            from e2rank_pyserini.inference.fused import Fused

            fused = Fused(room)
            why = None if _agree(fused, plain, layer, heads) else "they give other numbers"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001  without Triton, a C compiler or room for its cache: of many types
        why = first_line(error)
    if why is not None:
        print(f"PyTorch's own kernels, not fused ones, which is slower: {why}", file=sys.stderr)
    return fused if why is None else plain


def _agree(fused: Plain, plain: Plain, layer: _Layer, heads: int) -> bool:
    """Whether two kinds of kernels give the same for three rows of this layer's shapes, but for what is rounded."""
    draw, weight, epsilon = torch.Generator().manual_seed(0), layer.first.weight, layer.first.variance_epsilon

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw).to(weight)

    hidden, added, states = some(3, len(weight)), some(3, len(weight)), some(3, len(layer.gate_up[0]))
    turned, turns = some(3, heads + 1, layer.width)[:, :heads], (some(3, layer.width)[:, : layer.width // 2],) * 2

    def found(kind: Plain) -> list[torch.Tensor]:
        both = hidden.clone()
        given = [kind.normed(hidden.clone(), None, weight, epsilon).clone(), kind.normed(both, added, weight, epsilon)]
        return [
            *given,
            both,
            kind.turned(turned, layer.norms, turns, epsilon).clone(),
            kind.gated(states.clone()).clone(),
        ]

    return all(
        bool((one - other).abs().max() <= 0.03 * other.abs().max())  # a few roundings to 2^-8 of numbers of about 1
        for one, other in zip(found(fused), found(plain), strict=True)
    )
