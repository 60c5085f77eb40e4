"""Make Pyserini's own programs know E2Rank: one import hook serves the runner, the `.pth` and the library.

`attach()` changes nothing until Pyserini loads a module that has to be told, and then tells it. Of a program that runs
it keeps the command line, for the options that Pyserini does not hand on (see options.py).
"""

import argparse
import importlib
import importlib.metadata
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from e2rank_pyserini import java
from e2rank_pyserini.pyserini.options import KEY, Asked, asked, in_full, is_ours, put_first

TESTED = ((1, 6), (2, 4))  # from the first up to, not including, the second
_QUERY_ENCODERS = (
    "AnceQueryEncoder", "ArcticQueryEncoder", "AutoQueryEncoder", "CosDprQueryEncoder", "DprQueryEncoder",
    "DseQueryEncoder", "MMEBQueryEncoder", "OpenAiQueryEncoder", "SpladeQueryEncoder", "TctColBertQueryEncoder",
    "UniCoilQueryEncoder",
)  # fmt: skip
_typed: list[str] = []  # what argparse was given, each option by its whole name


def attach(module: str = "") -> None:
    """Find a Java, and tell Pyserini's modules about E2Rank as they load (those already loaded at once).

    `module` is the Pyserini program that runs ("encode.query"), "" for library use.
    """
    java.start(own=not module)  # in a script of the user's own Ctrl-C stays Python's
    _check_version()
    if module:
        _allow_encoder_class()
        _keep_what_is_typed()
    told: dict[str, Callable[[ModuleType], None]] = {
        "pyserini.encode": lambda loaded: _tell_encode(loaded, module, lambda: asked(_typed)),
        "pyserini.search.faiss._searcher": _tell_searcher,
    }
    if module == "fusion":  # others give such a run whole numbers and expect them back
        told["pyserini.trectools"] = _tell_trectools
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _AfterImport)]
    sys.meta_path.insert(0, _AfterImport(told))
    for name, tell in told.items():
        if name in sys.modules:
            tell(sys.modules[name])


def attached() -> bool:
    """Whether `attach` was called in this process."""
    return any(isinstance(finder, _AfterImport) for finder in sys.meta_path)


class _AfterImport:
    """Finds what Python finds anyway, and calls a function on the module once it has been executed."""

    def __init__(self, told: dict[str, Callable[[ModuleType], None]]) -> None:
        self.told = told

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        tell = self.told.get(name)
        spec = PathFinder.find_spec(name, path, target) if tell is not None else None
        if tell is None or spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_tell(module: ModuleType) -> None:
            execute(module)
            tell(module)

        spec.loader.exec_module = execute_and_tell  # type: ignore[method-assign]
        return spec


def _tell_encode(package: ModuleType, module: str, options: Callable[[], Asked]) -> None:
    """Our classes first in both maps; for encode.query, which ignores the maps, in the place of the others."""

    def late(name: str) -> Callable[..., Any]:  # our classes stand on this package: they may be what imports it
        def make(*words: Any, **named: Any) -> Any:
            encoders = importlib.import_module("e2rank_pyserini.pyserini.encoders")
            return getattr(encoders, name)(*words, **named, **({"asked": options()} if module else {}))

        return make

    queries = late("E2RankQueryEncoder")
    put_first(package.document_encoder_class_map, late("E2RankDocumentEncoder"))
    put_first(package.query_encoder_class_map, queries)
    if module == "encode.query":
        for name in _QUERY_ENCODERS:
            setattr(package, name, _ours_or(getattr(package, name), queries))


def _ours_or(theirs: Any, ours: Callable[..., Any]) -> Callable[..., Any]:
    def make(encoder: str, *words: Any, **named: Any) -> Any:
        if is_ours(encoder):
            return ours(encoder, device=named.get("device", "cpu"))
        return theirs(encoder, *words, **named)

    return make


def _tell_searcher(module: ModuleType) -> None:
    """`FaissSearcher(directory, "name")` chooses by name and ignores the maps."""
    theirs = module.FaissSearcher._init_encoder_from_str
    if hasattr(theirs, "e2rank"):
        return

    def choose(encoder: str) -> Any:
        if not is_ours(encoder):
            return theirs(encoder)
        from e2rank_pyserini.pyserini.encoders import E2RankQueryEncoder

        return E2RankQueryEncoder(encoder)

    choose.e2rank = True  # type: ignore[attr-defined]
    module.FaissSearcher._init_encoder_from_str = staticmethod(choose)


def _tell_trectools(module: ModuleType) -> None:
    """Pyserini reads the query ids of a run as numbers: fusion then writes 007 as 7. And it takes `"` for csv's."""
    import csv

    import pandas

    def read_run(self: Any, filepath: str, resort: bool = False) -> None:
        kinds = {"topic": "str", "q0": "str", "docid": "str", "score": "float", "tag": "str"}
        self.run_data = pandas.read_csv(
            filepath,
            sep=r"\s+",
            names=module.TrecRun.columns,
            dtype=kinds,
            keep_default_na=False,
            quoting=csv.QUOTE_NONE,
        )
        if resort:
            self.run_data.sort_values(["topic", "score"], inplace=True, ascending=[True, False])
            self.run_data["rank"] = self.run_data.groupby("topic")["score"].rank(ascending=False, method="first")

    def save_to_txt(self: Any, output_path: str, tag: str | None = None) -> None:
        if len(self.run_data) == 0:
            raise Exception("Nothing to save. TrecRun is empty")  # as Pyserini says it
        if tag is not None:
            self.run_data["tag"] = tag
        self.run_data = self.run_data.sort_values(by=["topic", "score"], ascending=[True, False])
        self.run_data.to_csv(output_path, sep=" ", header=False, index=False, quoting=csv.QUOTE_NONE)

    module.TrecRun.read_run, module.TrecRun.save_to_txt = read_run, save_to_txt


def _allow_encoder_class() -> None:
    """Pyserini's programs list the values of --encoder-class: add ours."""
    add = argparse._ActionsContainer.add_argument
    if hasattr(add, "e2rank"):
        return

    def add_argument(self: Any, *names: Any, **options: Any) -> Any:
        if "--encoder-class" in names and options.get("choices"):
            options["choices"] = [*options["choices"], KEY]
        return add(self, *names, **options)

    add_argument.e2rank = True  # type: ignore[attr-defined]
    argparse._ActionsContainer.add_argument = add_argument  # type: ignore[method-assign]


def _keep_what_is_typed() -> None:
    """Only a parser knows which option an abbreviation means; parts of a program (`encoder`) have their own."""
    parse = argparse.ArgumentParser.parse_known_args
    if hasattr(parse, "e2rank"):
        return

    def parse_known_args(self: Any, args: Any = None, namespace: Any = None) -> Any:
        _typed.extend(in_full(sys.argv[1:] if args is None else args, self._option_string_actions))
        return parse(self, args, namespace)

    parse_known_args.e2rank = True  # type: ignore[attr-defined]
    argparse.ArgumentParser.parse_known_args = parse_known_args  # type: ignore[method-assign]


def _check_version() -> None:
    version = importlib.metadata.version("pyserini")
    numbers = tuple(int(part) for part in version.split(".")[:2])
    if not TESTED[0] <= numbers < TESTED[1]:
        first, end = (".".join(map(str, bound)) for bound in TESTED)
        told = f"e2rank: Pyserini {version} is outside the tested range, from {first} to under {end}"
        print(f"{told}; look at what it writes", file=sys.stderr)
