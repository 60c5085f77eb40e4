"""`e2rank train`: training examples -> a model that `--encoder` takes."""

import dataclasses
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2rank_pyserini.choices import STAGES, VARIANTS
from e2rank_pyserini.numerals import positive
from e2rank_pyserini.types import E2RankError

if TYPE_CHECKING:
    from e2rank_pyserini.training.recipe import Recipe

OVERRIDES: tuple[tuple[str, Callable[[str], Any], str, str], ...] = (
    ("steps", positive, "N", "batches in all"),
    ("batch", positive, "N", "examples a step, all of one source"),
    ("window", positive, "N", "documents that a prompt reads"),
    ("dtype", str, "auto|bfloat16|float32", "what is computed in; auto: bfloat16 where the hardware does"),
    ("seed", int, "N", "of the batches' order, of --order shuffle and of a new adapter"),
    ("learning_rate", float, "RATE", "the highest, after the warm-up"),
    ("order", str, "given|shuffle|reverse", "of the documents in a prompt"),
    ("listwise", str, "prompt|query", "what RankNet orders the documents by"),
    ("infonce_weight", float, "W", "of InfoNCE in stage rank"),
    ("ranknet_weight", float, "W", "of RankNet in stage rank"),
    ("teacher", str, "NAME|DIR", "the model whose vectors are learnt"),
)


def train(arguments: Namespace) -> None:
    """Training examples -> model directory."""
    from e2rank_pyserini.catalog import model
    from e2rank_pyserini.inference.tally import cut
    from e2rank_pyserini.training.examples import read_examples
    from e2rank_pyserini.training.recipe import recipe
    from e2rank_pyserini.training.train import train as run

    output = Path(arguments.output)
    if os.path.lexists(output):
        raise E2RankError(f"{output}: exists already")
    chosen = recipe(arguments.recipe, arguments.stage)
    asked = {name: getattr(arguments, name) for name, *_ in OVERRIDES}
    chosen = dataclasses.replace(chosen, **{name: value for name, value in asked.items() if value is not None})
    _check_options(asked, chosen)
    spec = model(arguments.encoder, arguments.like)
    spec = dataclasses.replace(spec, prompt=arguments.prompt or spec.prompt)
    examples = [example for path in arguments.data for example in read_examples(Path(path))]
    dev = [example for path in arguments.dev for example in read_examples(Path(path))]
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    record = run(spec, chosen, examples, output, dev=dev, device=arguments.device)
    if "examples" in record:  # the process that wrote the model
        kept = f", {record['energy_kept']:.1%} of the change's energy kept" if "energy_kept" in record else ""
        read = f"{len(examples)} examples, {record['steps']} steps, {record['tokens']} tokens, {cut(record['encoded'])}"
        print(f"{read}{kept} -> {output} ({record['seconds']:.1f} s)", file=sys.stderr)


def _check_options(asked: dict[str, Any], chosen: "Recipe") -> None:
    """Refuse what the chosen training would not read."""
    refused = {} if chosen.prompts else dict.fromkeys(("window", "order"), "no prompt is read")
    if chosen.stage == "embed":
        refused |= dict.fromkeys(("listwise", "infonce_weight", "ranknet_weight"), "stage embed knows no lists")
    for name, why in refused.items():
        if asked[name] is not None:
            raise E2RankError(f"--{name.replace('_', '-')}: {why}")


def add_train_parser(subparsers: Any) -> None:
    """The `train` command."""
    parser: ArgumentParser = subparsers.add_parser(
        "train", help="training examples -> model: InfoNCE, then InfoNCE and RankNet on the listwise prompt"
    )
    parser.set_defaults(function=train)
    parser.add_argument("--encoder", required=True, metavar="NAME|DIR", help="the model to start from")
    parser.add_argument("--like", metavar="NAME", help="the named model whose settings an unknown one shares")
    parser.add_argument("--prompt", choices=VARIANTS, help="variant of the listwise prompt (default: the model's)")
    parser.add_argument("--stage", choices=STAGES, help="the paper's recipe of this stage")
    parser.add_argument("--recipe", metavar="NAME|FILE", help="a recipe of recipes.yaml or a file with such keys")
    parser.add_argument("--data", required=True, nargs="+", metavar="FILE", help="training examples, JSON lines")
    parser.add_argument("--dev", nargs="+", default=[], metavar="FILE", help="lists to measure nDCG@10 on meanwhile")
    parser.add_argument("--output", required=True, metavar="DIR", help="the model directory to make")
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, … (default: a GPU where there is one)")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: all)")
    group = parser.add_argument_group("instead of the recipe's")
    for name, kind, metavar, what in OVERRIDES:
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=what)
