"""What ranks the lists of `e2rank data`: judgments, scorers or an LLM. `arguments` is its command line."""

import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path

from e2rank_pyserini.commands.inputs import retrieval_task
from e2rank_pyserini.commands.opening import loaded_encoder
from e2rank_pyserini.datasets import Dataset
from e2rank_pyserini.training.answers import answered, place_of
from e2rank_pyserini.training.endpoint import Endpoint
from e2rank_pyserini.training.examples import positions
from e2rank_pyserini.training.labelling import (
    Listed,
    Scorer,
    by_cross_encoder,
    by_encoder,
    by_run,
    combined,
    levels,
)

RUN, CROSS = "run:", "cross:"  # what a scorer that is no encoder begins with


def relevances(arguments: Namespace, named: Dataset | None, lists: Sequence[Listed]) -> Iterable[Sequence[float] | str]:
    """For each list a relevance a document, or the reason why there is none."""
    if arguments.pairs:
        return [[1.0] + [0.0] * (len(one.texts) - 1) for one in lists]
    if arguments.labels == "llm":
        return _by_llm(arguments, lists)
    if arguments.labels == "qrels":
        return [one.grades for one in lists]
    scored = [_scorer(name, arguments, named)(lists) for name in arguments.scorer]
    return [
        levels(combined(row, one.grades, arguments.with_qrels or 0.0))
        for row, one in zip(zip(*scored, strict=True), lists, strict=True)
    ]


def _by_llm(arguments: Namespace, lists: Sequence[Listed]) -> Iterable[Sequence[float] | str]:
    from tqdm import tqdm

    said = {name: getattr(arguments, name) for name in ("parallel", "timeout", "retries")}
    given = {name: value for name, value in said.items() if value is not None}
    endpoint = Endpoint(arguments.endpoint, arguments.llm, **given)
    asked = [(one.query, one.texts) for one in lists]
    coming = answered(asked, endpoint, place_of(Path(arguments.output)))
    found = tqdm(coming, total=len(asked), unit=" lists", desc="llm", disable=None, file=sys.stderr)
    return [order if isinstance(order, str) else positions(order) for order in found]


def _scorer(name: str, arguments: Namespace, named: Dataset | None) -> Scorer:
    """A scorer by its prefix; without one, an encoder."""
    if name.startswith(RUN):
        return by_run(Path(name.removeprefix(RUN)))
    if name.startswith(CROSS):
        if arguments.threads:
            import torch

            torch.set_num_threads(arguments.threads)
        return by_cross_encoder(
            name.removeprefix(CROSS),
            device=arguments.device,
            dtype=arguments.dtype or "float32",  # what bfloat16 cannot tell apart would be tied
            max_length=arguments.max_length,
            batch_tokens=arguments.batch_tokens,
        )
    encoder = loaded_encoder(Namespace(**{**vars(arguments), "encoder": name}), None, named)
    return by_encoder(encoder, retrieval_task(arguments.task, named))
