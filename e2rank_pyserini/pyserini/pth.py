"""The opt-in hook for unmodified commands: two small files in site-packages, written and removed by the user's word.

After it, plain `python -m pyserini.…` knows E2Rank and finds Java. An interpreter that does not import Pyserini pays
for one small module; nothing of e2rank_pyserini is imported before Pyserini is.
"""

import sysconfig
from pathlib import Path

from e2rank_pyserini.trec import atomic
from e2rank_pyserini.types import E2RankError

NAME = "_e2rank_pyserini_hook"
MODULE = '''"""Written by `e2rank pyserini install-hook`; `e2rank pyserini remove-hook` takes it away."""

import sys


class _BeforePyserini:
    def find_spec(self, name, path=None, target=None):
        if name != "pyserini":
            return None
        sys.meta_path.remove(self)
        try:
            from e2rank_pyserini.pyserini.main import before_pyserini
        except ImportError:
            print("e2rank: its hook is installed but e2rank_pyserini is not; remove " + __file__, file=sys.stderr)
            return None
        before_pyserini()
        return None


sys.meta_path.insert(0, _BeforePyserini())
'''


def install() -> list[Path]:
    """Write the hook; returns its files."""
    module, pth = _files()
    with atomic(module) as file:
        file.write(MODULE)
    with atomic(pth) as file:  # last: it is what Python reads
        file.write(f"import {NAME}\n")
    return [pth, module]


def remove() -> list[Path]:
    """Take the hook away; returns the files that were removed."""
    module, pth = _files()
    gone = [path for path in (pth, module) if path.exists()]
    cache = module.parent / "__pycache__"
    gone += cache.glob(f"{NAME}.*.pyc")
    try:
        for path in gone:
            path.unlink()
    except OSError as error:
        raise E2RankError(f"{path}: cannot be removed: {error.strerror}") from error
    return gone


def installed() -> bool:
    """Whether the hook is there, whole."""
    return all(path.is_file() for path in _files())


def _files() -> tuple[Path, Path]:
    place = Path(sysconfig.get_paths()["purelib"])
    return place / f"{NAME}.py", place / f"{NAME}.pth"
