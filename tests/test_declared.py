"""What a model's own files say of its vectors, and files of models on the hub."""

import json
import re
import shutil
import subprocess
import sys
import unittest.mock
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml

from e2rank_pyserini import catalog
from e2rank_pyserini.declared import adapter_folder, check_declared, file_of
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.types import E2RankError

QUERY = "Instruct: {task}\nQuery:{query}"
QWEN3 = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


def folder(place: Path, **files: Any) -> str:
    """A model's directory with these JSON files (`__` in a name is the slash)."""
    for name, content in {"config": {"model_type": "qwen3"}, **files}.items():
        path = place / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return str(place)


def modules(*kinds: str) -> list[dict[str, Any]]:
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense", "Normalize": "2_Normalize"}
    return [
        {"idx": number, "name": str(number), "path": paths[kind], "type": f"sentence_transformers.models.{kind}"}
        for number, kind in enumerate(kinds)
    ]


PLAIN = modules("Transformer", "Pooling", "Normalize")
LAST = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}
MEAN = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": False}
PROMPTS = "config_sentence_transformers"


@pytest.mark.parametrize(
    "files",
    [
        {"modules": PLAIN, "1_Pooling__config": LAST, PROMPTS: {"prompts": {"query": QWEN3, "document": ""}}},
        {"modules": PLAIN, "1_Pooling__config": {"embedding_dimension": 64, "pooling_mode": "lasttoken"}},
        {"modules": PLAIN, PROMPTS: {"prompts": {}}},
        {"config": {"model_type": "qwen3", "auto_map": {"AutoModelForCausalLM": "modeling.Own"}}},
    ],
)
def test_a_model_that_says_what_we_do_is_taken(tmp_path: Path, files: dict[str, Any]):
    assert catalog.model(folder(tmp_path, **files)).pooling == "last"


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {"modules": PLAIN, "1_Pooling__config": MEAN},
            "1_Pooling/config.json says that it pools by mean, not",
        ),
        (
            {"modules": PLAIN, "1_Pooling__config": {**LAST, "pooling_mode_cls_token": True}},
            "it pools by last and cls, not by last",
        ),
        ({"modules": PLAIN, "1_Pooling__config": {"pooling_mode": "max"}}, "it pools by max, not by last"),
        (
            {"modules": modules("Transformer", "Pooling", "Dense")},
            "says that its vectors go through Dense",
        ),
        ({PROMPTS: {"prompts": {"query": "query: ", "document": ""}}}, "its queries begin with 'query: '"),
        ({PROMPTS: {"prompts": {"document": "passage: "}}}, "its documents begin with 'passage: '"),
        (
            {"config": {"model_type": "qwen3", "auto_map": {"AutoModel": "modeling.Own"}}},
            "config.json says that its network is code of its own ('modeling.Own')",
        ),
        ({"modules": PLAIN, "1_Pooling__config": MEAN, "e2rank": {}}, None),
    ],
)
def test_a_model_that_says_otherwise_is_refused(tmp_path: Path, files: dict[str, Any], told: str | None):
    """Unless an e2rank.yaml says how it is to be used."""
    place = folder(tmp_path, **files)
    if told is None:
        record = {"pooling": "mean", "eos": None, "query": "{query}", "prompt": "paper", "chat": "none", "window": 3}
        lengths = {"document": 9, "query": 9, "prompt": 9}
        (tmp_path / "e2rank.yaml").write_text(json.dumps({**record, "lengths": lengths}))
        assert catalog.model(place).pooling == "mean"
        return
    for like in (None, "e2rank-0.6b"):
        with pytest.raises(E2RankError) as raised:
            catalog.model(place, like=like)
        assert told in str(raised.value)
        assert str(raised.value).startswith(f"model {place}: its ")


@pytest.mark.parametrize("mode", ["mean", "lasttoken"])
def test_what_sentence_transformers_writes_is_read(tiny_model: Path, tmp_path: Path, mode: str):
    """Its own release's files, whatever their form is by now."""
    st = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    network = Transformer(str(tiny_model))
    made = st.SentenceTransformer(modules=[network, Pooling(64, pooling_mode=mode)], prompts={"query": QWEN3})
    made.save_pretrained(str(tmp_path / "st"))
    (tmp_path / "st" / "e2rank.yaml").unlink(missing_ok=True)
    check_declared(str(tmp_path / "st"), {}, {"mean": "mean", "lasttoken": "last"}[mode], QUERY)
    with pytest.raises(E2RankError, match="it pools by"):
        check_declared(str(tmp_path / "st"), {}, "cls", QUERY)


def test_a_damaged_file_is_one_line(tmp_path: Path):
    place = folder(tmp_path)
    (tmp_path / "modules.json").write_text("[{")
    with pytest.raises(E2RankError, match=r"its modules\.json is not readable: Expecting"):
        catalog.model(place)


