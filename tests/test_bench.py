"""`e2rank bench`: FLOPs by hand, peers in turn, what is told of those that are not here. No assertion on seconds."""

import importlib.util
import itertools
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    MixtralConfig,
    MixtralModel,
    Qwen3Config,
    Qwen3Model,
)

from e2rank_pyserini.bench import material, yardstick
from e2rank_pyserini.bench.arithmetic import Work, matmul_peak
from e2rank_pyserini.bench.bench_command import ENCODERS, RERANKERS
from e2rank_pyserini.cli import main
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.reranking import DEPTH, WINDOW
from e2rank_pyserini.types import E2RankError

pytestmark = pytest.mark.usefixtures("one_thread")  # quick on a busy machine
CPU = torch.device("cpu")
HIDDEN = {"vocab_size": 50, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
RATES = {"seconds", "p50", "p95", "times", "tokens/s", "documents/s", "tflop/s", "of peak"}


def decoder(**more: Any) -> Qwen3Model:
    config = Qwen3Config(**HIDDEN, num_attention_heads=4, num_key_value_heads=2, head_dim=16, **more)
    return Qwen3Model._from_config(config, attn_implementation="eager").eval()


def both_ways() -> BertModel:
    return BertModel._from_config(BertConfig(**HIDDEN, num_attention_heads=4), attn_implementation="eager").eval()


def counted(network: Any, tokens: int) -> dict[str, int]:
    """FLOPs by operation, as torch counts them while the network reads one text."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(input_ids=torch.ones(1, tokens, dtype=torch.long))
    return {str(operation): count for operation, count in counter.get_flop_counts()["Global"].items()}


def test_flops_of_a_decoder_by_hand():
    """Two layers: q 64x64, k and v 64x32, o 64x64, gate, up and down 64x128 are 36,864 weights each."""
    work = Work(decoder())
    assert work.flops([3]) == 2 * (2 * 36_864 * 3 + 2 * 2 * 64 * (1 + 2 + 3))
    assert work.flops([3, 1, 3]) == 2 * work.flops([3]) + work.flops([1])


def test_of_the_last_token_alone_are_the_last_layers_maps_behind_attention_counted():
    """o 64x64, gate, up and down 64x128 are 28,672 weights."""
    half = decoder().bfloat16()
    assert Work(half, "last").flops([3]) == Work(half).flops([3]) - 2 * 28_672 * 2
    assert Work(half, "last").flops([1]) == Work(half).flops([1])
    assert Work(decoder(), "last").flops([3]) == Work(half).flops([3])  # float32: nothing is left out
    assert Work(both_ways(), "last").flops([3]) == Work(both_ways()).flops([3])  # is not read by `packed`


def test_flops_of_an_encoder_by_hand():
    """Two layers: q, k, v and o 64x64, up and down 64x128 are 32,768 weights each; every token sees every other."""
    assert Work(both_ways()).flops([3]) == 2 * (2 * 32_768 * 3 + 2 * 2 * 64 * 3 * 3)


@pytest.mark.parametrize("tokens", [1, 9, 40])
def test_flops_are_those_that_torch_counts(tokens: int):
    """Torch counts all of a decoder's n² pairs, we those that are needed, n (n + 1) / 2."""
    found = counted(decoder(), tokens)
    attention = found.pop("aten.bmm")
    assert Work(decoder()).flops([tokens]) == sum(found.values()) + attention * (tokens + 1) / (2 * tokens)
    found, pooler = counted(both_ways(), tokens), 2 * 64 * 64
    assert Work(both_ways()).flops([tokens]) == sum(found.values()) - pooler


def test_a_model_of_other_parts_is_refused():
    size = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 9}
    experts = MixtralConfig(**size, num_attention_heads=4, num_key_value_heads=2, num_local_experts=2)
    with pytest.raises(E2RankError, match=r"a model of type mixtral: .* and others: its FLOPs cannot be told"):
        Work(MixtralModel(experts))
    with pytest.raises(E2RankError, match=r"a model of type gpt2: expected the same linear maps in each of its 1"):
        Work(GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=9)))


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def test_the_peak_is_the_best_product_over_its_time(monkeypatch: pytest.MonkeyPatch):
    """On a clock that says one second for whatever stands between two looks at it."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    with FlopCounterMode(display=False) as counter:
        peak = matmul_peak([(8, 16), (16, 8)], CPU, torch.float32)
    square, maps = 2 * 1024**3, [2 * rows * 2 * 8 * 16 for rows in (256, 1024, 2048, 4096)]
    assert peak == max(square, *maps)
    assert counter.get_total_flops() == 2 * (square + sum(maps))  # each twice, at least


def test_peers_take_turns(monkeypatch: pytest.MonkeyPatch):
    clock, order = Clock(), []
    monkeypatch.setattr(time, "perf_counter", clock)

    def peer(name: str, seconds: float) -> Callable[[float], None]:
        def run(turn: float) -> None:
            order.append((name, turn))
            clock.time += seconds * turn

        return run

    found = yardstick.interleaved({"a": peer("a", 1), "b": peer("b", 3)}, [1, 2], CPU)
    assert order == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert found == {"a": [1, 2], "b": [3, 6]}


def test_a_row_by_hand():
    row = yardstick.row([6, 2, 4, 8], [1, 2, 1, 1], yardstick.Turn(tokens=100, documents=10, flops=1e13), peak=4e12)
    assert row["times"] == {"min": 1, "median": 5, "max": 8}
    assert (row["p50"], row["tokens/s"], row["documents/s"]) == (5, 20, 2)
    assert row["p95"] == pytest.approx(6 + 0.85 * 2)  # between the third and the fourth of 2, 4, 6, 8
    assert (row["tflop/s"], row["of peak"]) == (2, 0.5)
    line = yardstick.rows_table({"us": row}).splitlines()[-1]
    assert line == "| us | 1.00 | 5.00 | 8.00 | 5 | 7.7 | 20 | 2.0 | 2.00 | 50% |"


def test_synthetic_texts_have_the_lengths_that_are_said():
    words = [len(one.text.split()) for one in itertools.islice(material.synthetic(), 2000)]
    for found, said in zip(statistics.quantiles(words, n=4), (130, 190, 275), strict=True):
        assert found == pytest.approx(said, rel=0.1)
    again = list(itertools.islice(material.synthetic(), 3))
    assert again == list(itertools.islice(material.synthetic(), 3))
    assert again[0].text != again[1].text


def test_passages_are_cut_and_joined_to_their_length(tiny_model: Path):
    tokenizer = E2RankEncoder.load(str(tiny_model), device="cpu").tokens.tokenizer
    texts = ["wing", "flow pressure " * 30, "jet " * 9, "short"]
    found = list(material.of_length(texts, tokenizer, 12))
    assert [text[:9] for text in found] == ["wing flow", "jet jet j"]
    for text in found:
        assert abs(len(tokenizer(text)["input_ids"]) - 12) <= 1


def test_the_random_model_has_the_layers_of_the_06b(tmp_path: Path):
    """Its card says 0.44 B parameters without embeddings; 28 layers."""
    texts = [one.text for one in itertools.islice(material.synthetic(), 20)]
    found = Work(E2RankEncoder.load(str(material.qwen3(tmp_path, texts, layers=1)), device="cpu").network)
    assert round(28 * sum(inputs * outputs for inputs, outputs in found.shapes) / 1e9, 2) == 0.44


def bench(*words: str, place: Path) -> dict[str, Any]:
    """What `e2rank bench` wrote as JSON."""
    assert main(["bench", *words, "--json", str(place / "found.json")]) == 0
    found: dict[str, Any] = json.loads((place / "found.json").read_text())
    assert found["bench"] == words[0]
    return found


def is_of_the_form(found: dict[str, Any], names: tuple[str, ...], printed: str) -> None:
    """The machine, its peak, every peer or why not; the table says the same."""
    assert {"processor", "cores", "threads", "device", "load", "versions"} <= found["setting"].keys()
    assert {"torch", "transformers", "pyserini", "sentence-transformers"} <= found["setting"]["versions"].keys()
    assert {*found["peers"], *found["not measured"]} == {"e2rank", *names}
    lines = {line.split("|")[1].strip(): line for line in printed.splitlines() if line.startswith("|")}
    for name, row in found["peers"].items():
        assert row.keys() >= RATES
        assert row["tflop/s"] / row["of peak"] == pytest.approx(found["peak tflop/s"])
        assert f" {row['tokens/s']:,.0f} | {row['documents/s']:,.1f} |" in lines[name]
    assert found["peers"]["e2rank"]["times"] == {"min": 1, "median": 1, "max": 1}


def device(name: str) -> Any:
    missing = name == "cuda" and not torch.cuda.is_available()
    marks = [pytest.mark.gpu, pytest.mark.skipif(missing, reason="no CUDA device")] if name == "cuda" else []
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("where", [device("cpu"), device("cuda")])
def test_encode(tiny_model: Path, beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str):
    words = ["encode", "--encoder", str(tiny_model), "--data", str(beir), "--documents", "6", "--rounds", "2"]
    found = bench(*words, "--device", where, place=tmp_path)
    is_of_the_form(found, ENCODERS, capsys.readouterr().out)
    absent = set() if importlib.util.find_spec("sentence_transformers") else {"sentence-transformers"}
    assert set(found["not measured"]) == absent
    for name in set(ENCODERS) - absent:
        assert len(found["peers"][name]["seconds"]) == 2
        assert found["peers"][name]["cosine"] > (0.999 if name == "pyserini-fp16" else 1 - 1e-5)
    rows = E2RankEncoder.load(str(tiny_model), device="cpu").tokens.documents(
        [material.as_text(one) for one in itertools.islice(material.passages(str(beir)), 6)]
    )
    assert (found["documents"], found["tokens"]) == (6, sum(map(len, rows)))
    ours = found["peers"]["e2rank"]
    assert ours["tokens/s"] / ours["documents/s"] == pytest.approx(found["tokens"] / 6)


def test_the_default_model_is_random_and_named_by_its_layers(tmp_path: Path):
    found = bench("encode", "--layers", "1", "--documents", "2", "--rounds", "1", "--peers", place=tmp_path)
    assert (found["model"], found["documents"], list(found["peers"])) == ("qwen3-1", 2, ["e2rank"])


def test_an_encoder_without_eos(bert: Path, beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Peers that pool by means give its vectors; Pyserini's class does not, and is told as not measured."""
    words = ["--encoder", str(bert), "--data", str(beir), "--documents", "6", "--rounds", "1"]
    found = bench("encode", *words, "--device", "cpu", place=tmp_path)
    assert set(found["not measured"]) >= {"pyserini", "pyserini-fp16"}
    assert "not pooling mean without an EOS" in found["not measured"]["pyserini"]
    assert "e2rank bench: pyserini not measured: its qwen3 class" in capsys.readouterr().err
    for name in {"sentence-transformers", "transformers"} & found["peers"].keys():
        assert found["peers"][name]["cosine"] > 1 - 1e-5
    assert main(["bench", "rerank", "--encoder", str(bert), "--device", "cpu"]) == 1
    assert "has no EOS, and only decoders generate what the peers do" in capsys.readouterr().err


