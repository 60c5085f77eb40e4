"""A model's own files, in a directory or on the hub, and what they say of how its vectors are made."""

import json
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2rank_pyserini.types import E2RankError, first_line, shown

_COMMIT = re.compile("[0-9a-f]{40}")  # what a branch or a tag is not: its files stay what they are
_PROMPTS = "config_sentence_transformers.json"
_KNOWN = ("Transformer", "Pooling", "Normalize")  # the modules of sentence-transformers that we stand for
_POOLINGS = {"lasttoken": "last", "mean": "mean", "cls": "cls"}  # sentence-transformers' name -> ours
_OLD_POOLINGS = {"pooling_mode_lasttoken": "last", "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


def file_of(name: str, file: str, revision: str | None = None) -> Path | None:
    """A file of a model's directory or hub repository (from the hub's cache, else downloaded); None if it has none.

    That it has none is what the hub says, now or, where it cannot be asked, before. Raises E2RankError where it does
    not say: a file that is not here may be one that decides how vectors are made.
    """
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    known = beside = None
    try:
        beside = try_to_load_from_cache(name, "config.json", revision=revision)
        known = try_to_load_from_cache(name, file, revision=revision)  # a path, None, or what stands for: it has none
        if known is None or revision is None or not _COMMIT.fullmatch(revision):
            known = hf_hub_download(name, file, revision=revision)
    except Exception as error:  # of the hub's client, of HTTP, of files
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        if known is None:
            told = "not on this machine and the hub did not give it"
            if isinstance(beside, str):
                told = f"the hub did not say whether it has {file}; what is here can be named, {Path(beside).parent}"
            raise E2RankError(f"model {name}: {told}: {first_line(error)}") from error
    return Path(known) if isinstance(known, str) else None


def json_of(name: str, file: str, revision: str | None = None) -> Any:
    """What a JSON file of a model holds; None where the model has none. Raises E2RankError for a damaged one."""
    path = file_of(name, file, revision)
    try:
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise E2RankError(f"model {name}: its {file} is not readable: {error}") from error


def adapter_folder(name: str, folder: str, revision: str | None = None) -> Path:
    """An adapter's folder inside a model's directory, or inside its hub repository, from which it is fetched."""
    if Path(name).is_dir():
        return Path(name) / folder
    from huggingface_hub import snapshot_download

    wanted = [posixpath.normpath(f"{folder}/{file}") for file in ("adapter_*", "delta.safetensors", "training.json")]
    try:
        root = snapshot_download(name, revision=revision, allow_patterns=wanted)
    except Exception as error:  # of the hub's client, of HTTP, of files
        raise E2RankError(f"model {name}: the hub did not give its adapter: {first_line(error)}") from error
    return Path(root) / folder


def check_declared(name: str, config: Mapping[str, Any], pooling: str, query: str, revision: str | None = None) -> None:
    """Refuse a model whose own files say that its vectors are made otherwise than by `pooling` and template `query`.

    They are config.json (code of the model's own, which is not run) and those of sentence-transformers: its modules,
    how they pool, and the prompts. A model without them says nothing.
    """
    own_code = config.get("auto_map")
    if isinstance(own_code, dict) and "AutoModel" in own_code:
        raise _otherwise(name, "config.json", f"its network is code of its own ({shown(own_code['AutoModel'])})")
    modules = json_of(name, "modules.json", revision)
    for module in modules if isinstance(modules, list) else []:
        kind = str(module.get("type")).rpartition(".")[2] if isinstance(module, dict) else shown(module)
        if kind not in _KNOWN:
            raise _otherwise(name, "modules.json", f"its vectors go through {kind} too")
        if kind == "Pooling":
            file = posixpath.join(str(module.get("path") or "1_Pooling"), "config.json")
            _check_pooling(name, file, json_of(name, file, revision), pooling)
    _check_prompts(name, json_of(name, _PROMPTS, revision), query)


def _check_pooling(name: str, file: str, said: Any, pooling: str) -> None:
    if not isinstance(said, dict):
        return
    mode = said.get("pooling_mode")
    if mode is None:
        modes = [_OLD_POOLINGS.get(key, str(key)) for key, on in said.items() if key.startswith("pooling_mode_") and on]
    else:
        modes = [_POOLINGS.get(one, str(one)) for one in (mode if isinstance(mode, list) else [mode])]
    if modes != [pooling]:
        raise _otherwise(name, file, f"it pools by {' and '.join(modes) or 'nothing'}, not by {pooling}")


def _check_prompts(name: str, said: Any, query: str) -> None:
    """A document has no prompt here; a query has its template's, whatever the task."""
    prompts = said.get("prompts") if isinstance(said, dict) else None
    if not isinstance(prompts, dict):
        return
    for kind in ("document", "passage", "corpus"):
        if prompts.get(kind):
            raise _otherwise(name, _PROMPTS, f"its documents begin with {shown(prompts[kind])}")
    ours = re.escape(query.partition("{query}")[0]).replace(re.escape("{task}"), ".*")
    if prompts.get("query") and not re.fullmatch(ours, str(prompts["query"]), re.DOTALL):
        raise _otherwise(name, _PROMPTS, f"its queries begin with {shown(prompts['query'])}")


def _otherwise(name: str, file: str, what: str) -> E2RankError:
    return E2RankError(
        f"model {name}: its {file} says that {what}, which is not what is done here; to use it all the same, "
        "say how in an e2rank.yaml beside its weights"
    )
