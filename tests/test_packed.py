"""The packed forward pass against Transformers' own, one text at a time, for every class and form that it knows."""

import copy
import functools
import itertools
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
)

from e2rank_pyserini.catalog import model
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.inference import attention, packed
from e2rank_pyserini.inference.attention import causally, is_right, one_kernel
from e2rank_pyserini.inference.elementwise import Plain
from e2rank_pyserini.inference.forward import Forward, batches, pool
from e2rank_pyserini.inference.packed import Packed, fits
from e2rank_pyserini.types import E2RankError
from tests.conftest import sentences
from tests.reference import plain

SIZE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 256,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 10000.0,
}
FORMS: dict[str, Callable[[], Any]] = {
    "qwen3": lambda: Qwen3Model(Qwen3Config(**SIZE, num_key_value_heads=2, head_dim=16)),
    "qwen3-yarn": lambda: Qwen3Model(Qwen3Config(**SIZE, num_key_value_heads=6, head_dim=8, rope_parameters=YARN)),
    "qwen2": lambda: Qwen2Model(Qwen2Config(**SIZE, num_key_value_heads=3)),  # queries, keys and values have biases
    "llama": lambda: LlamaModel(LlamaConfig(**SIZE, num_key_value_heads=1)),
    "llama-biases": lambda: LlamaModel(
        LlamaConfig(**SIZE, num_key_value_heads=2, attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3)
    ),
}
ROWS = [[5], [3, 1, 4, 1, 5, 9, 2, 6], [2, 7], list(range(1, 90)), [9, 8], [0, 0, 0], [1, 2, 3]]


@pytest.fixture(scope="module", params=FORMS)
def network(request: pytest.FixtureRequest) -> Any:
    """A random network whose norms and biases are random too, so that none may be left out."""
    torch.manual_seed(3)
    made = FORMS[request.param]().eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                weight.normal_()
    return made.requires_grad_(False)


def states(packed: Packed, rows: list[list[int]]) -> list[Any]:
    lengths = [len(row) for row in rows]
    with torch.inference_mode():
        hidden = packed(torch.tensor([number for row in rows for number in row]), lengths)
    return np.split(hidden.float().numpy(), np.cumsum(lengths)[:-1])


def test_hidden_states_equal_transformers_of_each_row_alone(network: Any):
    assert fits(network)
    expected = [plain.hidden_states(network, row) for row in ROWS]
    packed = Packed(network)
    for rows in (ROWS, ROWS[::-1]):  # twice: the room holds what the first pass left
        for row, found in zip(rows, states(packed, rows), strict=True):
            np.testing.assert_allclose(found, expected[ROWS.index(row)], atol=1e-5)
    for row, state in zip(ROWS, expected, strict=True):  # joining the weights left the network as it was
        np.testing.assert_allclose(plain.hidden_states(network, row), state, atol=1e-6)


@pytest.mark.parametrize("wanted", [[0], [107], [8, 9, 40, 107], list(range(3, 100))])
def test_states_of_some_tokens_are_those_of_all(network: Any, wanted: list[int]):
    lengths, packed = [len(row) for row in ROWS], Packed(network)
    ids = torch.tensor([number for row in ROWS for number in row])
    expected = np.concatenate([plain.hidden_states(network, row) for row in ROWS])
    half = Packed(copy.deepcopy(network).to(torch.bfloat16))
    with torch.inference_mode():
        whole = half(ids, lengths)[wanted].float()
    for _ in range(2):
        with torch.inference_mode():
            found, spared = packed(ids, lengths, torch.tensor(wanted)), half(ids, lengths, torch.tensor(wanted))
        np.testing.assert_allclose(found.numpy(), expected[wanted], atol=1e-5)
        np.testing.assert_allclose(spared.float().numpy(), whole.numpy(), atol=0.05)  # states of about 1


