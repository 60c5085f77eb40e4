"""Distillation: what a teacher says of the rows of a step, and how far it is from what is said already."""

import dataclasses
import json
import math
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from e2rank_pyserini.catalog import ModelSpec, model
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.losses import distil
from e2rank_pyserini.prompts import RERANK_TASK
from e2rank_pyserini.training.log import read_log
from e2rank_pyserini.training.network import learner
from e2rank_pyserini.training.recipe import Lora, Recipe, Tasks, recipe
from e2rank_pyserini.training.step import documents_of, losses, rows_of
from e2rank_pyserini.training.teacher import Teacher, turned
from e2rank_pyserini.training.train import train
from e2rank_pyserini.types import E2RankError, ListwisePrompt
from tests.test_training import lists

pytestmark = pytest.mark.usefixtures("one_thread")

EXAMPLES = lists(12, 4, seed=11, most=12)


@pytest.fixture(scope="module")
def spec(tiny_model: Path) -> ModelSpec:
    return model(str(tiny_model))


@pytest.fixture(scope="module")
def wide(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another random model with the same tokenizer, of another width."""
    import shutil

    from transformers import Qwen3Config, Qwen3Model

    place = tmp_path_factory.mktemp("models") / "wide"
    shutil.copytree(tiny_model, place)
    torch.manual_seed(5)
    config = Qwen3Config.from_pretrained(tiny_model, hidden_size=96)
    Qwen3Model(config).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def distilling(wide: Path) -> Recipe:
    return Recipe(
        "rank", 1e-2, 4, steps=6, dtype="float32", chunk_tokens=2000, infonce_weight=0.0, ranknet_weight=0.0,
        teacher=str(wide), distil_weight=1.0, lora=Lora(8, 8), save_every=2,
    )  # fmt: skip


# --- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2, math.pi])
def test_the_loss_is_one_minus_the_cosine(angle: float):
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    targets = torch.tensor([[math.cos(angle), math.sin(angle)], [0.0, 1.0]])
    assert float(distil(vectors, targets)) == pytest.approx((1 - math.cos(angle)) / 2, abs=1e-6)


@pytest.mark.parametrize(("theirs", "ours"), [(6, 6), (4, 6), (6, 4)])
def test_a_space_that_was_turned_is_turned_back(theirs: int, ours: int):
    """Vectors that are others, turned and moved: the turn is found, and it keeps angles where there is room."""
    draw = torch.Generator().manual_seed(0)
    whole = torch.linalg.qr(torch.randn(6, 6, generator=draw)).Q
    turn = whole[:theirs, :] if theirs < ours else whole[:, :ours]
    vectors = torch.randn(50, theirs, generator=draw)
    vectors = torch.linalg.qr(
        vectors - vectors.mean(dim=0)
    ).Q  # as wide in every direction, or a narrower turn is not unique
    found = turned(vectors + 3.0, vectors @ turn - 7.0)
    torch.testing.assert_close(found, turn, atol=1e-5, rtol=0)
    gram = found @ found.T if theirs <= ours else found.T @ found
    torch.testing.assert_close(gram, torch.eye(min(theirs, ours)), atol=1e-5, rtol=0)


def test_the_parts_of_a_step_by_hand(spec: ModelSpec):
    """Queries, documents and prompts count alike, however many rows they are."""
    chosen = Recipe("rank", 1e-3, 2, teacher="any", distil_weight=3.0, dtype="float32")
    encoder = learner(spec, dataclasses.replace(chosen, teacher=None, distil_weight=0.0), "cpu")
    examples = EXAMPLES[:2]
    made = rows_of(examples, encoder.tokens, chosen, 3, random.Random(0))
    draw = torch.Generator().manual_seed(1)
    vectors, targets = (
        torch.nn.functional.normalize(torch.randn(len(made.ids), 5, generator=draw), dim=-1) for _ in range(2)
    )
    parts = losses(vectors, made, examples, chosen, targets=targets)
    cosines = [sum(a * b for a, b in zip(*pair, strict=True)) for pair in zip(vectors.tolist(), targets.tolist())]  # noqa: B905
    documents = sorted({row for members in made.documents for row in members})
    means = [sum(1 - cosines[row] for row in rows) / len(rows) for rows in (made.queries, documents, made.prompts)]
    assert float(parts["distil"]) == pytest.approx(sum(means) / 3, abs=1e-5)
    expected = parts["infonce"] + 2 * parts["ranknet"] + 3 * parts["distil"]
    assert float(parts["loss"]) == pytest.approx(float(expected), rel=1e-6)


# --- the teacher ------------------------------------------------------------------------------------------------------


def test_the_targets_are_the_teachers_vectors_in_the_order_of_the_rows(spec: ModelSpec, wide: Path, distilling: Recipe):
    student = learner(spec, distilling, "cpu")
    teacher = Teacher(E2RankEncoder.load(str(wide), device="cpu"))
    teacher.fit(student, EXAMPLES)
    examples = [EXAMPLES[0], EXAMPLES[0]._replace(query="another"), EXAMPLES[1]]  # texts that two examples share
    teacher.read(EXAMPLES + examples, distilling, 3)
    found = teacher.targets(examples, distilling, 3)
    alone = E2RankEncoder.load(str(wide), device="cpu")
    made = rows_of(examples, student.tokens, distilling, 3, random.Random(0))
    expected = np.concatenate(
        [
            alone.encode_queries([example.query for example in examples]),
            alone.encode_documents([*EXAMPLES[0].documents, *EXAMPLES[1].documents]),
            alone.encode_prompts([ListwisePrompt(each.query, each.documents[:3], RERANK_TASK) for each in examples]),
        ]
    )
    assert len(made.ids) == len(expected) == 3 + 8 + 3
    centre = alone.encode_documents([text for each in EXAMPLES for text in each.documents]).mean(axis=0)
    expected = (expected - centre) @ teacher.turn.numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found.numpy(), expected, atol=5e-4)  # kept in 16 bits


def test_a_text_is_encoded_once_and_kept_for_a_run_that_goes_on(
    wide: Path, distilling: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tasks = {"one": Tasks("a task"), "other": Tasks("another task")}
    chosen = dataclasses.replace(distilling, tasks=tasks)
    examples = [EXAMPLES[0]._replace(source=source) for source in ("one", "other", "one")]
    first, second = (Teacher(E2RankEncoder.load(str(wide), device="cpu")) for _ in range(2))
    first.read(examples, chosen, 3, tmp_path / "new" / "kept.safetensors")
    tally = first.encoder.tally
    assert (tally.queries, tally.documents, tally.prompts) == (2, 4, 1)  # the query under two tasks
    said = capsys.readouterr().err
    assert (
        f"teacher {wide}: read 7 of 7 texts, 0 of 4 documents, 2 of 2 queries, 0 of 3 documents in prompts, 0 of 1 "
        "queries in prompts cut" in said
    )
    second.centre, second.turn = torch.ones(96), torch.zeros(96, 96)  # as another rounding might fit them
    second.read(examples, chosen, 3, tmp_path / "new" / "kept.safetensors")
    assert second.encoder.tally.tokens == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["kept.safetensors"]
    for source in (0, 1):
        found, again = (teacher.targets(examples[source : source + 1], chosen, 3) for teacher in (first, second))
        assert torch.equal(found, again)
        query = first.encoder.encode_queries([EXAMPLES[0].query], list(tasks.values())[source].retrieval)
        np.testing.assert_allclose(found[:1].numpy(), query, atol=5e-4)
    (tmp_path / "new" / "kept.safetensors").write_bytes(b"not one")
    with pytest.raises(E2RankError, match=r"kept.safetensors: cannot be read .*; remove it") as caught:
        second.read(examples, chosen, 3, tmp_path / "new" / "kept.safetensors")
    assert "\n" not in str(caught.value)


def test_the_prompts_targets_can_be_the_teachers_feedback(wide: Path, spec: ModelSpec, distilling: Recipe):
    chosen = dataclasses.replace(distilling, distil_prompt="feedback")
    student = learner(spec, chosen, "cpu")
    teacher = Teacher(E2RankEncoder.load(str(wide), device="cpu"))
    teacher.fit(student, EXAMPLES)
    examples = EXAMPLES[:3]
    teacher.read(EXAMPLES, chosen, 3)
    assert teacher.encoder.tally.prompts == 0  # it reads none
    rows = rows_of(examples, student.tokens, chosen, 3, random.Random(0))
    found = teacher.targets(examples, chosen, 3).tolist()
    assert len(found) == len(rows.ids)
    for number, members in enumerate(rows.documents):
        query, documents = found[number], [found[row] for row in members[:3]]
        weights = [math.exp(20 * sum(a * b for a, b in zip(query, each, strict=True))) for each in documents]
        moved = [
            component + 0.5 * sum(w * each[place] for w, each in zip(weights, documents, strict=True)) / sum(weights)
            for place, component in enumerate(query)
        ]
        length = math.hypot(*moved)
        assert found[rows.prompts[number]] == pytest.approx([each / length for each in moved], abs=1e-5)


def test_who_is_its_own_teacher_learns_to_be_centred_alone(spec: ModelSpec, distilling: Recipe):
    alone = dataclasses.replace(distilling, teacher=str(spec.source))
    student = learner(spec, alone, "cpu")
    teacher = Teacher(E2RankEncoder.load(spec, device="cpu"))
    texts = lists(40, 4, seed=3)
    teacher.fit(student, texts)  # more texts than the vectors are wide: the turn is the identity
    torch.testing.assert_close(teacher.turn, torch.eye(64), atol=1e-3, rtol=0)
    teacher.read(texts, alone, 3)
    vectors = torch.from_numpy(student.encode_documents(documents_of(texts[:2])))
    fitted = torch.from_numpy(student.encode_documents(documents_of(texts)))
    vectors = torch.nn.functional.normalize(vectors - fitted.mean(dim=0), dim=-1)
    assert float(distil(vectors, teacher.targets(texts[:2], alone, 3)[2:-2])) == pytest.approx(0, abs=1e-5)


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_a_student_comes_near_its_teacher_and_goes_on_where_it_stopped(
    spec: ModelSpec, distilling: Recipe, tmp_path: Path
):
    longer = dataclasses.replace(distilling, steps=24, save_every=12)
    train(spec, longer, EXAMPLES, tmp_path / "whole", device="cpu")
    train(spec, longer, EXAMPLES, tmp_path / "parts", device="cpu", stop_after=12)
    train(spec, longer, EXAMPLES, tmp_path / "parts", device="cpu")
    whole, parts = (read_log(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts"))
    assert whole == parts
    assert whole[0]["distil"] > 0.5 > 0.2 > whole[-1]["distil"]
    record = json.loads((tmp_path / "whole" / "training.json").read_text())
    assert record["teacher"]["name"] == distilling.teacher
    assert E2RankEncoder.load(str(tmp_path / "whole"), device="cpu").encode_documents(["a text"]).shape == (1, 64)


def test_another_teacher_is_another_run(spec: ModelSpec, distilling: Recipe, tmp_path: Path):
    train(spec, distilling, EXAMPLES, tmp_path / "out", device="cpu", stop_after=2)
    other = dataclasses.replace(distilling, teacher=str(spec.source))
    with pytest.raises(E2RankError, match="state of another run"):
        train(spec, other, EXAMPLES, tmp_path / "out", device="cpu")


def test_a_teacher_read_otherwise_is_another_run(spec: ModelSpec, distilling: Recipe, tmp_path: Path):
    """The same weights, with other settings beside them."""
    place = tmp_path / "teacher"
    shutil.copytree(str(distilling.teacher), place)
    its = dataclasses.replace(distilling, teacher=str(place))
    train(spec, its, EXAMPLES, tmp_path / "out", device="cpu", stop_after=2)
    settings = yaml.safe_load((place / "e2rank.yaml").read_text())
    settings["lengths"]["document"] = 6
    (place / "e2rank.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(E2RankError, match="state of another run"):
        train(spec, its, EXAMPLES, tmp_path / "out", device="cpu")


def test_an_adapter_in_the_last_layers_leaves_the_first_alone(spec: ModelSpec):
    chosen = Recipe("rank", 1e-3, 2, dtype="float32", lora=Lora(4, 8), layers=1)
    names = {name for name, weight in learner(spec, chosen, "cpu").network.named_parameters() if weight.requires_grad}
    assert len(names) == 7 * 2  # q, k, v, o, gate, up, down; A and B
    assert all("layers.1." in name and "lora_" in name for name in names)
    some = dataclasses.replace(chosen, lora=Lora(4, 8, ("q_proj",)))
    assert sum(weight.requires_grad for weight in learner(spec, some, "cpu").network.parameters()) == 2


def test_an_adapter_that_is_trained_further_keeps_to_the_recipe(spec: ModelSpec, tmp_path: Path):
    chosen = Recipe("rank", 1e-3, 2, steps=1, dtype="float32", lora=Lora(4, 8, ("q_proj", "v_proj")))
    train(spec, chosen, EXAMPLES, tmp_path / "first", device="cpu")
    first = model(str(tmp_path / "first"))
    further = learner(first, dataclasses.replace(chosen, layers=1), "cpu").network
    names = {name for name, weight in further.named_parameters() if weight.requires_grad}
    assert len(names) == 2 * 2
    assert all("layers.1." in name and "lora_" in name for name in names)
    learner(first, dataclasses.replace(chosen, lora=Lora(4, 8)), "cpu")  # all linear layers: those that it has
    for lora in (Lora(2, 8), Lora(4, 4), Lora(4, 8, ("q_proj",))):
        with pytest.raises(E2RankError, match="has rank 4, alpha 8 and the targets q_proj, v_proj; the recipe's lora"):
            learner(first, dataclasses.replace(chosen, lora=lora), "cpu")


def test_the_space_is_fitted_on_many_documents_of_all_sources(spec: ModelSpec, wide: Path, monkeypatch):
    monkeypatch.setattr("e2rank_pyserini.training.teacher.FITTED", 8)
    teacher, read = Teacher(E2RankEncoder.load(str(wide), device="cpu")), []
    encode = teacher.encoder.encode_documents
    monkeypatch.setattr(teacher.encoder, "encode_documents", lambda texts: read.extend(texts) or encode(texts))
    examples = lists(400, 4, seed=3, most=12)
    teacher.fit(E2RankEncoder.load(spec, device="cpu"), examples)
    assert len(read) == 8 * 64
    last = {text for example in examples[300:] for text in example.documents}
    assert len(last.intersection(read)) > 64  # a quarter of all, so 128 are expected


def test_more_layers_than_the_model_has_are_one_line(spec: ModelSpec):
    with pytest.raises(E2RankError, match="recipe: layers: expected at most the model's 2, got 3"):
        learner(spec, Recipe("rank", 1e-3, 2, layers=3), "cpu")


@pytest.mark.parametrize("fields", ["teacher: minilm", "distil_weight: 1.0", "layers: 0"])
def test_half_a_setting_is_one_line(tmp_path: Path, fields: str):
    (tmp_path / "recipe.yaml").write_text(f"stage: rank\n{fields}\n")
    with pytest.raises(E2RankError, match=r"go together|at least 1"):
        recipe(str(tmp_path / "recipe.yaml"), None)


def test_the_teachers_prompts_are_read_as_given_in_any_order(wide: Path, distilling: Recipe):
    found = []
    for order in ("given", "reverse"):
        chosen = dataclasses.replace(distilling, order=order)
        teacher = Teacher(E2RankEncoder.load(str(wide), device="cpu"))
        teacher.read(EXAMPLES[:2], chosen, 3)
        found.append(teacher.targets(EXAMPLES[:2], chosen, 3))
    assert torch.equal(*found)