@pytest.mark.parametrize("where", [device("cpu"), device("cuda")])
def test_rerank(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str):
    words = ["rerank", "--encoder", str(tiny_model), "--queries", "2", "--passage", "10", "--rounds", "1"]
    found = bench(*words, "--device", where, place=tmp_path)
    printed = capsys.readouterr()
    is_of_the_form(found, RERANKERS, printed.out)
    assert found["not measured"] == {}
    assert {name: len(row["seconds"]) for name, row in found["peers"].items()} == dict.fromkeys(found["peers"], 2)
    assert found["parts"].keys() == {"tokenise", "encode", "gather", "score"}
    assert min(found["parts"].values()) > 0
    assert found["p50 to flops at peak"] > 0
    assert {"load", "encode", "total"} <= found["command"]["seconds"].keys()
    assert found["command"]["all but the model"].keys() == {"median", "max"}
    assert "were cut for prompts" not in printed.err
    ours, listwise = found["peers"]["e2rank"], found["peers"]["listwise"]
    assert ours["tokens/s"] * ours["p50"] == pytest.approx(found["prompt tokens"])
    assert 20 * 10 < found["prompt tokens"] < 512
    assert 9 * 20 * 10 < listwise["tokens/s"] * listwise["p50"] < 9 * 1024  # nine windows
    assert listwise["documents/s"] * listwise["p50"] == pytest.approx(DEPTH)


