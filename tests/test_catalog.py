"""The catalogs load strictly, say what they mean, and hold the protocol's strings to the letter."""

import dataclasses
import re
from pathlib import Path

import pytest

from e2rank_pyserini import catalog
from e2rank_pyserini.types import E2RankError
from tests.faults.limits import within

METHOD = Path(__file__).resolve().parents[2] / "shared" / "METHOD.md"


def test_every_named_record_loads():
    assert {"e2rank-0.6b", "e2rank-4b", "e2rank-8b", "qwen3-embedding-0.6b", "minilm", "smollm2-135m"} <= set(
        catalog.model_names()
    )
    for name in catalog.model_names():
        assert catalog.model(name).name == name
    for name in catalog.dataset_names():
        assert catalog.dataset(name).name == name


def test_the_released_models_are_as_published():
    for size in ("0.6B", "4B", "8B"):
        spec = catalog.model(f"e2rank-{size.lower()}")
        assert spec.source == f"Alibaba-NLP/E2Rank-{size}"
        assert (spec.pooling, spec.eos, spec.prompt, spec.window) == ("last", "<|endoftext|>", "paper", 20)
        assert spec.query == "Instruct: {task}\nQuery:{query}"
        assert catalog.model(spec.source) == spec


def test_tasks_are_the_protocols_to_the_letter():
    if not METHOD.is_file():
        pytest.skip("METHOD.md (../shared) is not here")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in METHOD.read_text().split("## 5.")[1].splitlines()
        if line.startswith("| ") and not line.startswith("| set")
    ]
    assert len(rows) == 22
    for name, retrieval, rerank, noun in rows:
        spec = catalog.dataset(name)
        assert spec.retrieval_task == retrieval.replace(" *(sic)*", "")
        assert (spec.rerank_task, spec.noun) == (rerank, noun)


def test_carried_models_do_as_the_makefile_says():
    """The Makefile's default model for the carried data sets; it cannot read YAML."""
    makefile = (Path(__file__).resolve().parents[1] / "Makefile").read_text()
    carried = {name for name in catalog.dataset_names() if catalog.dataset(name).package}
    assert f"CARRIED := {' '.join(sorted(carried))}" in makefile


def test_near_misses_are_named():
    with pytest.raises(E2RankError, match="did you mean scifact"):
        catalog.dataset("sci-fact")
    with pytest.raises(E2RankError, match="did you mean minilm"):
        catalog.model("minillm")


def test_an_unknown_key_is_an_error(tmp_path: Path):
    (tmp_path / "e2rank.yaml").write_text("poolng: last\n")
    with pytest.raises(E2RankError, match=r"e2rank\.yaml: unknown key 'poolng'; did you mean pooling"):
        catalog.model(str(tmp_path))


def test_a_directory_is_like_the_family_of_its_config(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    spec = catalog.model(str(tmp_path))
    expected = dataclasses.replace(catalog.model("e2rank-0.6b"), name=str(tmp_path), source=str(tmp_path))
    assert spec == expected
    assert catalog.model(str(tmp_path), like="minilm").pooling == "mean"


def test_a_source_is_the_untrained_model_of_it():
    """Trained models share their base's source."""
    for name in ("minilm", "smollm2-135m", "e2rank-0.6b"):
        assert catalog.model(catalog.model(name).source) == catalog.model(name)


def test_a_directory_named_as_a_named_model_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "minilm").mkdir()
    (tmp_path / "minilm" / "config.json").write_text('{"model_type": "qwen3"}')
    assert catalog.model("minilm").pooling == "last"


def test_a_sidecar_gives_back_its_model():
    spec = catalog.model("minilm")
    assert catalog.model_of_sidecar({**dataclasses.asdict(spec), "identity": "abc"}, "x") == spec


# each list holds nine of the one before: 9^9 words if they were written out
LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("window: 5\nwindow: 8\n", "e2rank.yaml:1: not readable as YAML: key 'window' appears twice"),
        (
            "window: 5\nlengths: {query: 1, query: 2}\n",
            "e2rank.yaml:2: not readable as YAML: key 'query' appears twice",
        ),
        ("window: 5\n  x: [\n", "e2rank.yaml:2: not readable as YAML: "),
        ("window: 2001-99-99\n", "e2rank.yaml: not readable as YAML: month must be in 1..12"),
        ("window: " + "[" * 5000, "e2rank.yaml: not readable as YAML: maximum recursion depth"),
        ("window: 0x" + "f" * 5000, "e2rank.yaml: key 'pooling' is missing"),
        (LAUGHS, "e2rank.yaml: unknown key 'a0'"),
    ],
)
def test_what_is_wrong_in_a_models_own_record_is_one_line(tmp_path: Path, content: str, told: str):
    (tmp_path / "e2rank.yaml").write_text(content)
    with pytest.raises(E2RankError, match=re.escape(told)) as caught:
        catalog.model(str(tmp_path))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("value", [f"0x{'f' * 5000}", "[*a9, *a9]"])
def test_a_value_of_any_size_is_refused_in_one_line(tmp_path: Path, value: str):
    fields = {"pooling": "last", "eos": None, "query": "{query}", "prompt": "paper", "window": 1, "dtype": "auto"}
    lengths = {"document": 2, "query": 2, "prompt": 2}
    (tmp_path / "large.yaml").write_text(f"{LAUGHS}chat: {value}\n")
    chat = catalog.yaml_file(tmp_path / "large.yaml")["chat"]
    named = {"name": "n", "source": "s", "chat": chat, "lengths": lengths}
    with within(5, "a large value"), pytest.raises(E2RankError, match="x: chat: expected str, got") as caught:
        catalog.record(catalog.ModelSpec, {**fields, **named}, "x")
    assert len(str(caught.value)) < 500


def test_a_nested_configuration_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(E2RankError, match=r"its config\.json is not readable: (maximum recursion|Stack overflow)"):
        catalog.model(str(tmp_path))
