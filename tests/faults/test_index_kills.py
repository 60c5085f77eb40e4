"""`e2rank index` killed, interrupted, out of disk and started twice: the same command goes on to the same bytes."""

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.processes import SOAK, Nursery

KILLS = 300 if SOAK else 24
FACTORIES = ["Flat", "IVF4,Flat"]

Command = Callable[[Path, str], list[str]]


@pytest.fixture(scope="module")
def command(tiny_model: Path, beir: Path) -> Command:
    def words(place: Path, factory: str) -> list[str]:
        line = ["index", "--dataset", str(beir), "--encoder", str(tiny_model), "--output", str(place / "i")]
        return [*line, "--threads", "1", "--shard-documents", "4", "--overwrite", "--index-type", factory]

    return words


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    opened = Nursery(tmp_path_factory.mktemp("nursery"))
    yield opened
    opened.close()


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def undisturbed(nursery: Nursery, words: list[str], place: Path) -> tuple[dict[str, bytes], float]:
    seconds = []
    for _ in range(3):  # the first one warms up
        started = time.perf_counter()
        assert nursery.run(words) == 0
        seconds.append(time.perf_counter() - started)
    return contents(place / "i"), min(seconds)


def left_over(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name != "i")


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("replacing", [False, True])
def test_a_killed_build_goes_on_to_the_same_bytes(
    nursery: Nursery, command: Command, tmp_path: Path, factory: str, replacing: bool
):
    expected, seconds = undisturbed(nursery, command(tmp_path / "whole", factory), tmp_path / "whole")
    older = {name: content for name, content in expected.items() if name != "e2rank.json"} | {"docid": b"older\n"}
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
            code = nursery.signalled(command(place, factory), signal.SIGKILL, draw.uniform(0, seconds))
            assert code in (0, -signal.SIGKILL), nursery.said()
            kills += code != 0
            whole = [path for path in (place / "i", place / ".i.replaced") if path.exists()]
            assert all(contents(path) in (expected, older) for path in whole[:1])  # complete, wherever it stands
            assert whole or not replacing
            if code == 0 or draw.random() < 0.2:
                break
        assert nursery.run(command(place, factory)) == 0
        assert contents(place / "i") == expected
        assert left_over(place) == []
        finished += 1
    print(f"\n{kills} kills, {finished} indexes finished, each with the undisturbed bytes ({factory})")


def test_an_interrupted_build_says_so_and_goes_on(nursery: Nursery, command: Command, tmp_path: Path):
    expected, seconds = undisturbed(nursery, command(tmp_path / "whole", "Flat"), tmp_path / "whole")
    draw, place, interrupted = random.Random(3), tmp_path / "i", 0
    place.mkdir()
    for _ in range(KILLS // 4):
        code = nursery.signalled(command(place, "Flat"), signal.SIGINT, draw.uniform(0, seconds))
        assert code in (0, 130), nursery.said()
        if code:
            interrupted += 1
            assert nursery.said()[-1] == "e2rank index: interrupted"
        # Python drops an interrupt that comes within a destructor or a callback, and says so: the build then goes on
        dropped = code == 0 and nursery.said()[0].startswith("Exception ignored in")
        assert dropped or not [line for line in nursery.said() if "Traceback" in line], nursery.said()
        if (place / "i").exists():
            assert contents(place / "i") == expected
            assert set(left_over(place)) <= {"i.shards"}
            shutil.rmtree(place / "i")
        assert set(left_over(place)) <= {"i.shards"}
        assert not list(place.rglob(".*"))
    assert nursery.run(command(place, "Flat")) == 0
    assert contents(place / "i") == expected
    assert interrupted


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_full_disk_is_one_line_and_loses_nothing(nursery: Nursery, command: Command, tmp_path: Path, factory: str):
    expected, _ = undisturbed(nursery, command(tmp_path / "whole", factory), tmp_path / "whole")
    limits = range(0, len(expected["index"]) + 400, 97 if SOAK else 1613)
    failed = 0
    for limit in limits:
        place = tmp_path / str(limit)
        place.mkdir()
        if nursery.run(command(place, factory), limit):
            failed += 1
            said = [line for line in nursery.said() if not line.startswith("WARNING clustering")]  # FAISS's
            assert [line[:14] for line in said] == ["e2rank index: "], said
            assert "cannot" in said[0]
            assert not (place / "i").exists()
            assert nursery.run(command(place, factory)) == 0
        assert contents(place / "i") == expected
        assert left_over(place) == []
    assert failed > len(limits) // 2
    print(f"\n{failed} of {len(limits)} builds stopped by a full disk, each with one line, and finished ({factory})")


def test_two_builds_of_one_index_at_once(nursery: Nursery, command: Command, tmp_path: Path):
    expected, _ = undisturbed(nursery, command(tmp_path / "whole", "Flat"), tmp_path / "whole")
    (tmp_path / "pipes").mkdir()
    other = Nursery(tmp_path / "pipes")
    refused = 0
    for number in range(40 if SOAK else 4):
        place = tmp_path / str(number)
        place.mkdir()
        for each in (nursery, other):
            each.start(command(place, "Flat"))
        ends = [(each.end(), each.said()) for each in (nursery, other)]
        assert sorted(code for code, _ in ends) in ([0, 0], [0, 1]), ends
        for code, said in ends:
            if code:
                refused += 1
                assert len(said) == 1
                assert said[0].endswith("another process is writing it")
        assert contents(place / "i") == expected
    other.close()
    assert refused
