"""One process or several (torchrun): who this one is, and sums over all of them."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


@contextmanager
def group(device: str) -> Iterator[tuple[int, int]]:
    """(rank, world size) of this process, joined to the others when torchrun started it; (0, 1) alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1
        return
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield dist.get_rank(), world
    finally:
        dist.destroy_process_group()


def own_device(wanted: str | None) -> str | None:
    """The device asked for, or under torchrun this process's GPU where there is one."""
    if wanted is None and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return wanted


def add_up(tensors: Iterable[torch.Tensor]) -> None:
    """Replace each tensor by its sum over all processes, in one exchange per dtype."""
    if not dist.is_initialized():
        return
    by_dtype: dict[torch.dtype, list[torch.Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for members in by_dtype.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in members])
        dist.all_reduce(flat)
        offset = 0
        for tensor in members:
            tensor.copy_(flat[offset : offset + tensor.numel()].view_as(tensor))
            offset += tensor.numel()


def same(value: str, device: torch.device | str, rank: int, world: int) -> bool:
    """Whether all processes have this value."""
    digests = torch.zeros(world, dtype=torch.int64, device=device)
    digests[rank] = int.from_bytes(hashlib.sha256(value.encode()).digest()[:7])
    add_up([digests])  # every other process left this one 0
    return bool((digests == digests[0]).all())


def wait() -> None:
    """Until all processes are here."""
    if dist.is_initialized():
        dist.barrier()
