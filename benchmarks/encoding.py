"""How fast is a corpus encoded, against what a user would run instead? Peers in turn, on the same texts.

    python benchmarks/encoding.py [qwen3-4 | ENCODER …] [--data DIR] [--documents N] [--rounds N] [--json FILE]

`qwen3-4` (default) is a Qwen3 of 0.6B's width with 4 layers (`--layers`) and random weights, made here; any other word
is an encoder of ours with an EOS (smollm2-135m), exported by `e2rank export` for the peers. The texts are the first N
documents of the BEIR folder DIR, else synthetic ones of like lengths. Peers, all to the same length and with the same
EOS:

- `e2rank`: `e2rank index` without its start: tokenise, encode, write, FAISS (Flat), docids, sidecar.
- `pyserini`: its `qwen3` document encoder in batches of 64, as `pyserini.encode` runs it (float32), writing left out;
  `pyserini --fp16` is the same with the option that means bfloat16.
- `sentence-transformers`: `encode` in bfloat16 (`--dtype`), its default batch of 32, which it sorts by length.
- `transformers`: as on a model card: batches of 32 in corpus order, padded on the left, the same dtype.

Every peer first encodes 4 texts untimed. `times` is the peer's seconds over ours, of each round. `cosine` is the
least over the documents between the peer's vector and ours: the peers did the same work. TFLOP/s counts the matrix
products of the real tokens alone, and `of peak` is their share of what a layer's linear maps reach by themselves here,
in that dtype of ours.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yardstick

from e2rank_pyserini import DenseIndex, E2RankEncoder, java
from e2rank_pyserini.export import export
from e2rank_pyserini.indexing import build_index
from e2rank_pyserini.types import Document, Vectors

OURS = "e2rank"
PYSERINI_BATCH, CARD_BATCH, WARM_UP = 64, 32, 4
Encode = Callable[[list[Document]], Vectors]


def ours(encoder: E2RankEncoder, work: Path) -> Encode:
    def encode(documents: list[Document]) -> Vectors:
        place = work / "index"
        build_index(documents, encoder, place, overwrite=True)
        vectors, _ = DenseIndex(place).vectors([document.docid for document in documents])
        return vectors

    return encode


def pyserini(place: Path, device: str, length: int, *, bfloat16: bool) -> Encode:
    java.start()
    from pyserini.encode import document_encoder_class_map

    model = document_encoder_class_map["qwen3"](str(place), device=device, l2_norm=True, prefix="")

    def encode(documents: list[Document]) -> Vectors:
        texts = [yardstick.as_text(document) for document in documents]
        parts = [
            model.encode(texts[start : start + PYSERINI_BATCH], fp16=bfloat16, max_length=length)
            for start in range(0, len(texts), PYSERINI_BATCH)
        ]
        return np.vstack(parts)

    return encode


def sentence_transformers(place: Path, device: str, dtype: torch.dtype) -> Encode:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(place), device=device, model_kwargs={"dtype": dtype})

    def encode(documents: list[Document]) -> Vectors:
        found = model.encode([yardstick.as_text(one) for one in documents], convert_to_tensor=True)
        return found.float().cpu().numpy()

    return encode


def transformers(place: Path, device: str, dtype: torch.dtype, length: int) -> Encode:
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place, padding_side="left")
    model = AutoModel.from_pretrained(place, dtype=dtype).to(device).eval()

    @torch.no_grad()
    def encode(documents: list[Document]) -> Vectors:
        texts, parts = [yardstick.as_text(document) for document in documents], []
        for start in range(0, len(texts), CARD_BATCH):
            batch = tokenizer(
                texts[start : start + CARD_BATCH], padding=True, truncation=True, max_length=length, return_tensors="pt"
            ).to(device)
            last = model(**batch).last_hidden_state[:, -1]
            parts.append(torch.nn.functional.normalize(last.float(), dim=-1).cpu().numpy())
        return np.vstack(parts)

    return encode


def loaded(name: str, arguments: argparse.Namespace, work: Path, documents: list[Document]) -> E2RankEncoder:
    if name == "qwen3-4":
        texts = [yardstick.as_text(document) for document in documents]
        name = str(yardstick.qwen3(work / "qwen3", texts, layers=arguments.layers))
    return E2RankEncoder.load(name, device=arguments.device, dtype=arguments.dtype, batch_tokens=arguments.batch_tokens)


def measured(name: str, arguments: argparse.Namespace, documents: list[Document], work: Path) -> dict[str, Any]:
    encoder = loaded(name, arguments, work, documents)
    place, device, length = work / "exported", str(encoder.device), encoder.spec.lengths.document
    export(encoder, place)
    peers: dict[str, Encode] = {
        OURS: ours(encoder, work),
        "pyserini": pyserini(place, device, length, bfloat16=False),
        "pyserini --fp16": pyserini(place, device, length, bfloat16=True),
        "sentence-transformers": sentence_transformers(place, device, encoder.dtype),
        "transformers": transformers(place, device, encoder.dtype, length),
    }
    peers = {peer: run for peer, run in peers.items() if peer == OURS or peer in (arguments.peers or peers)}
    for run in peers.values():
        run(documents[:WARM_UP])
    vectors: dict[str, Vectors] = {}

    def kept(peer: str, run: Encode) -> Callable[[], None]:
        return lambda: vectors.update({peer: run(documents)})

    seconds = yardstick.interleaved({peer: kept(peer, run) for peer, run in peers.items()}, arguments.rounds)
    lengths = [len(row) for row in encoder.tokens.documents([yardstick.as_text(one) for one in documents])]
    work_done = yardstick.Work(encoder.network.config)
    peak = yardstick.matmul_peak(work_done.shapes, device, encoder.dtype)
    rows = {
        peer: {
            "seconds": each,
            "times": yardstick.ratios(each, seconds[OURS]),
            "tokens/s": sum(lengths) / statistics.median(each),
            "documents/s": len(documents) / statistics.median(each),
            "tflop/s": work_done.flops(lengths) / statistics.median(each) / 1e12,
            "of peak": work_done.flops(lengths) / statistics.median(each) / peak,
            "cosine": float((vectors[peer] * vectors[OURS]).sum(axis=1).min()),
        }
        for peer, each in seconds.items()
    }
    about = {"dtype": str(encoder.dtype).removeprefix("torch."), "tokens": sum(lengths), "longest": max(lengths)}
    return {"model": name, "documents": len(documents), **about, "peak tflop/s": peak / 1e12, "peers": rows}


def shown(found: dict[str, Any]) -> str:
    head = (
        f"\n{found['model']}: {found['documents']} documents, {found['tokens']} tokens, the longest "
        f"{found['longest']}, {found['dtype']}; matmul peak {found['peak tflop/s']:.2f} TFLOP/s\n\n"
    )
    heads = ["", "times min", "median", "max", "tokens/s", "documents/s", "TFLOP/s", "of peak", "cosine"]
    rows = [
        [
            peer,
            *(f"{row['times'][key]:.2f}" for key in ("min", "median", "max")),
            f"{row['tokens/s']:,.0f}",
            f"{row['documents/s']:.1f}",
            f"{row['tflop/s']:.2f}",
            f"{row['of peak']:.0%}",
            f"{row['cosine']:.5f}",
        ]
        for peer, row in found["peers"].items()
    ]
    return head + yardstick.table(heads, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="*", metavar="ENCODER", default=["qwen3-4"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--documents", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=4, help="of qwen3-4; 28 are those of the 0.6B model")
    parser.add_argument("--peers", nargs="+", metavar="NAME", help="only these beside ours")
    parser.add_argument("--device", help="cuda where there is one (default), else cpu")
    parser.add_argument("--dtype")
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.device and arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print("skipped: there is no CUDA device here", file=sys.stderr)
        return
    documents = yardstick.passages(arguments.data, arguments.documents)
    setting = yardstick.setting(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    yardstick.announce(setting)
    results = []
    for name in arguments.encoders:
        with tempfile.TemporaryDirectory() as work:
            results.append(measured(name, arguments, documents, Path(work)))
        print(shown(results[-1]), flush=True)
    yardstick.write_json(arguments.json, {"setting": setting, "results": results})


if __name__ == "__main__":
    main()
