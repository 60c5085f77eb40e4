"""What a training run leaves: its state while it runs, so that a killed one goes on, and the model when it is done."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from e2rank_pyserini.directories import held
from e2rank_pyserini.types import E2RankError, first_line


def place_of(output: Path) -> Path:
    """Where a run's state lies until its model is at `output`."""
    return output.with_name(output.name + ".training")


def told(working: Path) -> str:
    """What an error says of the state that is left, if any."""
    return f"; {working} has the state of the last save" if (working / "state").exists() else ""


@contextlib.contextmanager
def alone(output: Path, rank: int) -> Iterator[None]:
    """For the first process: the folder of its state, made and locked; it goes where nothing was put into it."""
    if rank > 0:
        yield
        return
    working = place_of(output)
    if working.exists() and not working.is_dir():
        raise E2RankError(f"{working}: is no directory, and the state is to lie there")
    with held(working):
        try:
            if os.path.lexists(output):  # by another process meanwhile
                raise E2RankError(f"{output}: exists already")
            yield
        finally:
            with contextlib.suppress(OSError):
                working.rmdir()


def trained(network: Any) -> dict[str, torch.Tensor]:
    """The parameters that are trained, by name."""
    return {name: weight for name, weight in network.named_parameters() if weight.requires_grad}


def save(place: Path, network: Any, optimizer: torch.optim.Optimizer, record: dict[str, Any]) -> None:
    """Write weights, moments and `record` as one directory, renamed into `place`."""
    fresh = place.with_name(place.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    weights = trained(network)
    save_file(
        {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}, fresh / "weights.safetensors"
    )
    moments = {
        f"{name} {key}": torch.as_tensor(value).cpu().contiguous()
        for name, weight in weights.items()
        for key, value in optimizer.state[weight].items()
    }
    save_file(moments, fresh / "optimizer.safetensors")
    (fresh / "step.json").write_text(json.dumps(record), encoding="utf-8")
    old = place.with_name(place.name + ".old")
    if place.exists():  # else `old` is the one that is whole
        shutil.rmtree(old, ignore_errors=True)
        place.rename(old)
    fresh.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def restore(place: Path, network: Any, optimizer: torch.optim.Optimizer, fingerprint: str) -> tuple[int, float] | None:
    """Put a saved state back and return its step and seconds; None where there is none.

    Raises E2RankError when it cannot be read, and when its run's fingerprint is another.
    """
    if not place.exists():  # killed between two renames: the one before is whole
        place = place.with_name(place.name + ".old")
        if not place.exists():
            return None
    try:
        record: dict[str, Any] = json.loads((place / "step.json").read_text(encoding="utf-8"))
        found = int(record["step"]), float(record["seconds"])
        if record["fingerprint"] != fingerprint:
            raise E2RankError(
                f"{place.parent}: holds the state of another run (model, recipe, what its dtype auto means here, "
                "data or dev lists differ); remove it, or name another output"
            )
        kept = load_file(place / "weights.safetensors")
        moments = load_file(place / "optimizer.safetensors")
        weights = trained(network)
        for name, weight in weights.items():
            weight.data.copy_(kept[name])
            prefix = f"{name} "
            optimizer.state[weight] = {
                key.removeprefix(prefix): value.to(weight.device)  # `step` too, as a fused optimizer has it
                for key, value in moments.items()
                if key.startswith(prefix)
            }
    except E2RankError:
        raise
    except Exception as error:
        raise E2RankError(
            f"{place}: the saved state cannot be read ({first_line(error)}); remove it to start again"
        ) from error
    return found
