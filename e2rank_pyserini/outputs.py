"""What a command leaves: a run with its record beside it, and one line on stderr."""

import dataclasses
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2rank_pyserini import corpus as corpora
from e2rank_pyserini import fingerprint, provenance
from e2rank_pyserini.timing import so_far, timed
from e2rank_pyserini.trec import write_run
from e2rank_pyserini.types import Run, Topics

if TYPE_CHECKING:
    from e2rank_pyserini.encoder import E2RankEncoder
    from e2rank_pyserini.index import DenseIndex


def write_with_record(
    arguments: Namespace,
    run: Run,
    tag: str,
    *,
    topics: Topics,
    source: str | None,
    opened: "DenseIndex | None" = None,
    encoder: "E2RankEncoder | None" = None,
    prompt: dict[str, Any] | None = None,
) -> None:
    """Write the run that `arguments` asked for and RUN.json beside it.

    `source` is the corpus whose texts were read, `prompt` the settings of the listwise prompt where one was read.
    """
    path = Path(arguments.output)
    with timed("write"):
        write_run(path, run, tag)
    record = {
        "command": arguments.words,
        "directory": str(Path.cwd()),
        "options": {key: value for key, value in vars(arguments).items() if key not in ("function", "words")},
        **_model(encoder, arguments),
        "prompt": prompt,
        "inputs": _inputs(arguments, topics, source, opened),
        "seconds": {part: round(seconds, 4) for part, seconds in so_far().items()},
        "versions": provenance.versions(),
        "machine": provenance.machine(),
    }
    provenance.write(path, record, topics=len(run), hits=sum(map(len, run.values())))


def report(what: str) -> None:
    """One line on stderr: what came out, and how long the command took."""
    print(f"{what} ({so_far().get('total', 0.0):.1f} s)", file=sys.stderr)


def run_tag(encoder: "E2RankEncoder") -> str:
    """The last column of a run."""
    return "e2rank-" + Path(encoder.spec.name).name.replace(" ", "_").removeprefix("e2rank-")


def _model(encoder: "E2RankEncoder | None", arguments: Namespace) -> dict[str, Any]:
    if encoder is None:
        return {"model": None, "threads": arguments.threads, "counts": None}
    import torch

    return {
        "model": encoder.record,
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "device": str(encoder.device),
        "threads": torch.get_num_threads(),
        "counts": dataclasses.asdict(encoder.tally),
    }


def _inputs(
    arguments: Namespace, topics: Topics, source: str | None, opened: "DenseIndex | None"
) -> dict[str, dict[str, str]]:
    """What was read and what tells whether it is still the same; `rerun` looks before it starts."""
    found = {"topics": {"path": arguments.topics or arguments.dataset, "fingerprint": provenance.of_topics(topics)}}
    if getattr(arguments, "run", None):
        found["run"] = {"path": arguments.run, "sha256": fingerprint.sha256(Path(arguments.run))}
    if opened is not None:
        found["index"] = {"path": str(opened.directory), "fingerprint": provenance.of_index(opened.directory)}
    if source is not None:
        found["corpus"] = {"path": source, "fingerprint": corpora.fingerprint(source)}
    return found
