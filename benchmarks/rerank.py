"""How long does a query's reranking take, where does the time go, and what do other rerankers need with this backbone?

    python benchmarks/rerank.py [ENCODER] [--data DIR] [--queries N] [--passage TOKENS] [--peers NAME …] [--json FILE]

ENCODER is by default a random Qwen3 of 0.6B's width with `--layers` layers, made here. Random weights order at random:
this measures time alone. The candidates of every query are the same 100 passages in another order, cut to `--passage`
tokens; their vectors are in an index. In turn, query by query, in one process:

- `e2rank`: one prompt of 20 passages, the stored vectors of all 100 rescored (`rerank` of the library).
- `pointwise`: query and passage in a prompt each, the logit of yes against no at its last token, batches by length of
  the same token budget as ours, only the last token's logits are computed.
- `listwise`: RankGPT's sliding windows (20 passages, stride 10, from the end to the front: 9 windows), each generates
  as many tokens as a permutation of 20 has, greedily, with the cache of keys and values.

`times` is the peer's seconds over ours, of each query. Then `e2rank rerank` itself over the same run, `--rounds` times
after one untimed: seconds by part from RUN.json, and the share of all but the model, its loading excluded.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yardstick

from e2rank_pyserini import DenseIndex, E2RankEncoder, rerank, write_run
from e2rank_pyserini.cli import main as e2rank
from e2rank_pyserini.forward import batches, padded
from e2rank_pyserini.indexing import build_index
from e2rank_pyserini.reranking import DEPTH, WINDOW
from e2rank_pyserini.timing import recording, so_far
from e2rank_pyserini.types import Document, Hit, ListwisePrompt

STRIDE = 10
PARTS = ("tokenise", "encode", "gather", "score")
Rerank = Callable[[str], None]  # told the qid


class Setup:
    """Passages in an index and on disk, topics, a first-stage run, and the encoder."""

    def __init__(self, arguments: argparse.Namespace, work: Path) -> None:
        documents = yardstick.passages(arguments.data, DEPTH)
        texts = [yardstick.as_text(document) for document in documents]
        name = arguments.encoder or str(yardstick.qwen3(work / "model", texts, layers=arguments.layers))
        self.name, self.work = name, work
        self.encoder = E2RankEncoder.load(name, device=arguments.device, dtype=arguments.dtype)
        self.texts = {one.docid: self._cut(text, arguments.passage) for one, text in zip(documents, texts, strict=True)}
        cut = [Document(docid, "", text) for docid, text in self.texts.items()]
        with (work / "corpus.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"_id": one.docid, "text": one.text}) + "\n" for one in cut)
        build_index(cut, self.encoder, work / "index")
        self.index = DenseIndex(work / "index", self.encoder)
        draw = random.Random(0)
        self.topics = {str(number): " ".join(texts[number].split()[:12]) for number in range(arguments.queries)}
        orders = {qid: draw.sample(list(self.texts), len(self.texts)) for qid in self.topics}
        self.run = {
            qid: [Hit(docid, 1 - place / 1000) for place, docid in enumerate(order)] for qid, order in orders.items()
        }
        write_run(work / "first.trec", self.run, tag="first")
        rows = "".join(f"{qid}\t{query}\n" for qid, query in self.topics.items())
        (work / "topics.tsv").write_text(rows, encoding="utf-8")

    def _cut(self, text: str, tokens: int) -> str:
        ends = self.encoder.tokens.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        return text if len(ends) <= tokens else text[: ends[tokens - 1][1]]

    def prompt_tokens(self, qid: str) -> int:
        documents = tuple(self.texts[hit.docid] for hit in self.run[qid][:WINDOW])
        prompt = ListwisePrompt(self.topics[qid], documents, "Rank these")
        return len(self.encoder.tokens.fit(prompt)[1])


def ours(setup: Setup, parts: list[dict[str, float]]) -> Rerank:
    def run(qid: str) -> None:
        with recording():
            rerank({qid: setup.run[qid]}, setup.topics, setup.texts, setup.index, setup.encoder, window=WINDOW)
            parts.append(so_far())

    return run


def causal_model(setup: Setup) -> Any:
    from transformers import AutoModelForCausalLM

    encoder = setup.encoder
    return AutoModelForCausalLM.from_pretrained(setup.name, dtype=encoder.dtype).to(encoder.device).eval()


def pointwise(setup: Setup, model: Any) -> Rerank:
    encoder, tokenizer = setup.encoder, setup.encoder.tokens.tokenizer
    words = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("yes", "no")]

    @torch.inference_mode()
    def run(qid: str) -> None:
        prompts = [
            f"<|im_start|>user\nQuery: {setup.topics[qid]}\nDocument: {setup.texts[hit.docid]}\nIs the document "
            "relevant to the query? Answer yes or no.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
            for hit in setup.run[qid][:DEPTH]
        ]
        rows = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        scores = np.zeros(len(rows))
        for group in batches([len(row) for row in rows], encoder.forward.batch_tokens):
            ids, mask = (part.to(encoder.device) for part in padded([rows[number] for number in group]))
            hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
            last = hidden[torch.arange(len(group), device=ids.device), mask.sum(dim=1) - 1]
            logits = model.lm_head(last)[:, words].float().cpu()
            scores[group] = (logits[:, 0] - logits[:, 1]).numpy()
        np.argsort(-scores, kind="stable")

    return run


def listwise(setup: Setup, model: Any) -> Rerank:
    tokenizer, device = setup.encoder.tokens.tokenizer, setup.encoder.device
    answer = " > ".join(f"[{number}]" for number in range(1, WINDOW + 1))
    length = len(tokenizer(answer, add_special_tokens=False)["input_ids"])

    @torch.inference_mode()
    def run(qid: str) -> None:
        docids = [hit.docid for hit in setup.run[qid][:DEPTH]]
        for start in range(DEPTH - WINDOW, -1, -STRIDE):
            listed = "\n".join(
                f"[{number}] {setup.texts[docid]}"
                for number, docid in enumerate(docids[start : start + WINDOW], start=1)
            )
            text = (
                f"<|im_start|>user\nRank the {WINDOW} passages by their relevance to the query: {setup.topics[qid]}\n"
                f"{listed}\nAnswer with the identifiers alone, such as [2] > [1].<|im_end|>\n<|im_start|>assistant\n"
                "<think>\n\n</think>\n\n"
            )
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"].to(device)
            found = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=length,
                max_new_tokens=length,
                pad_token_id=tokenizer.pad_token_id,
            )
            assert found.shape[1] == ids.shape[1] + length  # noise, so the order stays as it is

    return run


def by_query(setup: Setup, names: list[str]) -> dict[str, Any]:
    parts: list[dict[str, float]] = []
    peers: dict[str, Rerank] = {"e2rank": ours(setup, parts)}
    model = causal_model(setup) if names else None
    made = {"pointwise": pointwise, "listwise": listwise}
    peers |= {name: made[name](setup, model) for name in names}
    peers["e2rank"](next(iter(setup.run)))  # untimed
    parts.clear()
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for qid in setup.run:
        for name, run in peers.items():
            started = time.perf_counter()
            run(qid)
            seconds[name].append(time.perf_counter() - started)
    tokens = [setup.prompt_tokens(qid) for qid in setup.run]
    work = yardstick.Work(setup.encoder.network.config)
    peak = yardstick.matmul_peak(work.shapes, str(setup.encoder.device), setup.encoder.dtype)
    encode, flops = [one["encode"] for one in parts], [work.flops([count]) for count in tokens]
    rows = {
        name: {
            "seconds": each,
            "p50": float(np.percentile(each, 50)),
            "p95": float(np.percentile(each, 95)),
            "times": yardstick.ratios(each, seconds["e2rank"]),
        }
        for name, each in seconds.items()
    }
    return {
        "peers": rows,
        "parts": {part: statistics.mean(one.get(part, 0.0) for one in parts) for part in PARTS},
        "prompt tokens": statistics.mean(tokens),
        "tokens/s": sum(tokens) / sum(encode),
        "peak tflop/s": peak / 1e12,
        "of peak": sum(flops) / sum(encode) / peak,
        "p50 to flops at peak": rows["e2rank"]["p50"] / (statistics.median(flops) / peak),
    }


def by_command(setup: Setup, rounds: int) -> dict[str, Any]:
    """Medians of the seconds in RUN.json, and the share of what is neither the model's work nor its loading."""
    output = setup.work / "run.trec"
    words = ["rerank", "--run", "first.trec", "--index", "index", "--topics", "topics.tsv", "--corpus", "corpus.jsonl"]
    words = [str(setup.work / word) if "." in word or word == "index" else word for word in words]
    words += ["--encoder", setup.name, "--dtype", str(setup.encoder.dtype).removeprefix("torch.")]
    words += ["--device", str(setup.encoder.device), "--window", str(WINDOW), "--output", str(output)]
    kept = []
    for _ in range(rounds + 1):
        if e2rank(words):
            raise SystemExit(f"failed: e2rank {' '.join(words)}")
        kept.append(json.loads(Path(f"{output}.json").read_text(encoding="utf-8"))["seconds"])
    shares = [1 - one["encode"] / (one["total"] - one["load"]) for one in kept[1:]]
    seconds = {part: statistics.median(one.get(part, 0.0) for one in kept[1:]) for part in kept[-1]}
    return {"seconds": seconds, "all but the model": {"median": statistics.median(shares), "max": max(shares)}}


