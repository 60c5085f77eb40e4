"""A model as a directory that `loading` reads: an adapter on its base, or whole weights."""

import dataclasses
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save_file

from e2rank_pyserini.catalog import OWN_FILE, ModelSpec
from e2rank_pyserini.inference.delta import Delta
from e2rank_pyserini.inference.loading import quiet
from e2rank_pyserini.trec import atomic


@quiet()
def write_model(place: Path, network: Any, tokenizer: Any, spec: ModelSpec) -> None:
    """Write the model with its `e2rank.yaml`, so that `--encoder` takes the directory."""
    adapter = isinstance(network, Delta) or hasattr(network, "peft_config")
    if isinstance(network, Delta):
        network.save(place)
    elif adapter:
        for config in network.peft_config.values():
            config.base_model_name_or_path = spec.source  # not this machine's path
        network.save_pretrained(place, save_embedding_layers=False)  # or peft would ask the hub for the base
        (place / "README.md").unlink(missing_ok=True)  # peft's empty card
        adapted = place / "adapter_model.safetensors"  # half the size; inference is in 16 bits anyway
        save_file({name: weight.half() for name, weight in load_file(adapted).items()}, adapted, {"format": "pt"})
    else:
        network.save_pretrained(place)
        tokenizer.save_pretrained(place)
    fields = dataclasses.asdict(spec)
    del fields["name"]
    if adapter:
        fields["adapter"] = "."
        if Path(spec.source).exists():  # found from any directory
            fields["source"] = str(Path(spec.source).resolve())
    else:
        fields |= {"source": None, "adapter": None, "revision": None}
    fields = {key: value for key, value in fields.items() if value is not None or key == "eos"}
    with atomic(place / OWN_FILE) as file:
        yaml.safe_dump(fields, file, sort_keys=False, allow_unicode=True)
