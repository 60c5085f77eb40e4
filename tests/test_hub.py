"""Models on the hub: by the hub's own client, offline, from caches laid out as it lays them."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from e2rank_pyserini import catalog
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.types import E2RankError

COMMIT = "0123456789012345678901234567890123456789"
LATER = "f" * 40


def in_cache(home: Path, name: str, files: Path) -> Path:
    """A hub's cache with these files as the repository's only commit; its folder."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    shutil.copytree(files, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return repository / "snapshots" / COMMIT


def offline(home: Path, code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_a_hub_name_is_read_from_the_hubs_cache(tiny_model: Path, tmp_path: Path):
    """The real loading code, offline: a cache laid out as the hub's client lays it, e2rank.yaml and all."""
    in_cache(tmp_path, "someone/tiny", tiny_model)
    code = (
        "import sys; from e2rank_pyserini import E2RankEncoder\n"
        "encoder = E2RankEncoder.load('someone/tiny', device='cpu')\n"
        "print(encoder.identity, *encoder.encode_documents(['wing flow'])[0].tolist())"
    )
    identity, *vector = offline(tmp_path, code).stdout.split()
    assert identity == COMMIT
    expected = E2RankEncoder.load(str(tiny_model), device="cpu").encode_documents(["wing flow"])[0]
    np.testing.assert_allclose([float(x) for x in vector], expected, atol=1e-6)


def test_an_adapter_of_a_hub_repository_is_fetched(tiny_model: Path, tmp_path: Path):
    """What is here of it comes from the cache; where there is none of it, that is said in a line."""
    (tmp_path / "files" / "lora").mkdir(parents=True)
    shutil.copy(tiny_model / "e2rank.yaml", tmp_path / "files")
    with (tmp_path / "files" / "e2rank.yaml").open("a") as record:
        record.write(f"source: {tiny_model}\nadapter: lora\n")
    (tmp_path / "files" / "lora" / "adapter_config.json").write_text("{}")
    place = in_cache(tmp_path, "someone/lora", tmp_path / "files")
    done = offline(tmp_path, "from e2rank_pyserini.catalog import model; print(model('someone/lora').adapter)")
    assert done.stdout.strip() == str(place / "lora"), done.stderr
    done = offline(tmp_path, "from e2rank_pyserini.declared import adapter_folder as get; get('nobody/lora', '.')")
    assert "E2RankError: model nobody/lora: the hub did not give its adapter: " in done.stderr


@pytest.fixture
def two_commits(tiny_model: Path, tmp_path: Path) -> Path:
    """A hub's cache with two commits of one repository, of other weights; its main is at the first."""
    first = in_cache(tmp_path, "someone/tiny", tiny_model)
    second = shutil.copytree(first, first.parent / LATER)
    weights = load_file(second / "model.safetensors")
    save_file({name: weight.flip(0) for name, weight in weights.items()}, second / "model.safetensors")
    return tmp_path


MOVE = f"""
from pathlib import Path
def move():
    (Path(os.environ["HF_HOME"]) / "hub" / "models--someone--tiny" / "refs" / "main").write_text("{LATER}")
"""


def test_a_hub_model_is_of_one_commit_though_main_moves_while_it_loads(two_commits: Path, tiny_model: Path):
    code = (
        "import os; from transformers import AutoTokenizer; from e2rank_pyserini import E2RankEncoder\n" + MOVE + "\n"
        "read = AutoTokenizer.from_pretrained\n"
        "AutoTokenizer.from_pretrained = lambda *words, **named: (move(), read(*words, **named))[1]\n"
        "encoder = E2RankEncoder.load('someone/tiny', device='cpu')\n"
        "print(encoder.identity, encoder.record['revision'], *encoder.encode_documents(['wing flow'])[0].tolist())\n"
        "print(E2RankEncoder.load('someone/tiny', device='cpu').identity)"
    )
    done = offline(two_commits, code)
    identity, revision, *vector, later = done.stdout.split()
    assert (identity, revision, later) == (COMMIT, COMMIT, LATER), done.stderr
    expected = E2RankEncoder.load(str(tiny_model), device="cpu").encode_documents(["wing flow"])[0]
    np.testing.assert_allclose([float(x) for x in vector], expected, atol=1e-6)


def test_an_index_is_gone_on_with_and_searched_by_the_commit_that_it_was_begun_with(two_commits: Path):
    """Any commit on the hub, of a README alone too, is another identity."""
    (two_commits / "d.jsonl").write_text('{"_id": "1", "text": "wing flow"}\n{"_id": "2", "text": "shock wave"}\n')
    (two_commits / "q.tsv").write_text("q\twing\n")
    index = "index --corpus d.jsonl --encoder someone/tiny --shards s --shard-documents 1 --output"
    search = "search --index a --topics q.tsv --hits 2 --output"
    lines = (f"{index} a", f"{search} x", f"{index} b", f"{search} y", f"{search} z --encoder someone/tiny")
    code = (
        f"import os; os.chdir({str(two_commits)!r}); from e2rank_pyserini.cli import main\n" + MOVE + "\n"
        f"for number, line in enumerate({lines!r}):\n"
        "    move() if number == 2 else None\n"
        "    assert main(line.split()) == 0"
    )
    done = offline(two_commits, code)
    assert "2 shards were finished before" in done.stderr
    assert done.stderr.count(f"s: begun with commit {COMMIT} of someone/tiny, and gone on with\n") == 1
    found = [(two_commits / name).read_bytes() for name in "xyz"]
    assert found[0]
    assert found == [found[0]] * 3
    assert json.loads((two_commits / "b" / "e2rank.json").read_text())["model"]["revision"] == COMMIT


def test_a_file_of_which_the_hub_did_not_say_that_it_has_none_is_not_taken_for_absent(tiny_model: Path, tmp_path: Path):
    """A cache that another program has filled: the repository may say how its vectors are made, in a file not here."""
    place = in_cache(tmp_path, "someone/tiny", tiny_model)
    (place / "e2rank.yaml").unlink()
    code = "from e2rank_pyserini.catalog import model; print(model('someone/tiny').pooling)"
    done = offline(tmp_path, code)
    told = f"the hub did not say whether it has e2rank.yaml; what is here can be named, {place}: "
    assert f"E2RankError: model someone/tiny: {told}" in done.stderr
    absent = place.parent.parent / ".no_exist" / COMMIT
    absent.mkdir(parents=True)
    (absent / "e2rank.yaml").touch()
    assert "whether it has modules.json; " in offline(tmp_path, code).stderr
    (absent / "modules.json").touch()
    (absent / "config_sentence_transformers.json").touch()
    assert offline(tmp_path, code).stdout == "last\n"


def test_weights_and_adapters_that_are_not_here_are_told_so(tiny_model: Path, tmp_path: Path):
    place = in_cache(tmp_path, "someone/tiny", tiny_model)
    (place / "model.safetensors").unlink()
    code = "from e2rank_pyserini import E2RankEncoder; E2RankEncoder.load('someone/tiny', device='cpu')"
    done = offline(tmp_path, code)
    assert "model someone/tiny: someone/tiny comes from the hub\n" in done.stderr
    assert "someone/tiny is not on this machine and the hub did not give it, or not whole; give the " in done.stderr
    spec = dataclasses.replace(catalog.model(str(tiny_model)), adapter=str(tmp_path / "gone"))
    with pytest.raises(E2RankError, match=r"its adapter .*/gone is not on this machine; name the model anew"):
        E2RankEncoder.load(spec, device="cpu")


def test_damaged_weights_of_the_hub_are_not_called_absent(tiny_model: Path, tmp_path: Path):
    place = in_cache(tmp_path, "someone/tiny", tiny_model)
    weights = place / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    code = "from e2rank_pyserini import E2RankEncoder; E2RankEncoder.load('someone/tiny', device='cpu')"
    assert "someone/tiny is not a readable model: " in offline(tmp_path, code).stderr