def shown(found: dict[str, Any], queries: int) -> str:
    one, command = found["by query"], found["by command"]
    heads = ["", "p50 s", "p95 s", "times min", "median", "max"]
    rows = [
        [name, f"{row['p50']:.2f}", f"{row['p95']:.2f}"]
        + [f"{row['times'][key]:.1f}" for key in ("min", "median", "max")]
        for name, row in one["peers"].items()
    ]
    parts = ", ".join(f"{part} {1000 * seconds:,.1f}" for part, seconds in one["parts"].items())
    share = command["all but the model"]
    return (
        f"\n{queries} queries, {DEPTH} candidates, prompts of {one['prompt tokens']:,.0f} tokens, {found['dtype']}\n\n"
        f"{yardstick.table(heads, rows)}\n\nms a query: {parts}\n{one['tokens/s']:,.0f} tokens/s, {one['of peak']:.0%} "
        f"of the matmul peak ({one['peak tflop/s']:.2f} TFLOP/s); p50 is {one['p50 to flops at peak']:.2f} times the "
        f"prompt's FLOPs at that peak\ne2rank rerank, all but the model, start-up excluded: median "
        f"{share['median']:.1%}, max {share['max']:.1%} ({json.dumps(command['seconds'])})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", nargs="?", metavar="ENCODER", help="default: a random Qwen3")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--queries", type=int, default=3)
    parser.add_argument("--passage", type=int, default=350, metavar="TOKENS")
    parser.add_argument("--layers", type=int, default=4, help="of the random model; 28 are those of the 0.6B model")
    parser.add_argument("--peers", nargs="*", choices=["pointwise", "listwise"], default=["pointwise", "listwise"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", help="cuda where there is one (default), else cpu")
    parser.add_argument("--dtype")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.device and arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print("skipped: there is no CUDA device here", file=sys.stderr)
        return
    setting = yardstick.setting(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    yardstick.announce(setting)
    with tempfile.TemporaryDirectory() as work:
        setup = Setup(arguments, Path(work))
        found = {
            "dtype": str(setup.encoder.dtype).removeprefix("torch."),
            "by query": by_query(setup, arguments.peers),
            "by command": by_command(setup, arguments.rounds),
        }
    print(shown(found, arguments.queries), flush=True)
    yardstick.write_json(arguments.json, {"setting": setting, "results": found})


if __name__ == "__main__":
    main()
