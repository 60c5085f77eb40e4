"""Examples -> model: the loop over the batches, with looks at the dev lists and states to go on from."""

import contextlib
import dataclasses
import json
import math
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tqdm import tqdm

from e2rank_pyserini import __version__
from e2rank_pyserini.ahead import ahead
from e2rank_pyserini.catalog import Lengths, ModelSpec
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.inference.places import pinned, weights_of
from e2rank_pyserini.inference.tally import Tally
from e2rank_pyserini.inference.writing import write_model
from e2rank_pyserini.training import network as networks
from e2rank_pyserini.training import state
from e2rank_pyserini.training.dev import look
from e2rank_pyserini.training.examples import Example
from e2rank_pyserini.training.log import SHOWN, Log, plot, read_log, words
from e2rank_pyserini.training.processes import group, own_device, same, wait
from e2rank_pyserini.training.recipe import Recipe, fingerprint, learning_rate, settings
from e2rank_pyserini.training.sampling import batches_of, check_tasks, too_few
from e2rank_pyserini.training.step import Losses, Prepared, backward, chosen, losses, rows_of
from e2rank_pyserini.training.teacher import Teacher
from e2rank_pyserini.trec import check_writable
from e2rank_pyserini.types import E2RankError, first_line

ALIKE, EARLY = 0.99, 20  # a mean cosine of documents that is told of after so many steps: it tells them apart no more


def train(
    spec: ModelSpec,
    recipe: Recipe,
    examples: Sequence[Example],
    output: Path | str,
    *,
    dev: Sequence[Example] = (),
    device: str | None = None,
    stop_after: int | None = None,
) -> dict[str, Any]:
    """Train `spec`'s model by `recipe` and write it to the directory `output`; returns what its training.json says.

    Everything that is random follows from the recipe's seed. While it runs, the state is in `output`.training, and the
    same call goes on from it. Under torchrun every process makes this call. `stop_after` ends the run early at this
    step and leaves the state. Raises E2RankError when the output exists, when no source fills a batch, when the state
    is that of another run or another process is at it, when the recipe has a task for a source that is not there, and
    when the loss is no number.
    """
    output = Path(output)
    if os.path.lexists(output):
        raise E2RankError(f"{output}: exists already")
    check_writable(output)
    with group(own_device(device) or "") as (rank, world), state.alone(output, rank):
        run = Training(spec, recipe, examples, output, dev, own_device(device), rank, world)
        try:
            return run.go(stop_after)
        except (OSError, SafetensorError) as error:
            raise E2RankError(f"{output}: cannot be written ({first_line(error)}){state.told(run.working)}") from error


