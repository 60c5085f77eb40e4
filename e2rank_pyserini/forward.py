"""Rows of token ids -> vectors: batches of a token budget through the network, and how a row's vector is pooled."""

import functools
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from e2rank_pyserini import packed
from e2rank_pyserini.timing import timed
from e2rank_pyserini.tokens import Ids
from e2rank_pyserini.types import E2RankError, Vectors

Progress = Callable[[int, int], None]  # told (texts, tokens) after each batch
Remember = Callable[[Sequence[Ids], Sequence[int], Callable[[], Vectors]], Vectors]  # remembering.Memory
_BATCH_TOKENS = {"cpu": 4096}
_BATCH_TOKENS_GPU = 65536


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
        vectors: Vectors = np.empty((len(rows), int(self.network.config.hidden_size)), dtype=np.float32)
        left = set(range(len(rows)))
        with self._lock:
            while left:
                try:
                    self._encode(rows, pooled, left, vectors)
                except torch.OutOfMemoryError:
                    pass
                else:
                    break
                self._halve(max(len(rows[number]) for number in left))
        return vectors

    def whole(self, rows: Sequence[Ids]) -> Vectors:
        """Rows of ids, all tokens of which are pooled -> (n, dim)."""
        return self(rows, [len(row) for row in rows])

    def _encode(self, rows: Sequence[Ids], pooled: Sequence[int], left: set[int], vectors: Vectors) -> None:
        """Fill in the vectors of the rows `left`, which shrinks by what is done.

        A batch is started before the one before it is waited for, so that a GPU is never idle meanwhile.
        """
        numbers = sorted(left)
        groups = batches([len(rows[number]) for number in numbers], self.batch_tokens, padding=not self.packing)

        def land(batch: list[int], wait: Callable[[], Vectors]) -> None:
            vectors[batch] = wait()
            left.difference_update(batch)
            if self.progress is not None:
                self.progress(len(batch), sum(len(rows[number]) for number in batch))

        before: tuple[list[int], Callable[[], Vectors]] | None = None
        for group in groups:
            batch = [numbers[place] for place in group]
            started = self._begun([rows[number] for number in batch], [pooled[number] for number in batch])
            if before is not None:
                land(*before)
            before = batch, started
        if before is not None:
            land(*before)

    def _begun(self, rows: Sequence[Ids], pooled: Sequence[int]) -> Callable[[], Vectors]:
        if self.memory is None:
            return self._start(rows, pooled)
        return functools.partial(self.memory, rows, pooled, lambda: self._start(rows, pooled)())

    def _start(self, rows: Sequence[Ids], pooled: Sequence[int]) -> Callable[[], Vectors]:
        """One forward pass over rows of ids, begun -> what waits for its vectors, (n, dim)."""
        with timed("encode"):
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
                ids, mask = map(self._moved, padded(rows))
                return embed(self.network, ids, mask, self.pooling, self._moved(pooled))
        network = self._packed
        lengths = [len(row) for row in rows]
        starts = np.cumsum([0, *lengths[:-1]])
        with torch.inference_mode():
            hidden = network(self._moved(np.concatenate([np.asarray(row) for row in rows])), lengths)
            return pool(hidden, *spans(*map(self._moved, (starts, lengths, pooled))), self.pooling)

    @functools.cached_property
    def _packed(self) -> packed.Packed:
        with torch.inference_mode(False):  # the joined weights are ordinary ones, whoever calls
            return packed.Packed(self.network)

    def _moved(self, numbers: Any) -> torch.Tensor:
        tensor = torch.as_tensor(numbers)
        return (
            tensor.pin_memory().to(self.device, non_blocking=True)
            if self.device.type == "cuda"
            else tensor.to(self.device)
        )

    def _halve(self, longest: int) -> None:
        if self.batch_tokens <= longest:
            raise E2RankError(
                f"model {self.name}: device {self.device} has too little memory for a text of {longest} tokens"
            )
        asked, self.batch_tokens = self.batch_tokens, max(self.batch_tokens // 2, longest)
        if self.packing:
            self._packed.room.held.clear()
        torch.cuda.empty_cache()
        print(
            f"model {self.name}: device {self.device} has too little memory for batches of {asked} tokens: goes on "
            f"with {self.batch_tokens}",
            file=sys.stderr,
        )


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
