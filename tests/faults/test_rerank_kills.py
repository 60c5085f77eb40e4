"""`e2rank rerank` as real processes: killed at random instants, interrupted, on a full disk, two at once."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import sentences
from tests.faults.processes import SOAK, Nursery

KILLS = 100 if SOAK else 6
QUERIES, HITS = 40, 30
ROOT = Path(__file__).resolve().parents[2]


def wait_for(happened: Callable[[], object]) -> None:
    limit = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.002)


class Job:
    """A reranking of queries whose documents the index holds by half, and what it gives undisturbed."""

    def __init__(self, nursery: Nursery, words: list[str], output: Path) -> None:
        self.nursery, self.words, self.output = nursery, [*words, "--output", str(output)], output
        self.journal = output.with_name(f".{output.name}.unfinished")
        started = time.monotonic()
        assert nursery.run(self.words) == 0, nursery.stderr.read()
        self.seconds = time.monotonic() - started
        assert "journal" not in nursery.stderr.read()
        self.bytes, self.record, self.rows = output.read_bytes(), self.recorded(), sum(nursery.rows())
        self.clear()

    def recorded(self) -> dict[str, Any]:
        record = json.loads(Path(f"{self.output}.json").read_text())
        assert record["seconds"].pop("encode") > 0
        del record["seconds"]
        return record

    def clear(self) -> None:
        assert not self.journal.exists()
        self.output.unlink()
        Path(f"{self.output}.json").unlink()

    def forget(self) -> None:
        for path in self.output.parent.iterdir():
            path.unlink()

    def is_untouched(self) -> bool:
        return not self.output.exists() and not Path(f"{self.output}.json").exists()

    def is_undisturbed(self) -> bool:
        return self.output.read_bytes() == self.bytes and self.recorded() == self.record

    def reused(self) -> int:
        """What the last process says was encoded before, and it must have encoded all but that."""
        told = self.nursery.stderr.read()
        found = re.search(r"journal: (\d+) of the (\d+) texts were encoded before and not again", told)
        reused = int(found[1]) if found else 0
        assert found is None or int(found[2]) == self.rows
        assert sum(self.nursery.rows()) == self.rows - reused
        return reused


@pytest.fixture(scope="module")
def job(tiny_model: Path, beir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    work = tmp_path_factory.mktemp("kills")
    draw = random.Random(0)
    lines = (beir / "corpus.jsonl").read_text().splitlines()
    (work / "half.jsonl").write_text("\n".join(lines[::2]) + "\n")
    docids = [json.loads(line)["_id"] for line in lines]
    rows = [(f"q{n}", docid, rank) for n in range(QUERIES) for rank, docid in enumerate(draw.sample(docids, HITS), 1)]
    (work / "first.trec").write_text("".join(f"{qid} Q0 {docid} {rank} {-rank} x\n" for qid, docid, rank in rows))
    queries = sentences(QUERIES, seed=8, most=9)
    (work / "topics.tsv").write_text("".join(f"q{n}\t{query}\n" for n, query in enumerate(queries)))
    nursery = Nursery(work)
    try:
        index = ["--index", str(work / "index")]
        made = ["index", "--corpus", str(work / "half.jsonl"), "--encoder", str(tiny_model), "--output", index[1]]
        assert nursery.run(made) == 0, nursery.stderr.read()
        inputs = ["--run", str(work / "first.trec"), "--topics", str(work / "topics.tsv"), "--corpus"]
        inputs += [str(beir / "corpus.jsonl"), *index]
        yield Job(nursery, ["rerank", *inputs, "--threads", "1", "--batch-tokens", "512"], work / "out" / "run.trec")
    finally:
        nursery.close()


@pytest.fixture(autouse=True)
def _alone(job: Job) -> Iterator[None]:
    """What a test that fails leaves is not the next one's."""
    yield
    job.forget()


