"""How long does a query's reranking take, where does the time go, and what do other rerankers need with this backbone?

Random weights order at random: this measures time alone.
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from e2rank_pyserini.bench.arithmetic import Work, matmul_peak
from e2rank_pyserini.bench.material import of_length
from e2rank_pyserini.bench.rerankers import STRIDE, Candidates, candidates, makers, ours
from e2rank_pyserini.bench.yardstick import NOT_MEASURED, OURS, Turn, interleaved, prepared, row, rows_table, warmed
from e2rank_pyserini.choices import DEPTH
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.export import export
from e2rank_pyserini.index import DenseIndex
from e2rank_pyserini.indexing import build_index
from e2rank_pyserini.reranking import WINDOW
from e2rank_pyserini.timing import recording, so_far
from e2rank_pyserini.trec import write_run
from e2rank_pyserini.types import Document, E2RankError

Command = Callable[[Sequence[str]], None]  # runs one `e2rank` command by its words
_PARTS = ("tokenise", "encode", "gather", "score")


def given_to_all(encoder: E2RankEncoder, texts: Iterable[str], *, passage: int, queries: int, work: Path) -> Candidates:
    """The candidates, 100 passages of `passage` tokens, made of `texts`; as files of `work` too, with index and model.

    Raises E2RankError where the texts are too few, or the model's prompt or documents too short.
    """
    lengths = encoder.spec.lengths
    if encoder.tokens.eos_id is None:
        raise E2RankError(f"model {encoder.spec.name}: has no EOS, and only decoders generate what the peers do")
    if passage > lengths.document or WINDOW * passage > lengths.prompt:
        raise E2RankError(
            f"--passage {passage}: expected passages of at most {lengths.document} tokens, {WINDOW} of them in at most "
            f"{lengths.prompt}, as model {encoder.spec.name} reads"
        )
    passages = list(islice(of_length(texts, encoder.tokens.tokenizer, passage), DEPTH))
    if len(passages) < DEPTH:
        raise E2RankError(f"expected texts for {DEPTH} passages of {passage} tokens, found enough for {len(passages)}")
    given = candidates(passages, queries)
    with (work / "corpus.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"_id": docid, "text": text}) + "\n" for docid, text in given.texts.items())
    rows = (f"{qid}\t{' '.join(query.split())}\n" for qid, query in given.topics.items())
    (work / "topics.tsv").write_text("".join(rows), encoding="utf-8")
    write_run(work / "first.trec", given.run, tag="first")
    export(encoder, work / "exported")
    build_index((Document(docid, "", text) for docid, text in given.texts.items()), encoder, work / "index")
    return given


def by_query(encoder: E2RankEncoder, given: Candidates, names: Sequence[str], work: Path) -> dict[str, Any]:
    """Ours and every peer of these names over the queries in turn, each query by itself.

    A query is a turn of `yardstick.row`: tokens are those that the model read (and wrote), documents the candidates.
    `parts` are our mean seconds a query. Says on stderr when prompts were cut.
    """
    parts: list[dict[str, float]] = []
    read: dict[str, list[int]] = {}
    index, work_done = DenseIndex(work / "index", encoder), Work(encoder.network, encoder.spec.pooling)
    by_name = makers(given, encoder, work / "exported")
    first, depth = next(iter(given.run)), DEPTH if encoder.device.type == "cuda" else WINDOW
    peers = {OURS: warmed(lambda: ours(given, encoder, index), first, depth)}
    others, absent = prepared({name: partial(warmed, by_name[name], first, depth) for name in names})
    peers |= others

    uncut = encoder.tally.prompt_documents_truncated

    def run(peer: str, qid: str) -> None:
        with recording():
            read.setdefault(peer, []).extend(peers[peer](qid, DEPTH))
            if peer == OURS:
                parts.append(so_far())

    peak = matmul_peak(work_done.shapes, encoder.device, encoder.dtype)
    seconds = interleaved({peer: partial(run, peer) for peer in peers}, given.run, encoder.device)
    peak = max(peak, matmul_peak(work_done.shapes, encoder.device, encoder.dtype))
    rows = {
        peer: row(each, seconds[OURS], _turn(read[peer], work_done, len(each)), peak) for peer, each in seconds.items()
    }
    if cut := encoder.tally.prompt_documents_truncated - uncut:
        limit = encoder.spec.lengths.prompt
        print(f"e2rank bench: {cut} passages were cut for prompts of at most {limit} tokens", file=sys.stderr)
    encode, prompts = sum(one["encode"] for one in parts), read[OURS]
    return {
        "peers": rows,
        NOT_MEASURED: absent,
        "parts": {part: statistics.mean(one.get(part, 0.0) for one in parts) for part in _PARTS},
        "prompt tokens": statistics.mean(prompts),
        "peak tflop/s": peak / 1e12,
        "encoder tokens/s": sum(prompts) / encode,
        "encoder of peak": work_done.flops(prompts) / encode / peak,
        "p50 to flops at peak": rows[OURS]["p50"] / (statistics.median(work_done.flops([n]) for n in prompts) / peak),
    }


def _turn(read: Sequence[int], work_done: Work, queries: int) -> Turn:
    """The mean query of a peer that has read texts of these many tokens for all of them."""
    return Turn(sum(read) / queries, DEPTH, work_done.flops(read) / queries)


def by_command(encoder: E2RankEncoder, command: Command, rounds: int, work: Path) -> dict[str, Any]:
    """`e2rank rerank` over the same run, `rounds` times after one that does not count.

    Medians of the seconds in RUN.json, and the share of what is neither the model's work nor its loading.
    """
    words = ["rerank", "--device", str(encoder.device), "--window", str(WINDOW)]  # the model is the index's
    words += ["--dtype", encoder.dtype_name, "--batch-tokens", str(encoder.batch_tokens)]
    files = {"run": "first.trec", "index": "index", "topics": "topics.tsv", "corpus": "corpus.jsonl"}
    for option, name in {**files, "output": "run.trec"}.items():
        words += [f"--{option}", str(work / name)]
    kept = []
    for _ in range(rounds + 1):
        command(words)
        kept.append(json.loads((work / "run.trec.json").read_text(encoding="utf-8"))["seconds"])
    shares = [1 - one["encode"] / (one["total"] - one["load"]) for one in kept[1:]]
    seconds = {part: statistics.median(one.get(part, 0.0) for one in kept[1:]) for part in kept[-1]}
    return {"seconds": seconds, "all but the model": {"median": statistics.median(shares), "max": max(shares)}}


def shown(found: Mapping[str, Any]) -> str:
    """What was measured, as text and a table."""
    command = found["command"]
    parts = ", ".join(f"{part} {1000 * seconds:,.1f}" for part, seconds in found["parts"].items())
    told = ", ".join(f"{part} {seconds:.3f}" for part, seconds in command["seconds"].items())
    share = command["all but the model"]
    return (
        f"{found['model']}, {found['dtype']}: {found['queries']} queries, {DEPTH} candidates of {found['passage']} "
        f"tokens, prompts of {found['prompt tokens']:,.0f}; listwise: window {WINDOW}, stride {STRIDE}; matmul peak "
        f"{found['peak tflop/s']:.2f} TFLOP/s\n\n{rows_table(found['peers'])}\n\n"
        f"ms a query: {parts}; the encoder by itself: {found['encoder tokens/s']:,.0f} tokens/s, "
        f"{found['encoder of peak']:.0%} of the peak\n"
        f"p50 is {found['p50 to flops at peak']:.2f} times the prompt's FLOPs at the peak\n"
        f"e2rank rerank, all but the model, start-up excluded: median {share['median']:.1%}, max {share['max']:.1%} "
        f"(s: {told})"
    )
