"""JSON records that carry their own SHA-256, so that one changed since it was written is told from one that was not."""

import hashlib
import json
from pathlib import Path
from typing import Any

from e2rank_pyserini.topics import parse_object
from e2rank_pyserini.trec import read_lines
from e2rank_pyserini.types import E2RankError

SEAL = "sha256"


def seal(record: dict[str, Any]) -> dict[str, Any]:
    """The record with its seal under `sha256`: the SHA-256 of its canonical JSON without that key.

    Canonical: keys sorted, no blanks, ASCII. `record` holds what JSON holds, its keys are text.
    """
    body = {key: value for key, value in record.items() if key != SEAL}
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return {**body, SEAL: hashlib.sha256(canonical.encode()).hexdigest()}


def read_sealed(path: Path) -> dict[str, Any]:
    """The object in a file, its seal checked and still in it.

    Raises E2RankError, naming the file, for what is no JSON object, and for a seal that is missing or wrong.
    """
    return unsealed("\n".join(read_lines(path)), str(path))


def unsealed(text: str, where: str) -> dict[str, Any]:
    """`read_sealed` of what a file holds; `where` names the file."""
    record = parse_object(text, where)
    if SEAL not in record:
        raise E2RankError(f"{where}: expected a record with its seal ({SEAL}), got none")
    try:
        sound = record[SEAL] == seal(record)[SEAL]
    except RecursionError as error:  # it was read at a shallower depth of our own calls
        raise E2RankError(f"{where}: is nested too deeply for a record") from error
    if not sound:
        raise E2RankError(f"{where}: is not what was written (its SHA-256 differs: bit rot, or a change by hand)")
    return record
