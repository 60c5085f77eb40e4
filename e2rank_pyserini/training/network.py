"""The model as training needs it: float32 weights or an adapter, no dropout, checkpointing where it is asked for."""

import copy
import dataclasses
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from e2rank_pyserini.catalog import ModelSpec, near_miss
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.inference.delta import FILE, Delta, restored
from e2rank_pyserini.inference.devices import choose_device, choose_dtype
from e2rank_pyserini.inference.loading import check_base, whole_adapter
from e2rank_pyserini.inference.places import adapter_of, with_adapter
from e2rank_pyserini.inference.tokens import TextTokenizer
from e2rank_pyserini.training.recipe import Lora, Recipe
from e2rank_pyserini.types import E2RankError, first_line


def settled(recipe: Recipe, device: str | None) -> Recipe:
    """The recipe with what a dtype `auto` means on this device: a run goes on in the precision that it began in."""
    dtype = str(choose_dtype(recipe.dtype, choose_device(device)))
    return dataclasses.replace(recipe, dtype=dtype.removeprefix("torch."))


def learner(spec: ModelSpec, recipe: Recipe, device: str | None) -> E2RankEncoder:
    """The encoder whose network is trained; it stays in evaluation mode, so there is no dropout.

    All weights: float32. With `lora`: the base in the recipe's dtype and frozen, the adapter in float32; where the
    model has an adapter already, that one is trained further. With `compress`: the linear layers' weights, into which
    an adapter that the model has is merged first. With `layers`: in the last so many alone.
    """
    if recipe.lora is None:
        encoder = E2RankEncoder.load(spec, device=device, dtype="float32", batch_tokens=recipe.chunk_tokens)
    else:
        base = dataclasses.replace(spec, adapter=None)
        encoder = E2RankEncoder.load(base, device=device, dtype=recipe.dtype, batch_tokens=recipe.chunk_tokens)
        if spec.adapter is not None:
            check_base(spec)
        encoder.forward.network = _adapted(encoder.network, spec, recipe)
        encoder.spec = spec
        if spec.adapter is not None:
            encoder.identity = with_adapter(encoder.identity, spec)
    encoder.forward.packing = False  # it would join weights that are trained and saved one by one
    if recipe.lora is None:
        _choose(encoder.network, recipe)
    if recipe.compress is not None and spec.adapter is not None:
        _check_rest(encoder.network, spec)
    if not any(weight.requires_grad for weight in encoder.network.parameters()):
        raise E2RankError(
            "recipe: lora, compress, layers: the model has no such layer there: there is nothing to train"
        )
    if recipe.checkpointing:
        _checkpoint(encoder.network)
    if encoder.device.type == "cpu":  # where the backward pass of the fused one takes five times as long
        encoder.network.set_attn_implementation("eager")
    if recipe.compile:
        _compile(encoder)
    return encoder


def linear_layers(network: Any) -> dict[str, Any]:
    """The linear layers by name: those whose change an adapter can hold."""
    from torch.nn import Linear

    return {name: module for name, module in network.named_modules() if isinstance(module, Linear)}


def change_of(network: Any, spec: ModelSpec, recipe: Recipe) -> tuple[Any, float]:
    """What `recipe.compress` makes of a trained network: an adapter of its base, and the share of the change in it."""
    base = E2RankEncoder.load(dataclasses.replace(spec, adapter=None), device="cpu", dtype="float32").network
    kind = recipe.compress
    return compressed(network, base, kind) if isinstance(kind, int) else rounded(network, base)


def changes(network: Any, before: Any) -> dict[str, Any]:
    """What changed in the linear layers, by the layer's name: (out, in) float32. E2RankError where nothing did."""
    original = {name: module.weight.detach().float() for name, module in linear_layers(before).items()}
    found = ((name, module.weight.detach().float() - original[name]) for name, module in linear_layers(network).items())
    changed = {name: change for name, change in found if change.any()}  # BERT's pooler is never used
    if not changed:
        raise E2RankError("no weight has changed: the learning rate is too low, or the examples' documents all tie")
    return changed


