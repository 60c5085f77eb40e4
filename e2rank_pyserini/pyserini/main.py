"""What the opt-in hook runs when a process is about to import Pyserini."""

import sys
from collections.abc import Sequence
from types import TracebackType

from e2rank_pyserini.pyserini.hooks import attach, attached
from e2rank_pyserini.types import E2RankError


def before_pyserini() -> None:
    """Attach, as to a program if one of Pyserini's is what runs; not again where `e2rank pyserini` has."""
    if attached():
        return
    program = program_of(sys.orig_argv, sys.argv)
    if not program.startswith("pyserini."):
        attach()
        return
    sys.excepthook = _one_line
    attach(program.removeprefix("pyserini."))


def program_of(line: Sequence[str], words: Sequence[str]) -> str:
    """The NAME of `python … -m NAME …` (or `-um NAME`, `-mNAME`) that is being looked for, "" for anything else.

    `line` is the whole command line, `words` what Python leaves of it to the program: "-m" and what follows NAME.
    """
    if words[:1] != ["-m"]:
        return ""
    last = line[len(line) - len(words)]
    return last.partition("m")[2] if last.startswith("-") else last


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, E2RankError):
        print(f"e2rank: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
