"""What the opt-in hook runs when a process is about to import Pyserini."""

import sys
from types import TracebackType

from e2rank_pyserini.pyserini.hooks import attach
from e2rank_pyserini.types import E2RankError


def before_pyserini() -> None:
    """Attach, with the command line if one of Pyserini's programs is what runs."""
    words = sys.orig_argv
    program = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    if not program.startswith("pyserini."):
        attach()
        return
    sys.excepthook = _one_line
    attach(program.removeprefix("pyserini."), words[words.index("-m") + 2 :])


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, E2RankError):
        print(f"e2rank: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
