"""What a language model has answered already: a job that is interrupted asks no list twice."""

import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from e2rank_pyserini.training.endpoint import Endpoint, messages, orders
from e2rank_pyserini.types import E2RankError

Order = tuple[int, ...]


def place_of(output: Path) -> Path:
    """Where answers lie until `output` is written."""
    return output.with_name(f".{output.name}.answers")


def answered(
    asked: Sequence[tuple[str, Sequence[str]]], endpoint: Endpoint, kept: Path
) -> Iterator[tuple[int, ...] | str]:
    """`endpoint.orders`, but for what the file `kept` holds; each new order is added to it as it comes.

    An order is known again by the model's name and all that it was told.
    """
    keys = [_key(endpoint.model, *one) for one in asked]
    known = _read(kept)
    if found := sum(key in known for key in keys):
        print(f"{kept}: {found} of {len(asked)} lists were answered before", file=sys.stderr)
    coming = orders([one for key, one in zip(keys, asked, strict=True) if key not in known], endpoint)
    for key in keys:
        if key in known:
            yield known[key]
            continue
        order = next(coming)
        if not isinstance(order, str):
            _add(kept, key, order)
        yield order


def _key(model: str, query: str, documents: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([model, messages(query, documents)]).encode()).hexdigest()


def _read(kept: Path) -> dict[str, Order]:
    """The orders of a file; a line that a kill has cut off is none."""
    known: dict[str, Order] = {}
    try:
        lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise E2RankError(f"{kept}: cannot be read: {error}; remove it to ask again") from error
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            known[row["asked"]] = tuple(map(int, row["order"]))
    return known


def _add(kept: Path, key: str, order: Order) -> None:
    try:
        with kept.open("a", encoding="utf-8") as file:
            file.write(
                "\n" + json.dumps({"asked": key, "order": order})
            )  # first: the line before may have been cut off
    except OSError as error:
        raise E2RankError(f"{kept}: cannot be written: {error.strerror}") from error
