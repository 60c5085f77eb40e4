"""`e2rank train`: one process and two, killed and run again, and bad input in one line."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

from e2rank_pyserini.catalog import model
from e2rank_pyserini.cli import main
from e2rank_pyserini.directories import held
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.training.examples import read_examples
from e2rank_pyserini.training.recipe import recipe as read_recipe
from e2rank_pyserini.training.train import train
from tests.conftest import sentences

pytestmark = pytest.mark.usefixtures("one_thread")

ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
PLAIN = {"stage": "rank", "dtype": "float32", "learning_rate": 0.001, "cached": True, "checkpointing": False}


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path) -> Path:
    """A directory with data, dev lists and a recipe."""
    texts = sentences(60, seed=21, most=15)
    rows = [
        {
            "query": f"wing {number}",
            "document": texts[4 * number : 4 * number + 4],
            "ranking": [3, 1, 4, 2],
            "source": "ab"[number % 2],
        }
        for number in range(15)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:12]))
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[12:]))
    recipe(tmp_path)
    return tmp_path


def recipe(place: Path, **fields: Any) -> None:
    settings = {**PLAIN, "batch": 3, "steps": 6, "save_every": 2, "evaluate_every": 3, **fields}
    (place / "recipe.yaml").write_text(yaml.safe_dump(settings))


def words(place: Path, tiny_model: Path, output: str = "out", more: str = "") -> list[str]:
    line = f"train --encoder {tiny_model} --recipe {place}/recipe.yaml --data {place}/data.jsonl --threads 1 "
    return shlex.split(f"{line} --dev {place}/dev.jsonl --device cpu --output {place}/{output} {more}")


def curve(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def assert_alike(found: Path, expected: Path, tolerance: float) -> None:
    """The same losses and measures at the same steps, and the same weights."""
    theirs, ours = curve(expected), curve(found)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance)
    before, after = (load_file(place / "model.safetensors") for place in (expected, found))
    for name in before:
        np.testing.assert_allclose(after[name], before[name], atol=tolerance, err_msg=name)


def test_two_processes_are_as_one(place: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]):
    recipe(place, teacher=str(tiny_model), distil_weight=5.0)  # each asks the teacher about its share
    assert main(words(place, tiny_model, "one")) == 0
    torchrun = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
    command = [sys.executable, "-m", *torchrun, "-m", "e2rank_pyserini", *words(place, tiny_model, "two")]
    done = subprocess.run(command, env=ALONE, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("12 examples, 6 steps") == 1  # one of them says so
    assert json.loads((place / "two" / "training.json").read_text())["processes"] == 2
    assert_alike(place / "two", place / "one", 1e-4)
    assert not (place / "two.training").exists()


def apart(place: Path, told: list[str], mine: Path, other: Path) -> subprocess.CompletedProcess[str]:
    """The command in two processes, of which the second is given `other` in place of `mine`, as on another machine."""
    (place / "start.py").write_text(
        "import os, sys\nfrom e2rank_pyserini.cli import main\n"
        f"path = {str(other)!r} if os.environ['RANK'] == '1' else {str(mine)!r}\n"
        f"sys.exit(main([path if word == {str(mine)!r} else word for word in {told!r}]))\n"
    )
    torchrun = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
    command = [sys.executable, "-m", *torchrun, str(place / "start.py")]
    return subprocess.run(command, env=ALONE, capture_output=True, text=True, timeout=300, check=False)


def test_processes_with_other_data_are_refused(place: Path, tiny_model: Path):
    lists = place / "data.jsonl"
    (place / "other.jsonl").write_text("".join(reversed(lists.read_text().splitlines(keepends=True))))
    done = apart(place, words(place, tiny_model), lists, place / "other.jsonl")
    assert done.returncode == 1
    assert "e2rank train: the processes were given different models, recipes, data or dev lists\n" in done.stderr
    assert not (place / "out").exists()


def test_processes_with_other_folders_do_not_go_on(place: Path, tiny_model: Path):
    """The first has the state of step 2, the second none."""
    chosen, examples, dev = (
        read_recipe(str(place / "recipe.yaml"), None),
        list(read_examples(place / "data.jsonl")),
        list(read_examples(place / "dev.jsonl")),
    )
    train(model(str(tiny_model)), chosen, examples, place / "out", dev=dev, device="cpu", stop_after=2)
    done = apart(place, words(place, tiny_model), place / "out", place / "elsewhere")
    assert done.returncode == 1
    assert "going on after step 2 of 6" in done.stderr
    # each says so of its own folder; torchrun may end one of them before it could
    assert re.search(
        r"^e2rank train: .*/(out|elsewhere)\.training: expected one folder for all processes$", done.stderr, re.M
    )
    assert not (place / "out").exists()


def test_a_killed_command_goes_on(place: Path, tiny_model: Path):
    recipe(place, steps=40, evaluate_every=20, save_every=5)
    assert main(words(place, tiny_model, "whole")) == 0
    command = [sys.executable, "-m", "e2rank_pyserini", *words(place, tiny_model)]
    running = subprocess.Popen(command, env=ALONE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = place / "out.training" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    try:
        while not (log.exists() and log.read_text().count("\n") > 12):
            assert running.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(running.pid, signal.SIGKILL)
    finally:
        running.kill()
    assert running.wait() == -signal.SIGKILL
    assert not (place / "out").exists()
    reached = json.loads((place / "out.training" / "state" / "step.json").read_text())["step"]
    assert 5 <= reached < 40
    assert main(words(place, tiny_model)) == 0
    assert_alike(place / "out", place / "whole", 1e-6)


def test_a_second_process_on_one_output_is_refused(place: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]):
    with held(place / "out.training"):  # as by another one
        assert main(words(place, tiny_model)) == 1
    assert capfd.readouterr()[1] == f"e2rank train: {place}/out.training: another process is writing it\n"
    assert main(words(place, tiny_model)) == 0
    (place / "more.training").touch()
    assert main(words(place, tiny_model, "more")) == 1
    assert capfd.readouterr()[1].endswith("more.training: is no directory, and the state is to lie there\n")


@pytest.mark.parametrize("form", [{"compress": "int4"}, {"lora": {"rank": 2, "alpha": 2}}])
def test_an_adapter_is_refused_on_other_weights(
    place: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str], form: dict[str, Any]
):
    """Stage I trained anew under its old name, and the adapter of stage II still there."""
    shutil.copytree(tiny_model, place / "base")
    recipe(place, **form)
    assert main(words(place, place / "base", "first", "--steps 1")) == 0
    again = words(place, place / "first", "second", "--steps 1")
    assert main(again) == 0
    (place / "base" / "training_args.bin").touch()  # no weights
    shutil.rmtree(place / "second")
    assert main(again) == 0
    weights = load_file(place / "base" / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 0.01}, place / "base" / "model.safetensors", {"format": "pt"})
    shutil.rmtree(place / "second")
    capfd.readouterr()
    for line in (again, ["index", "--corpus", "x", "--encoder", str(place / "first"), "--output", str(place / "i")]):
        assert main(line) == 1
        assert "its adapter was trained on other weights " in capfd.readouterr()[1]


def test_options_replace_the_recipes(place: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]):
    more = "--steps 2 --batch 2 --window 3 --seed 5 --learning-rate 0.01 --order reverse --prompt train"
    assert main(words(place, tiny_model, more=more)) == 0
    printed, told = capfd.readouterr()
    assert printed == ""
    record = json.loads((place / "out" / "training.json").read_text())
    assert f"12 examples, 2 steps, {record['tokens']} tokens, " in told
    encoded = record["encoded"]  # 2 steps of 2 examples with a window of 3
    assert (encoded["queries"], encoded["prompts"], encoded["prompt_documents"]) == (4, 4, 12)
    assert f"{encoded['documents_truncated']} of {encoded['documents']} documents, " in told
    made = record["recipe"]
    assert [made[name] for name in "steps batch window seed learning_rate order".split()] == [
        2,
        2,
        3,
        5,
        0.01,
        "reverse",
    ]
    read = E2RankEncoder.load(str(place / "out"), device="cpu")
    assert (read.spec.prompt, read.spec.window) == ("train", 3)


def test_another_teacher_replaces_the_recipes(place: Path, tiny_model: Path):
    recipe(place, teacher="none of that name", distil_weight=1.0, distil_prompt="feedback")
    assert main(words(place, tiny_model, more=f"--steps 1 --teacher {tiny_model}")) == 0
    record = json.loads((place / "out" / "training.json").read_text())
    assert record["teacher"]["name"] == record["recipe"]["teacher"] == str(tiny_model)
    assert [row["distil"] > 0 for row in curve(place / "out") if "distil" in row] == [True]


def test_what_is_trained_makes_an_index(place: Path, tiny_model: Path, beir: Path):
    assert main(words(place, tiny_model, more="--steps 1")) == 0
    made = ["index", "--dataset", str(beir), "--encoder", str(place / "out"), "--output", str(place / "index")]
    assert main(made) == 0
    sidecar = json.loads((place / "index" / "e2rank.json").read_text())
    assert str(place / "out") in json.dumps(sidecar)


# --- bad input --------------------------------------------------------------------------------------------------------

BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("unknown-key", {"ranknet_wieght": 2.0}, "", "unknown key 'ranknet_wieght'; did you mean ranknet_weight"),
    ("unknown-task-key", {"tasks": {"a": {"retrival": "x"}}}, "", "unknown key 'retrival'; did you mean retrieval"),
    ("unknown-lora-key", {"lora": {"rank": 2, "alpha": 2, "target": []}}, "", "unknown key 'target'"),
    ("task-of-no-source", {"tasks": {"aa": {"noun": "x"}}}, "", "tasks: 'aa': no example is of this source; did you"),
    ("lora-rank", {"lora": {"rank": 0, "alpha": 2}}, "", "lora: expected rank and alpha of at least 1"),
    (
        "lora-targets",
        {"lora": {"rank": 1, "alpha": 2, "targets": ["q_proj", "v_prjo"]}},
        "",
        "no linear layer 'v_prjo'; did you mean v_proj",
    ),
    ("no-length", {"document_length": 0}, "", "document_length: expected at least 1, got 0"),
    ("order-unread", {"order": "shuffle", "listwise": "query"}, "", "recipe: order: no prompt is read"),
    ("feedback-of-nobody", {"distil_prompt": "feedback"}, "", "distil_prompt: no prompt is read, or there is no"),
    ("seed", {"seed": 2**70}, "", "seed: expected a whole number of 64 bits"),
    ("lora-and-compress", {"lora": {"rank": 1, "alpha": 2}, "compress": 2}, "", "exclude each other"),
    ("ill-typed", {"batch": "three"}, "", "batch: expected int, got 'three'"),
    ("rate-word", {"learning_rate": "high"}, "", "learning_rate: expected float, got 'high'"),
    ("rate-zero", {"learning_rate": 0.0}, "", "learning_rate: expected a number above 0"),
    ("rate-nan", {}, "--learning-rate nan", "learning_rate: expected a number above 0, got nan"),
    ("rate-negative", {}, "--learning-rate=-1", "learning_rate: expected a number above 0, got -1.0"),
    ("temperature", {"temperature": -0.1}, "", "temperature: expected a number above 0"),
    ("task-of-a-number", {"tasks": {7: {"noun": "x"}}}, "", "tasks: expected text as a key (in quotes), got 7"),
    ("task-of-nothing", {"tasks": {None: {"noun": "x"}}}, "", "tasks: expected text as a key (in quotes), got None"),
    ("warmup", {"warmup": 300}, "", "warmup: expected a share of at most 1"),
    ("documents", {"documents": 1}, "", "documents: expected at least 2"),
    ("length", {"document_length": 1}, "", "lengths must be at least 2"),
    ("too-long", {"prompt_length": 4096}, "", "has 2048 positions"),
    ("nothing-to-train", {"infonce_weight": 0, "ranknet_weight": 0}, "", "there is nothing to train"),
    ("stage-unknown", {"stage": "both"}, "", "stage: expected one of embed, rank, got 'both'"),
    ("stage-mismatch", {}, "--stage embed", "is for stage 'rank', not for --stage embed"),
    ("stage-mismatch-named", {}, "--recipe embed --stage rank", "is for stage 'embed', not for --stage rank"),
    ("recipe-unknown", {}, "--recipe rnak", "did you mean rank"),
    ("recipe-missing", {}, "--recipe no.yaml", "recipe 'no.yaml': expected a YAML file"),
    ("recipe-directory", {}, "--recipe {place}", "expected a YAML file"),
    (
        "recipes",
        {"recipes": {"mine": {"stage": "rank"}}},
        "",
        "expected the keys of one recipe (stage, batch, …)",
    ),
    ("recipe-no-yaml", {}, "--recipe {place}/list.yaml", "list.yaml: expected a mapping"),
    ("order", {}, "--order sorted", "order: expected one of given, shuffle, reverse, got 'sorted'"),
    ("listwise", {}, "--listwise both", "listwise: expected one of prompt, query, got 'both'"),
    ("teacher-alone", {}, "--teacher minilm", "teacher and distil_weight go together"),
    ("teacher-unknown", {"distil_weight": 1.0, "teacher": "minilm"}, "--teacher minilmm", "did you mean minilm"),
    ("distil-prompt", {"distil_prompt": "mean"}, "", "distil_prompt: expected one of prompt, feedback, got 'mean'"),
    ("no-loss", {}, "--infonce-weight 0 --ranknet-weight 0", "there is nothing to train"),
    ("data-missing", {}, "--data {place}/none.jsonl", "none.jsonl"),
    ("data-empty", {}, "--data {place}/empty.jsonl", "no training examples"),
    ("data-broken", {}, "--data {place}/data.jsonl {place}/broken.jsonl", "broken.jsonl:1: "),
    ("dev-missing", {}, "--dev {place}/none.jsonl", "none.jsonl"),
    ("too-few", {}, "--batch 7", "12 examples: no source has the 7 of one batch"),
    ("model-unknown", {}, "--encoder minilmm", "did you mean minilm"),
    ("like-unknown", {}, "--like e2rank", "like 'e2rank': expected a named model"),
    ("device", {}, "--device cuda:99", "device 'cuda:99': not usable here"),
    ("window-of-no-prompt", {}, "--listwise query --window 2", "--window: no prompt is read"),
    ("output-exists", {}, "--output {place}/data.jsonl", "data.jsonl: exists already"),
    ("output-link-to-nowhere", {}, "--output {place}/link", "link: exists already"),
    ("output-below-a-file", {}, "--output {place}/data.jsonl/out", "data.jsonl is not a directory that may be written"),
]


def contents(place: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(place)): path.read_bytes() if path.is_file() else None for path in place.rglob("*")}


@pytest.mark.parametrize(("fields", "more", "fragment"), [pytest.param(*columns, id=name) for name, *columns in BAD])
def test_bad_input_is_one_line(
    place: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str], fields: dict[str, Any], more: str, fragment: str
):
    (place / "list.yaml").write_text("- stage\n")
    (place / "empty.jsonl").write_text("\n")
    (place / "link").symlink_to("nowhere")
    (place / "broken.jsonl").write_text('{"query": "q"}\n')
    recipe(place, **fields)
    before = contents(place)
    capfd.readouterr()
    assert main(words(place, tiny_model, more=more.format(place=place))) == 1
    printed, told = capfd.readouterr()
    assert printed == ""
    assert told.startswith("e2rank train: ")
    assert told.count("\n") == 1, told
    assert fragment in told
    assert contents(place) == before


@pytest.mark.parametrize("more", ["--steps 0", "--batch two", "--window -1", "--stage both", "--prompt papers"])
def test_usage_errors(place: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str], more: str):
    with pytest.raises(SystemExit) as ended:
        main(words(place, tiny_model, more=more))
    assert ended.value.code == 2
    assert "usage: e2rank train" in capfd.readouterr()[1]


@pytest.mark.parametrize("more", ["--listwise query", "--infonce-weight 0", "--ranknet-weight 2", "--order reverse"])
def test_stage_embed_reads_no_lists(place: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str], more: str):
    line = f"train --stage embed --encoder {tiny_model} --data {place}/data.jsonl --output {place}/out {more}"
    assert main(line.split()) == 1
    assert re.fullmatch(r"e2rank train: (recipe: \w+|--[\w-]+): stage embed knows no lists\n", capfd.readouterr()[1])


def test_neither_stage_nor_recipe(place: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]):
    line = f"train --encoder {tiny_model} --data {place}/data.jsonl --output {place}/out"
    assert main(shlex.split(line)) == 1
    assert capfd.readouterr()[1] == "e2rank train: name the --stage (embed or rank) or a --recipe\n"


def test_a_loss_that_is_no_number_ends_the_run(
    place: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    recipe(place, learning_rate=1.0e30, save_every=None, evaluate_every=None)
    capfd.readouterr()
    assert main(words(place, tiny_model)) == 1
    printed, told = capfd.readouterr()
    assert printed == ""
    assert told.count("\n") == 1, told
    assert told.endswith("step 2: the loss or its gradient is not a number; lower the learning rate\n")
    assert not (place / "out").exists()
    assert not (place / "out.training" / "state").exists()  # there is nothing broken to go on from


def test_what_compress_keeps_and_where_the_state_is_are_said(
    place: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]
):
    recipe(place, compress=1, steps=2)
    assert main(words(place, tiny_model)) == 0
    kept = json.loads((place / "out" / "training.json").read_text())["energy_kept"]
    assert 0 < kept < 1
    assert f", {kept:.1%} of the change's energy kept -> {place / 'out'} (" in capfd.readouterr().err
    recipe(place, learning_rate=1.0e30, save_every=1, evaluate_every=None)
    assert main(words(place, tiny_model, "other")) == 1
    state = place / "other.training"
    assert capfd.readouterr().err.endswith(f"lower the learning rate; {state} has the state of the last save\n")
    assert (state / "state").is_dir()


@pytest.mark.parametrize("harm", [lambda path: path.write_bytes(b"x"), lambda path: path.unlink()])
def test_a_broken_state_is_one_line(
    place: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str], harm: Callable[[Path], object]
):
    examples, dev = (read_examples(place / name) for name in ("data.jsonl", "dev.jsonl"))
    chosen = read_recipe(str(place / "recipe.yaml"), None)
    train(model(str(tiny_model)), chosen, examples, place / "out", dev=dev, device="cpu", stop_after=2)
    harm(place / "out.training" / "state" / "weights.safetensors")
    before = contents(place)
    capfd.readouterr()
    assert main(words(place, tiny_model)) == 1
    told = capfd.readouterr()[1]
    assert told.count("\n") == 1, told
    assert "state: the saved state cannot be read (" in told
    assert contents(place) == before