def compressed(network: Any, before: Any, rank: int) -> tuple[Any, float]:
    """`before` with an adapter of this rank that holds what changed in `network`'s linear layers.

    Also returns the share of the change's energy (squared Frobenius norm) that the rank keeps: Eckart and Young 1936.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    changed = changes(network, before)
    # alpha = rank: the adapter's product is added as it is
    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=list(changed))
    adapted = get_peft_model(before, config)
    kept = total = 0.0
    for name, change in changed.items():
        left, sizes, right = torch.linalg.svd(change, full_matrices=False)
        root = sizes[:rank].sqrt()
        layer = adapted.get_submodule(f"base_model.model.{name}")
        most = len(root)
        with torch.no_grad():
            layer.lora_A["default"].weight.zero_()[:most] = root[:, None] * right[:rank]
            layer.lora_B["default"].weight.zero_()[:, :most] = left[:, :rank] * root
        kept += float((sizes[:rank] ** 2).sum())
        total += float((sizes**2).sum())
    return adapted, kept / total


def rounded(network: Any, before: Any) -> tuple[Delta, float]:
    """What changed in `network`'s linear layers since `before`, in 4 bits, and 1 - the error's share of its energy."""
    changed = {f"{name}.weight": change for name, change in changes(network, before).items()}
    delta = Delta.of(changed)
    lost = total = 0.0
    for name, change in changed.items():
        found = restored(delta.tensors[f"{name}.codes"], delta.tensors[f"{name}.scales"])[:, : change.shape[1]]
        lost += float((found - change).square().sum())
        total += float(change.square().sum())
    return delta, 1 - lost / total


def _choose(network: Any, recipe: Recipe) -> None:
    """Train all weights, with `compress` those of linear layers alone, with `layers` those of the last so many."""
    chosen = {name for name, _ in network.named_modules()}
    if recipe.layers is not None:
        chosen &= _last(network, recipe.layers)
    if recipe.compress is not None:
        chosen &= linear_layers(network).keys()
    for name, weight in network.named_parameters():
        module, _, kind = name.rpartition(".")
        weight.requires_grad_(module in chosen and (kind == "weight" or recipe.compress is None))


def _check_rest(network: Any, spec: ModelSpec) -> None:
    """Refuse an adapter that changes more than `compress` keeps: the linear layers' weights."""
    base = E2RankEncoder.load(dataclasses.replace(spec, adapter=None), device="cpu", dtype="float32").network
    kept = {f"{name}.weight" for name in linear_layers(network)}
    before = dict(base.named_parameters())
    for name, weight in network.named_parameters():
        if name not in kept and not weight.detach().cpu().equal(before[name].detach()):
            raise E2RankError(f"model {spec.name}: its adapter changes {name}, and compress keeps linear layers alone")


def _adapted(network: Any, spec: ModelSpec, recipe: Recipe) -> Any:
    try:
        from peft import LoraConfig, PeftModel, get_peft_model
    except ImportError as error:
        raise E2RankError("a recipe with lora needs peft; pip install 'e2rank-pyserini[train]'") from error
    import torch

    if spec.adapter is not None and (adapter_of(spec) / FILE).exists():
        raise E2RankError(f"model {spec.name}: its adapter is a change in 4 bits; `compress: int4` trains it further")
    lora = recipe.lora
    assert lora is not None
    if spec.adapter is not None:
        try:
            with whole_adapter():
                further = PeftModel.from_pretrained(network, str(adapter_of(spec)), is_trainable=True).eval()
        except Exception as error:
            raise E2RankError(f"model {spec.name}: its adapter cannot be read: {first_line(error)}") from error
        _check_adapter(spec, lora, further.peft_config["default"])
        if recipe.layers is not None:
            last = _last(network, recipe.layers)
            for name, weight in network.named_parameters():
                if name.rpartition(".")[0] not in last:
                    weight.requires_grad_(False)
        return further
    torch.manual_seed(recipe.seed)
    known = {name.rpartition(".")[2] for name in linear_layers(network)}
    for target in lora.targets:
        if target.rpartition(".")[2] not in known:
            raise E2RankError(
                f"recipe: lora: targets: the model has no linear layer {target!r}{near_miss(target, known)} "
                f"(there are {', '.join(sorted(known))})"
            )
    targets = list(lora.targets) or "all-linear"
    if recipe.layers is not None:
        last = _last(network, recipe.layers)
        linear = [name for name in linear_layers(network) if name in last]
        targets = [name for name in linear if not lora.targets or name.rpartition(".")[2] in lora.targets]
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=targets)
    try:
        return get_peft_model(network, config).eval()
    except ValueError as error:  # targets that the model does not have
        raise E2RankError(f"model {spec.name}: lora does not fit it: {first_line(error)}") from error


