"""E2RankEncoder: texts in, unit vectors out, in batches of a token budget."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from e2rank_pyserini.ahead import ahead, parts
from e2rank_pyserini.catalog import ModelSpec, model, model_of_sidecar
from e2rank_pyserini.inference.devices import choose_device, choose_dtype
from e2rank_pyserini.inference.forward import Forward, Part
from e2rank_pyserini.inference.loading import load
from e2rank_pyserini.inference.places import pinned
from e2rank_pyserini.inference.tally import Tally
from e2rank_pyserini.inference.tokens import Ids, TextTokenizer, tokens_of
from e2rank_pyserini.prompts import RETRIEVAL_TASK, user_turn
from e2rank_pyserini.timing import timed
from e2rank_pyserini.types import E2RankError, ListwisePrompt, Vectors, first_line, is_text, shown

T = TypeVar("T")


def anchored(prompts: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """The enhanced queries of the variant `pair`: prompts and queries (B, D), unit rows -> their sum at length 1.

    The bare query's vector anchors what the prompt adds, as in Rocchio's feedback.
    """
    return torch.nn.functional.normalize(prompts + queries, dim=-1)


class E2RankEncoder:
    """A model that encodes documents, queries and listwise prompts; `Encoder` in types.py is what it promises.

    Make one with `E2RankEncoder.load("e2rank-0.6b")` or with a directory or hub name.
    """

    def __init__(
        self,
        spec: ModelSpec,
        network: Any,
        tokenizer: Any,
        identity: str,
        *,
        batch_tokens: int | None = None,
    ) -> None:
        self.spec = spec
        self.identity = identity
        self.forward = Forward(spec.name, network, spec.pooling, batch_tokens)
        self.tokens = TextTokenizer(tokenizer, spec, _eos_id(spec, tokenizer))
        self.device = self.forward.device
        self.dtype = next(network.parameters()).dtype
        self._check_fit(tokenizer)

    @classmethod
    def load(
        cls,
        name: str | Path | ModelSpec,
        *,
        like: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        batch_tokens: int | None = None,
    ) -> "E2RankEncoder":
        """Load a model by catalog name, directory or hub name (or by its record).

        `like` names the catalog model whose settings an unknown model shares; `dtype` overrides the record's
        (auto, float32, bfloat16, float16); `batch_tokens` bounds a batch, padding included where there is any.
        Raises E2RankError when the model cannot be found or read.
        """
        spec = name if isinstance(name, ModelSpec) else model(str(name), like)
        device = choose_device(device)
        with timed("load"):
            spec = pinned(spec)
            network, tokenizer, identity = load(spec, device, choose_dtype(dtype or spec.dtype, device))
        return cls(spec, network, tokenizer, identity, batch_tokens=batch_tokens)

    @property
    def network(self) -> Any:
        """Transformers' model that gives the hidden states."""
        return self.forward.network

    @property
    def batch_tokens(self) -> int:
        """How many tokens a batch holds at most."""
        return self.forward.batch_tokens

    @property
    def dim(self) -> int:
        """The width of the vectors."""
        return int(self.network.config.hidden_size)

    @property
    def dtype_name(self) -> str:
        """The dtype of its weights as options and records name it: bfloat16, …"""
        return str(self.dtype).removeprefix("torch.")

    @property
    def record(self) -> dict[str, Any]:
        """The model's record and the identity of its weights, as an index's sidecar keeps them."""
        return {**dataclasses.asdict(self.spec), "identity": self.identity}

    @property
    def tally(self) -> Tally:
        """What was encoded and what was cut so far."""
        return self.tokens.tally

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """n texts -> (n, dim).

        Raises E2RankError for a single text, for what is no text, for a vector that is not finite, and for a text that
        the device has too little memory for.
        """
        return self._encoded(lambda some: _whole(self.tokens.documents(some)), _texts(texts))

    def encode_queries(self, texts: Sequence[str], task: str | None = None) -> Vectors:
        """n queries under one retrieval task (default: the paper's web search task) -> (n, dim).

        A model whose query template says no task reads none. Raises E2RankError as `encode_documents` does, and for a
        task that is no text.
        """
        asked = RETRIEVAL_TASK if task is None else task
        _check_text(asked, "task")
        return self._encoded(lambda some: _whole(self.tokens.queries(some, asked)), _texts(texts))

    def encode_prompts(self, prompts: Sequence[ListwisePrompt]) -> Vectors:
        """n listwise prompts -> (n, dim): the enhanced queries.

        Raises E2RankError as `encode_documents` does, for a task or noun that is no text, and for a prompt that does
        not fit with all documents cut away.
        """
        if isinstance(prompts, ListwisePrompt):
            raise E2RankError("expected a list of prompts, got a single one")
        prompts = list(prompts)
        for number, prompt in enumerate(prompts, start=1):
            _texts([prompt.query])
            _texts(prompt.documents)
            _check_text(prompt.task, f"task of prompt {number} of {len(prompts)}")
            _check_text(prompt.noun, f"noun of prompt {number} of {len(prompts)}")
        cut = None
        if self.forward.packing:  # else those of like length are to be together in a batch
            most = self.spec.lengths.document
            cut = parts(sum(tokens_of(text, most) for text in prompt.documents) for prompt in prompts)
        vectors = self._encoded(lambda some: Part(*self.tokens.prompts(some)), prompts, cut)
        if self.spec.prompt != "pair":
            return vectors
        between = self.tokens.tokenizer.sep_token
        queries = self.encode_queries([prompt.query.replace(between, " ") for prompt in prompts])
        summed: Vectors = anchored(torch.from_numpy(vectors), torch.from_numpy(queries)).numpy()
        return summed

    def _encoded(
        self,
        tokenise: Callable[[Sequence[T]], Part],
        texts: Sequence[T],
        cut: list[slice] | None = None,
    ) -> Vectors:
        """(n, dim): each part tokenised in a thread while the network is at the one before; a single one, here."""
        rows = (tokenise(texts[part]) for part in cut or [slice(0, len(texts))])
        with contextlib.closing(ahead(rows) if cut and len(cut) > 1 else rows) as coming:
            return self.forward.stream(coming, len(texts))

    def _check_fit(self, tokenizer: Any) -> None:
        places = positions(self.network)
        longest = max(self.spec.lengths.document, self.spec.lengths.query, self.spec.lengths.prompt)
        if places is not None and longest > places:
            raise E2RankError(
                f"model {self.spec.name}: lengths up to {longest} tokens were asked for, but it has {places} positions "
                "(options, its e2rank.yaml and a recipe's document_length, query_length and prompt_length say them)"
            )
        if self.spec.chat == "tokenizer" and not getattr(tokenizer, "chat_template", None):
            raise E2RankError(
                f"model {self.spec.name}: its tokenizer has no chat template; give one as `chat:` in "
                "e2rank.yaml beside its weights, or `chat: none` for the bare user turn"
            )
        self._check_chat()
        if not tokenizer.is_fast:
            raise E2RankError(
                f"model {self.spec.name}: expected a fast tokenizer (tokenizer.json); its offsets say "
                "where a document may be cut"
            )

    def _check_chat(self) -> None:
        probe = ListwisePrompt("a query", ("a document",), "a task")
        if self.spec.prompt == "pair":
            if self.spec.eos is not None or self.spec.chat != "none" or not self.tokens.tokenizer.sep_token:
                raise E2RankError(
                    f"model {self.spec.name}: the prompt variant pair is for encoders: `eos: null`, `chat: none` and a "
                    "tokenizer with a separator token"
                )
            if "{task}" in self.spec.query:  # the prompt, which is added to the query, has no place for it
                raise E2RankError(
                    f"model {self.spec.name}: the prompt variant pair is for queries without a task, not for "
                    f"{self.spec.query!r}"
                )
            return
        try:
            text = self.tokens.prompt_text(probe)
        except Exception as error:
            raise E2RankError(f"model {self.spec.name}: its chat template fails: {first_line(error)}") from error
        if user_turn(probe, self.spec.prompt, self.spec.eos or "") not in text:
            raise E2RankError(f"model {self.spec.name}: its chat template drops the user turn: {self.spec.chat!r}")


