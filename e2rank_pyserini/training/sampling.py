"""The order of the batches: one source a batch, a pure function of the seed, so that a killed run can go on."""

import random
from collections.abc import Sequence


def schedule(sources: Sequence[str], batch: int, seed: int, epoch: int) -> list[list[int]]:
    """Example numbers in batches of exactly `batch`, each of one source, shuffled within and between sources.

    What is left of a source after its last whole batch is not used in this epoch (another part is in the next).
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
