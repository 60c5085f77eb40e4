"""What a language model has answered already: a job that is interrupted asks no list twice."""

import contextlib
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from e2rank_pyserini.directories import locked
from e2rank_pyserini.training.endpoint import Endpoint, messages, orders
from e2rank_pyserini.types import E2RankError

Order = tuple[int, ...]


def place_of(output: Path) -> Path:
    """Where answers lie until `output` is written."""
    return output.with_name(f".{output.name}.answers")


def answered(asked: Sequence[tuple[str, Sequence[str]]], endpoint: Endpoint, kept: Path) -> Iterator[Order | str]:
    """`endpoint.orders`, but for what the file `kept` holds; each new order is added to it as soon as it comes.

    An order is known again by the model's name and all that it was told. Raises E2RankError where the file cannot be
    written, holds answers of another job, or is another process's.
    """
    keys = [_key(endpoint.model, *one) for one in asked]
    adding = threading.Lock()
    handle = locked(kept, lambda: _opened(kept), f"{kept}: another process is writing it")
    with os.fdopen(handle, "r+", encoding="utf-8", errors="replace") as file:
        known = _known(file.read())
        if known.keys() - set(keys):
            raise E2RankError(f"{kept}: holds answers of another job; remove it, or name another output")
        for key, (_, documents) in zip(keys, asked, strict=True):
            if key in known and sorted(known[key]) != list(range(len(documents))):
                raise E2RankError(f"{kept}: holds an order that no list has; remove it")
        if known:
            print(f"{kept}: {sum(key in known for key in keys)} of {len(asked)} lists known", file=sys.stderr)
        new = [place for place, key in enumerate(keys) if key not in known]

        def keep(number: int, order: Order) -> None:
            try:
                with adding:  # a new line first: the one before may have been cut off by a kill
                    file.write("\n" + json.dumps({"asked": keys[new[number]], "order": order}))
                    file.flush()
            except OSError as error:
                raise E2RankError(f"{kept}: cannot be written: {error.strerror}") from error

        coming = orders([asked[place] for place in new], endpoint, keep=keep, begun=bool(known))
        try:
            for key in keys:
                yield known[key] if key in known else next(coming)
        finally:
            if not kept.stat().st_size:  # the first call was refused
                kept.unlink()


def _key(model: str, query: str, documents: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([model, messages(query, documents)]).encode()).hexdigest()


def _opened(kept: Path) -> int:
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        return os.open(kept, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise E2RankError(f"{kept}: cannot be written: {error.strerror}") from error


def _known(text: str) -> dict[str, Order]:
    """The orders of a file; a line that was cut off is none."""
    known: dict[str, Order] = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            row = json.loads(line)
            known[row["asked"]] = tuple(map(int, row["order"]))
    return known