def test_killed_at_any_instant_the_run_is_the_undisturbed_one(job: Job):
    draw = random.Random(time.time_ns())
    kills = finished = lost = reused = 0
    most = 0  # rows of a batch
    done = 0  # rows encoded by the processes of this run that were killed
    while kills < KILLS or finished < 2:
        process = job.nursery.start(job.words)
        if kills < KILLS:
            time.sleep(draw.uniform(0, job.seconds))
            os.kill(process, signal.SIGKILL)
        status = job.nursery.end()
        if status == -signal.SIGKILL:
            kills += 1
            done += sum(job.nursery.rows())
            most = max([most, *job.nursery.rows()])
            continue
        assert status == 0, job.nursery.stderr.read()
        assert job.is_undisturbed()
        again = job.reused()
        reused, lost, done, finished = reused + again, lost + done - again, 0, finished + 1
        job.clear()
    assert 0 <= lost <= most * kills  # a kill costs no more than one batch
    print(f"{kills} kills, {finished} runs, {reused} texts not encoded again, {lost} encoded twice, 0 bytes differ")


def killed_midway(job: Job) -> int:
    process = subprocess.Popen(
        [sys.executable, "-m", "e2rank_pyserini", *job.words], stderr=subprocess.DEVNULL, cwd=ROOT
    )

    def begun() -> bool:
        with contextlib.suppress(FileNotFoundError):
            return job.journal.stat().st_size > 10_000
        return process.poll() is not None

    wait_for(begun)
    process.kill()
    return process.wait()


def test_a_process_of_its_own_killed(job: Job):
    """The command as users start it: an interpreter of its own."""
    for _ in range(5):
        status = killed_midway(job)
        if job.is_untouched():
            break
        job.forget()  # the machine stood still, and the kill came after the run was written
    assert status == -signal.SIGKILL
    assert job.is_untouched()
    assert job.nursery.run(job.words) == 0
    assert job.is_undisturbed()
    assert job.reused() > 0
    job.clear()


def test_interrupted_it_leaves_no_half_file_and_says_how_to_go_on(job: Job):
    before = set(job.output.parent.iterdir())  # a SIGKILL in the milliseconds of a last write leaves its hidden file
    process = job.nursery.start(job.words)
    wait_for(lambda: len(job.nursery.rows()) >= 10)
    os.kill(process, signal.SIGINT)
    assert job.nursery.end() == 130
    told = job.nursery.said()
    kept = re.fullmatch(r"journal: (\d+) texts are encoded and kept; the same command goes on with them", told[-2])
    assert told[-1] == "e2rank rerank: interrupted"
    assert set(job.output.parent.iterdir()) - before == {job.journal}
    assert job.nursery.run(job.words) == 0
    assert f"journal: goes on with {kept[1]} texts" in job.nursery.stderr.read()
    assert job.is_undisturbed()
    assert job.reused() == int(kept[1]) >= 9
    job.clear()


@pytest.mark.parametrize("limit", [0, 1000, 5000, 12_345, 20_000])
def test_a_full_disk_is_one_line_and_what_is_finished_stays(job: Job, limit: int):
    assert job.nursery.run(job.words, limit) == 1
    _, told = job.nursery.said()  # first: that the index was built from half of the corpus
    assert re.fullmatch(r"e2rank rerank: .*run\.trec\.unfinished: cannot be kept: File too large", told)
    assert job.is_untouched()
    before, most = sum(job.nursery.rows()), max(job.nursery.rows())
    assert job.nursery.run(job.words) == 0
    assert job.is_undisturbed()
    assert before - most <= job.reused() <= before
    job.clear()


def test_a_disk_that_is_full_when_the_run_is_written(job: Job):
    """The run is longer than the journal."""
    before = set(job.output.parent.iterdir())
    assert job.nursery.run(job.words, len(job.bytes) - 1) == 1
    _, told = job.nursery.said()  # first: that the index was built from half of the corpus
    assert re.fullmatch(r"e2rank rerank: .*run\.trec: cannot be written: File too large", told)
    assert set(job.output.parent.iterdir()) - before == {job.journal}
    assert job.nursery.run(job.words) == 0
    assert job.is_undisturbed()
    assert job.reused() == job.rows
    job.clear()


def test_two_at_once(job: Job):
    """The second refuses in one line and harms nothing."""
    process = job.nursery.start(job.words)
    wait_for(job.nursery.rows)
    os.kill(process, signal.SIGSTOP)
    second = subprocess.run(
        [sys.executable, "-m", "e2rank_pyserini", *job.words], capture_output=True, text=True, cwd=ROOT, check=False
    )
    os.kill(process, signal.SIGCONT)
    assert job.nursery.end() == 0
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1].endswith(
        "run.trec: another process is making it; wait, or choose another name"
    )
    assert job.is_undisturbed()
    assert job.reused() == 0
    job.clear()