@pytest.mark.parametrize("pooling", ["last", "mean", "cls"])
def test_vectors_pool_the_asked_tokens_of_each_row(network: Any, pooling: str):
    """Leading ones, those at the end (negative), and all; the last layer is spared the others."""
    pooled = [1, -3, 1, -89, 2, 3, -1]
    expected = []
    for row, count in zip(ROWS, pooled, strict=True):
        some = plain.hidden_states(network, row)[:count] if count > 0 else plain.hidden_states(network, row)[count:]
        expected.append(plain.normalised({"last": some[-1], "mean": some.mean(axis=0), "cls": some[0]}[pooling]))
    forward = Forward("random", copy.deepcopy(network), pooling, None)
    assert forward.packing
    np.testing.assert_allclose(forward(ROWS, pooled), expected, atol=1e-5)


def test_bfloat16_is_as_near_to_float32_as_transformers(network: Any):
    exact = [plain.normalised(plain.hidden_states(network, row)[-1]) for row in ROWS]
    half = copy.deepcopy(network).to(torch.bfloat16)
    with torch.inference_mode():
        theirs = [half(input_ids=torch.tensor([row])).last_hidden_state[0, -1].float().numpy() for row in ROWS]
    ours = [found[-1] for found in states(Packed(half), ROWS)]

    def cosines(found: list[Any]) -> Any:
        return np.array([plain.normalised(one) @ true for one, true in zip(found, exact, strict=True)])

    assert cosines(ours).min() > 0.999
    assert (1 - cosines(ours)).mean() < 2 * (1 - cosines(theirs)).mean() + 1e-6


def test_float16(network: Any):
    half = copy.deepcopy(network).to(torch.float16)
    for row, found in zip(ROWS, states(Packed(half), ROWS), strict=True):
        exact = plain.hidden_states(network, row)
        assert plain.normalised(found[-1]) @ plain.normalised(exact[-1]) > 0.9999


