"""How much disk, memory and time does a corpus take? Worked through for MS MARCO v1, v2.1 (segments) and ClueWeb22-B.

    python benchmarks/sizing.py [--model qwen3 | ENCODER] [--data NAME=DIR …] [--tokens-per-second N]
        [--json FILE]

Tokens a second are measured here (`--model qwen3`: random weights in the configuration of Qwen3-0.6B, all 28 layers; or
an encoder of ours), on `--documents` passages of mixed lengths, unless `--tokens-per-second` gives what `e2rank index`
printed on the machine in question. The number of documents are the collections' published ones; tokens a document are
the mean over the passages of DIR in WordPiece tokens, else the figure in COLLECTIONS, a guess; at most the model's cut.

Disk: `Flat` is documents x dim x 4 bytes. Building needs that for the shards as well, until the index stands. `PQ` is
`IVF65536,PQ64` (64 + 8 bytes a document, its centroids, in memory while it is built and memory-mapped afterwards).
Docids are taken as 20 bytes each on disk.
"""

import argparse
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from e2rank_pyserini import E2RankEncoder
from e2rank_pyserini.bench import material, yardstick

DAY = 86_400


class Collection(NamedTuple):
    """A corpus: how many documents, and tokens of each where no data says."""

    name: str
    documents: int
    tokens: float


COLLECTIONS = (
    Collection("MS MARCO v1 passages", 8_841_823, 80),
    Collection("MS MARCO v2.1 segments", 113_520_750, 300),
    Collection("ClueWeb22-B", 200_000_000, 1024),  # longer ones are cut
)


def encoder_of(model: str, work: Path) -> E2RankEncoder:
    if model != "qwen3":
        return E2RankEncoder.load(model)
    texts = [document.text for document in islice(material.synthetic(), 500)]
    place = material.qwen3(work / "qwen3", texts, layers=28)
    return E2RankEncoder.load(str(place), like="qwen3-embedding-0.6b", dtype="bfloat16")


def speed(encoder: E2RankEncoder, documents: int) -> float:
    """Tokens a second of `encode_documents`, after a warm-up."""
    texts = [material.as_text(document) for document in islice(material.synthetic(), documents)]
    encoder.encode_documents(texts[:4])
    before, started = encoder.tally.tokens, time.perf_counter()
    encoder.encode_documents(texts)
    return (encoder.tally.tokens - before) / (time.perf_counter() - started)


def mean_tokens(place: Path, most: int = 2000) -> float:
    """Of passages as WordPiece has them: the random model's tokenizer has never seen English."""
    tokenizer = E2RankEncoder.load("minilm").tokens.tokenizer
    texts = [material.as_text(document) for document in islice(material.passages(str(place)), most)]
    return sum(map(len, tokenizer(texts, verbose=False)["input_ids"])) / len(texts)


def row(collection: Collection, dim: int, rate: float) -> list[str]:
    count = collection.documents
    flat, quantised = count * dim * 4, count * 72 + 65536 * (dim * 4 + 8)
    days = count * collection.tokens / rate / DAY
    return [
        collection.name,
        f"{count / 1e6:,.1f} M",
        f"{collection.tokens:,.0f}",
        f"{flat / 1e9:,.0f} GB",
        f"{quantised / 1e9:,.1f} GB",
        f"{count * 20 / 1e9:,.1f} GB",
        f"{days:,.1f}",
        f"{count * collection.tokens / 1e6 / 3600:,.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen3")
    parser.add_argument("--documents", type=int, default=48, help="encoded to measure the speed")
    parser.add_argument("--data", nargs="*", default=[], metavar="PART=DIR", help="texts like those of a collection")
    parser.add_argument("--tokens-per-second", type=float)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    setting = yardstick.setting("cpu")
    yardstick.announce(setting)
    with tempfile.TemporaryDirectory() as work:
        encoder = encoder_of(arguments.model, Path(work))
        rate = arguments.tokens_per_second or speed(encoder, arguments.documents)
        given = dict(word.split("=", 1) for word in arguments.data)
        collections = [
            one._replace(tokens=mean_tokens(Path(place)))
            if (place := next((given[part] for part in given if part in one.name), None))
            else one
            for one in COLLECTIONS
        ]
        most = encoder.spec.lengths.document
        collections = [one._replace(tokens=min(one.tokens, most)) for one in collections]
        model, dim = encoder.spec.name, encoder.dim
    heads = ["collection", "documents", "tokens each", "Flat", "IVF65536,PQ64", "docids"]
    heads += [f"days at {rate:,.0f} tokens/s", "hours at 1 M tokens/s"]
    rows = [row(one, dim, rate) for one in collections]
    print(f"\n{model}, {dim} dimensions, {rate:,.0f} tokens/s")
    print(yardstick.table(heads, rows))
    found = {"model": model, "dim": dim, "tokens/s": rate, "rows": [dict(zip(heads, one, strict=True)) for one in rows]}
    yardstick.write_json(arguments.json, {"setting": setting, **found})


if __name__ == "__main__":
    main()