class Training:
    """One run in one process: the model, its optimizer, the batches, and where it is."""

    def __init__(
        self,
        spec: ModelSpec,
        recipe: Recipe,
        examples: Sequence[Example],
        output: Path,
        dev: Sequence[Example],
        device: str | None,
        rank: int,
        world: int,
    ) -> None:
        self.recipe = recipe = networks.settled(recipe, device)
        self.output, self.dev = output, dev
        spec = pinned(spec)
        self.rank, self.world = rank, world
        self.examples = [chosen(example, recipe) for example in examples]
        if recipe.batch < world:
            raise E2RankError(f"a batch of {recipe.batch} is too small for {world} processes")
        check_tasks(recipe, [*examples, *dev], spec)
        self.batches = batches_of(self.examples, recipe)
        self.numbers = sorted({number for batch in self.batches for number in batch})
        few = too_few(self.examples, recipe.batch)
        if few and rank == 0:
            told = ", ".join(f"{source} ({count} examples)" for source, count in few.items())
            print(f"sources that do not fill a batch of {recipe.batch} are not used: {told}", file=sys.stderr)
        held = dataclasses.asdict(spec.lengths)
        lengths = {name: getattr(recipe, f"{name}_length") or length for name, length in held.items()}
        longest = {name: max(length, held[name]) for name, length in lengths.items()}
        self.window = recipe.window or spec.window
        # what is trained shorter is not used shorter, what is trained longer is used so
        self.result = dataclasses.replace(spec, window=self.window, lengths=Lengths(**longest))
        self.read = dataclasses.replace(spec, lengths=Lengths(**lengths))
        self.base_weights = weights_of(spec)
        self.encoder = networks.learner(self.read, recipe, device)
        weights = state.trained(self.encoder.network)
        self.optimizer = torch.optim.AdamW(
            weights.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.999), fused=True
        )
        self.working = state.place_of(output)
        self.teacher = self._teacher(device)
        identity = self.encoder.identity
        if self.teacher is not None:
            identity += f" {self.teacher.encoder.identity} {json.dumps(settings(self.teacher.encoder.spec))}"
        self.fingerprint = fingerprint(identity, self.read, recipe, self.examples, dev)
        self.step, self.seconds, self.warned = 0, 0.0, False

    def _teacher(self, device: str | None) -> Teacher | None:
        if self.recipe.teacher is None:
            return None
        encoder = E2RankEncoder.load(self.recipe.teacher, device=device, batch_tokens=self.recipe.chunk_tokens)
        return Teacher(encoder, self.rank, self.world)

    def _begin(self) -> None:
        """Go on from the last save, if there is one; read the teacher's vectors, turned to the untrained model's."""
        self._check_same(self.fingerprint, "the processes were given different models, recipes, data or dev lists")
        kept = self.working / f"teacher-{self.fingerprint}.safetensors"
        apart = f"{self.working}: expected one folder for all processes"
        self._check_same(str(kept.exists()), apart)
        if self.teacher is not None and not kept.exists():
            self.teacher.fit(self.encoder, self.examples, self.recipe.dtype)
        self._resume()
        self._check_same(str(self.step), apart)
        if self.teacher is not None:
            self.teacher.read([self.examples[number] for number in self.numbers], self.recipe, self.window, kept)

    def _check_same(self, value: str, told: str) -> None:
        if not same(value, self.encoder.device, self.rank, self.world):
            raise E2RankError(told)

    def go(self, stop_after: int | None) -> dict[str, Any]:
        """All steps that are left, then the model."""
        self._begin()
        with contextlib.closing(Log(self.working, self.step)) if self.rank == 0 else contextlib.nullcontext() as log:
            last = self._steps(log, stop_after)
        record = {"steps": self.step, "seconds": self.seconds}
        if last == len(self.batches) and self.rank == 0:
            record = self._finish(record)
        wait()
        return record

    def _steps(self, log: Log | None, stop_after: int | None) -> int:
        """Go on to the last step, and return its number."""
        last = min(len(self.batches), stop_after or len(self.batches))
        started = time.monotonic() - self.seconds
        with tqdm(
            total=len(self.batches), initial=self.step, unit=" steps", desc="train", disable=None if log else True
        ) as bar:
            if log and self.dev and self.step == 0:
                log.add(0, self.look())
            for prepared in ahead(self._prepared(last)):
                values = self.one(prepared)
                self.seconds = time.monotonic() - started
                if log:
                    self._warn(values["alike"])
                    log.add(self.step, values)
                    bar.set_postfix({name: f"{values[name]:.3f}" for name in SHOWN if name in values})
                    bar.update()
                    if self.dev and (self._due(self.recipe.evaluate_every) or self.step == len(self.batches)):
                        looked = self.look()
                        log.add(self.step, looked)
                        tqdm.write(f"step {self.step}: {words(values | looked)}", file=sys.stderr)
                if self._due(self.recipe.save_every) or self.step == last:
                    self._save()
        return last

    def _prepared(self, last: int) -> Iterator[Prepared]:
        """What the steps up to `last` read."""
        for step in range(self.step, last):
            examples = [self.examples[number] for number in self.batches[step]]
            tokens = self.encoder.tokens.apart()
            chance = random.Random(f"{self.recipe.seed} {step}")
            rows = rows_of(examples, tokens, self.recipe, self.window, chance)
            targets = self.teacher.targets(examples, self.recipe, self.window) if self.teacher else None
            yield Prepared(examples, rows, targets, tokens.tally.since(Tally()))

    def one(self, prepared: Prepared) -> dict[str, float]:
        """One step: the losses, the rate, the norm of the gradient, and what was encoded and cut."""
        recipe, network = self.recipe, self.encoder.network
        examples, rows, targets, encoded = prepared
        targets = targets if targets is None else targets.to(self.encoder.device)

        def loss_of(vectors: torch.Tensor) -> Losses:
            return losses(vectors, rows, examples, recipe, anchor=self.encoder.spec.prompt == "pair", targets=targets)

        self.optimizer.zero_grad()
        parts = backward(
            network,
            self.encoder.spec.pooling,
            rows,
            loss_of,
            chunk_tokens=recipe.chunk_tokens,
            cached=recipe.cached,
            dtype=getattr(torch, recipe.dtype),
            rank=self.rank,
            world=self.world,
        )
        weights = [weight for weight in network.parameters() if weight.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(weights, recipe.clip)
        if not math.isfinite(float(parts["loss"])) or not math.isfinite(float(norm)):
            raise E2RankError(
                f"step {self.step + 1}: the loss or its gradient is not a number; lower the learning rate"
                + state.told(self.working)
            )
        rate = learning_rate(self.step, len(self.batches), recipe)
        for members in self.optimizer.param_groups:
            members["lr"] = rate
        self.optimizer.step()
        self.step += 1
        values = {name: float(value) for name, value in parts.items()}
        return {**values, "rate": rate, "norm": float(norm), **encoded}

    def look(self, encoder: E2RankEncoder | None = None) -> dict[str, float]:
        """nDCG@10 of the dev lists, ordered by the plain query's vector and by the listwise prompt's, as it is used."""
        used = networks.at_lengths_of(self.result, encoder or self.encoder)
        with networks.reading(self.encoder, self.recipe.dtype):
            return look(used, self.dev, self.window, self.recipe)

    def _warn(self, alike: float) -> None:
        """Say once that all vectors have become one: the loss alone does not show it."""
        if alike > ALIKE and self.step > EARLY and not self.warned:
            self.warned = True
            tqdm.write(
                f"step {self.step}: the vectors of its documents are nearly one (mean cosine {alike:.3f}); "
                "a lower learning rate may keep them apart",
                file=sys.stderr,
            )

    def _due(self, every: int | None) -> bool:
        return every is not None and self.step % every == 0

    def _resume(self) -> None:
        found = state.restore(self.working / "state", self.encoder.network, self.optimizer, self.fingerprint)
        if found is None:
            return
        self.step, self.seconds = found
        if self.rank == 0:
            print(f"going on after step {self.step} of {len(self.batches)}", file=sys.stderr)

    def _save(self) -> None:
        if self.rank == 0:
            kept = {"step": self.step, "seconds": self.seconds, "fingerprint": self.fingerprint}
            state.save(self.working / "state", self.encoder.network, self.optimizer, kept)
        wait()

    def _finish(self, record: dict[str, Any]) -> dict[str, Any]:
        """The model, its log and what made it, written aside and renamed; the state goes."""
        made = self.working / "model"
        shutil.rmtree(made, ignore_errors=True)
        network = self.encoder.network
        if self.recipe.compress is not None:
            network, record["energy_kept"] = networks.change_of(network.cpu(), self.read, self.recipe)
            if self.dev and isinstance(self.recipe.compress, int):  # the looks before were of the whole change
                record["dev"] = self.look(networks.with_network(self.encoder, network))
                print(f"as written: {words(record['dev'])}", file=sys.stderr)
        write_model(made, network, self.encoder.tokens.tokenizer, self.result)
        rows = read_log(self.working / "metrics.jsonl")
        encoded = {field.name: sum(row.get(field.name, 0) for row in rows) for field in dataclasses.fields(Tally)}
        record |= {
            "tokens": encoded.pop("tokens"),
            "encoded": encoded,
            "base": self.encoder.record,
            "base_weights": self.base_weights,
            "teacher": self.teacher.encoder.record if self.teacher else None,
            "recipe": dataclasses.asdict(self.recipe),
            "examples": Counter(self.examples[number].source for number in self.numbers),
            "fingerprint": self.fingerprint,
            "processes": self.world,
            "compiled": networks.is_compiled(self.encoder.network),
            "versions": {"e2rank": __version__, "torch": torch.__version__},
        }
        (made / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        plot(rows, made / "loss.png")
        # copied: a run that is killed here still has its log
        shutil.copy(self.working / "metrics.jsonl", made / "metrics.jsonl")
        shutil.copytree(self.working / "tensorboard", made / "tensorboard")
        made.rename(self.output)
        shutil.rmtree(self.working)
        return record
