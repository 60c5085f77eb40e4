"""What does one pass over packed rows take, and which kernels take it? Qwen3-0.6B's configuration, random weights.

    python benchmarks/passes.py [--device cuda] [--layers 28] [--tokens 65536] [--kernels 10]

Documents of mixed lengths, one listwise prompt of 7,214 tokens, and as many prompts as fit: milliseconds of a pass, how
many of them the CPU needed to start it, tokens/s and the share of the matmul peak; on a GPU with the fused kernels and
without, in turn. Then the kernels of one pass by their time.
"""

import argparse
import random
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen3Config, Qwen3Model

from e2rank_pyserini.bench.arithmetic import Work, matmul_peak
from e2rank_pyserini.bench.yardstick import announce, now, setting
from e2rank_pyserini.inference.devices import choose_device
from e2rank_pyserini.inference.elementwise import Plain
from e2rank_pyserini.inference.packed import Packed

PROMPT = 7214  # tokens of 20 passages of 350 under the instruction
ROUNDS = 5


def main(device: torch.device, layers: int, tokens: int, kernels: int) -> None:
    announce(setting(str(device)))
    network = qwen3(layers, device)
    work, packed = Work(network, "last"), Packed(network)
    peak = matmul_peak(work.shapes, device, torch.bfloat16)
    kinds = {type(one).__name__.lower(): one for one in (packed.between, Plain(packed.room))}
    print(f"matmul peak {peak / 1e12:.2f} TFLOP/s; one kernel for all rows' attention: {packed.varlen is not None}\n")
    for name, lengths in batches(tokens).items():
        run = passes(packed, lengths, device)
        seconds: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
        for turn in range(ROUNDS + 1):  # the first warms up
            for kind, between in kinds.items():
                packed.between = between
                started = now(device)
                run()
                begun = time.perf_counter() - started
                seconds[kind] += [(now(device) - started, begun)] if turn else []
        for kind, found in seconds.items():
            whole, begun = np.median(found, axis=0)
            print(
                f"{name}, {kind}: {1e3 * whole:.1f} ms, begun in {1e3 * begun:.1f}; {sum(lengths) / whole:,.0f} "
                f"tokens/s, {work.flops(lengths) / whole / peak:.1%} of peak",
                flush=True,
            )
        packed.between = next(iter(kinds.values()))
        tell_kernels(run, device, kernels)


def qwen3(layers: int, device: torch.device) -> Qwen3Model:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=16000,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
    )
    with device:
        return Qwen3Model(config).to(torch.bfloat16).eval().requires_grad_(False)


def batches(tokens: int) -> dict[str, list[int]]:
    """The lengths of the rows of each batch, the longest first."""
    draw, documents = random.Random(0), [0]
    while sum(documents) < tokens:
        documents.append(min(1024, max(8, round(250 * draw.lognormvariate(0, 0.55)))))
    many = max(1, tokens // PROMPT)
    return {
        f"{len(documents) - 1} documents": sorted(documents[1:], reverse=True),
        "1 prompt": [PROMPT],
        **({f"{many} prompts": [PROMPT] * many} if many > 1 else {}),
    }


def passes(packed: Packed, lengths: list[int], device: torch.device) -> Callable[[], object]:
    """One pass over rows of these lengths, of which the last tokens' states are asked for."""
    ids = torch.randint(0, 16000, (sum(lengths),), device=device)
    last = torch.from_numpy(np.cumsum(lengths) - 1).to(device)

    def run() -> object:
        with torch.inference_mode():
            return packed(ids, lengths, last)

    return run


def tell_kernels(run: Callable[[], object], device: torch.device, most: int) -> None:
    is_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if is_gpu else ProfilerActivity.CPU]) as profiled:
        run()
        now(device)
    took = {
        (one.key, one.count): one.device_time_total if is_gpu else one.self_cpu_time_total
        for one in profiled.key_averages()
    }
    for (key, count), each in sorted(took.items(), key=lambda item: -item[1])[:most]:
        print(f"  {each / 1e3:8.2f} ms {count:5d} {key[:80]}")
    print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="default: a GPU where there is one")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--kernels", type=int, default=10)
    given = parser.parse_args()
    main(torch.device(choose_device(given.device)), given.layers, given.tokens, given.kernels)
