"""One training step: token rows -> vectors -> loss -> gradients, in chunks and over processes.

Every process computes the loss of the whole batch from the vectors of all, and sends gradients back only through the
rows that it encoded itself: the negatives are those of the whole batch, whatever the memory and however many processes.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from e2rank_pyserini.encoder import anchored
from e2rank_pyserini.inference.forward import batches, embed, padded
from e2rank_pyserini.inference.tokens import TextTokenizer
from e2rank_pyserini.losses import distil, info_nce, ranknet
from e2rank_pyserini.training.examples import Example
from e2rank_pyserini.training.processes import add_up
from e2rank_pyserini.training.recipe import Recipe, Tasks
from e2rank_pyserini.types import ListwisePrompt

Losses = dict[str, torch.Tensor]


class Rows(NamedTuple):
    """What one step encodes: token ids, how many leading tokens of each give its vector, and which row is what."""

    ids: list[list[int]]
    pooled: list[int]
    queries: list[int]
    prompts: list[int]  # empty where none is read
    documents: list[list[int]]  # of each example; equal texts share a row


class Prepared(NamedTuple):
    """What a step reads: its examples, their token rows, what the teacher says of these, what was read and cut."""

    examples: list[Example]
    rows: Rows
    targets: torch.Tensor | None
    encoded: dict[str, int]


def chosen(example: Example, recipe: Recipe) -> Example:
    """The example with the documents that the recipe uses; of a pair the positive is always among them."""
    if recipe.documents is None or len(example.documents) <= recipe.documents:
        return example
    best = example.ranking[0]
    numbers = list(range(recipe.documents))
    if best not in numbers:
        numbers[-1] = best
    place = {number: new for new, number in enumerate(numbers)}
    return example._replace(
        documents=tuple(example.documents[number] for number in numbers),
        ranking=tuple(place[number] for number in example.ranking if number in place),
        relevance=tuple(example.relevance[number] for number in numbers),
    )


def documents_of(examples: Sequence[Example]) -> list[str]:
    """The documents of a batch, equal ones once, in the order of their rows."""
    return list(dict.fromkeys(text for example in examples for text in example.documents))


def rows_of(
    examples: Sequence[Example], tokens: TextTokenizer, recipe: Recipe, window: int, chance: random.Random
) -> Rows:
    """The token rows of one batch, whose examples share a source."""
    tasks = recipe.tasks.get(examples[0].source, Tasks())
    ids = tokens.queries([example.query for example in examples], tasks.retrieval)
    queries = list(range(len(ids)))
    texts = documents_of(examples)
    number = {text: len(ids) + place for place, text in enumerate(texts)}
    ids += tokens.documents(texts)
    pooled = [len(row) for row in ids]
    prompts = []
    if recipe.prompts:
        read, counts = tokens.prompts([prompt_of(example, tasks, window, recipe.order, chance) for example in examples])
        prompts = list(range(len(ids), len(ids) + len(read)))
        ids += read
        pooled += counts
    return Rows(ids, pooled, queries, prompts, [[number[text] for text in example.documents] for example in examples])


def prompt_of(example: Example, tasks: Tasks, window: int, order: str, chance: random.Random) -> ListwisePrompt:
    """The prompt of the first `window` documents, given, reversed or shuffled by `chance`."""
    documents = list(example.documents[:window])
    if order == "reverse":
        documents.reverse()
    elif order == "shuffle":
        chance.shuffle(documents)
    return ListwisePrompt(example.query, tuple(documents), tasks.rerank, tasks.noun)


def losses(
    vectors: torch.Tensor,
    rows: Rows,
    examples: Sequence[Example],
    recipe: Recipe,
    *,
    anchor: bool = False,
    targets: torch.Tensor | None = None,
) -> Losses:
    """The parts of the loss and their weighted sum `loss`, and how `alike` documents are; vectors: (n, D), the rows'.

    `anchor`: the prompts' vectors are added to their queries', as the variant `pair` does. `targets` (n, D): what the
    teacher says of the rows.
    """
    queries = vectors[rows.queries]
    documents = slice(len(rows.queries), len(rows.ids) - len(rows.prompts))
    parts: Losses = {}
    readers = vectors[rows.prompts] if rows.prompts else queries  # (B, D)
    if rows.prompts and anchor:
        readers = anchored(readers, queries)
    if recipe.stage == "embed" or recipe.infonce_weight > 0:
        parts["infonce"] = _contrastive(vectors, queries, rows, examples, recipe)
    if recipe.stage == "rank" and recipe.ranknet_weight > 0:
        parts["ranknet"] = _listwise(vectors, readers, rows, examples, recipe.ranknet_scale)
    if targets is not None:
        kinds = [distil(queries, targets[rows.queries]), distil(vectors[documents], targets[documents])]
        kinds += [distil(readers, targets[rows.prompts])] if rows.prompts else []
        parts["distil"] = torch.stack(kinds).mean()
    weights = {
        "infonce": 1.0 if recipe.stage == "embed" else recipe.infonce_weight,
        "ranknet": recipe.ranknet_weight,
        "distil": recipe.distil_weight,
    }
    parts["loss"] = torch.stack([weights[name] * value for name, value in parts.items()]).sum()
    parts["alike"] = _alike(vectors[documents].detach())
    return parts


def _alike(documents: torch.Tensor) -> torch.Tensor:
    """Mean cosine of two documents of the batch, (n, D) of length 1: near 1 where all have become one vector."""
    number = len(documents)
    pairs = documents.sum(dim=0).square().sum() - number  # of each with every other, both ways round
    return pairs / max(1, number * (number - 1))


def _contrastive(
    vectors: torch.Tensor, queries: torch.Tensor, rows: Rows, examples: Sequence[Example], recipe: Recipe
) -> torch.Tensor:
    """InfoNCE over all documents of the batch. A query's positives are none of its negatives, nor what ties with them.

    Its positives are those of every list of the batch that is the same query's.
    """
    columns = sorted({row for members in rows.documents for row in members})
    place = {row: column for column, row in enumerate(columns)}
    positives: list[int] = []
    tied: dict[str, list[int]] = {}  # query -> the columns of its positives and of what is as relevant
    for example, members in zip(examples, rows.documents, strict=True):
        best = example.ranking[0]
        positives.append(place[members[best]])
        tied.setdefault(example.query, []).extend(
            place[row]
            for row, relevance in zip(members, example.relevance, strict=True)
            if relevance >= example.relevance[best]
        )
    excluded = torch.zeros(len(examples), len(columns), dtype=torch.bool)
    for number, example in enumerate(examples):
        excluded[number, tied[example.query]] = True
    device = vectors.device
    return info_nce(
        queries, vectors[columns], torch.tensor(positives, device=device), recipe.temperature, excluded.to(device)
    )


def _listwise(
    vectors: torch.Tensor, readers: torch.Tensor, rows: Rows, examples: Sequence[Example], scale: float
) -> torch.Tensor:
    longest = max(map(len, rows.documents))
    members = torch.zeros(len(examples), longest, dtype=torch.long)
    relevance = torch.zeros(len(examples), longest, dtype=torch.float64)  # as files and InfoNCE tell them apart
    real = torch.zeros(len(examples), longest, dtype=torch.bool)
    for number, (example, numbers) in enumerate(zip(examples, rows.documents, strict=True)):
        members[number, : len(numbers)] = torch.tensor(numbers)
        relevance[number, : len(numbers)] = torch.tensor(example.relevance, dtype=torch.float64)
        real[number, : len(numbers)] = True
    device = vectors.device
    scores = scale * torch.einsum("bd,bnd->bn", readers, vectors[members.to(device)])  # (B, N)
    return ranknet(scores, relevance.to(device), real.to(device))


def backward(
    network: Any,
    pooling: str,
    rows: Rows,
    loss_of: Callable[[torch.Tensor], Losses],
    *,
    chunk_tokens: int,
    cached: bool,
    dtype: torch.dtype,
    rank: int = 0,
    world: int = 1,
) -> Losses:
    """Add the gradients of `loss_of(vectors)["loss"]` to the network's parameters; returns the losses.

    `cached` encodes without a graph, takes the loss's gradient by the vectors, then encodes chunk by chunk again to
    send it back (GradCache, Gao et al. 2021): the memory is that of one chunk. The result is the same.
    """
    device = next(network.parameters()).device
    own = sorted(range(len(rows.ids)), key=lambda row: (-len(rows.ids[row]), row))[rank::world]
    groups = [[own[member] for member in group] for group in batches([len(rows.ids[row]) for row in own], chunk_tokens)]

    def encoded(group: list[int]) -> torch.Tensor:
        ids, mask = (part.to(device) for part in padded([rows.ids[row] for row in group]))
        pooled = torch.tensor([rows.pooled[row] for row in group], device=device)
        return embed(network, ids, mask, pooling, pooled)

    # one for all chunks: within it each weight is rounded once
    rounded = torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
    with rounded, torch.set_grad_enabled(not cached):
        graphs = [encoded(group) for group in groups]
    vectors = torch.zeros(len(rows.ids), network.config.hidden_size, device=device)
    for group, graph in zip(groups, graphs, strict=True):
        vectors[group] = graph.detach()
    add_up([vectors])  # every other process left these rows 0
    vectors.requires_grad_()
    parts = loss_of(vectors)
    parts["loss"].backward()  # type: ignore[no-untyped-call]
    assert vectors.grad is not None
    with rounded:
        for group, graph in zip(groups, graphs, strict=True):
            (encoded(group) if cached else graph).backward(vectors.grad[group])  # type: ignore[no-untyped-call]
    add_up([weight.grad for weight in network.parameters() if weight.grad is not None])
    return {name: value.detach() for name, value in parts.items()}
