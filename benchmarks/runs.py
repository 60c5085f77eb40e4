"""What does a run of MS MARCO's size cost to read, evaluate and write, beside ir-measures?

    python benchmarks/runs.py [--topics 1400] [--hits 1000] [--rounds 3]

A synthetic run and qrels. Ours: `read_run`, which checks every line; `evaluate` (nDCG@10, R@100), which checks every id
and score; `write_run`. ir-measures: its reader of runs, into a dict of dicts, and `calc_aggregate` of the same
measures. By turns, `--rounds` times; medians.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
from ir_measures import R, nDCG

from e2rank_pyserini.evaluation import evaluate
from e2rank_pyserini.trec import read_qrels, read_run, write_run
from e2rank_pyserini.types import Hit


def made(place: Path, topics: int, hits: int) -> None:
    drawn = random.Random(0)
    run = {
        str(1_000_000 + topic): [
            Hit(str(docid), 20 - rank / 100) for rank, docid in enumerate(drawn.sample(range(8_841_823), hits))
        ]
        for topic in range(topics)
    }
    write_run(place / "run", run, "drawn")
    judged = (f"{qid} 0 {drawn.choice(found).docid} 1\n" for qid, found in run.items())
    (place / "qrels").write_text("".join(judged), encoding="utf-8")


def theirs(path: Path) -> dict[str, dict[str, float]]:
    run: dict[str, dict[str, float]] = {}
    for hit in ir_measures.read_trec_run(str(path)):
        run.setdefault(hit.query_id, {})[hit.doc_id] = hit.score
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("topics", 1400), ("hits", 1000), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        done = step()
        seconds.setdefault(name, []).append(time.perf_counter() - start)
        return done

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        made(place, arguments.topics, arguments.hits)
        qrels = read_qrels(place / "qrels")
        for _ in range(arguments.rounds):
            run = timed("read, ours", lambda: read_run(place / "run"))
            ours = timed("evaluate, ours", lambda run=run: evaluate(run, qrels, measures=("nDCG@10", "R@100")))
            timed("write, ours", lambda run=run: write_run(place / "again", run, "drawn"))
            assert (place / "again").read_bytes() == (place / "run").read_bytes()
            del run
            run = timed("read, ir-measures", lambda: theirs(place / "run"))
            peer = timed(
                "evaluate, ir-measures", lambda run=run: ir_measures.calc_aggregate([nDCG @ 10, R @ 100], qrels, run)
            )
            assert all(abs(ours[str(measure)] - value) < 1e-9 for measure, value in peer.items())
            del run
    lines = arguments.topics * arguments.hits
    for name, taken in seconds.items():
        print(f"{name:22} {statistics.median(taken):6.2f} s  {lines / statistics.median(taken) / 1000:6.0f} k lines/s")


if __name__ == "__main__":
    main()