def test_an_adapter_of_a_directory_is_inside_it(tmp_path: Path):
    assert adapter_folder(str(tmp_path), ".") == tmp_path
    assert file_of(str(tmp_path), "config.json") is None


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(path: Path, network: Any, tokenizer: Any) -> None:
    """A Qwen3 with its tokenizer as llama.cpp's converter writes them."""
    import gguf

    config, vocabulary = network.config, json.loads(tokenizer.backend_tokenizer.to_str())
    writer = gguf.GGUFWriter(str(path), "qwen3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    tokens = sorted(vocabulary["model"]["vocab"], key=vocabulary["model"]["vocab"].get)
    special = {one["content"] for one in vocabulary["added_tokens"]}
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if one in special else gguf.TokenType.NORMAL for one in tokens])
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_tensor("output_norm.weight", network.norm.weight.detach().numpy())
    writer.add_tensor("token_embd.weight", network.embed_tokens.weight.detach().numpy())
    for name, weight in network.named_parameters():
        _, _, rest = name.partition("layers.")
        if rest:
            number, _, part = rest.partition(".")
            kind = GGUF_NAMES[part.removesuffix(".weight")]
            writer.add_tensor(f"blk.{number}.{kind}.weight", weight.detach().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def as_gguf(tiny_model: Path, tmp_path: Path) -> Path:
    """A folder of two encoders, `gguf` and `folder`: a Qwen3 in a GGUF file, and the same as Transformers saves it."""
    pytest.importorskip("gguf")
    import torch
    from tokenizers import normalizers
    from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    torch.manual_seed(1)
    config = Qwen3Config.from_pretrained(tiny_model, head_dim=128)  # the size that Transformers takes of such files
    network = Qwen3Model(config).eval()
    record = (tiny_model / "e2rank.yaml").read_text().replace("chat: tokenizer", "chat: none")
    for name, source in (("folder", "folder"), ("gguf", "tiny.gguf")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "e2rank.yaml").write_text(f"{record}source: {tmp_path / source}\n")
    network.save_pretrained(tmp_path / "folder")
    tokenizer.save_pretrained(tmp_path / "folder")
    write_gguf(tmp_path / "tiny.gguf", network, tokenizer)
    return tmp_path


def test_a_gguf_file_of_qwen3_composes_characters_as_its_tokenizer_does(as_gguf: Path):
    texts = ["wing flow", "cafe\u0301 wing", "caf\u00e9 wing"]
    found, expected = (
        E2RankEncoder.load(str(as_gguf / name), device="cpu", dtype="float32").encode_documents(texts)
        for name in ("gguf", "folder")
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(found[1], found[2])


def test_a_gguf_file_is_parsed_once_and_without_a_bar_in_a_log(
    as_gguf: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    import gguf

    class Counted(gguf.GGUFReader):
        paths: ClassVar[list[str]] = []

        def __init__(self, path: str, *rest: Any, **named: Any) -> None:
            self.paths.append(str(path))
            super().__init__(path, *rest, **named)

    tables = unittest.mock.Mock(wraps=gguf.get_tensor_name_map)
    monkeypatch.setattr(gguf, "GGUFReader", Counted)
    monkeypatch.setattr(gguf, "get_tensor_name_map", tables)
    E2RankEncoder.load(str(as_gguf / "gguf"), device="cpu", dtype="float32")
    assert Counted.paths == [str(as_gguf / "tiny.gguf")]
    assert tables.call_count == 1  # not one a module
    assert gguf.GGUFReader is Counted
    assert capfd.readouterr().err == ""


def test_code_of_a_models_own_is_not_run_though_its_settings_are_told(tmp_path: Path):
    """Transformers would ask on the terminal."""
    place = tmp_path / "own"
    folder(place, config={"model_type": "unheard", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}})
    (place / "own.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    (place / "e2rank.yaml").write_text("pooling: last\neos: <|endoftext|>\n")
    code = f"from e2rank_pyserini.encoder import E2RankEncoder\nE2RankEncoder.load({str(place)!r}, device='cpu')"
    done = subprocess.run([sys.executable, "-c", code], input="y\n" * 9, capture_output=True, text=True, check=False)
    assert "E2RankError" in done.stderr.splitlines()[-1], done.stderr
    assert "[y/N]" not in done.stdout + done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_base_that_came_along_is_found_and_one_that_is_gone_is_named(tmp_path: Path, tiny_model: Path):
    shutil.copytree(tiny_model, tmp_path / "all" / "base")
    mine = tmp_path / "all" / "mine"
    mine.mkdir()
    own = yaml.safe_load((tiny_model / "e2rank.yaml").read_text())
    (mine / "e2rank.yaml").write_text(yaml.safe_dump({**own, "source": "../base"}))
    assert Path(catalog.model(str(mine)).source).resolve() == tmp_path / "all" / "base"
    (mine / "e2rank.yaml").write_text(yaml.safe_dump({**own, "source": str(tmp_path / "gone"), "adapter": "."}))
    told = f"gone, on which its adapter was trained, is not on this machine; name its directory as source in {mine}"
    with pytest.raises(E2RankError, match=re.escape(told)):
        E2RankEncoder.load(str(mine), device="cpu")
