"""Distillation: another model's vectors of what a run encodes, turned into the space of the model that learns them."""

import dataclasses
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.inference.tally import cut
from e2rank_pyserini.training.examples import Example
from e2rank_pyserini.training.network import reading
from e2rank_pyserini.training.processes import add_up, wait
from e2rank_pyserini.training.recipe import Recipe, Tasks
from e2rank_pyserini.training.step import documents_of, prompt_of
from e2rank_pyserini.types import E2RankError, ListwisePrompt, Vectors, first_line

FITTED = 4096  # documents, at least, that the centre and the turn of the space are fitted on
FED_BACK = 0.5  # what the documents' mean counts beside the query, as in Rocchio's feedback
SHARPNESS = 20.0  # of the weights in that mean, times the cosine with the query
_BLOCK = 8192  # texts encoded between two moves of the bar


class Query(NamedTuple):
    """A query as it is encoded."""

    task: str
    text: str


Text = Query | str | ListwisePrompt  # a query, a document, a listwise prompt


class Teacher:
    """A model that says what the vectors of a run's texts should be: each is encoded once, before the first step."""

    def __init__(self, encoder: E2RankEncoder, rank: int = 0, world: int = 1) -> None:
        self.encoder, self.rank, self.world = encoder, rank, world
        self.centre = torch.zeros(encoder.dim)
        self.turn = torch.eye(encoder.dim)
        self.places: dict[Text, int] = {}
        self.vectors = torch.empty(0, encoder.dim)

    def fit(self, student: E2RankEncoder, examples: Sequence[Example], dtype: str = "float32") -> None:
        """Centre the teacher's space, and turn it to lie as near as it can to where the student's vectors are already.

        What all of a model's vectors share orders nothing, but would be most of what there is to learn. There are to
        be many more documents than the narrower space has dimensions, of all sources: a turn that is fitted on few, or
        on what stands first, holds for those alone. Every process encodes its share of them; the first one's turn is
        everyone's, once `read` has handed it on.
        """
        count = max(FITTED, 8 * min(self.encoder.dim, student.dim))
        texts = documents_of(Random(0).sample(examples, min(count, len(examples))))[:count]
        own = slice(self.rank, None, self.world)
        theirs, ours = (torch.zeros(len(texts), model.dim, device=model.device) for model in (self.encoder, student))
        theirs[own] = torch.from_numpy(self.encoder.encode_documents(texts[own])).to(theirs)
        with reading(student, dtype):
            ours[own] = torch.from_numpy(student.encode_documents(texts[own])).to(ours)
        add_up([theirs, ours])  # every other process left these rows 0
        theirs, ours = theirs.cpu(), ours.cpu()
        if self.rank > 0:
            self.turn = torch.zeros(self.encoder.dim, student.dim)
            return
        self.centre, self.turn = theirs.mean(dim=0), turned(theirs, ours)

    def read(self, examples: Sequence[Example], recipe: Recipe, window: int, kept: Path | None = None) -> None:
        """Encode all that `targets` will be asked for, every process its share.

        The vectors are held in float16 (2 bytes times the teacher's width a text), and with the centre and the turn in
        the file `kept`, from which a run that goes on takes them all.
        """
        texts = sorted(dict.fromkeys(_texts(examples, recipe, window)), key=_kind)
        self.places = {text: place for place, text in enumerate(texts)}
        if kept is not None and kept.exists():
            self._take(kept)
            return
        self.vectors = torch.zeros(len(texts), self.encoder.dim, dtype=torch.float16)
        before = dataclasses.replace(self.encoder.tally)
        own = range(self.rank, len(texts), self.world)
        with tqdm(total=len(own), unit=" texts", desc="teacher", disable=None if self.rank == 0 else True) as bar:
            for start in range(0, len(own), _BLOCK):
                for _, of_a_kind in groupby(own[start : start + _BLOCK], key=lambda place: _kind(texts[place])):
                    places = list(of_a_kind)
                    found = self._encoded([texts[place] for place in places])
                    self.vectors[places] = torch.from_numpy(found).half()
                    bar.update(len(places))
        shared = [part.to(self.encoder.device) for part in (self.vectors, self.centre, self.turn)]
        add_up(shared)  # every other process left these rows 0
        self.vectors, self.centre, self.turn = (part.cpu() for part in shared)
        if kept is not None and self.rank == 0:
            kept.parent.mkdir(parents=True, exist_ok=True)
            parts = {"vectors": self.vectors, "centre": self.centre, "turn": self.turn.contiguous()}
            save_file(parts, kept.with_name(kept.name + ".new"))
            kept.with_name(kept.name + ".new").rename(kept)
        wait()
        if self.rank == 0:
            read = f"{len(own)} of {len(texts)}"  # the first process's share stands for the others'
            counts = self.encoder.tally.since(before)
            print(f"teacher {self.encoder.spec.name}: read {read} texts, {cut(counts)}", file=sys.stderr)

    def _take(self, kept: Path) -> None:
        try:
            parts = load_file(kept)
            self.vectors, self.centre, self.turn = parts["vectors"], parts["centre"], parts["turn"]
        except Exception as error:
            raise E2RankError(f"{kept}: cannot be read ({first_line(error)}); remove it to encode again") from error

    def targets(self, examples: Sequence[Example], recipe: Recipe, window: int) -> torch.Tensor:
        """(n, D) of length 1: one for each row of `step.rows_of`, in its order. Prompts are read as given."""
        rows = [self.places[text] for text in _texts(examples, recipe, window)]
        found = torch.nn.functional.normalize((self.vectors[rows].float() - self.centre) @ self.turn, dim=-1)
        if not (recipe.prompts and recipe.distil_prompt == "feedback"):
            return found
        number = {text: len(examples) + place for place, text in enumerate(documents_of(examples))}
        read = [found[[number[text] for text in example.documents[:window]]] for example in examples]
        return torch.cat([found, torch.stack([fed_back(*pair) for pair in zip(found, read, strict=False)])])

    def _encoded(self, texts: Sequence[Text]) -> Vectors:
        """Vectors of texts of one kind."""
        first = texts[0]
        if isinstance(first, Query):
            return self.encoder.encode_queries([text.text for text in texts], first.task)  # type: ignore[union-attr]
        encode = self.encoder.encode_documents if isinstance(first, str) else self.encoder.encode_prompts
        return encode(texts)  # type: ignore[arg-type]


