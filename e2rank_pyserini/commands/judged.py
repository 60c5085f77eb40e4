"""What eval, compare and report read: runs and the judgments that they are held against."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from e2rank_pyserini.commands.inputs import exclusions_of, judgments, named_dataset
from e2rank_pyserini.datasets import Dataset
from e2rank_pyserini.evaluation import evaluate
from e2rank_pyserini.exclusions import Exclusions, admitted, check_disjoint
from e2rank_pyserini.report.findings import names
from e2rank_pyserini.trec import read_run
from e2rank_pyserini.types import E2RankError, Qrels, Run


class Judged(NamedTuple):
    """The judgments, the least grade that is relevant, and runs with their names for tables."""

    data: Dataset | None
    qrels: Qrels
    relevance: int
    runs: list[tuple[str, Run]]


def judged_runs(arguments: Namespace, paths: Sequence[str]) -> Judged:
    """Runs without what is excluded; says on stderr what was, and how many judged topics have no hits."""
    data, qrels, relevance, excluded = _judgments(arguments)
    runs = [_judged_run(path, qrels, excluded) for path in paths]
    for path, run in zip(paths, runs, strict=True):
        tell_lacking(path, run, qrels)
    return Judged(data, qrels, relevance, list(zip(names(paths), runs, strict=True)))


def evaluated_runs(arguments: Namespace, paths: Sequence[str]) -> tuple[Qrels, list[tuple[str, dict[str, float]]]]:
    """The judgments, and the measures of each run by its name; says what `judged_runs` says.

    One run is held at a time: the first that cannot be read or evaluated is the one that is refused.
    """
    _, qrels, relevance, excluded = _judgments(arguments)

    def evaluated(path: str) -> tuple[dict[str, float], Run]:
        run = _judged_run(path, qrels, excluded)
        return evaluate(run, qrels, relevance=relevance), {qid: [] for qid in run}

    found = [evaluated(path) for path in paths]
    for path, (_, topics) in zip(paths, found, strict=True):
        tell_lacking(path, topics, qrels)
    return qrels, [(name, values) for name, (values, _) in zip(names(paths), found, strict=True)]


def once(paths: Sequence[str]) -> list[str]:
    """The baseline and the other runs, each file once: `compare runs/a.trec runs/*.trec` names the baseline again, and
    all would count in Holm's family. Where there is but one file, it is compared with itself."""
    kept: dict[Path, str] = {}
    for path in paths:
        kept.setdefault(Path(path).resolve(), path)
    found = list(kept.values()) if len(kept) > 1 else list(paths[:2])
    if len(found) < len(paths):
        print(f"runs that are named again count once ({len(paths) - len(found)} such)", file=sys.stderr)
    return found


def tell_lacking(path: str, run: Run, qrels: Qrels) -> None:
    """Say so where a run has no hits for some judged topics."""
    lacking = len(qrels.keys() - run.keys())
    if lacking:
        print(f"{path}: {lacking} of {len(qrels)} judged topics have no hits and count 0", file=sys.stderr)


def _judgments(arguments: Namespace) -> tuple[Dataset | None, Qrels, int, Exclusions]:
    data = named_dataset(arguments)
    qrels, relevance = judgments(arguments, data)
    excluded = exclusions_of(arguments, data)
    check_disjoint(excluded, qrels)
    return data, qrels, relevance, excluded


def _judged_run(path: str, qrels: Qrels, excluded: Exclusions) -> Run:
    run, removed = admitted(read_run(Path(path)), excluded)
    if not run:
        raise E2RankError(f"{path}: the run holds nothing but excluded documents")
    if removed:
        print(f"{path}: {removed} hits are excluded and do not count", file=sys.stderr)
    if not run.keys() & qrels.keys():
        raise E2RankError(
            f"{path}: the run and the qrels share no topic (run: {next(iter(run))} …, qrels: {next(iter(qrels))} …)"
        )
    return run
