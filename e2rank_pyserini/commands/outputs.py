"""What a command leaves: a run with its record beside it, and one line on stderr."""

import dataclasses
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2rank_pyserini import provenance
from e2rank_pyserini.timing import so_far, timed
from e2rank_pyserini.trec import write_run
from e2rank_pyserini.types import Run

if TYPE_CHECKING:
    from e2rank_pyserini.encoder import E2RankEncoder


@dataclasses.dataclass(frozen=True)
class Used:
    """What a run was made from: `inputs` by inputs.fingerprints, `prompt` the settings of the listwise prompt."""

    inputs: dict[str, dict[str, str | None]]
    encoder: "E2RankEncoder | None" = None
    prompt: dict[str, Any] | None = None


def write_with_record(arguments: Namespace, run: Run, tag: str, used: Used) -> None:
    """Write the run that `arguments` asked for and RUN.json beside it."""
    record = {
        "command": arguments.words,
        "directory": str(Path.cwd()),
        "options": {key: value for key, value in vars(arguments).items() if key not in ("function", "words")},
        **_model(used.encoder, arguments),
        "prompt": used.prompt,
        "inputs": used.inputs,
        "versions": provenance.versions(),
        "machine": provenance.machine(),
    }
    path = Path(arguments.output)
    with timed("write"):
        write_run(path, run, tag)
    record["seconds"] = {part: round(seconds, 4) for part, seconds in so_far().items()}
    provenance.write(path, record, topics=len(run), hits=sum(map(len, run.values())))


def tell_few(command: str, run: Run, asked: int, held: int, hits: int) -> None:
    """Say on stderr how many topics got fewer hits than an index that holds `held` documents has.

    `asked`: how many were asked of it, for the `hits` that are wanted and those that are excluded.
    """
    short = sum(len(hits) < min(asked, held) for hits in run.values())
    if short:
        print(
            f"e2rank {command}: {short} topics got fewer than {min(asked, held)} hits: "
            "an approximate index does not look everywhere",
            file=sys.stderr,
        )
    if hits > held:
        print(f"e2rank {command}: asked for {hits} hits, the index holds {held} documents", file=sys.stderr)


def report(what: str) -> None:
    """One line on stderr: what came out, and how long the command took."""
    print(f"{what} ({so_far().get('total', 0.0):.1f} s)", file=sys.stderr)


def tell_parts(queries: int) -> None:
    """One line on stderr: what each part of the work took, in milliseconds a query."""
    seconds = so_far()
    parts = [f"{part} {1000 * seconds[part] / queries:.1f}" for part in provenance.STEPS if part in seconds and queries]
    if parts:
        print(f"ms a query: {', '.join(parts)}", file=sys.stderr)


def run_tag(encoder: "E2RankEncoder") -> str:
    """The last column of a run."""
    return "e2rank-" + "_".join(Path(encoder.spec.name).name.split()).removeprefix("e2rank-")


def _model(encoder: "E2RankEncoder | None", arguments: Namespace) -> dict[str, Any]:
    if encoder is None:
        return {"model": None, "threads": arguments.threads, "counts": None}
    import torch

    on_gpu = encoder.device.type == "cuda"
    return {
        "model": encoder.record,
        "dtype": encoder.dtype_name,
        "device": str(encoder.device),
        "device_name": torch.cuda.get_device_name(encoder.device) if on_gpu else None,
        "threads": torch.get_num_threads(),
        "counts": dataclasses.asdict(encoder.tally),
    }
