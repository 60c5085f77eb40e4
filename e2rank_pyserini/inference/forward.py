"""Rows of token ids -> vectors: batches of a token budget through the network, and how a row's vector is pooled."""

import contextlib
import functools
import itertools
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from e2rank_pyserini.inference import packed
from e2rank_pyserini.inference.elementwise import moved
from e2rank_pyserini.inference.tokens import Ids
from e2rank_pyserini.timing import timed
from e2rank_pyserini.types import E2RankError, Vectors

Progress = Callable[[int, int], None]  # told (texts, tokens) after each batch
Remember = Callable[[Sequence[Ids], Sequence[int], Callable[[], Vectors]], Vectors]  # remembering.Memory
Land = Callable[[], None]  # waits for a batch and fills in its vectors
_BATCH_TOKENS = {"cpu": 4096}
_BATCH_TOKENS_GPU = 65536


class Part(NamedTuple):
    """Some of the rows to encode, and how many leading tokens of each are pooled (negative: at its end)."""

    ids: Sequence[Ids]
    pooled: Sequence[int]


def embed(
    network: Any, ids: torch.Tensor, mask: torch.Tensor, pooling: str, pooled: torch.Tensor | None = None
) -> torch.Tensor:
    """One forward pass: ids and mask (B, T), padded on the right -> (B, D) float32 rows of length 1.

    The vector is taken from the first `pooled` (B,) tokens of each row, all real ones when None, the last -pooled where
    it is negative; see `pool`. Training encodes by it, and so do networks that `packed` does not know.
    """
    # a mask keeps attention from its fast path: leave it out where no real token could see a padded one anyway
    causal = packed.is_causal(network)
    needed = not (causal or bool(mask.all()))
    options = {"use_cache": False} if causal else {}  # keys and values are read once
    hidden = network(input_ids=ids, attention_mask=mask if needed else None, **options).last_hidden_state  # (B, T, D)
    starts, lengths = torch.arange(len(ids), device=ids.device) * ids.shape[1], mask.sum(dim=1)
    return pool(hidden.flatten(0, 1), *spans(starts, lengths, lengths if pooled is None else pooled), pooling)