class Recorder(torch.nn.Module):
    """A language model that remembers what it reads, and in what steps; its last word is always the same."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.read: list[torch.Tensor] = []
        self.lm_head = torch.nn.Linear(4, vocabulary)

    def model(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        assert not use_cache  # nothing is generated
        self.read.append(input_ids)

        class Output:
            last_hidden_state = torch.zeros(*input_ids.shape, 4)

        return Output

    def generate(self, ids: torch.Tensor, *, max_new_tokens: int, **_: Any) -> torch.Tensor:
        self.read.append(ids)
        return torch.cat([ids, ids.new_ones(1, max_new_tokens)], dim=1)


def test_what_the_rerankers_read(tiny_model: Path):
    """Pointwise: each candidate once. Listwise: candidates 81 to 100 first, then ten places further up, nine times."""
    from e2rank_pyserini.bench import rerankers

    encoder = E2RankEncoder.load(str(tiny_model), device="cpu")
    tokenizer = encoder.tokens.tokenizer
    given = rerankers.candidates([f"wing {number} jet" for number in range(DEPTH)], 1)
    order = [given.texts[hit.docid] for hit in given.run["0"]]
    model = Recorder(len(tokenizer))
    told = rerankers.pointwise(given, encoder, model)("0", DEPTH)
    seen = [tokenizer.decode(row) for batch in model.read for row in batch]
    assert sorted(order) == sorted(text.partition("Document: ")[2].partition("\n")[0] for text in seen)
    assert len(told) == DEPTH
    model.read = []
    told = rerankers.listwise(given, encoder, model)("0", DEPTH)
    windows = [tokenizer.decode(ids[0]) for ids in model.read]
    for window, start in zip(windows, range(80, -1, -10), strict=True):
        listed = [f"[{number}] {text}" for number, text in enumerate(order[start : start + WINDOW], start=1)]
        assert "\n".join(listed) in window
        assert given.topics["0"] in window
    answer = " > ".join(f"[{number}]" for number in range(1, 21))
    written = len(tokenizer(answer, add_special_tokens=False)["input_ids"])
    assert told == [ids.shape[1] + written - 1 for ids in model.read]


def test_a_package_that_is_not_installed(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    words = ["--encoder", str(tiny_model), "--documents", "3", "--rounds", "1", "--device", "cpu"]
    found = bench("encode", *words, "--peers", "transformers", "sentence-transformers", place=tmp_path)
    assert set(found["peers"]) == {"e2rank", "transformers"}
    assert "sentence_transformers" in found["not measured"]["sentence-transformers"]
    assert "e2rank bench: sentence-transformers not measured: import of" in capsys.readouterr().err


def test_a_peer_that_fails_is_told_and_the_rest_is_measured(capsys: pytest.CaptureFixture[str]):
    def fails() -> int:
        raise RuntimeError("it is\nbroken")

    assert yardstick.prepared({"a": lambda: 1, "b": fails}) == ({"a": 1}, {"b": "RuntimeError: it is"})
    assert capsys.readouterr().err == "e2rank bench: b not measured: RuntimeError: it is\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(("what", "names"), [("encode", ENCODERS), ("rerank", RERANKERS)])
def test_a_gpu_that_is_not_here(what: str, names: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found = bench(what, "--device", "cuda", place=tmp_path)
    assert found["peers"] == {}
    assert list(found["not measured"]) == ["e2rank", *names]
    assert found["setting"]["device"] == "cuda"
    printed = capsys.readouterr()
    assert printed.out == ""
    for name in ("e2rank", *names):
        assert f"e2rank bench: {name} not measured: device 'cuda': not usable here: " in printed.err


BAD = [
    ("encode --layers 2 --encoder minilm", "--layers goes with the random model: it does not change minilm"),
    ("encode --encoder nobody", "model 'nobody': expected a named model, a directory or a hub name"),
    ("encode --encoder {model} --data nowhere", "nowhere"),
    ("encode --device quantum", "device 'quantum': not usable here"),
    ("encode --json .", ".: cannot be written: it is a directory"),
    ("rerank --encoder {model} --passage 50", "--passage 50: expected passages of at most 48 tokens, 20 of them"),
    ("rerank --encoder {model} --passage 40", "in at most 512, as model"),
    (
        "rerank --encoder {model} --passage 20 --data {beir}",
        "expected texts for 100 passages of 20 tokens, found enough",
    ),
]


@pytest.mark.parametrize(("words", "told"), BAD)
def test_bad_input_is_one_line(
    words: str, told: str, tiny_model: Path, beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    written = tmp_path / "found.json"
    asked = ["bench", *words.format(model=tiny_model, beir=beir).split()]
    assert main(asked if "--json" in asked else [*asked, "--json", str(written)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("e2rank bench: ")
    assert told in lines[-1]
    assert len(lines) == 1
    assert not written.exists()


def test_a_full_disk_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        assert main(["bench", "encode", "--layers", "1", "--documents", "2", "--device", "cpu"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "the random model cannot be written: " in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["", "sing", "encode --documents 0", "encode --peers nobody", "rerank --queries x"])
def test_usage_errors_exit_with_2(words: str):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", *words.split()])
    assert stopped.value.code == 2


def test_fewer_documents_than_asked_for_are_said(
    tiny_model: Path, beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["--encoder", str(tiny_model), "--data", str(beir), "--documents", "99", "--rounds", "1", "--peers"]
    assert bench("encode", *words, place=tmp_path)["documents"] == 40
    assert f"e2rank bench: {beir} has 40 documents and no more" in capsys.readouterr().err
