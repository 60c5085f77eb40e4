"""Who encodes a corpus: ours, and what a user would run instead, with the same weights on the same texts."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from e2rank_pyserini import java
from e2rank_pyserini.bench.material import as_text
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.index import DenseIndex
from e2rank_pyserini.indexing import build_index
from e2rank_pyserini.types import Document, E2RankError, Vectors

Encode = Callable[[Sequence[Document]], Vectors]
_PYSERINI_BATCH, _CARD_BATCH = 64, 32


def ours(encoder: E2RankEncoder, work: Path) -> Encode:
    """`e2rank index` without its start: tokenise, encode, write, FAISS (Flat), docids, sidecar."""

    def encode(documents: Sequence[Document]) -> Vectors:
        build_index(documents, encoder, work / "index", overwrite=True)
        vectors, _ = DenseIndex(work / "index").vectors([document.docid for document in documents])
        return vectors

    return encode


def pyserini(place: Path, encoder: E2RankEncoder, *, bfloat16: bool) -> Encode:
    """Its `qwen3` document encoder in batches of 64, as `pyserini.encode` runs it; nothing is written.

    It computes in float32, with `bfloat16` as its option `--fp16` says. `place` must be a model that `export` wrote:
    by itself that class adds no EOS.
    """
    if encoder.tokens.eos_id is None or encoder.spec.pooling != "last":
        raise E2RankError(f"its qwen3 class takes the last token of a text that ends in an EOS, not {_kind(encoder)}")
    java.start()
    with java.quiet():
        from pyserini.encode import document_encoder_class_map
    model = document_encoder_class_map["qwen3"](str(place), device=str(encoder.device), l2_norm=True, prefix="")

    def encode(documents: Sequence[Document]) -> Vectors:
        texts, length = [as_text(document) for document in documents], encoder.spec.lengths.document
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # autocast: it is asked for float32, which needs none
            parts = [
                model.encode(texts[start : start + _PYSERINI_BATCH], fp16=bfloat16, max_length=length)
                for start in range(0, len(texts), _PYSERINI_BATCH)
            ]
        return np.vstack(parts)

    return encode


def sentence_transformers(place: Path, encoder: E2RankEncoder) -> Encode:
    """`encode` in our dtype, by its default batch of 32, which it sorts by length."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(place), device=str(encoder.device), model_kwargs={"dtype": encoder.dtype})

    def encode(documents: Sequence[Document]) -> Vectors:
        found = model.encode([as_text(one) for one in documents], convert_to_tensor=True, show_progress_bar=False)
        vectors: Vectors = found.float().cpu().numpy()
        return vectors

    return encode


def transformers(place: Path, encoder: E2RankEncoder) -> Encode:
    """As on a model card: batches of 32 in the corpus's order, in our dtype, padded to the longest of each."""
    from transformers import AutoModel, AutoTokenizer

    pooling, length = encoder.spec.pooling, encoder.spec.lengths.document
    tokenizer = AutoTokenizer.from_pretrained(place, padding_side="left" if pooling == "last" else "right")
    model = AutoModel.from_pretrained(place, dtype=encoder.dtype).to(encoder.device).eval()

    @torch.no_grad()
    def encode(documents: Sequence[Document]) -> Vectors:
        texts, parts = [as_text(document) for document in documents], []
        for start in range(0, len(texts), _CARD_BATCH):
            some = texts[start : start + _CARD_BATCH]
            batch = tokenizer(some, padding=True, truncation=True, max_length=length, return_tensors="pt")
            batch = batch.to(encoder.device)
            hidden = model(**batch).last_hidden_state  # (B, T, D)
            vectors = _pooled(hidden, batch["attention_mask"], pooling)
            parts.append(torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy())
        return np.vstack(parts)

    return encode


def _pooled(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """(B, T, D), and a mask (B, T) padded on the left for `last`, else on the right -> (B, D)."""
    if pooling == "last":
        return hidden[:, -1]
    if pooling == "cls":
        return hidden[:, 0]
    weights = mask.unsqueeze(-1).float()  # (B, T, 1)
    return (hidden.float() * weights).sum(dim=1) / weights.sum(dim=1)


def _kind(encoder: E2RankEncoder) -> str:
    return f"pooling {encoder.spec.pooling} {'without' if encoder.tokens.eos_id is None else 'with'} an EOS"


def makers(encoder: E2RankEncoder, place: Path) -> dict[str, Callable[[], Encode]]:
    """The peers by name, each loaded when called; `place` is the encoder's model as `export` wrote it."""
    return {
        "pyserini": lambda: pyserini(place, encoder, bfloat16=False),
        "pyserini-fp16": lambda: pyserini(place, encoder, bfloat16=True),
        "sentence-transformers": lambda: sentence_transformers(place, encoder),
        "transformers": lambda: transformers(place, encoder),
    }
