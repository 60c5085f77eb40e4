"""`e2rank pyserini MODULE …`: Pyserini's own programs, unchanged, knowing E2Rank."""

import importlib.util
import runpy
import sys
from collections.abc import Sequence

from e2rank_pyserini.pyserini.hooks import attach
from e2rank_pyserini.types import E2RankError


def run(module: str, words: Sequence[str]) -> None:
    """Run `python -m pyserini.MODULE WORDS` in this process. Raises E2RankError for a module that is not there."""
    name = f"pyserini.{module}"
    attach(module)
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise E2RankError(f"{name}: no such program; expected one of Pyserini's, such as encode or search.faiss")
    sys.argv[1:] = words
    runpy.run_module(name, run_name="__main__", alter_sys=True)
