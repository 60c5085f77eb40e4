"""A model's own files, in a directory or on the hub, and what they say of how its vectors are made."""

import json
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2rank_pyserini.types import E2RankError, first_line, shown

_KNOWN = ("Transformer", "Pooling", "Normalize")  # the modules of sentence-transformers that we stand for
_POOLINGS = {"lasttoken": "last", "mean": "mean", "cls": "cls"}  # sentence-transformers' name -> ours
_OLD_POOLINGS = {"pooling_mode_lasttoken": "last", "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


def file_of(name: str, file: str, revision: str | None = None) -> Path | None:
    """A file of a model's directory or hub repository (from the hub's cache, else downloaded); None if it has none."""
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    from transformers.utils import cached_file

    try:
        found = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        raise E2RankError(
            f"model {name}: not on this machine and the hub did not give it: {first_line(error)}"
        ) from error
    return Path(found) if found else None


def json_of(name: str, file: str) -> Any:
    """What a JSON file of a model holds; None where the model has none. Raises E2RankError for a damaged one."""
    path = file_of(name, file)
    try:
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise E2RankError(f"model {name}: its {file} is not readable: {error}") from error


def adapter_folder(name: str, folder: str) -> Path:
    """An adapter's folder inside a model's directory, or inside its hub repository, from which it is fetched."""
    if Path(name).is_dir():
        return Path(name) / folder
    from huggingface_hub import snapshot_download

    wanted = [posixpath.normpath(f"{folder}/{file}") for file in ("adapter_*", "delta.safetensors", "training.json")]
    try:
        root = snapshot_download(name, allow_patterns=wanted)
    except Exception as error:  # of the hub's client, of HTTP, of files
        raise E2RankError(f"model {name}: the hub did not give its adapter: {first_line(error)}") from error
    return Path(root) / folder


def check_declared(name: str, config: Mapping[str, Any], pooling: str, query: str) -> None:
    """Refuse a model whose own files say that its vectors are made otherwise than by `pooling` and template `query`.

    They are config.json (code of the model's own, which is not run) and those of sentence-transformers: its modules,
    how they pool, and the prompts. A model without them says nothing.
    """
    own_code = config.get("auto_map")
    if isinstance(own_code, dict) and "AutoModel" in own_code:
        raise _otherwise(name, "config.json", f"its network is code of its own ({shown(own_code['AutoModel'])})")
    modules = json_of(name, "modules.json")
    for module in modules if isinstance(modules, list) else []:
        kind = str(module.get("type")).rpartition(".")[2] if isinstance(module, dict) else shown(module)
        if kind not in _KNOWN:
            raise _otherwise(name, "modules.json", f"its vectors go through {kind} too")
        if kind == "Pooling":
            _check_pooling(name, posixpath.join(str(module.get("path") or "1_Pooling"), "config.json"), pooling)
    _check_prompts(name, query)


def _check_pooling(name: str, file: str, pooling: str) -> None:
    said = json_of(name, file)
    if not isinstance(said, dict):
        return
    mode = said.get("pooling_mode")
    if mode is None:
        modes = [_OLD_POOLINGS.get(key, str(key)) for key, on in said.items() if key.startswith("pooling_mode_") and on]
    else:
        modes = [_POOLINGS.get(one, str(one)) for one in (mode if isinstance(mode, list) else [mode])]
    if modes != [pooling]:
        raise _otherwise(name, file, f"it pools by {' and '.join(modes) or 'nothing'}, not by {pooling}")


def _check_prompts(name: str, query: str) -> None:
    """A document has no prompt here; a query has its template's, whatever the task."""
    file = "config_sentence_transformers.json"
    said = json_of(name, file)
    prompts = said.get("prompts") if isinstance(said, dict) else None
    if not isinstance(prompts, dict):
        return
    for kind in ("document", "passage", "corpus"):
        if prompts.get(kind):
            raise _otherwise(name, file, f"its documents begin with {shown(prompts[kind])}")
    ours = re.escape(query.partition("{query}")[0]).replace(re.escape("{task}"), ".*")
    if prompts.get("query") and not re.fullmatch(ours, str(prompts["query"]), re.DOTALL):
        raise _otherwise(name, file, f"its queries begin with {shown(prompts['query'])}")


def _otherwise(name: str, file: str, what: str) -> E2RankError:
    return E2RankError(
        f"model {name}: its {file} says that {what}, which is not what is done here; to use it all the same, "
        "say how in an e2rank.yaml beside its weights"
    )