def spans(starts: torch.Tensor, lengths: torch.Tensor, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows' `starts` and `lengths` (B,) -> where their pooled tokens start, and how many they are, for `pool`."""
    return torch.where(pooled < 0, starts + lengths + pooled, starts), pooled.abs()


def pool(hidden: torch.Tensor, starts: torch.Tensor, counts: torch.Tensor, pooling: str) -> torch.Tensor:
    """Hidden states (N, D), of which row b has `counts[b]` from `starts[b]` on -> (B, D) float32, rows of length 1.

    `last` is the last one's hidden state, `mean` their mean, `cls` the first one's. The same function serves training
    and inference.
    """
    if pooling == "mean":
        steps = torch.arange(int(counts.max()), device=hidden.device)
        weights = (steps < counts[:, None]).unsqueeze(-1).float()  # (B, T, 1)
        states = hidden[(starts[:, None] + steps).clamp_(max=len(hidden) - 1)]  # (B, T, D)
        vectors = (states.float() * weights).sum(dim=1) / weights.sum(dim=1)
    else:
        vectors = hidden[starts + counts - 1 if pooling == "last" else starts]
    return torch.nn.functional.normalize(vectors.float(), dim=-1)


class Forward:
    """A network that encodes rows of ids, for inference.

    A decoder that `packed` knows reads them end to end, without padding, unless `packing` is False: it joins weights
    in place, which a network that is trained must not have. Another network reads them padded on the right.
    """

    def __init__(self, name: str, network: Any, pooling: str, batch_tokens: int | None) -> None:
        self.name = name
        self.network = network
        self.pooling = pooling
        self.device = next(network.parameters()).device
        self.batch_tokens = batch_tokens or _BATCH_TOKENS.get(self.device.type, _BATCH_TOKENS_GPU)
        self.packing = self.device.type in ("cpu", "cuda") and packed.fits(network)
        self.progress: Progress | None = None
        self.memory: Remember | None = None
        self._lock = threading.Lock()  # the packed network's room is for one pass at a time

    def __call__(self, rows: Sequence[Ids], pooled: Sequence[int]) -> Vectors:
        """Rows of ids, and how many leading tokens of each are pooled (negative: at its end) -> (n, dim), in order.

        Batches hold rows of like length. Where the device's memory is too small for one, it goes on with half of
        `batch_tokens`, which is said on stderr; E2RankError for a row that does not fit by itself.
        """
        return self.stream(iter([Part(rows, pooled)]), len(rows))

    def whole(self, rows: Sequence[Ids]) -> Vectors:
        """Rows of ids, all tokens of which are pooled -> (n, dim)."""
        return self(rows, [len(row) for row in rows])

    def stream(self, parts: Iterator[Part], count: int) -> Vectors:
        """The same for `count` rows that come in parts; a batch is of one part. The wait for a part is `tokenise`."""
        vectors: Vectors = np.empty((count, int(self.network.config.hidden_size)), dtype=np.float32)
        done, land = 0, _nothing
        with self._lock:
            if self.network.training:  # left so by who trains it beside: dropout would be in the vectors
                self.network.eval()
            while True:
                with timed("tokenise"):
                    part = next(parts, None)
                if part is None:
                    break
                land = self._encode(part, vectors[done : done + len(part.ids)], land)
                done += len(part.ids)
            land()
        return vectors

    def _encode(self, part: Part, vectors: Vectors, land: Land) -> Land:
        """Start the batches of a part; gives what waits for the last of them and fills in its vectors.

        A batch is started before the one before it is waited for (`land`: the last of the part before), so that a GPU
        is never idle meanwhile.
        """
        groups = deque(self._batches(part.ids, range(len(part.ids))))
        while groups:
            batch = groups[0]
            rows = [part.ids[number] for number in batch]
            try:
                wait = self._begun(rows, [part.pooled[number] for number in batch])
            except torch.OutOfMemoryError:
                wait = None
            land()
            if wait is not None:
                land = functools.partial(self._land, vectors, batch, wait, sum(map(len, rows)))
                groups.popleft()
                continue
            land = _nothing
            held = [len(row) for row in rows]
            self._halve(max(held), sum(held) if self.packing else len(held) * max(held))
            groups = deque(self._batches(part.ids, itertools.chain(*groups)))
        return land

    def _batches(self, rows: Sequence[Ids], numbers: Iterable[int]) -> list[list[int]]:
        """The numbers of rows in batches, the longest first."""
        ordered = sorted(numbers)
        groups = batches([len(rows[number]) for number in ordered], self.batch_tokens, padding=not self.packing)
        return [[ordered[place] for place in group] for group in groups]

    def _land(self, vectors: Vectors, batch: list[int], wait: Callable[[], Vectors], tokens: int) -> None:
        vectors[batch] = wait()
        if self.progress is not None:
            self.progress(len(batch), tokens)

    def _begun(self, rows: Sequence[Ids], pooled: Sequence[int]) -> Callable[[], Vectors]:
        if self.memory is None:
            return self._start(rows, pooled)
        vectors = self.memory(rows, pooled, lambda: self._start(rows, pooled)())
        return lambda: vectors

    def _start(self, rows: Sequence[Ids], pooled: Sequence[int]) -> Callable[[], Vectors]:
        """One forward pass over rows of ids, begun -> what waits for its vectors, (n, dim)."""
        # Triton launches on the current device, whichever the tensors' is
        here = torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext()
        with timed("encode"), here:
            found = self._pass(rows, pooled)
            landed = torch.empty(found.shape, dtype=found.dtype, pin_memory=found.is_cuda)
            landed.copy_(found, non_blocking=True)
            event: Any = torch.cuda.Event() if found.is_cuda else None  # type: ignore[no-untyped-call]
            if event is not None:
                event.record(torch.cuda.current_stream(found.device))

        def wait() -> Vectors:
            with timed("encode"):
                if event is not None:
                    event.synchronize()
                vectors: Vectors = landed.numpy()
            if not np.isfinite(vectors).all():
                raise E2RankError(f"model {self.name}: gave a vector that is not made of numbers")
            return vectors

        return wait

    def _pass(self, rows: Sequence[Ids], pooled: Sequence[int]) -> torch.Tensor:
        if not self.packing:
            with torch.inference_mode():
                ids, mask, counts = (moved(one, self.device) for one in (*padded(rows), pooled))
                return embed(self.network, ids, mask, self.pooling, counts)
        network = self._packed
        lengths = torch.tensor([len(row) for row in rows])
        starts, counts = spans(lengths.cumsum(0) - lengths, lengths, torch.tensor(pooled))
        if self.pooling != "mean":  # one state is the row's vector
            starts, counts = starts + (counts - 1 if self.pooling == "last" else 0), torch.ones_like(counts)
        wanted = [np.arange(one, one + count) for one, count in zip(starts.tolist(), counts.tolist(), strict=True)]
        some = np.concatenate(wanted) if counts.sum() < lengths.sum() else None
        with torch.inference_mode():
            ids = moved(np.concatenate([np.asarray(row) for row in rows]), self.device)
            hidden = network(ids, lengths.tolist(), None if some is None else moved(some, self.device))
            starts, counts = (moved(one, self.device) for one in (counts.cumsum(0) - counts, counts))
            return pool(hidden, starts, counts, self.pooling)

    @functools.cached_property
    def _packed(self) -> packed.Packed:
        with torch.inference_mode(False):  # the joined weights are ordinary ones, whoever calls
            return packed.Packed(self.network)

    def _halve(self, longest: int, held: int) -> None:
        """Let batches be half of one of `held` tokens, which did not fit, if its longest text can be in them."""
        if self.batch_tokens <= longest:
            raise E2RankError(
                f"model {self.name}: device {self.device} has too little memory for a text of {longest} tokens"
            )
        self.batch_tokens = max(min(self.batch_tokens, held) // 2, longest)
        if "_packed" in self.__dict__:  # else its weights did not fit either
            self._packed.room.held.clear()
        torch.cuda.empty_cache()
        print(
            f"model {self.name}: device {self.device} has too little memory for a batch of {held} tokens: goes on with "
            f"at most {self.batch_tokens}",
            file=sys.stderr,
        )


def _nothing() -> None:
    """What `Land` is where no batch was started."""


def batches(lengths: Sequence[int], batch_tokens: int, *, padding: bool = True) -> list[list[int]]:
    """Row numbers grouped so that their tokens are at most `batch_tokens` (a longer row is alone), longest rows first.

    With `padding`, each row counts as the longest of its batch.
    """
    groups: list[list[int]] = []
    tokens = 0
    for number in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        each = lengths[groups[-1][0]] if groups and padding else lengths[number]
        if groups and tokens + each <= batch_tokens:
            groups[-1].append(number)
            tokens += each
        else:
            groups.append([number])
            tokens = lengths[number]
    return groups


def padded(rows: Sequence[Ids]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, (B, T), padded on the right with 0, which the mask hides."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(mask.shape, dtype=np.int64)
    ids[mask] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))