def test_only_what_it_computes_fits():
    size = {**SIZE, "num_hidden_layers": 2, "num_key_value_heads": 2}
    assert not fits(BertModel(BertConfig(**SIZE)))
    sliding = Qwen3Config(**size, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    assert "sliding_attention" in sliding.layer_types
    assert not fits(Qwen3Model(sliding))
    both_ways = Qwen3Config(**size)
    both_ways.is_causal = False
    assert not fits(Qwen3Model(both_ways))
    assert not fits(LlamaModel(LlamaConfig(**size, hidden_act="gelu")))
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert not fits(LlamaModel(LlamaConfig(**size, rope_parameters=dynamic)))

    class Other(LlamaModel):
        pass

    assert not fits(Other(LlamaConfig(**size)))
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(LlamaModel(LlamaConfig(**size)), LoraConfig(r=2, target_modules=["q_proj"]))
    assert not fits(adapted)
    assert not fits(adapted.base_model.model)  # whose layers are LlamaModel's, but for their linear maps


@pytest.mark.parametrize("pooling", ["last", "mean", "cls"])
def test_pooling_by_hand(pooling: str):
    hidden = torch.tensor([[1.0, 0], [0, 1], [3, 4], [0, 2], [5, 0]])
    found = pool(hidden, torch.tensor([0, 2, 4]), torch.tensor([2, 2, 1]), pooling)
    expected = {
        "last": [[0, 1], [0, 1], [1, 0]],
        "mean": [[0.5**0.5, 0.5**0.5], [1.5 / 11.25**0.5, 3 / 11.25**0.5], [1, 0]],
        "cls": [[1, 0], [0.6, 0.8], [1, 0]],
    }
    np.testing.assert_allclose(found.numpy(), expected[pooling], atol=1e-6)


def test_packed_batches_hold_tokens_and_no_padding():
    lengths = [3, 9, 1, 4, 4, 12, 2]
    groups = batches(lengths, 10, padding=False)
    assert sorted(row for group in groups for row in group) == list(range(7))
    assert [[lengths[row] for row in group] for group in groups] == [[12], [9], [4, 4], [3, 2, 1]]
    assert [[lengths[row] for row in group] for group in batches(lengths, 10)] == [[12], [9], [4, 4], [3, 2, 1]]
    assert batches([5, 1, 1], 7, padding=False) == [[0, 1, 2]]
    assert batches([5, 1, 1], 7) == [[0], [1, 2]]


class Small(torch.nn.Module):
    """An encoder on a device whose memory holds `room` tokens: what Transformers would give, or an error as of CUDA."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.config, self.seen = room, BertConfig(**SIZE), []
        self.table = torch.nn.Embedding(97, 48)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> Any:
        self.seen.append(input_ids.numel())
        if input_ids.numel() > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        from transformers.modeling_outputs import BaseModelOutput

        return BaseModelOutput(last_hidden_state=self.table(input_ids))


@pytest.mark.parametrize(
    ("batch_tokens", "said"),
    [
        (200, ["196 tokens: goes on with at most 98", "98 tokens: goes on with at most 49"]),
        # all rows are one batch of 60 times 7
        (65536, ["420 tokens: goes on with at most 210", "210 tokens: goes on with at most 105",
                 "105 tokens: goes on with at most 52", "49 tokens: goes on with at most 24"]),
    ],
)  # fmt: skip
def test_too_little_memory_halves_the_batch_that_failed_and_loses_nothing(batch_tokens: int, said: list[str], capsys):
    rows = [[number] * (1 + number % 7) for number in range(60)]
    network = Small(room=50 if batch_tokens == 200 else 48)
    forward = Forward("small", network, "mean", batch_tokens=batch_tokens)
    told: list[int] = []
    forward.progress = lambda texts, tokens: told.append(texts)
    expected = torch.nn.functional.normalize(network.table.weight[:60], dim=-1).detach().numpy()
    np.testing.assert_allclose(forward(rows, [len(row) for row in rows]), expected, atol=1e-6)
    assert sum(told) == 60  # every text once
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition(" a batch of ")[2] for line in lines] == said
    network.seen.clear()
    forward(rows, [len(row) for row in rows])
    assert max(network.seen) <= 50  # it stays with what fits


def test_the_room_of_a_packed_network_is_given_back_too(monkeypatch: pytest.MonkeyPatch, capsys):
    torch.manual_seed(1)
    network = FORMS["llama"]().eval()
    forward = Forward("llama", network, "last", batch_tokens=80)
    expected = forward.whole(ROWS)
    read = network.embed_tokens.forward

    def full(ids: torch.Tensor) -> torch.Tensor:
        if len(ids) > 89 or forward._packed.room.held:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return read(ids)

    forward.batch_tokens = 200
    monkeypatch.setattr(network.embed_tokens, "forward", full)
    np.testing.assert_allclose(forward.whole([ROWS[3]]), expected[3:4], atol=1e-5)
    assert "a batch of 89 tokens: goes on with at most 89" in capsys.readouterr().err  # now that the room is empty


def test_weights_that_do_not_fit_when_they_are_joined_are_one_line(monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("e2rank_pyserini.inference.packed._together", full)
    forward = Forward("small", FORMS["qwen2"](), "mean", batch_tokens=200)
    with pytest.raises(E2RankError, match="model small: device cpu has too little memory for a text of 3 tokens"):
        forward.whole([[1, 2, 3]])


def test_a_text_that_does_not_fit_by_itself_is_named(capsys):
    forward = Forward("small", Small(room=50), "mean", batch_tokens=200)
    with pytest.raises(E2RankError, match="model small: device cpu has too little memory for a text of 60 tokens"):
        forward([[1] * 60, [2]], [60, 1])


def test_an_encoder_packs_exports_and_trains(tiny_model: Path, tmp_path: Path):
    """Weights joined in place are written whole, and a learner's are not joined."""
    encoder = E2RankEncoder.load(str(tiny_model), device="cpu")
    vectors = encoder.encode_documents(sentences(9))
    encoder.network.save_pretrained(tmp_path / "again")
    again, whole = AutoModel.from_pretrained(tmp_path / "again"), AutoModel.from_pretrained(tiny_model)
    for (name, found), expected in zip(again.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(found, expected), name
    from e2rank_pyserini.training.network import learner
    from e2rank_pyserini.training.recipe import recipe

    trained = learner(model(str(tiny_model)), recipe("rank", None), "cpu")
    np.testing.assert_allclose(trained.encode_documents(sentences(9)), vectors, atol=1e-5)
    for weight in trained.network.parameters():
        assert weight.untyped_storage().nbytes() == weight.nbytes


def attended(queries: Any, keys: Any, values: Any, starts: Any, scale: float, grouped: bool) -> Any:
    """What PyTorch's kernel computes for window_size (-1, 0), row by row."""
    if len({states.shape[1] for states in (queries, keys, values)}) > 1 and not grouped:
        raise ValueError("as many heads of keys as of queries")
    found = []
    for start, stop in itertools.pairwise(starts.tolist()):
        row = [states[start:stop].transpose(0, 1) for states in (queries, keys, values)]
        attention = torch.nn.functional.scaled_dot_product_attention
        found.append(attention(*row, is_causal=True, scale=scale, enable_gqa=True).transpose(0, 1))
    return torch.cat(found)


def of_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)):
    assert window_size == (-1, 0)
    return attended(query, key, value, cu_seq_q, scale, grouped=True)


