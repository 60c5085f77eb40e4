"""How much arithmetic a model does, and how much this machine can do."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from e2rank_pyserini.bench.yardstick import now
from e2rank_pyserini.inference.packed import fits, is_causal, spares
from e2rank_pyserini.types import E2RankError

Shape = tuple[int, int]  # inputs, outputs of a linear map
_ROWS = {"cpu": (256, 1024, 2048, 4096), "cuda": (2048, 8192, 16384, 32768)}
_SIDE = {"cpu": 1024, "cuda": 8192}  # of a square product
_SECONDS = 0.2  # for which each size is tried, at least twice


class Work:
    """The arithmetic of one transformer: floating-point operations of its matrix products, nothing else counted.

    These are the linear maps of its layers and attention's two products, the causal half of them alone where the model
    looks back only. Embeddings, a language model's head and a pooler are left out, and where a text's vector is its
    last token's (`pooling`), what the last layer's maps behind attention would make of its other tokens.
    """

    def __init__(self, network: Any, pooling: str = "mean") -> None:
        config = network.config
        named = {
            name: (module.in_features, module.out_features)
            for name, module in network.named_modules()
            if isinstance(module, torch.nn.Linear) and not name.startswith("pooler")
        }
        maps = list(named.values())
        others = any(parameter.dim() > 2 for parameter in network.parameters())  # experts, convolutions
        if not maps or len(maps) % config.num_hidden_layers or others:
            raise E2RankError(
                f"a model of type {config.model_type}: expected the same linear maps in each of its "
                f"{config.num_hidden_layers} layers, found {len(maps)}{' and others' if others else ''}: its FLOPs "
                "cannot be told"
            )
        self.layers = int(config.num_hidden_layers)
        self.shapes: list[Shape] = maps[: len(maps) // self.layers]  # of one layer
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.attended = int(head * config.num_attention_heads)
        self.causal = is_causal(network)
        behind = [shape for name, shape in named.items() if not name.endswith(("q_proj", "k_proj", "v_proj"))]
        self.spared = (
            2 * _weights(behind) // self.layers if pooling == "last" and fits(network) and spares(network) else 0
        )

    def flops(self, lengths: Iterable[int]) -> float:
        """Texts of these many tokens, each read once.

        2 for each weight and token; in each of attention's two products 2 for each head's channel and each pair of
        tokens of which one sees the other: n² of n tokens, n (n + 1) / 2 where they look back only.
        """
        linear = 2 * _weights(self.shapes)
        pairs = 2 * self.attended if self.causal else 4 * self.attended
        return float(
            sum(
                self.layers * (linear * n + pairs * n * (n + 1 if self.causal else n)) - self.spared * (n - 1)
                for n in lengths
            )
        )


def _weights(maps: Iterable[Shape]) -> int:
    return sum(inputs * outputs for inputs, outputs in maps)


def matmul_peak(shapes: Sequence[Shape], device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of matrix products alone: the best of a layer's linear maps one after another, at several numbers of
    rows, and of a large square product."""
    kind = "cuda" if device.type == "cuda" else "cpu"
    tried = [[(rows, *shape) for shape in shapes] for rows in _ROWS[kind]] + [[(_SIDE[kind],) * 3]]
    return max(_rate(products, device, dtype) for products in tried)


@torch.inference_mode()
def _rate(products: Sequence[tuple[int, int, int]], device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the quickest round of these products: (rows, inputs) by (inputs, outputs)."""
    lefts = [torch.randn(rows, inputs, device=device, dtype=dtype) for rows, inputs, _ in products]
    rights = [torch.randn(inputs, outputs, device=device, dtype=dtype) for _, inputs, outputs in products]
    seconds: list[float] = []
    while len(seconds) < 2 or sum(seconds) < _SECONDS:
        started = now(device)
        for left, right in zip(lefts, rights, strict=True):
            left @ right
        seconds.append(now(device) - started)
    return sum(2 * rows * inputs * outputs for rows, inputs, outputs in products) / min(seconds)
