"""Corpus -> index: encoded in shards that survive a kill, put together in a sibling directory, renamed into place."""

import importlib.metadata
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from e2rank_pyserini import directories, storage
from e2rank_pyserini.directories import built_aside
from e2rank_pyserini.docids import Docids
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.index import SIDECAR
from e2rank_pyserini.integrity import hashes
from e2rank_pyserini.kinds import faiss_module, faiss_package, flat_header, reason
from e2rank_pyserini.prompts import TITLE_AND_TEXT
from e2rank_pyserini.sealed import seal
from e2rank_pyserini.shards import folder
from e2rank_pyserini.shards.encoding import Engine, encode, here
from e2rank_pyserini.shards.folder import SHARD_DOCUMENTS, Shard, Shards, summed
from e2rank_pyserini.types import Document, E2RankError, Vectors

Blocks = Callable[[], Iterable[Vectors]]  # the vectors (n, dim) block by block, from the beginning at each call
_SAMPLE = 256  # training vectors per centroid, FAISS's own recommendation at most
_VERSIONS = ("e2rank-pyserini", "torch", "transformers", "tokenizers", "numpy")


def build_index(
    corpus: Iterable[Document],
    encoder: E2RankEncoder,
    directory: Path | str | None,
    *,
    factory: str = "Flat",
    template: str = TITLE_AND_TEXT,
    provenance: dict[str, str] | None = None,
    overwrite: bool = False,
    shards: Path | str | None = None,
    shard_documents: int = SHARD_DOCUMENTS,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Encode `corpus` into a FAISS directory that Pyserini reads; returns its sidecar (e2rank.json).

    `factory` is a FAISS factory string (inner product); one that needs training learns from a seeded sample.
    `provenance` goes into the sidecar as it is. A directory that exists is complete: everything is written beside it
    and renamed at the end. The corpus is encoded in shards of `shard_documents`, by `engine` (default: in this
    process), into `directory`.shards, which is removed at the end, or into the folder or fsspec URL `shards`, which is
    kept; without a `directory` there is nothing else. Shards that are there already are not encoded again: a build that
    was killed goes on, and gives the bytes that it would have given. Raises E2RankError for an existing directory
    (unless `overwrite`), `shards` in it, a corpus that is empty or has an error, a factory string that FAISS refuses,
    `shard_documents` below 1, or shards of another model or corpus.
    """
    if shard_documents < 1:
        raise E2RankError(f"shard_documents: expected at least 1, got {shard_documents}")
    directory = None if directory is None else Path(directory)
    shards = None if shards is None else str(shards)
    if directory is not None:
        check_replaceable(directory, overwrite=overwrite, shards=shards)
    index = empty_index(encoder.dim, factory)
    settings = {
        "model": encoder.record,
        "dtype": encoder.dtype_name,
        "dim": encoder.dim,
        "document_template": template,
        "shard_documents": shard_documents,
        **(provenance or {}),
    }
    place = shards or f"{directory}.shards"
    with folder.opened(place, settings, keep=shards is not None) as kept:
        encoded = encode(corpus, kept, engine or here(encoder))
        kept.complete(encoded)
        sidecar = _describe(settings, factory, encoded)
        if directory is not None:
            with built_aside(directory) as staging:
                _put_together(index, factory, kept, encoded, staging)
                if repeated := Docids([staging / "docid"]).repeated():
                    raise E2RankError(f"{directory}: {repeated} docids of the corpus appear more than once")
                sidecar = seal({**sidecar, **hashes(staging)})
                sidecar_text = json.dumps(sidecar, indent=1, ensure_ascii=False) + "\n"
                (staging / SIDECAR).write_text(sidecar_text, encoding="utf-8")
    return sidecar


def _put_together(index: Any, factory: str, kept: Shards, encoded: Sequence[Shard], staging: Path) -> None:
    """Write `index` and `docid` from the shards; every byte of a shard is checked on the way."""
    with (staging / "docid").open("wb") as docids:
        for shard in encoded:
            docids.writelines(kept.pieces(shard, "docid"))
    if isinstance(index, faiss_module().IndexFlat):
        with (staging / "index").open("wb") as written:
            written.write(flat_header(kept.dim, sum(shard.documents for shard in encoded)))
            written.writelines(block.data.cast("B") for block in kept.vectors(encoded))
        return
    fill(index, lambda: kept.vectors(encoded), factory)
    with (staging / "index").open("wb") as written:  # by FAISS itself a disk that fills at the end is no error
        try:
            faiss_module().write_index(index, faiss_module().PyCallbackIOWriter(written.write))
        except RuntimeError as error:
            raise E2RankError(f"{staging / 'index'}: cannot be written: {reason(error)}") from error


def check_replaceable(directory: Path, *, overwrite: bool, shards: str | None = None) -> None:
    """Refuse to build over what exists: without `overwrite` anything, with it anything that is not an index.

    And over the shards to be kept: what lies in `directory` goes when the index takes its name.
    """
    kept = storage.local(shards).resolve() if shards is not None and not storage.is_remote(shards) else None
    if kept is not None and kept.is_relative_to(directory.resolve()):
        raise E2RankError(f"{shards}: shards in {directory} itself, which the index replaces; name another folder")
    directories.check_replaceable(directory, overwrite=overwrite, ours=_is_index, what="an index")


def _is_index(directory: Path) -> bool:
    return (directory / "index").is_file() and (directory / "docid").is_file()


def empty_index(dim: int, factory: str) -> Any:
    """An index of FAISS by its factory string. E2RankError for what FAISS, or we, cannot make of it."""
    faiss = faiss_module()
    if "fs" in factory and "IVF" in factory:
        raise E2RankError(f"index type {factory!r}: FAISS cannot give the vectors of a fast-scan IVF index back")
    try:
        index, trial = (faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT) for _ in range(2))
        if trial.is_trained:  # some take no vector without a number of its own, and say so only now
            trial.add(np.zeros((1, dim), dtype=np.float32))
    except RuntimeError as error:
        raise E2RankError(
            f"index type {factory!r}: FAISS cannot build it for {dim} dimensions and inner product: {reason(error)}"
        ) from error
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:  # some kinds do not read it
        raise E2RankError(f"index type {factory!r}: FAISS builds it for metric {index.metric_type}, not inner product")
    return index


def fill(index: Any, blocks: Blocks, factory: str) -> None:
    """Train an empty index where it needs that, and add the vectors. FAISS holds the whole of it in memory.

    Raises E2RankError where FAISS cannot do that, or cannot give a vector back: some kinds only tell when trained.
    """
    ivf = faiss_module().try_extract_index_ivf(index)
    try:
        if not index.is_trained:
            sample = _training_sample(index, blocks)
            _train_transformations(index, sample)
            index.train(sample)
        with tqdm(unit=" vectors", desc=factory, disable=None, file=sys.stderr) as bar:
            for number, block in enumerate(blocks()):
                index.add(np.ascontiguousarray(block))
                bar.update(len(block))
                if number == 0:  # with few vectors: it makes a map of them
                    _check_given_back(index, ivf, factory)
        if ivf is not None:  # FAISS looks into one list unless told; the file keeps this, for Pyserini too
            ivf.nprobe = math.ceil(math.sqrt(ivf.nlist))
            graph = faiss_module().downcast_index(ivf.quantizer)
            if isinstance(graph, faiss_module().IndexHNSW):  # finds the lists: room for twice as many
                graph.hnsw.efSearch = max(graph.hnsw.efSearch, 2 * ivf.nprobe)
    except RuntimeError as error:
        raise E2RankError(
            f"index type {factory!r}: FAISS could not build it from {sum(map(len, blocks()))} vectors: {reason(error)}"
        ) from error


def _train_transformations(index: Any, sample: Vectors) -> None:
    """Train what turns vectors before they are stored, and have it turn alone: where it centres them too, as PCA does,
    products of what is left are no longer those of the vectors, and rank otherwise."""
    faiss = faiss_module()
    if not isinstance(index, faiss.IndexPreTransform):
        return
    for number in range(index.chain.size()):
        step = faiss.downcast_VectorTransform(index.chain.at(number))
        if not step.is_trained:
            step.train(sample)
        if getattr(step, "have_bias", False):
            step.have_bias = False
        sample = step.apply(sample)


def _check_given_back(index: Any, ivf: Any, factory: str) -> None:
    """Refuse an index that gives no vector back: what is reranked is read from it."""
    try:
        if ivf is not None:
            ivf.make_direct_map()
        index.reconstruct_batch(np.zeros(1, dtype=np.int64))
        if ivf is not None:
            ivf.make_direct_map(False)  # the file has none
    except RuntimeError as error:
        raise E2RankError(f"index type {factory!r}: FAISS cannot give its vectors back: {reason(error)}") from error


def _training_sample(index: Any, blocks: Blocks) -> Vectors:
    """At most 256 vectors per IVF list (or 65,536), drawn with a fixed seed."""
    ivf = faiss_module().try_extract_index_ivf(index)
    most = _SAMPLE * max(256, ivf.nlist if ivf is not None else 0)
    count = sum(map(len, blocks()))
    drawn = np.random.default_rng(0).choice(count, most, replace=False) if count > most else np.arange(count)
    rows = np.sort(drawn)
    sample = np.empty((len(rows), index.d), dtype=np.float32)
    done = 0
    for part in _rows_of(blocks(), rows):
        sample[done : done + len(part)] = part
        done += len(part)
    return sample


def _rows_of(blocks: Iterable[Vectors], rows: Any) -> Iterator[Vectors]:
    """The rows of these numbers (ascending), counted over all blocks."""
    start = 0
    for block in blocks:
        first, last = np.searchsorted(rows, [start, start + len(block)])
        yield block[rows[first:last] - start]
        start += len(block)


def _describe(settings: dict[str, Any], factory: str, encoded: Sequence[Shard]) -> dict[str, Any]:
    return {
        "format": 1,
        **{key: settings[key] for key in settings if key != "shard_documents"},
        "index_type": factory,
        "metric": "inner product",
        **summed(encoded),
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONS} | {"faiss": faiss_package()},
    }