def _check_adapter(spec: ModelSpec, lora: Lora, found: Any) -> None:
    """Refuse a recipe that asks for another adapter than the one that is trained further."""
    modules = {name.rpartition(".")[2] for name in found.target_modules}
    if (found.r, found.lora_alpha) != (lora.rank, lora.alpha) or (lora.targets and set(lora.targets) != modules):
        raise E2RankError(
            f"model {spec.name}: its adapter, which is trained further, has rank {found.r}, alpha {found.lora_alpha} "
            f"and the targets {', '.join(sorted(modules))}; the recipe's lora says otherwise"
        )


def _last(network: Any, layers: int) -> set[str]:
    """The modules of the last so many layers of the network; no gradient flows through those before."""
    first = network.config.num_hidden_layers - layers
    if first < 0:
        raise E2RankError(f"recipe: layers: expected at most the model's {first + layers}, got {layers}")
    found = ((name, re.search(r"\.(\d+)\.", f"{name}.")) for name, _ in network.named_modules())
    return {name for name, number in found if number and int(number[1]) >= first}


def is_compiled(network: Any) -> bool:
    """Whether a layer runs through torch.compile: a recipe may ask where there is no compiler."""
    return any(module._compiled_call_impl is not None for module in network.modules())


def _compile(encoder: E2RankEncoder) -> None:
    """Let torch.compile join what lies between the products, layer by layer (the names of the weights stay)."""
    import torch
    from torch.nn import ModuleList

    torch._dynamo.config.recompile_limit = 64  # a form for each kind of layer and batch: all are worth it
    on_cpu = encoder.device.type == "cpu"
    variable, names, what = ("CXX", ["g++"], "C++") if on_cpu else ("CC", ["gcc", "clang"], "C")
    names = [os.environ[variable]] if variable in os.environ else names
    if not any(map(shutil.which, names)):
        print(f"no {what} compiler ({' or '.join(names)}): trains without torch.compile, more slowly", file=sys.stderr)
        return
    for module in encoder.network.modules():
        if isinstance(module, ModuleList):
            for layer in module:
                layer.compile(dynamic=True)


@contextmanager
def reading(encoder: E2RankEncoder, dtype: str) -> Iterator[None]:
    """Where a model that is being trained encodes in the recipe's dtype; what is compiled is for steps."""
    import torch

    rounded = torch.autocast(encoder.device.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16")
    with torch.compiler.set_stance("force_eager"), rounded:
        yield


def with_network(encoder: E2RankEncoder, network: Any) -> E2RankEncoder:
    """The same encoder with another network, on its device."""
    found = copy.copy(encoder)
    found.forward = copy.copy(encoder.forward)
    found.forward.network = network.to(encoder.device)
    return found


def at_lengths_of(spec: ModelSpec, encoder: E2RankEncoder) -> E2RankEncoder:
    """The same network, reading texts at `spec`'s lengths."""
    found = copy.copy(encoder)
    found.spec, found.tokens = spec, TextTokenizer(encoder.tokens.tokenizer, spec, encoder.tokens.eos_id)
    return found


def _checkpoint(network: Any) -> None:
    """Recompute each layer's activations. Transformers does so in training mode only: the layers' flag alone is set."""
    if hasattr(network, "activation_checkpointing_enable"):  # Transformers 5 renamed it
        network.activation_checkpointing_enable({"use_reentrant": False})
    else:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    for module in network.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.training = True
