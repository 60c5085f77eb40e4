"""A process that has imported what `e2rank index` and `rerank` need, and forks one for each command that it reads.

    python tests/faults/nursery.py

Each line on stdin is JSON: `words` of the command line, `stderr` and `passes` (named pipes that get what it says, and
the rows of each forward pass), `limit` (bytes that a file may have; null for none). It answers with the process's id,
and to an empty line, when that has ended, with its status as os.waitstatus_to_exitcode gives it: till then the id is no
other's. An interrupt waits until the command itself runs: what this file does for a child has no line for it.
"""

import json
import os
import resource
import signal
import sys
import traceback
from typing import Any

import torch
import transformers.models.qwen3.modeling_qwen3  # noqa: F401  two seconds of each child, were it not here

import e2rank_pyserini.commands.plain
import e2rank_pyserini.commands.refining
import e2rank_pyserini.encoder
import e2rank_pyserini.index
import e2rank_pyserini.indexing  # noqa: F401  imported once, for all children
from e2rank_pyserini import cli

INTERRUPT = {signal.SIGINT}


def count_passes(place: str) -> None:
    """Write the rows of every forward pass to a pipe, as the pass begins."""
    file = os.open(place, os.O_WRONLY)

    def begun(module: torch.nn.Module, inputs: Any, _: Any) -> None:
        if type(module).__name__ == "Qwen3RotaryEmbedding":  # once a pass, told every token's position
            os.write(file, f"{int((inputs[1] == 0).sum())}\n".encode())

    torch.nn.modules.module.register_module_forward_hook(begun)


def hear_interrupts() -> None:
    """Let interrupts in while the command runs, and then alone."""
    run = cli._run

    def heard(*given: Any) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPT)
        try:
            run(*given)
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPT)

    cli._run = heard


def child(request: dict[str, Any]) -> int:
    os.dup2(os.open(request["stderr"], os.O_WRONLY), 2)
    count_passes(request["passes"])
    if request["limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], request["limit"]))
    hear_interrupts()
    return cli.main(request["words"])


if __name__ == "__main__":
    torch.set_num_threads(1)  # a process with other threads must not fork
    signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPT)
    for line in sys.stdin:
        process = os.fork()
        if not process:
            status = 99  # a traceback
            try:
                status = child(json.loads(line))
            except BaseException:  # noqa: BLE001  the test shows it
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        print(process, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