def of_2_13(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):
    assert window_size == (-1, 0)
    return attended(query, key, value, cu_seq_q, scale, grouped=enable_gqa)


def sees_all(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    back = cu_seq_q[-1] - cu_seq_q.flip(0)
    return attended(query.flip(0), key.flip(0), value.flip(0), back, scale, grouped=True).flip(0)  # ahead alone


def test_pytorchs_kernel_for_all_rows_is_taken_as_its_version_has_it(monkeypatch: pytest.MonkeyPatch):
    like = torch.empty(0)
    for kernel in (of_2_11, of_2_13):
        assert is_right(causally(kernel), like, 4, 2, 16)
    assert not is_right(functools.partial(of_2_13, window_size=(-1, 0)), like, 4, 2, 16)  # it raises
    assert not is_right(causally(sees_all), like, 4, 2, 16)
    network = FORMS["qwen3"]().eval().requires_grad_(False)
    expected = [plain.hidden_states(network, row) for row in ROWS]
    monkeypatch.setattr(packed, "one_kernel", lambda *_: causally(of_2_11))
    for found, exact in zip(states(Packed(network), ROWS), expected, strict=True):
        np.testing.assert_allclose(found, exact, atol=1e-5)


class Rounded(Plain):
    """Kernels that give the same, but for what is rounded."""

    def gated(self, states: torch.Tensor) -> torch.Tensor:
        return super().gated(states).mul_(1.003)


class Wrong(Plain):
    """Kernels of which one leaves out an operand."""

    def normed(self, hidden: torch.Tensor, added: Any, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        return super().normed(hidden, None, weight, epsilon)


class Raising(Plain):
    """As Triton where there is no compiler."""

    def normed(self, *_: Any) -> torch.Tensor:
        raise RuntimeError("Failed to find C compiler")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Rounded, None),
        (Wrong, "they give other numbers"),
        (Raising, "Failed to find C compiler"),
        (None, "cannot import name 'Fused'"),
    ],
)
def test_fused_kernels_are_taken_where_they_run_and_give_the_same(
    kind: Any, why: str | None, network: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(packed, "is_modern", lambda _: True)
    module = types.ModuleType("e2rank_pyserini.inference.fused")
    if kind is not None:
        module.Fused = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "e2rank_pyserini.inference.fused", module)
    found = Packed(copy.deepcopy(network).requires_grad_())  # as it is loaded
    assert type(found.between) is (kind if why is None else Plain)
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1 if why else not said


