"""`e2rank index` killed, interrupted, out of disk and started twice: the same command goes on to the same bytes."""

import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from e2rank_pyserini.cli import main
from tests.faults.children import SOAK, Child

pytestmark = pytest.mark.usefixtures("one_thread")
KILLS = 300 if SOAK else 24
FACTORIES = ["Flat", "IVF4,Flat"]

Command = Callable[[Path, str], Callable[[], int]]


@pytest.fixture(scope="module")
def command(tiny_model: Path, beir: Path) -> Command:
    def words(place: Path, factory: str = "Flat") -> Callable[[], int]:
        line = ["index", "--dataset", str(beir), "--encoder", str(tiny_model), "--output", str(place / "i")]
        line += ["--threads", "1", "--shard-documents", "4", "--overwrite", "--index-type", factory]
        return lambda: main(line)

    return words


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def undisturbed(command: Command, place: Path, factory: str) -> tuple[dict[str, bytes], float]:
    place.mkdir(exist_ok=True)
    started = time.perf_counter()
    assert Child(command(place, factory)).wait().code == 0
    return contents(place / "i"), time.perf_counter() - started


def left_over(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name != "i")


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("replacing", [False, True])
def test_a_killed_build_goes_on_to_the_same_bytes(command: Command, tmp_path: Path, factory: str, replacing: bool):
    expected, seconds = undisturbed(command, tmp_path / "whole", factory)
    older = contents(tmp_path / "whole" / "i") | {"docid": b"older\n"}
    draw = random.Random(f"{factory} {replacing}")
    place = tmp_path / "killed"
    kills = finished = 0
    while kills < KILLS // 4:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if replacing:
            (place / "i").mkdir()
            for name, content in older.items():
                (place / "i" / name).write_bytes(content)
        while True:
            ended = Child(command(place, factory)).signalled(signal.SIGKILL, draw.uniform(0, seconds))
            assert ended.code in (0, -signal.SIGKILL), ended.said
            kills += ended.code != 0
            whole = [path for path in (place / "i", place / ".i.replaced") if path.exists()]
            assert all(contents(path) in (expected, older) for path in whole)  # complete, wherever it stands
            assert whole or not replacing
            if ended.code == 0 or draw.random() < 0.2:
                break
        assert Child(command(place, factory)).wait().code == 0
        assert contents(place / "i") == expected
        assert left_over(place) == []
        finished += 1
    print(f"\n{kills} kills, {finished} indexes finished, each with the undisturbed bytes ({factory})")


def test_an_interrupted_build_says_so_and_goes_on(command: Command, tmp_path: Path):
    expected, seconds = undisturbed(command, tmp_path / "whole", "Flat")
    draw, place, interrupted = random.Random(3), tmp_path / "i", 0
    place.mkdir()
    for _ in range(KILLS // 4):
        ended = Child(command(place, "Flat")).signalled(signal.SIGINT, draw.uniform(0.01, seconds))
        assert ended.code in (0, 130)
        assert "Traceback" not in ended.said
        if ended.code:
            interrupted += 1
            assert ended.said.endswith("e2rank index: interrupted\n")
        if (place / "i").exists():
            assert contents(place / "i") == expected
            assert left_over(place) == []
            shutil.rmtree(place / "i")
        assert set(left_over(place)) <= {"i.shards"}
        assert not list(place.rglob(".*"))
    assert Child(command(place, "Flat")).wait().code == 0
    assert contents(place / "i") == expected
    assert interrupted


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_full_disk_is_one_line_and_loses_nothing(command: Command, tmp_path: Path, factory: str):
    expected, _ = undisturbed(command, tmp_path / "whole", factory)
    limits = range(0, len(expected["index"]) + 400, 97 if SOAK else 1613)
    failed = 0
    for limit in limits:
        place = tmp_path / str(limit)
        place.mkdir()

        def limited(limit: int = limit, place: Path = place) -> int:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            return command(place, factory)()

        ended = Child(limited).wait()
        if ended.code:
            failed += 1
            said = [line for line in ended.said.splitlines() if not line.startswith("WARNING clustering")]  # FAISS's
            assert [line[:14] for line in said] == ["e2rank index: "], said
            assert "cannot" in ended.said
            assert not (place / "i").exists()
            assert Child(command(place, factory)).wait().code == 0
        assert contents(place / "i") == expected
        assert left_over(place) == []
    assert failed > len(limits) // 2


def test_two_builds_of_one_index_at_once(command: Command, tmp_path: Path):
    expected, _ = undisturbed(command, tmp_path / "whole", "Flat")
    refused = 0
    for number in range(40 if SOAK else 4):
        place = tmp_path / str(number)
        place.mkdir()
        both = [Child(command(place, "Flat")) for n in range(2)]
        ends = [child.wait() for child in both]
        codes = sorted(ended.code for ended in ends)
        assert codes in ([0, 0], [0, 1]), ends
        for ended in ends:
            if ended.code:
                refused += 1
                assert ended.said.endswith("another process is writing it\n")
                assert ended.said.count("\n") == 1
        assert contents(place / "i") == expected
    assert refused