def as_recorded(record: Mapping[str, Any], dtype: str, device: str, batch_tokens: int | None) -> E2RankEncoder:
    """The encoder whose `record` this is, loaded again, on another machine perhaps.

    Raises E2RankError where the weights found under its name are others.
    """
    spec = model_of_sidecar(record, str(record.get("name")))
    encoder = E2RankEncoder.load(spec, device=device, dtype=dtype, batch_tokens=batch_tokens)
    if encoder.identity != record["identity"]:
        raise E2RankError(
            f"model {spec.name}: expected the weights {record['identity']}, found {encoder.identity} in {spec.source}"
        )
    return encoder


def _texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list; E2RankError for a single one, and for what is no text."""
    if isinstance(texts, str):
        raise E2RankError("expected a list of texts, got a single one")
    found = list(texts)
    for number, text in enumerate(found, start=1):
        _check_text(text, f"text {number} of {len(found)}")
    return found


def _check_text(text: object, what: str) -> None:
    if not is_text(text):
        raise E2RankError(f"{what}: expected text, got {shown(text)}")


def _whole(rows: list[Ids]) -> Part:
    return Part(rows, [len(row) for row in rows])


def positions(network: Any) -> int | None:
    """How many tokens a row may have, None where nothing says so.

    RoBERTa's kind counts places from behind its padding's. Beyond its first length a longrope model turns every row of
    a batch as its longest wants it.
    """
    found = getattr(network.config, "max_position_embeddings", None)
    rope = getattr(network.config, "rope_parameters", None) or getattr(network.config, "rope_scaling", None) or {}
    if rope.get("rope_type", rope.get("type")) == "longrope":
        first = rope.get("original_max_position_embeddings")
        return first or getattr(network.config, "original_max_position_embeddings", None) or found
    padding = getattr(getattr(getattr(network, "embeddings", None), "position_embeddings", None), "padding_idx", None)
    return found if found is None or padding is None else found - padding - 1


def _eos_id(spec: ModelSpec, tokenizer: Any) -> int | None:
    if spec.eos is None:
        return None
    ids = tokenizer(spec.eos, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise E2RankError(
            f"model {spec.name}: expected its EOS {spec.eos!r} to be one token of its tokenizer, got {len(ids)}"
        )
    return int(ids[0])
