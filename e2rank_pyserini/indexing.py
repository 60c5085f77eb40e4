"""Corpus -> index: encoded chunk by chunk, built in a sibling directory, renamed into place."""

import copy
import importlib.metadata
import itertools
import json
import math
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from e2rank_pyserini import directories
from e2rank_pyserini.directories import built_aside
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.index import SIDECAR, faiss_module, faiss_package
from e2rank_pyserini.integrity import hashes
from e2rank_pyserini.prompts import document_text
from e2rank_pyserini.sealed import seal
from e2rank_pyserini.types import Document, E2RankError, Vectors

_CHUNK = 2048  # documents encoded together: large enough to sort by length, small enough to hold
_ADD = 65536  # vectors handed to FAISS at a time
_PIECE = 1 << 20  # bytes copied at a time
_SAMPLE = 256  # training vectors per centroid, FAISS's own recommendation at most
_VERSIONS = ("e2rank-pyserini", "torch", "transformers", "tokenizers", "numpy")


def build_index(
    corpus: Iterable[Document],
    encoder: E2RankEncoder,
    directory: Path,
    *,
    factory: str = "Flat",
    template: str = "{title} {text}",
    provenance: dict[str, str] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Encode `corpus` into a FAISS directory that Pyserini reads; returns its sidecar (e2rank.json).

    `factory` is a FAISS factory string (inner product); one that needs training learns from a seeded sample.
    `provenance` goes into the sidecar as it is. A directory that exists is complete: everything is written beside it
    and renamed at the end. Raises E2RankError for an existing directory (unless `overwrite`), a corpus error, or a
    factory string that FAISS refuses.
    """
    check_replaceable(directory, overwrite=overwrite)
    index = empty_index(encoder.dim, factory)
    before = copy.copy(encoder.tally)
    with built_aside(directory) as staging:
        count = _encode_all(corpus, encoder, staging, template)
        if isinstance(index, faiss_module().IndexFlat):
            write_flat(index, staging / "vectors", count, staging / "index")
        else:
            vectors = np.memmap(staging / "vectors", dtype=np.float32, mode="r", shape=(count, encoder.dim))
            fill(index, vectors, factory)
            faiss_module().write_index(index, str(staging / "index"))
        (staging / "vectors").unlink()
        counts = encoder.tally.since(before)
        sidecar = _describe(encoder, factory, template, count, counts, provenance or {})
        sidecar = seal({**sidecar, **hashes(staging)})
        (staging / SIDECAR).write_text(json.dumps(sidecar, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return sidecar


def check_replaceable(directory: Path, *, overwrite: bool) -> None:
    """Refuse to build over what exists: without `overwrite` anything, with it anything that is not an index."""
    directories.check_replaceable(directory, overwrite=overwrite, ours=_is_index, what="an index")


def _is_index(directory: Path) -> bool:
    return (directory / "index").is_file() and (directory / "docid").is_file()


def _encode_all(corpus: Iterable[Document], encoder: E2RankEncoder, staging: Path, template: str) -> int:
    """Write docids and raw float32 vectors, in corpus order; returns how many."""
    count, tokens = 0, 0

    def advance(_: int, more: int) -> None:
        nonlocal tokens
        tokens += more

    encoder.progress = advance
    with (
        (staging / "docid").open("w", encoding="utf-8") as docids,
        (staging / "vectors").open("wb") as vectors,
        tqdm(unit=" documents", desc="index", disable=None, file=sys.stderr) as bar,
    ):
        for chunk in _chunks(corpus):
            texts = [document_text(document.title, document.text, template) for document in chunk]
            encoder.encode_documents(texts).tofile(vectors)
            docids.writelines(f"{document.docid}\n" for document in chunk)
            count += len(chunk)
            bar.update(len(chunk))
            elapsed = bar.format_dict["elapsed"]
            bar.set_postfix_str(f"{tokens / max(elapsed, 1e-9):,.0f} tokens/s")
    encoder.progress = None
    return count


def _chunks(corpus: Iterable[Document]) -> Iterator[list[Document]]:
    iterator = iter(corpus)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        yield chunk


def empty_index(dim: int, factory: str) -> Any:
    """An index of FAISS by its factory string. E2RankError for what FAISS, or we, cannot make of it."""
    faiss = faiss_module()
    if "fs" in factory and "IVF" in factory:
        raise E2RankError(f"index type {factory!r}: FAISS cannot give the vectors of a fast-scan IVF index back")
    try:
        return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        reason = str(error).strip().rsplit("\n", 1)[-1]
        raise E2RankError(
            f"index type {factory!r}: FAISS cannot build it for {dim} dimensions and inner product: {reason}"
        ) from error


def fill(index: Any, vectors: Vectors, factory: str) -> None:
    """Train an empty index where it needs that, and add the vectors (n, dim). FAISS holds the whole of it in memory."""
    ivf = faiss_module().try_extract_index_ivf(index)
    try:
        if not index.is_trained:
            index.train(_training_sample(index, vectors))
        for start in range(0, len(vectors), _ADD):
            index.add(np.ascontiguousarray(vectors[start : start + _ADD]))
        if ivf is not None:  # FAISS looks into one list unless told; the file keeps this, for Pyserini too
            ivf.nprobe = math.ceil(math.sqrt(ivf.nlist))
    except RuntimeError as error:
        reason = str(error).strip().rsplit("Error: ", 1)[-1].splitlines()[0]
        raise E2RankError(
            f"index type {factory!r}: FAISS could not build it from {len(vectors)} vectors: {reason}"
        ) from error


def write_flat(index: Any, vectors: Path, count: int, output: Path) -> None:
    """What FAISS would write of an empty Flat index filled with `count` vectors, copied from a raw file to a file.

    FAISS's form is a header, the number of floats and the floats; the header tells the number of vectors behind four
    bytes each of type and width. So no more than a piece of it is ever in memory.
    """
    empty = faiss_module().serialize_index(index).tobytes()
    with output.open("wb") as written, vectors.open("rb") as raw:
        written.write(empty[:8] + count.to_bytes(8, "little") + empty[16:-8])
        written.write((count * index.d).to_bytes(8, "little"))
        shutil.copyfileobj(raw, written, _PIECE)


def _training_sample(index: Any, vectors: Vectors) -> Vectors:
    """At most 256 vectors per IVF list (or 65,536), drawn with a fixed seed."""
    ivf = faiss_module().try_extract_index_ivf(index)
    most = _SAMPLE * max(256, ivf.nlist if ivf is not None else 0)
    if len(vectors) <= most:
        return np.ascontiguousarray(vectors)
    rows = np.sort(np.random.default_rng(0).choice(len(vectors), most, replace=False))
    return np.ascontiguousarray(vectors[rows])


def _describe(
    encoder: E2RankEncoder,
    factory: str,
    template: str,
    count: int,
    counts: dict[str, int],
    provenance: dict[str, str],
) -> dict[str, Any]:
    return {
        "format": 1,
        "model": encoder.record,
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "dim": encoder.dim,
        "index_type": factory,
        "metric": "inner product",
        "document_template": template,
        "documents": count,
        "truncated": counts.get("documents_truncated", 0),
        "empty": counts.get("documents_empty", 0),
        "tokens": counts.get("tokens", 0),
        **provenance,
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONS} | {"faiss": faiss_package()},
    }