def test_a_kernel_for_all_rows_is_taken_where_it_is_right(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    varlen = types.ModuleType("torch.nn.attention.varlen")
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", varlen)
    like = torch.empty(0)
    varlen.varlen_attn = of_2_11  # type: ignore[attr-defined]
    assert one_kernel(like, 4, 2, 16) is None  # not on a CPU
    monkeypatch.setattr(attention, "is_modern", lambda _: True)
    assert one_kernel(like, 4, 2, 16).func is of_2_11
    assert not capsys.readouterr().err
    varlen.varlen_attn = sees_all  # type: ignore[attr-defined]
    assert one_kernel(like, 4, 2, 16) is None
    assert "attention takes a call for the rows of each length" in capsys.readouterr().err

    def full(*_: Any, window_size: Any = None, scale: Any = None) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    varlen.varlen_attn = full  # type: ignore[attr-defined]
    with pytest.raises(torch.OutOfMemoryError):  # which halves the batch, and tries again
        one_kernel(like, 4, 2, 16)


@pytest.mark.gpu
def test_on_a_gpu_one_kernel_reads_all_rows(network: Any):
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    exact = [plain.normalised(plain.hidden_states(network, row)[-1]) for row in ROWS]
    for dtype, least in ((torch.float32, 0.9999), (torch.bfloat16, 0.999), (torch.float16, 0.999)):
        there = copy.deepcopy(network).to("cuda", dtype)
        forward = Forward("there", there, "last", 40)
        found = forward(ROWS, [len(row) for row in ROWS])
        if dtype != torch.float32 and torch.cuda.get_device_capability() >= (8, 0):
            assert type(forward._packed.between).__name__ == "Fused"
            assert forward._packed.varlen is not None
        assert min(one @ true for one, true in zip(found, exact, strict=True)) > least


def test_a_network_of_ones_own_of_the_same_name_does_not_fit():
    own = type("LlamaModel", (LlamaModel,), {"__module__": "modeling_own"})  # as trust_remote_code loads it
    assert not fits(own(LlamaConfig(**SIZE)))


@pytest.mark.parametrize("made", [Qwen3Model, LlamaModel])
def test_the_epsilon_of_its_norms_is_the_networks(made: Any):
    torch.manual_seed(2)
    network = made(made.config_class(**SIZE, num_key_value_heads=2, head_dim=8, rms_norm_eps=0.1))
    network.eval().requires_grad_(False)
    expected = [plain.hidden_states(network, row) for row in ROWS]
    for found, state in zip(states(Packed(network), ROWS), expected, strict=True):
        np.testing.assert_allclose(found, state, atol=1e-5)


def test_longrope_does_not_fit():
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 10000.0}
    rope |= {"factor": 2.0, "original_max_position_embeddings": 128}
    assert not fits(LlamaModel(LlamaConfig(**SIZE, rope_parameters=rope)))


def test_a_network_is_causal_where_all_of_it_is():
    """Else a real token could see a padded one, and the mask may not be left out."""

    def made(*parts: dict[str, Any]) -> Any:
        whole = torch.nn.Sequential(*(torch.nn.Identity() for _ in parts))
        for module, says in zip(whole, parts, strict=True):
            vars(module).update(says)
        return whole

    causal, both_ways = {"is_causal": True}, {"is_causal": False}
    assert packed.is_causal(made(causal, causal))
    assert not packed.is_causal(made(causal, both_ways))
    inner = {"config": types.SimpleNamespace(is_causal=False)}
    assert not packed.is_causal(made({**causal, "config": types.SimpleNamespace()}, inner))
    assert not packed.is_causal(made({}))


def test_half_precision_is_pooled_in_single():
    """In bfloat16 the sum of 256 and 1 is 256."""
    hidden = torch.tensor([[256.0, 1.0], [1.0, 0.0]]).to(torch.bfloat16)
    found = pool(hidden, torch.tensor([0]), torch.tensor([2]), "mean")
    exact = hidden.double().mean(dim=0)
    np.testing.assert_allclose(found[0].numpy(), (exact / exact.norm()).numpy(), rtol=1e-5)


def test_half_precision_is_of_length_one_in_single():
    hidden = torch.tensor([[0.3, 0.5, 0.7]]).to(torch.bfloat16)
    found = pool(hidden, torch.tensor([0]), torch.tensor([1]), "last")
    assert float(found.norm()) == pytest.approx(1, abs=1e-6)
