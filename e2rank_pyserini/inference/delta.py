"""An adapter that is a change of weights in 4 bits: training writes it, loading adds it to the base."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

FILE = "delta.safetensors"
_GROUP = 32  # weights of a row that share a scale: 4.5 bits a weight in all
_STEPS = 8  # codes go from -8 to 7
_TRIED = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)  # shares of the largest weight that the codes may be made to reach


class Delta:
    """Changes of weights by name: `codes` (out, in / 2), two to a byte, and `scales` (out, in / 32) of each."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = dict(tensors)

    @classmethod
    def of(cls, changes: Mapping[str, torch.Tensor]) -> "Delta":
        """The changes (out, in), float32, in 4 bits."""
        tensors = {}
        for name, change in changes.items():
            tensors[f"{name}.codes"], tensors[f"{name}.scales"] = quantised(change)
        return cls(tensors)

    @classmethod
    def read(cls, directory: Path) -> "Delta":
        """That of an adapter's directory."""
        return cls(load_file(directory / FILE))

    def save(self, directory: Path) -> None:
        """Write it as the adapter's directory."""
        directory.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors, directory / FILE, {"format": "pt"})

    def add_to(self, network: Any) -> None:
        """Add the changes to the network's weights. Raises KeyError or ValueError where they are not for it."""
        weights = dict(network.named_parameters())
        for name in sorted({key.rpartition(".")[0] for key in self.tensors}):
            weight = weights[name]
            change = restored(self.tensors[f"{name}.codes"], self.tensors[f"{name}.scales"])
            if change.shape[0] != weight.shape[0] or not 0 <= change.shape[1] - weight.shape[1] < _GROUP:
                raise ValueError(f"{name}: a change of {tuple(change.shape)} is not for {tuple(weight.shape)}")
            with torch.no_grad():
                weight += change[:, : weight.shape[1]].to(weight)


def quantised(change: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, in) -> codes (out, in / 2) uint8 and scales (out, in / 32) float16, `in` filled up to whole groups.

    A group's weights are its scale times -8 to 7; of a few scales the one with the least squared error.
    """
    rows, columns = change.shape
    filled = torch.nn.functional.pad(change.float(), (0, -columns % _GROUP)).view(rows, -1, _GROUP)
    most = filled.abs().amax(dim=-1, keepdim=True) / (_STEPS - 0.5)
    best = torch.full_like(most, torch.inf)
    codes, scales = torch.zeros_like(filled), torch.zeros_like(most)
    for share in _TRIED:
        scale = (most * share).half().float()
        found = (filled / scale.clamp(min=1e-12)).round().clamp(-_STEPS, _STEPS - 1)
        error = (found * scale - filled).square().sum(dim=-1, keepdim=True)
        better = error < best
        best, scales, codes = error.where(better, best), scale.where(better, scales), found.where(better, codes)
    whole = (codes + _STEPS).to(torch.uint8).view(rows, -1, 2)
    return whole[..., 0] | whole[..., 1] << 4, scales.squeeze(-1).half()


def restored(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """What `quantised` made of a change: float32 (out, in filled up to whole groups)."""
    pairs = torch.stack([codes & 15, codes >> 4], dim=-1).view(len(codes), -1, _GROUP)
    return ((pairs.float() - _STEPS) * scales.float().unsqueeze(-1)).view(len(codes), -1)
