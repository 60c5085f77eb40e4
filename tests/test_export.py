"""Exported models: sentence-transformers itself gives our vectors, and we load the folder as the same model."""

import dataclasses
import json
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import AutoTokenizer

from e2rank_pyserini.catalog import dataset, model
from e2rank_pyserini.cli import main
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.export import check_tokenizer
from e2rank_pyserini.types import E2RankError, ListwisePrompt
from tests.conftest import EOS, LENGTHS, sentences

LONG = " ".join(sentences(14, seed=4))  # longer than any model here reads
TEXTS = ["", "wing", " wing flow ", "a\n\nb\n", f"flow {EOS} naïve Überschall", LONG, LONG[:250]]
TASK = "Find"  # short: the tiny model's queries are cut to 24 tokens


def exported(name: str, place: Path, *more: str) -> Path:
    folder = place / "exported"
    assert main(["export", "--encoder", name, "--output", str(folder), *more]) == 0
    return folder


def sentence_transformer(folder: Path) -> Any:
    library = pytest.importorskip("sentence_transformers")
    return library.SentenceTransformer(str(folder), device="cpu")


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(str(tiny_model), tmp_path_factory.mktemp("export"), "--task", TASK)


def assert_same_vectors(theirs: Any, ours: E2RankEncoder, task: str | None) -> None:
    documents, queries = ours.encode_documents(TEXTS), ours.encode_queries(TEXTS, task)
    assert np.abs(documents - queries).max() > 1e-3
    for size in (3, 32):  # with little padding, with much
        np.testing.assert_allclose(theirs.encode_document(TEXTS, batch_size=size), documents, atol=1e-5)
        np.testing.assert_allclose(theirs.encode_query(TEXTS, batch_size=size), queries, atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_causal_model_gives_our_vectors_padded_on_either_side(tiny_model: Path, tiny: Path, side: str):
    theirs, ours = sentence_transformer(tiny), E2RankEncoder.load(str(tiny_model), device="cpu")
    assert theirs.tokenizer.padding_side == "right"
    theirs.tokenizer.padding_side = side
    assert_same_vectors(theirs, ours, TASK)


def test_an_encoder_gives_our_vectors(tmp_path: Path):
    """BERT, the mean of all tokens; an adapter on its base, merged in the folder."""
    try:
        ours = E2RankEncoder.load("e2rank-minilm", device="cpu", dtype="float32")
    except E2RankError as error:
        pytest.skip(str(error))
    folder = exported("e2rank-minilm", tmp_path)
    assert_same_vectors(sentence_transformer(folder), ours, None)
    assert_same_model(E2RankEncoder.load(str(folder), device="cpu", dtype="float32"), ours)


def test_the_first_layers_of_a_model_are_a_model(tiny_model: Path, tmp_path: Path):
    mine = tmp_path / "mine"
    shutil.copytree(tiny_model, mine)
    record = yaml.safe_load((mine / "e2rank.yaml").read_text())
    (mine / "e2rank.yaml").write_text(yaml.safe_dump({**record, "layers": 1}))
    ours = E2RankEncoder.load(str(mine), device="cpu")
    assert len(ours.network.layers) == 1
    assert_same_vectors(sentence_transformer(exported(str(mine), tmp_path / "out", "--task", TASK)), ours, TASK)


def assert_same_model(again: E2RankEncoder, ours: E2RankEncoder) -> None:
    assert dataclasses.replace(again.spec, name="", source="") == dataclasses.replace(
        ours.spec, name="", source="", adapter=None
    )
    prompts = [ListwisePrompt("a query", tuple(TEXTS[:count]), "Rank") for count in (1, 4, 7)]
    assert again.tokens.prompts(prompts) == ours.tokens.prompts(prompts)
    np.testing.assert_array_equal(again.encode_documents(TEXTS), ours.encode_documents(TEXTS))
    np.testing.assert_array_equal(again.encode_queries(TEXTS, TASK), ours.encode_queries(TEXTS, TASK))
    np.testing.assert_array_equal(again.encode_prompts(prompts), ours.encode_prompts(prompts))


@pytest.mark.parametrize("variant", ["paper", "card", "train"])
def test_we_load_the_folder_as_the_same_model(tiny_model: Path, tiny: Path, variant: str):
    """With one EOS, not two, and prompts of the same tokens."""
    again, ours = (
        E2RankEncoder.load(dataclasses.replace(model(str(place)), prompt=variant), device="cpu")
        for place in (tiny, tiny_model)
    )
    assert_same_model(again, ours)
    assert [row.count(ours.tokens.eos_id) for row in again.tokens.documents(["", "wing", LONG])] == [1, 1, 1]


def post_processor(place: Path, value: Any) -> None:
    record = json.loads((place / "tokenizer.json").read_text())
    (place / "tokenizer.json").write_text(json.dumps({**record, "post_processor": value}))


def configured(place: Path, **fields: Any) -> None:
    record = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").write_text(json.dumps({**record, **fields}))


BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
START = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<think>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {"<think>": {"id": "<think>", "ids": [3], "tokens": ["<think>"]}},
}
TOKENIZERS = {
    "of Qwen": lambda place: configured(place, tokenizer_class="Qwen2Tokenizer"),
    "without padding": lambda place: configured(place, pad_token=None),
    "that works from the left": lambda place: configured(place, padding_side="left", truncation_side="left"),
    "of bytes": lambda place: post_processor(place, BYTES),
    "with a start of its own": lambda place: post_processor(place, {"type": "Sequence", "processors": [BYTES, START]}),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_whatever_the_tokenizer_did_before_it_now_ends_in_one_eos(tiny_model: Path, tmp_path: Path, kind: str):
    shutil.copytree(tiny_model, tmp_path / "model")
    TOKENIZERS[kind](tmp_path / "model")
    folder = exported(str(tmp_path / "model"), tmp_path)
    ours = E2RankEncoder.load(str(tmp_path / "model"), device="cpu")
    rows = ours.tokens.documents(TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer(TEXTS, truncation=True, max_length=LENGTHS["document"])["input_ids"] == rows
    assert {row[-1] for row in rows} == {ours.tokens.eos_id}
    padded = tokenizer(TEXTS, truncation=True, max_length=LENGTHS["document"], padding=True)
    assert [sum(mask) for mask in padded["attention_mask"]] == [len(row) for row in rows]
    assert {mask[0] for mask in padded["attention_mask"]} == {1}
    assert_same_model(E2RankEncoder.load(str(folder), device="cpu"), ours)


def test_a_tokenizer_that_reads_otherwise_is_refused(tiny_model: Path):
    """Here: one that was never told to add the EOS."""
    with pytest.raises(E2RankError, match=r"its tokenizer alone reads '' as 0 tokens"):
        check_tokenizer(tiny_model, E2RankEncoder.load(str(tiny_model), device="cpu"))


def test_the_prompt_says_the_task_of_the_data_set(tiny_model: Path, tmp_path: Path):
    folder = exported(str(tiny_model), tmp_path, "--dataset", "scifact")
    prompts = json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]
    assert prompts == {"query": f"Instruct: {dataset('scifact').retrieval_task}\nQuery:", "document": ""}


def test_half_the_bits(tiny_model: Path, tiny: Path, tmp_path: Path):
    folder = exported(str(tiny_model), tmp_path, "--dtype", "bfloat16")
    whole, half = ((place / "model.safetensors").stat().st_size for place in (tiny, folder))
    assert half < 0.55 * whole
    card = (folder / "README.md").read_text()
    assert "but for the rounding to\nbfloat16 (of lengths too: normalise before you take inner products). Doc" in card
    assert "rounding" not in (tiny / "README.md").read_text()
    theirs = sentence_transformer(folder).encode_document(TEXTS)
    theirs = np.asarray(theirs, dtype=np.float32)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    ours = E2RankEncoder.load(str(tiny_model), device="cpu", dtype="bfloat16").encode_documents(TEXTS)
    assert (theirs * ours).sum(axis=1).min() > 0.999
    assert E2RankEncoder.load(str(folder), device="cpu").spec.dtype == "float32"  # the model's own setting, kept


def test_a_task_in_vain_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    exported("minilm", tmp_path, "--task", "Find")
    assert "minilm's queries say no task: that was named in vain" in capsys.readouterr().err


def test_the_card_says_what_it_is(tiny_model: Path, tiny: Path):
    card = (tiny / "README.md").read_text()
    assert "# tiny-qwen3 for sentence-transformers" in card
    assert E2RankEncoder.load(str(tiny_model), device="cpu").identity in card
    assert "Documents are cut to 48 tokens, queries under the task “Find” to 24." in card
    assert "With sentence-transformers 6 or newer:" in card
    assert str(tiny_model.parent) not in card + (tiny / "e2rank.yaml").read_text()


def test_overwrite_replaces_the_folder(tiny_model: Path, tiny: Path, tmp_path: Path):
    shutil.copytree(tiny, tmp_path / "exported")
    (tmp_path / "exported" / "model-00001-of-00002.safetensors").write_text("old")
    again = exported(str(tiny_model), tmp_path, "--task", TASK, "--overwrite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported"]
    assert {path.relative_to(again): path.read_bytes() for path in again.rglob("*") if path.is_file()} == {
        path.relative_to(tiny): path.read_bytes() for path in tiny.rglob("*") if path.is_file()
    }


def test_overwrite_takes_nothing_of_anybody_elses(tiny_model: Path, tiny: Path, tmp_path: Path, capsys):
    shutil.copytree(tiny, tmp_path / "exported")
    for name in ("checkpoints/config.json", "results.json", "1_Pooling/notes.txt"):
        theirs = tmp_path / "exported" / name
        theirs.parent.mkdir(exist_ok=True)
        theirs.touch()
        assert (
            main(["export", "--encoder", str(tiny_model), "--output", str(tmp_path / "exported"), "--overwrite"]) == 1
        )
        assert "is not an exported model, so --overwrite does not replace it" in capsys.readouterr().err
        theirs.unlink()
        if theirs.parent.name == "checkpoints":
            theirs.parent.rmdir()


def test_a_full_disk_leaves_nothing(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        assert main(["export", "--encoder", str(tiny_model), "--output", str(tmp_path / "exported")]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"e2rank export: {tmp_path}/exported: cannot be written: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
