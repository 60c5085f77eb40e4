"""How things are measured and told: the machine, peers in turn and those that are not here, ratios, tables, JSON."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from e2rank_pyserini import provenance
from e2rank_pyserini.trec import atomic
from e2rank_pyserini.types import E2RankError, first_line, kind_and_line

OURS = "e2rank"
NOT_MEASURED = "not measured"
_PEERS = ("sentence-transformers",)  # packages whose versions decide the peers' times
T = TypeVar("T")
C = TypeVar("C", bound=Callable[..., object])


def prepared(makers: Mapping[str, Callable[[], T]]) -> tuple[dict[str, T], dict[str, str]]:
    """What could be made, and for the rest the reason, which is said on stderr.

    A package that is not installed, a model that the peer cannot read, a GPU whose memory is full, versions that do not
    go together: other people's libraries raise many types, and ours can be measured without them.
    """
    made, absent = {}, {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except Exception as error:  # noqa: BLE001
            said = first_line if isinstance(error, ImportError | E2RankError) else kind_and_line
            absent[name] = said(error)
    tell_absent(absent)
    return made, absent


def warmed(make: Callable[[], C], *given: Any) -> C:
    """What `make` makes, called once with what is `given`."""
    made = make()
    made(*given)
    return made


def tell_absent(absent: Mapping[str, str]) -> None:
    """Say on stderr what was not measured, and why."""
    for name, reason in absent.items():
        print(f"e2rank bench: {name} {NOT_MEASURED}: {reason}", file=sys.stderr)


def interleaved(
    peers: Mapping[str, Callable[[T], object]], turns: Iterable[T], device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every peer in every turn, A B C A B C …, so that what else the machine does hits all alike.

    Each peer is given the turn. What warms up (memory, kernels that are chosen at first use) must have happened before.
    """
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for turn in turns:
        for name, run in peers.items():
            started = now(device)
            run(turn)
            seconds[name].append(now(device) - started)
    return seconds


def now(device: torch.device) -> float:
    """Seconds, read when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Turn(NamedTuple):
    """What a peer did in one turn: tokens that its model read, documents that it dealt with, FLOPs."""

    tokens: float
    documents: float
    flops: float


def row(seconds: Sequence[float], ours: Sequence[float], turn: Turn, peak: float) -> dict[str, Any]:
    """One peer, beside ours: its seconds of each turn, their 50th and 95th percentile, and rates of the median turn.

    `times` are its seconds over ours, of each turn. `of peak` is the share of `peak`, FLOP/s.
    """
    middle = statistics.median(seconds)
    return {
        "seconds": list(seconds),
        "p50": middle,
        "p95": float(np.percentile(seconds, 95)),
        "times": ratios(seconds, ours),
        "tokens/s": turn.tokens / middle,
        "documents/s": turn.documents / middle,
        "tflop/s": turn.flops / middle / 1e12,
        "of peak": turn.flops / middle / peak,
    }


def rows_table(rows: Mapping[str, Mapping[str, Any]], more: Sequence[str] = ()) -> str:
    """Peers by name as `row` tells them, with `more` of their fields."""
    heads = ["", "times min", "median", "max", "p50 s", "p95 s", "tokens/s", "documents/s", "TFLOP/s", "of peak", *more]
    lines = [
        [
            name,
            *(f"{one['times'][key]:.2f}" for key in ("min", "median", "max")),
            *(f"{one[key]:.3g}" for key in ("p50", "p95")),
            *(f"{one['tokens/s']:,.0f}", f"{one['documents/s']:,.1f}"),
            *(f"{one['tflop/s']:.2f}", f"{one['of peak']:.0%}"),
            *(f"{one[field]:.5f}" for field in more),
        ]
        for name, one in rows.items()
    ]
    return table(heads, lines)


def ratios(slower: Sequence[float], quicker: Sequence[float]) -> dict[str, float]:
    """min, median and max over the rounds of slower / quicker, each of one round."""
    each = [one / other for one, other in zip(slower, quicker, strict=True)]
    return {"min": min(each), "median": statistics.median(each), "max": max(each)}


def setting(device: str) -> dict[str, Any]:
    """Machine, versions, threads, and the load that other processes make at the start."""
    found = {**provenance.machine(), "threads": torch.get_num_threads(), "device": device}
    if device.startswith("cuda"):
        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    known = provenance.versions(_PEERS)
    versions = {**known, **{name: known.get(name, "not installed") for name in _PEERS}}
    return {**found, "load": [round(one, 1) for one in os.getloadavg()], "versions": versions}


def announce(found: Mapping[str, Any]) -> None:
    """The setting in three lines."""
    versions = " ".join(f"{name} {version}" for name, version in found["versions"].items())
    gpu = f"{found['gpu']} (CUDA {found['cuda']}), " if "gpu" in found else ""
    print(f"{gpu}{found['processor']}, {found['cores']} cores, {found['threads']} threads, {found['device']}")
    print(f"load at the start (1, 5, 15 minutes): {' '.join(map(str, found['load']))}\n{versions}", flush=True)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def write_json(path: Path | None, found: Mapping[str, Any]) -> None:
    """All that was measured, where asked for."""
    if path is not None:
        with atomic(path) as file:
            json.dump(found, file, indent=1)
            file.write("\n")
