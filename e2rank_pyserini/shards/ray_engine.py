"""Shards encoded by Ray Data: the corpus read on the driver's machine, a pool of actors that each hold the model.

Actors write their shards to the folder of shards themselves, so that only records travel back, and what one cluster
began any machine can finish. Ray holds the reading back while the actors are busy, and gives the shard of an actor that
dies to another.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from e2rank_pyserini.shards.encoding import Advance, Engine, planned
from e2rank_pyserini.shards.folder import Shard, Shards, Task
from e2rank_pyserini.shards.worker import Work
from e2rank_pyserini.shards.workers import Settings
from e2rank_pyserini.types import Document, E2RankError


def on_ray(settings: Settings, devices: Sequence[str]) -> Engine:
    """The engine with an actor for each of `devices`, on the cluster of RAY_ADDRESS or else on this machine.

    An actor on `cuda` takes one GPU, one on `cpu` takes `settings.threads` cores (default 1). Raises E2RankError where
    Ray is not installed, and for what an actor reports.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise E2RankError(f"Ray cannot be imported ({error}); pip install 'e2rank-pyserini[ray]'") from error

    on_gpu = devices[0].startswith("cuda")
    if any(device.startswith("cuda") != on_gpu for device in devices):
        raise E2RankError(f"--devices {','.join(devices)}: Ray's actors are all on CPUs or all on GPUs")
    threads = settings.threads or 1
    needs = {"num_gpus": 1} if on_gpu else {"num_cpus": threads}

    def engine(corpus: Iterable[Document], shards: Shards, advance: Advance) -> Iterator[tuple[Shard, bool]]:
        setup = {**settings._asdict(), "threads": threads, "device": "cuda" if on_gpu else "cpu"}
        setup |= {"place": shards.folder.absolute, "settings": shards.settings}
        started = not ray.is_initialized()
        if started:
            ray.init(log_to_driver=False)
        context = ray.data.DataContext.get_current()
        before, context.target_max_block_size = context.target_max_block_size, 1  # or all shards are one actor's task
        try:
            if shards.folder.path is not None and len(ray.nodes()) > 1:
                print(f"{shards.folder.path}: must be the same folder on every machine of the cluster", file=sys.stderr)
            # no core for the reading: the actors may have taken all
            plan = ray.data.read_datasource(_source(corpus, shards), override_num_blocks=1, num_cpus=0)
            encoded = plan.map_batches(
                _Actor, fn_constructor_args=(setup,), batch_size=1, concurrency=len(devices), max_restarts=-1, **needs
            )
            yield from _finished(encoded.iter_rows(), advance)
        finally:
            context.target_max_block_size = before
            if started:
                ray.shutdown()

    return engine


def _finished(rows: Iterable[dict[str, Any]], advance: Advance) -> Iterator[tuple[Shard, bool]]:
    for row in rows:
        answer = json.loads(row["answer"])
        if "error" in answer:
            raise E2RankError(answer["error"])
        shard = Shard(**answer["shard"])
        advance(shard.documents, shard.counts.get("tokens", 0) if answer["is_new"] else 0)
        yield shard, answer["is_new"]


def _rows(corpus: Iterable[Document], shards: Shards) -> Iterator[dict[str, str]]:
    """The plan as rows: a task to do, a shard that is finished, or the error that ends it."""
    try:
        for item in planned(corpus, shards):
            kind = "task" if isinstance(item, Task) else "shard"
            yield {kind: json.dumps(item._asdict())}
    except E2RankError as error:
        yield {"error": str(error)}


def _source(corpus: Iterable[Document], shards: Shards) -> Any:
    """The plan as a datasource of Ray's with one task, which streams a block for each shard."""
    import pyarrow
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    def read() -> Iterator[Any]:
        for row in _rows(corpus, shards):
            yield pyarrow.table({"item": pyarrow.array([json.dumps(row)], pyarrow.large_string())})

    class Plan(Datasource):  # type: ignore[misc]
        supports_distributed_reads = False  # the corpus need be on this machine only

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            return [ReadTask(read, BlockMetadata(None, None, None))]

    return Plan()


class _Actor:
    def __init__(self, setup: dict[str, Any]) -> None:
        self.setup = setup
        self.work: Work | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        return {"answer": [json.dumps(self._answer(json.loads(item))) for item in batch["item"]]}

    def _answer(self, row: dict[str, str]) -> dict[str, Any]:
        if "error" in row:
            return row
        if "shard" in row:
            return {"shard": json.loads(row["shard"]), "is_new": False}
        try:
            self.work = self.work or Work(self.setup)
            return {"shard": self.work.encode(json.loads(row["task"])), "is_new": True}
        except E2RankError as error:
            return {"error": str(error)}
