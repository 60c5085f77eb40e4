"""Files that are cut short or have a flipped bit: found, named, and never searched as if nothing were wrong."""

import contextlib
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2rank_pyserini.cli import main
from tests.faults.limits import within

SOAK = os.environ.get("E2RANK_SOAK") == "1"
FLIPS = {"index": 1500, "docid": 500, "e2rank.json": 0} if SOAK else {"index": 120, "docid": 40, "e2rank.json": 150}
CUTS = 200 if SOAK else 6
COUNTED: dict[str, int] = {}

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_index: Path, beir: Path) -> Path:
    """A Flat index, and two kinds on whose damaged headers FAISS hangs or asks for more memory than there is."""
    place = tmp_path_factory.mktemp("sound")
    shutil.copytree(tiny_index, place / "Flat")
    for kind in ("IVF2,Flat", "HNSW8"):
        words = ["--encoder", str(tiny_model), "--output", str(place / kind.split(",")[0]), "--index-type", kind]
        assert main(["index", "--dataset", str(beir), *words]) == 0
    return place


@pytest.fixture(scope="module", autouse=True)
def figures() -> Iterator[None]:
    yield
    print("\n" + "\n".join(f"{count:6} {what}" for what, count in COUNTED.items()))


def flipped(sound: bytes, draw: random.Random, count: int, head: int) -> Iterator[bytes]:
    """Copies with one bit flipped: half of them among the first `head` bytes; with a count of 0 each bit in turn."""
    bits = [draw.randrange(8 * (len(sound) if n % 2 else min(head, len(sound)))) for n in range(count)]
    for bit in bits or range(8 * len(sound)):
        damaged = bytearray(sound)
        damaged[bit // 8] ^= 1 << bit % 8
        yield bytes(damaged)


def shortened(sound: bytes, draw: random.Random) -> Iterator[bytes]:
    lengths = {0, 1, 8, len(sound) // 2, len(sound) - 1, *(draw.randrange(len(sound)) for _ in range(CUTS))}
    yield from (sound[:length] for length in sorted(lengths))


def matters(file: str, sound: bytes, damaged: bytes) -> bool:
    """Whether a file says something else: only the last line end of JSON says nothing."""
    return not (file == "e2rank.json" and damaged == sound[:-1])


def taken(run: Path) -> bytes:
    """The bytes of a run, which goes with its record."""
    content = run.read_bytes()
    run.unlink()
    run.with_name(f"{run.name}.json").unlink()
    return content


@pytest.mark.parametrize("kind", ["Flat", "IVF2", "HNSW8"])
@pytest.mark.parametrize("file", ["index", "docid", "e2rank.json"])
def test_every_damage_is_found_and_named(
    indexes: Path, beir: Path, tmp_path: Path, capfd: Capture, kind: str, file: str
):
    place, output = tmp_path / "i", tmp_path / "out.trec"
    shutil.copytree(indexes / kind, place)
    search = ["search", "--topics", str(beir / "queries.jsonl"), "--index", str(place), "--output", str(output)]
    assert main(search) == 0
    expected, sound = taken(output), (place / file).read_bytes()
    draw = random.Random(f"{kind} {file}")
    count = FLIPS[file] if kind == "Flat" else (FLIPS[file] or 1500) // 4
    cases = [*shortened(sound, draw), *flipped(sound, draw, count, 160)]
    for damaged in cases:
        (place / file).write_bytes(damaged)
        capfd.readouterr()
        with within(10, f"{kind} {file}"):
            code = main(["check", str(place)])
            told = capfd.readouterr()
            searched = main(search)
            refused = capfd.readouterr().err
        if not matters(file, sound, damaged):
            assert (code, searched, taken(output)) == (0, 0, expected)
            continue
        assert (code, searched) == (1, 1), damaged
        assert told.out.startswith(f"{place}: damaged: {place / file}: ")
        assert told.out.count("\n") == told.err.count("\n") == refused.count("\n") == 1
        assert refused.startswith(f"e2rank search: {place / file}: ")
        assert not list(tmp_path.glob("out.*"))
    COUNTED[f"{kind} {file}: damaged copies, each found and named"] = len(cases)


def test_sound_directories_are_said_to_be_sound(indexes: Path, capfd: Capture):
    assert main(["check", *(str(indexes / kind) for kind in ("Flat", "IVF2", "HNSW8"))]) == 0
    lines = capfd.readouterr().out.splitlines()
    told = "ok: 40 documents, 64 dimensions; every byte as written"
    assert lines == [f"{indexes / kind}: {told}" for kind in ("Flat", "IVF2", "HNSW8")]


def test_one_damaged_directory_does_not_hide_the_others(indexes: Path, tmp_path: Path, capfd: Capture):
    (tmp_path / "i").mkdir()
    assert main(["check", str(tmp_path / "i"), str(indexes / "Flat"), str(tmp_path / "nothing")]) == 1
    told = capfd.readouterr()
    states = [line.split(": ")[1] for line in told.out.splitlines()]
    assert states == ["damaged", "ok", "damaged"]
    assert told.err == "e2rank check: 2 of 3 directories are damaged\n"


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model_with_index(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, beir: Path) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("vanishing")
    shutil.copytree(tiny_model, place / "model")
    words = ["--dataset", str(beir), "--encoder", str(place / "model"), "--output", str(place / "i")]
    assert main(["index", *words]) == 0
    return place / "model", place / "i"


@contextlib.contextmanager
def lost(path: Path, *, half: bool) -> Iterator[None]:
    """The file or directory is gone, or half of the file is, and comes back at the end."""
    kept = path.with_name(f"{path.name}.kept")
    path.rename(kept)
    if half:
        path.write_bytes(kept.read_bytes()[: kept.stat().st_size // 2])
    yield
    path.unlink(missing_ok=True)
    kept.rename(path)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    "file", ["", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "e2rank.yaml"]
)
def test_a_model_that_vanishes_between_the_steps(
    model_with_index: tuple[Path, Path],
    beir: Path,
    toy_run: Path,
    tmp_path: Path,
    capfd: Capture,
    file: str,
    half: bool,
):
    """Indexed, then the model or a file of it is lost: search, rerank and index say so in a line and leave nothing."""
    model, index = model_with_index
    with lost(model / file, half=half and bool(file)):
        for line in (
            f"search --dataset {beir} --index {index} --output {tmp_path}/out",
            f"rerank --dataset {beir} --index {index} --run {toy_run} --output {tmp_path}/out",
            f"index --dataset {beir} --encoder {model} --output {tmp_path}/built",
        ):
            capfd.readouterr()
            code, told = main(line.split()), capfd.readouterr().err
            if code == 0:  # a model needs no tokenizer_config.json; an index has what e2rank.yaml said
                assert file == ("tokenizer_config.json" if line.startswith("index") else "e2rank.yaml"), told
                continue
            assert told.count("\n") == 1, told
            assert told.startswith(f"e2rank {line.split()[0]}: "), told
            assert "Traceback" not in told
            assert str(model.parent) in told
            assert not list(tmp_path.glob(f"*{line.split('/')[-1]}*")) or file == "e2rank.yaml"