def _texts(examples: Sequence[Example], recipe: Recipe, window: int) -> Iterable[Text]:
    """What these examples' rows are, in the order of `step.rows_of` where they share a source."""
    tasks = [recipe.tasks.get(example.source, Tasks()) for example in examples]
    for example, told in zip(examples, tasks, strict=True):
        yield Query(told.retrieval, example.query)
    yield from documents_of(examples)
    if recipe.prompts and recipe.distil_prompt == "prompt":
        for example, told in zip(examples, tasks, strict=True):
            yield prompt_of(example, told, window, "given", Random(0))


def _kind(text: Text) -> str:
    return f"query {text.task}" if isinstance(text, Query) else type(text).__name__


def fed_back(query: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """(D,): the query (D,) moved towards documents (n, D), the more to each the nearer it is; all of length 1.

    Rocchio's feedback (1971) with a mean that softmax of the cosines weights instead of one over the first few.
    """
    weights = torch.softmax(SHARPNESS * documents @ query, dim=0)
    return torch.nn.functional.normalize(query + FED_BACK * weights @ documents, dim=0)


def turned(theirs: torch.Tensor, ours: torch.Tensor) -> torch.Tensor:
    """The map (D', D) with orthonormal rows or columns that brings their vectors (n, D') nearest to ours (n, D).

    Both are centred first: what all texts of an untrained model share says nothing. Orthogonal Procrustes (Schoenemann
    1966): of the singular value decomposition of theirs^T ours only the directions are kept.
    """
    theirs, ours = theirs - theirs.mean(dim=0), ours - ours.mean(dim=0)
    left, _, right = torch.linalg.svd(theirs.T @ ours, full_matrices=False)
    turn: torch.Tensor = left @ right
    return turn
