"""A process of workers.py: reads a task a line, encodes it, writes its shard, answers with a line."""

import json
import os
import signal
import sys
import threading
import time
from typing import Any

from e2rank_pyserini.types import E2RankError, kind_and_line


def main() -> int:
    """`python -m e2rank_pyserini.shards.worker SETUP`: ends with its input, or with 1 after a failure it told of."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it says when to end
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    threading.Thread(target=_outlive_nobody, args=(os.getppid(),), daemon=True).start()
    work: Work | None = None
    for line in open(0, encoding="utf-8"):  # noqa: SIM115  standard input, in UTF-8 whatever the locale
        try:
            work = work or Work(json.loads(sys.argv[1]))
            answer: dict[str, Any] = {"shard": work.encode(json.loads(line))}
        except E2RankError as error:
            answer = {"error": str(error)}
        except Exception as error:  # noqa: BLE001  out of memory, most often: a new process may do better
            answer = {"died": kind_and_line(error)}
        print(json.dumps(answer), file=answers, flush=True)
        if "died" in answer:
            return 1
    return 0


def _outlive_nobody(parent: int) -> None:
    """End with the process that gives the tasks: what it leaves behind is another one's, perhaps with another model."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


class Work:
    """A model loaded as the shards were begun with it; encodes tasks."""

    def __init__(self, setup: dict[str, Any]) -> None:
        import torch

        from e2rank_pyserini.encoder import as_recorded
        from e2rank_pyserini.shards.folder import Shards

        if setup["threads"]:
            torch.set_num_threads(setup["threads"])
        self.encoder = as_recorded(setup["model"], setup["dtype"], setup["device"], setup["batch_tokens"])
        self.shards = Shards(setup["place"], setup["settings"])

    def encode(self, line: dict[str, Any]) -> dict[str, Any]:
        """The fields of a Task, as JSON has them -> those of its Shard."""
        from e2rank_pyserini.shards.encoding import encode_shard
        from e2rank_pyserini.shards.folder import Task

        task = Task(line["number"], tuple(line["docids"]), tuple(line["texts"]))
        return encode_shard(self.encoder, task, self.shards)._asdict()


if __name__ == "__main__":
    sys.exit(main())
