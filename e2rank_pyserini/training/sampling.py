"""The order of the batches: one source a batch, a pure function of the seed, so that a killed run can go on."""

import random
from collections import Counter
from collections.abc import Sequence

from e2rank_pyserini.catalog import ModelSpec, near_miss
from e2rank_pyserini.choices import WITHOUT_TASK
from e2rank_pyserini.training.examples import Example
from e2rank_pyserini.training.recipe import Recipe
from e2rank_pyserini.types import E2RankError

Batch = list[int]


def batches_of(examples: Sequence[Example], recipe: Recipe) -> list[Batch]:
    """All batches of the run, in order: `epochs` passes, or as many as `steps` need."""
    sources = [example.source for example in examples]
    batches: list[Batch] = []
    epoch = 0
    while epoch < recipe.epochs if recipe.steps is None else len(batches) < recipe.steps:
        found = schedule(sources, recipe.batch, recipe.seed, epoch)
        if not found:
            raise E2RankError(
                f"{len(examples)} examples: no source has the {recipe.batch} of one batch; lower the recipe's batch"
            )
        batches += found
        epoch += 1
    return batches[: recipe.steps]


def too_few(examples: Sequence[Example], batch: int) -> dict[str, int]:
    """The sources that have not the examples of one batch, and how many they have."""
    counts = Counter(example.source for example in examples)
    return {source: count for source, count in counts.items() if count < batch}


def check_tasks(recipe: Recipe, examples: Sequence[Example], spec: ModelSpec) -> None:
    """Refuse tasks of a source that no example has: its queries would be told another one; or that no text says."""
    if recipe.tasks and "{task}" not in spec.query and (not recipe.prompts or spec.prompt in WITHOUT_TASK):
        raise E2RankError(f"recipe: tasks: {spec.name}'s queries and prompts ({spec.prompt}) say no task")
    sources = {example.source for example in examples}
    for source in recipe.tasks:
        if source not in sources:
            raise E2RankError(
                f"recipe: tasks: {source!r}: no example is of this source{near_miss(source, sources)} "
                f"(sources: {', '.join(sorted(sources))})"
            )


def schedule(sources: Sequence[str], batch: int, seed: int, epoch: int) -> list[list[int]]:
    """Example numbers in batches of exactly `batch`, each of one source, shuffled within and between sources.

    What is left of a source after its last whole batch is not used in this epoch (another part is in the next); a
    source of fewer than a batch is never used.
    """
    chance = random.Random(f"{seed} {epoch}")
    by_source: dict[str, list[int]] = {}
    for number, source in enumerate(sources):
        by_source.setdefault(source, []).append(number)
    batches = []
    for source in sorted(by_source):
        members = by_source[source]
        chance.shuffle(members)
        batches += [members[start : start + batch] for start in range(0, len(members) - batch + 1, batch)]
    chance.shuffle(batches)
    return batches
