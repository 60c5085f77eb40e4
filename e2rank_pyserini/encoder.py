"""E2RankEncoder: texts in, unit vectors out, in batches of a token budget."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from e2rank_pyserini.catalog import ModelSpec, model, model_of_sidecar
from e2rank_pyserini.loading import choose_device, choose_dtype, load
from e2rank_pyserini.prompts import RETRIEVAL_TASK, user_turn
from e2rank_pyserini.timing import timed
from e2rank_pyserini.tokens import Ids, Tally, TextTokenizer
from e2rank_pyserini.types import E2RankError, ListwisePrompt, Vectors

Progress = Callable[[int, int], None]  # told (texts, tokens) after each batch
Remember = Callable[[Sequence[Ids], Sequence[int], Callable[[], Vectors]], Vectors]  # remembering.Memory
_BATCH_TOKENS = {"cpu": 4096}
_BATCH_TOKENS_GPU = 65536


def embed(
    network: Any, ids: torch.Tensor, mask: torch.Tensor, pooling: str, pooled: torch.Tensor | None = None
) -> torch.Tensor:
    """One forward pass: ids and mask (B, T), padded on the right -> (B, D) float32 rows of length 1.

    The vector is taken from the first `pooled` (B,) tokens of each row, all real ones when None, the last -pooled where
    it is negative: `last` is the last one's hidden state, `mean` their mean, `cls` the first one's. The same function
    serves training and inference.
    """
    whole = mask.sum(dim=1)  # (B,)
    pooled = whole if pooled is None else pooled
    starts, ends = torch.where(pooled < 0, whole + pooled, 0), torch.where(pooled < 0, whole, pooled)
    # a mask keeps attention from its fast path: leave it out where no real token could see a padded one anyway
    needed = not (is_causal(network) or bool(mask.all()))
    hidden = network(input_ids=ids, attention_mask=mask if needed else None).last_hidden_state  # (B, T, D)
    if pooling == "last":
        vectors = hidden[torch.arange(len(ids), device=ids.device), ends - 1]
    elif pooling == "mean":
        places = torch.arange(ids.shape[1], device=ids.device)
        weights = ((places >= starts[:, None]) & (places < ends[:, None])).unsqueeze(-1).float()  # (B, T, 1)
        vectors = (hidden.float() * weights).sum(dim=1) / weights.sum(dim=1)
    else:
        vectors = hidden[torch.arange(len(ids), device=ids.device), starts]
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


def is_causal(network: Any) -> bool:
    """Whether every attention of the network looks back only, by what Transformers' modules and configuration say."""
    attentions = [module.is_causal for module in network.modules() if hasattr(module, "is_causal")]
    configured = [module.config for module in network.modules() if hasattr(module, "config")]
    return bool(attentions) and all(attentions) and all(getattr(one, "is_causal", True) for one in configured)


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
        progress: Progress | None = None,
    ) -> None:
        self.spec = spec
        self.identity = identity
        self.network = network
        self.tokens = TextTokenizer(tokenizer, spec, _eos_id(spec, tokenizer))
        self.progress = progress
        self.memory: Remember | None = None
        self.device = next(network.parameters()).device
        self.dtype = next(network.parameters()).dtype
        self.batch_tokens = batch_tokens or _BATCH_TOKENS.get(self.device.type, _BATCH_TOKENS_GPU)
        self._check_fit(tokenizer)

    @classmethod
    def load(
        cls,
        name: str | ModelSpec,
        *,
        like: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        batch_tokens: int | None = None,
    ) -> "E2RankEncoder":
        """Load a model by catalog name, directory or hub name (or by its record).

        `like` names the catalog model whose settings an unknown model shares; `dtype` overrides the record's
        (auto, float32, bfloat16, float16); `batch_tokens` bounds a batch, padding included.
        Raises E2RankError when the model cannot be found or read.
        """
        spec = name if isinstance(name, ModelSpec) else model(name, like)
        device = choose_device(device)
        with timed("load"):
            network, tokenizer, identity = load(spec, device, choose_dtype(dtype or spec.dtype, device))
        return cls(spec, network, tokenizer, identity, batch_tokens=batch_tokens)

    @property
    def dim(self) -> int:
        """The width of the vectors."""
        return int(self.network.config.hidden_size)

    @property
    def record(self) -> dict[str, Any]:
        """The model's record and the identity of its weights, as an index's sidecar keeps them."""
        return {**dataclasses.asdict(self.spec), "identity": self.identity}

    @property
    def tally(self) -> Tally:
        """What was encoded and what was cut so far."""
        return self.tokens.tally

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """n texts -> (n, dim)."""
        with timed("tokenise"):
            rows = self.tokens.documents(texts)
        return self._encode(rows)

    def encode_queries(self, texts: Sequence[str], task: str | None = None) -> Vectors:
        """n queries under one retrieval task (default: the paper's web search task) -> (n, dim)."""
        with timed("tokenise"):
            rows = self.tokens.queries(texts, RETRIEVAL_TASK if task is None else task)
        return self._encode(rows)

    def encode_prompts(self, prompts: Sequence[ListwisePrompt]) -> Vectors:
        """n listwise prompts -> (n, dim): the enhanced queries."""
        with timed("tokenise"):
            rows = self.tokens.prompts(prompts)
        vectors = self._encode(rows, [self.tokens.pooled(row) for row in rows])
        if self.spec.prompt != "pair":
            return vectors
        between = self.tokens.tokenizer.sep_token
        queries = self.encode_queries([prompt.query.replace(between, " ") for prompt in prompts])
        summed: Vectors = anchored(torch.from_numpy(vectors), torch.from_numpy(queries)).numpy()
        return summed

    def _encode(self, rows: Sequence[Ids], pooled: Sequence[int] | None = None) -> Vectors:
        """Rows of ids -> (n, dim) in the order given; batches hold rows of like length."""
        lengths = [len(row) for row in rows]
        ends = lengths if pooled is None else pooled
        vectors: Vectors = np.empty((len(rows), self.dim), dtype=np.float32)
        for batch in batches(lengths, self.batch_tokens):
            some, pooling = [rows[number] for number in batch], [ends[number] for number in batch]
            encode = functools.partial(self._batch, some, pooling)
            vectors[batch] = encode() if self.memory is None else self.memory(some, pooling, encode)
            if self.progress is not None:
                self.progress(len(batch), sum(map(len, some)))
        return vectors

    def _batch(self, rows: Sequence[Ids], pooled: Sequence[int]) -> Vectors:
        """Rows of ids and how many leading tokens of each are pooled -> (n, dim), in one forward pass."""
        with timed("encode"), torch.inference_mode():
            ids, mask, ends = (part.to(self.device) for part in (*padded(rows), torch.tensor(pooled)))
            found = embed(self.network, ids, mask, self.spec.pooling, ends)
            vectors: Vectors = found.cpu().numpy()  # waits for the device: its time is in the part
        if not np.isfinite(vectors).all():
            raise E2RankError(f"model {self.spec.name}: gave a vector that is not made of numbers")
        return vectors

    def _check_fit(self, tokenizer: Any) -> None:
        positions = getattr(self.network.config, "max_position_embeddings", None)
        longest = max(self.spec.lengths.document, self.spec.lengths.query, self.spec.lengths.prompt)
        if positions is not None and longest > positions:
            raise E2RankError(
                f"model {self.spec.name}: lengths up to {longest} tokens were asked for, but it has "
                f"{positions} positions"
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
            return
        try:
            text = self.tokens.prompt_text(probe)
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise E2RankError(f"model {self.spec.name}: its chat template fails: {reason}") from error
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


def batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Row numbers grouped so that rows x longest <= `batch_tokens` (a longer row is alone), longest rows first."""
    groups: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= batch_tokens:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def padded(rows: Sequence[Ids]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, (B, T), padded on the right with 0, which the mask hides."""
    longest = max(map(len, rows))
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    return ids, mask


def _eos_id(spec: ModelSpec, tokenizer: Any) -> int | None:
    if spec.eos is None:
        return None
    ids = tokenizer(spec.eos, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise E2RankError(
            f"model {spec.name}: expected its EOS {spec.eos!r} to be one token of its tokenizer, got {len(ids)}"
        )
    return int(ids[0])
