"""Shards encoded by a real Ray, on this machine, with two actors."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2rank_pyserini.cli import main
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.types import E2RankError
from tests.test_shards import build, contents, interrupted, settings

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]  # Ray's own


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def undisturbed(encoder: E2RankEncoder, beir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("undisturbed") / "index"
    build(encoder, beir, place)
    return place


def actors() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_text().startswith("ray::MapWorker(MapBatches(_Actor))"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.usefixtures("cluster")
def test_ray_finishes_what_this_process_began(
    encoder: E2RankEncoder, beir: Path, undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    from e2rank_pyserini.shards.ray_engine import on_ray

    interrupted(encoder, beir, tmp_path / "i", 1)
    build(encoder, beir, tmp_path / "i", engine=on_ray(settings(encoder), ["cpu", "cpu"]))
    assert contents(tmp_path / "i") == contents(undisturbed)
    assert "3 shards were finished before" in capfd.readouterr().err


@pytest.mark.usefixtures("cluster")
def test_all_actors_encode(
    encoder: E2RankEncoder, beir: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Ray joins small blocks: one actor had all shards then, and where it died they were all done again."""
    from e2rank_pyserini.shards import ray_engine

    log = tmp_path / "actors"

    class Told(ray_engine._Actor):
        def __call__(self, batch):
            with log.open("a") as file:
                file.write(f"{os.getpid()}\n")
            return super().__call__(batch)

    monkeypatch.setattr(ray_engine, "_Actor", Told)
    before = ray.data.DataContext.get_current().target_max_block_size
    build(encoder, beir, tmp_path / "i", engine=ray_engine.on_ray(settings(encoder), ["cpu", "cpu"]))
    assert len(set(log.read_text().split())) == 2
    assert ray.data.DataContext.get_current().target_max_block_size == before
    assert contents(tmp_path / "i") == contents(undisturbed)


@pytest.mark.usefixtures("cluster")
def test_a_killed_actor_costs_nothing(encoder: E2RankEncoder, beir: Path, undisturbed: Path, tmp_path: Path):
    from e2rank_pyserini.shards.ray_engine import on_ray

    killed: list[int] = []

    def kill() -> None:
        while not (tmp_path / "i.shards" / "00000" / "shard.json").exists():
            time.sleep(0.01)
        killed.extend(actors()[:1])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    build(encoder, beir, tmp_path / "i", engine=on_ray(settings(encoder), ["cpu", "cpu"]))
    killer.join()
    assert len(killed) == 1
    assert contents(tmp_path / "i") == contents(undisturbed)


@pytest.mark.usefixtures("cluster")
def test_the_command_and_what_an_actor_reports(tiny_model: Path, beir: Path, tmp_path: Path, encoder: E2RankEncoder):
    from e2rank_pyserini.shards.ray_engine import on_ray

    words = ["index", "--dataset", str(beir), "--encoder", str(tiny_model), "--output", str(tmp_path / "i")]
    assert main([*words, "--engine", "ray", "--threads", "1", "--shards", str(tmp_path / "s")]) == 0
    gone = settings(encoder, str(tmp_path / "gone"))
    with pytest.raises(E2RankError, match=r"model .*gone"):
        build(encoder, beir, tmp_path / "j", engine=on_ray(gone, ["cpu"]))
