"""How fast is a corpus encoded, against what a user would run instead? Peers in turn, on the same texts."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from e2rank_pyserini.bench.arithmetic import Work, matmul_peak
from e2rank_pyserini.bench.encoders import makers, ours
from e2rank_pyserini.bench.material import as_text
from e2rank_pyserini.bench.yardstick import NOT_MEASURED, OURS, Turn, interleaved, prepared, row, rows_table, warmed
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.export import export
from e2rank_pyserini.types import Document, Vectors

_WARM_UP = 4  # documents; on a GPU all of them, since kernels are chosen and memory is laid out by shapes


def measure(
    encoder: E2RankEncoder, documents: Sequence[Document], names: Sequence[str], rounds: int, work: Path
) -> dict[str, Any]:
    """Every peer of these names and ours over the documents, `rounds` times in turn; `work` is an empty folder.

    All read the same texts to the same length, with the same EOS. A round is a turn of `yardstick.row`, whose FLOPs are
    those of the real tokens alone and whose peak is that of our dtype. `cosine` is the least over the documents between
    the peer's vector and ours: the peers did the same work.
    """
    work_done = Work(encoder.network, encoder.spec.pooling)
    export(encoder, work / "exported")
    by_name = makers(encoder, work / "exported")
    some = documents if encoder.device.type == "cuda" else documents[:_WARM_UP]
    peers = {OURS: warmed(lambda: ours(encoder, work), some)}
    others, absent = prepared({name: partial(warmed, by_name[name], some) for name in names})
    peers |= others
    vectors: dict[str, Vectors] = {}

    def kept(peer: str, _: int) -> None:
        vectors[peer] = peers[peer](documents)

    peak = matmul_peak(work_done.shapes, encoder.device, encoder.dtype)
    seconds = interleaved({peer: partial(kept, peer) for peer in peers}, range(rounds), encoder.device)
    lengths = [len(ids) for ids in encoder.tokens.documents([as_text(one) for one in documents])]
    peak = max(peak, matmul_peak(work_done.shapes, encoder.device, encoder.dtype))
    turn = Turn(sum(lengths), len(documents), work_done.flops(lengths))
    rows = {
        peer: row(each, seconds[OURS], turn, peak)
        | {"cosine": float((vectors[peer] * vectors[OURS]).sum(axis=1).min())}
        for peer, each in seconds.items()
    }
    about = {"dtype": encoder.dtype_name, "batch tokens": encoder.batch_tokens}
    texts = {"documents": len(documents), "tokens": sum(lengths), "longest": max(lengths)}
    return {**about, **texts, "rounds": rounds, "peak tflop/s": peak / 1e12, "peers": rows, NOT_MEASURED: absent}


def shown(found: Mapping[str, Any]) -> str:
    """What `measure` gave, as text and a table."""
    return (
        f"{found['model']}, {found['dtype']}: {found['documents']} documents, {found['tokens']:,} tokens, the longest "
        f"{found['longest']}, {found['rounds']} rounds; matmul peak {found['peak tflop/s']:.2f} TFLOP/s\n\n"
        f"{rows_table(found['peers'], ['cosine'])}"
    )
