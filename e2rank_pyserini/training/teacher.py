"""Distillation: another model's vectors of what a step encodes, turned into the space of the model that learns them."""

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.training.examples import Example
from e2rank_pyserini.training.processes import add_up
from e2rank_pyserini.training.recipe import Recipe, Tasks
from e2rank_pyserini.training.step import documents_of, prompt_of
from e2rank_pyserini.types import Vectors

Text = TypeVar("Text")  # a query, a document, a listwise prompt
FITTED = 512  # documents that the turn of the space is fitted on


class Teacher:
    """A model that says what the vectors of a batch should be."""

    def __init__(self, encoder: E2RankEncoder, rank: int = 0, world: int = 1) -> None:
        self.encoder, self.rank, self.world = encoder, rank, world
        self.turn = torch.eye(encoder.dim)

    def fit(self, student: E2RankEncoder, examples: Sequence[Example]) -> None:
        """Turn the teacher's space so that it lies as near as it can to where the student's vectors are already."""
        texts = documents_of(examples[:FITTED])[:FITTED]
        self.turn = turned(*(torch.from_numpy(model.encode_documents(texts)) for model in (self.encoder, student)))

    def targets(self, examples: Sequence[Example], recipe: Recipe, window: int) -> torch.Tensor:
        """(n, D) of length 1: one for each row of `step.rows_of`, in its order. Prompts are read as given."""
        tasks = recipe.tasks.get(examples[0].source, Tasks())
        queries, documents = [example.query for example in examples], documents_of(examples)
        parts = [
            self._shared(queries, lambda texts: self.encoder.encode_queries(texts, tasks.retrieval)),
            self._shared(documents, self.encoder.encode_documents),
        ]
        if recipe.prompts:
            prompts = [prompt_of(example, tasks, window, "given", random.Random(0)) for example in examples]
            parts.append(self._shared(prompts, self.encoder.encode_prompts))
        return torch.nn.functional.normalize(torch.cat(parts) @ self.turn, dim=-1)

    def _shared(self, texts: Sequence[Text], encode: Callable[[Sequence[Text]], Vectors]) -> torch.Tensor:
        """(n, teacher's width): each process encodes its share."""
        vectors = torch.zeros(len(texts), self.encoder.dim)
        if own := texts[self.rank :: self.world]:
            vectors[self.rank :: self.world] = torch.from_numpy(encode(own))
        add_up([vectors])
        return vectors


def turned(theirs: torch.Tensor, ours: torch.Tensor) -> torch.Tensor:
    """The map (D', D) with orthonormal rows or columns that brings their vectors (n, D') nearest to ours (n, D).

    Both are centred first: what all texts of an untrained model share says nothing. Orthogonal Procrustes (Schoenemann
    1966): of the singular value decomposition of theirs^T ours only the directions are kept.
    """
    theirs, ours = theirs - theirs.mean(dim=0), ours - ours.mean(dim=0)
    left, _, right = torch.linalg.svd(theirs.T @ ours, full_matrices=False)
    turn: torch.Tensor = left @ right
    return turn
