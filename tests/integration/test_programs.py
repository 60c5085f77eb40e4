"""Pyserini's own programs, by our runner and unmodified under the hook: the same index, the same runs, nothing ignored.

The model lies in a directory whose name holds three keywords of Pyserini's (ance, dse and, first, ours).
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2rank_pyserini.corpus import documents
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.index import DenseIndex
from e2rank_pyserini.pyserini.options import Asked, asked, document_spec, in_full, query_spec
from e2rank_pyserini.topics import read_topics
from e2rank_pyserini.trec import read_run
from e2rank_pyserini.types import E2RankError

ROOT = Path(__file__).resolve().parents[2]


def program(python: str | Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([str(python), *words], capture_output=True, text=True, env=environment, check=False)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def runner(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return program(sys.executable, "-m", "e2rank_pyserini", "pyserini", *words, check=check)


@pytest.fixture(scope="module")
def model_path(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("p") / "finance" / "advanced" / "e2rank-dse"
    shutil.copytree(tiny_model, place)
    return place


@pytest.fixture(scope="module")
def topics_file(beir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Topics as Pyserini reads them; ids that are no numbers, since its reader would make 7 of 007."""
    path = tmp_path_factory.mktemp("t") / "topics.tsv"
    path.write_text("".join(f"q{qid}\t{query}\n" for qid, query in read_topics(beir / "queries.jsonl").items()))
    return path


def encode_words(beir: Path, model: Path, output: Path) -> list[str]:
    fields = ["--fields", "title", "text"]
    return [
        *["input", "--corpus", str(beir / "corpus.jsonl"), *fields],
        *["output", "--embeddings", str(output), "--to-faiss"],
        *["encoder", "--encoder", str(model), *fields, "--device", "cpu", "--dimension", "64", "--batch-size", "7"],
    ]


def search_words(index: Path, model: Path, topics: Path, output: Path) -> list[str]:
    words = ["--index", str(index), "--encoder", str(model), "--topics", str(topics), "--output", str(output)]
    return [*words, "--hits", "20", "--threads", "2"]


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment of its own, with this one's packages, in which the hook is installed."""
    place = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    packages = next(place.glob("lib/python*/site-packages"))
    (packages / "ours.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    python = place / "bin" / "python"
    assert "not installed" in program(python, "-m", "e2rank_pyserini", "pyserini", "status").stdout
    assert str(packages) in program(python, "-m", "e2rank_pyserini", "pyserini", "install-hook").stdout
    assert "the hook is installed" in program(python, "-m", "e2rank_pyserini", "pyserini", "status").stdout
    return python


@pytest.fixture(scope="module")
def runs(
    beir: Path, model_path: Path, topics_file: Path, hooked: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """name -> folder with an index and a run, by the runner and by the hooked plain commands."""
    made = {}
    for name, start in (("runner", (sys.executable, "-m", "e2rank_pyserini", "pyserini")), ("hooked", (hooked, "-m"))):
        place = tmp_path_factory.mktemp(name)
        module = "" if name == "runner" else "pyserini."
        program(start[0], *start[1:], f"{module}encode", *encode_words(beir, model_path, place / "index"))
        words = search_words(place / "index", model_path, topics_file, place / "run")
        more = ["--encoder-class", "e2rank"] if name == "hooked" else []
        program(start[0], *start[1:], f"{module}search.faiss", *words, *more)
        made[name] = place
    return made


@pytest.mark.parametrize("name", ["runner", "hooked"])
def test_the_index_is_ours(runs: dict[str, Path], tiny_index: Path, name: str):
    ours, theirs = DenseIndex(tiny_index), DenseIndex(runs[name] / "index")
    assert theirs.docids == ours.docids
    difference = np.abs(theirs.index.reconstruct_n(0, 40) - ours.index.reconstruct_n(0, 40)).max()
    assert difference <= 1e-6


def test_the_runs_are_the_same_bytes_and_ours(runs: dict[str, Path], toy_run: Path):
    assert (runs["runner"] / "run").read_bytes() == (runs["hooked"] / "run").read_bytes()
    ours, theirs = read_run(toy_run), read_run(runs["runner"] / "run")
    for qid, hits in ours.items():
        assert [hit.docid for hit in theirs[f"q{qid}"]] == [hit.docid for hit in hits[:20]]
        np.testing.assert_allclose(
            [hit.score for hit in theirs[f"q{qid}"]], [hit.score for hit in hits[:20]], atol=2e-6
        )


def test_encode_query_gives_our_vectors(model_path: Path, topics_file: Path, hooked: Path, tmp_path: Path):
    """encode.query knows no maps and no class option: left alone it would pool the first token.

    By our runner where the hook is installed too, so that both have a hand in it.
    """
    import pandas

    words = ["--topics", str(topics_file), "--encoder", str(model_path), "--output", str(tmp_path / "q.pkl")]
    program(hooked, "-m", "e2rank_pyserini", "pyserini", "encode.query", *words)
    frame = pandas.read_pickle(tmp_path / "q.pkl")
    vectors = E2RankEncoder.load(str(model_path), device="cpu").encode_queries(frame["text"].tolist())
    np.testing.assert_allclose(np.stack(frame["embedding"]), vectors, atol=1e-6)


def test_fusion_keeps_query_ids(tmp_path: Path):
    (tmp_path / "a").write_text(
        '007 Q0 0012 1 3.0 x\n007 Q0 NA 2 2.0 x\n007 Q0 "open 3 1.0 x\n007 Q0 <"mid"> 4 0.5 x\n'
    )
    (tmp_path / "b").write_text('007 Q0 NA 1 3.0 x\n007 Q0 "open 2 2.0 x\n007 Q0 0012 3 1.0 x\n')
    runner("fusion", "--runs", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "c"))
    assert {qid: [hit.docid for hit in hits] for qid, hits in read_run(tmp_path / "c").items()} == {
        "007": ["NA", "0012", '"open', '<"mid">']
    }


def test_whole_numbers_stay_those_of_pyserinis_runs(tmp_path: Path):
    """Its own functions take them: only what `fusion` writes needs them as they are."""
    (tmp_path / "r").write_text("1 Q0 d1 1 3.0 x\n1 Q0 d2 2 2.0 x\n2 Q0 12 1 3.0 x\n")
    (tmp_path / "q").write_text("1 0 d1 1\n2 0 12 1\n")
    code = (
        "import sys; from e2rank_pyserini.pyserini.hooks import attach; attach()\n"
        "from pyserini.trectools import Qrels, TrecRun\n"
        "run = TrecRun(sys.argv[1])\n"
        "import jnius_config; assert '-Xrs' in jnius_config.get_options()  # Ctrl-C is Python's\n"
        "print(len(run.get_docs_by_topic(1)), len(run.retain_qrels(Qrels(sys.argv[2])).run_data))"
    )
    done = program(sys.executable, "-c", code, str(tmp_path / "r"), str(tmp_path / "q"))
    assert done.stdout.splitlines()[-1] == "2 2"


def test_a_refusal_is_one_line(runs: dict[str, Path], model_path: Path, topics_file: Path, tmp_path: Path):
    words = [*search_words(runs["runner"] / "index", model_path, topics_file, tmp_path / "out"), "--pooling", "cls"]
    done = runner("search.faiss", *words, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("e2rank pyserini: --pooling cls: model ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_hook_is_cheap_and_leaves_nothing(hooked: Path):
    code = "import sys; print('e2rank_pyserini' in sys.modules, '_e2rank_pyserini_hook' in sys.modules)"
    assert program(hooked, "-c", code).stdout.split() == ["False", "True"]
    told = program(hooked, "-X", "importtime", "-c", "pass").stderr
    (line,) = [line for line in told.splitlines() if line.endswith("_e2rank_pyserini_hook")]
    assert int(line.split("|")[1]) < 10_000  # microseconds
    packages = next(hooked.parents[1].glob("lib/python*/site-packages"))
    assert "removed" in program(hooked, "-m", "e2rank_pyserini", "pyserini", "remove-hook").stdout
    assert [path.name for path in packages.rglob("*") if "e2rank" in path.name] == []
    assert program(hooked, "-c", code).stdout.split() == ["False", "False"]
    assert "there was no hook" in program(hooked, "-m", "e2rank_pyserini", "pyserini", "remove-hook").stdout
    program(hooked, "-m", "e2rank_pyserini", "pyserini", "install-hook")


LIBRARY = """
import json, sys
from pathlib import Path
model, index, lucene, corpus, query = sys.argv[1:]
from e2rank_pyserini.pyserini.hooks import attach
attach()
from pyserini.search.faiss import FaissSearcher
from pyserini.search.lucene import LuceneSearcher
from e2rank_pyserini import DenseIndex
from e2rank_pyserini.pyserini.bm25 import build_lucene
from e2rank_pyserini.pyserini.feedback import E2RankPrf, rerank_hits
from e2rank_pyserini.corpus import documents
build_lucene(documents(corpus), Path(lucene), "x")
by_name = FaissSearcher(index, model)
encoder = by_name.query_encoder.encoder
hits = by_name.search(query, k=10)
sparse = LuceneSearcher(lucene)
stored = DenseIndex(Path(index))
_, candidates = by_name.search(query, k=4, return_vector=True)
rule = E2RankPrf(by_name.query_encoder, sparse)
vector = rule.get_prf_q_emb(query, candidates)
batch = rule.get_batch_prf_q_emb([query], ["a"], {"a": candidates})
again = by_name.search(vector, k=5)
lucene_hits = sparse.search(query, k=10)
answer = {
    "class": type(by_name.query_encoder).__name__,
    "hits": [[hit.docid, float(hit.score)] for hit in hits],
    "vector": vector[0].tolist(), "batch": batch[0].tolist(),
    "again": [[hit.docid, float(hit.score)] for hit in again],
    "dense": rerank_hits(query, hits, stored, encoder, sparse, window=4),
    "lucene": [hit.docid for hit in lucene_hits],
    "reranked": rerank_hits(query, lucene_hits, stored, by_name.query_encoder, window=4),
    "object": by_name.query_encoder.encode_batch([{"qid": "1", "query": query}])[0].tolist(),
}
print("\\n" + json.dumps(answer))
"""


ENCODER = """
import sys
from types import SimpleNamespace
from e2rank_pyserini.pyserini.encoders import E2RankDocumentEncoder
from e2rank_pyserini.types import E2RankError
encoder = E2RankDocumentEncoder(sys.argv[1])
print(encoder.encode(["a"], titles=["b"], expands=[None], fp16=False, max_length=256, add_sep=False).shape)
class Held:
    docid = "d"

    def __init__(self, raw):
        self.stored = SimpleNamespace(docid=lambda: "d", raw=lambda: raw, contents=lambda: None)

    def doc(self, docid):
        return self.stored


from e2rank_pyserini.pyserini.feedback import _text
print(_text(Held('{"id": "d", "title": " b ", "text": "a\\\\n"}'), Held(None)))
try:
    _text(Held("<DOC>"), Held(None))
except E2RankError as error:
    print(error)
stripped, whole = encoder.encode([" a\\n", " "], titles=["b ", "c"]), encoder.encode(["a", None], titles=["b", "c"])
print(abs(stripped - whole).max())
try:
    encoder.encode(["a"], expands=["b"])
except E2RankError as error:
    print(error)
"""


@pytest.mark.parametrize("first", ["encoders", "feedback"])
def test_our_classes_may_be_what_imports_pyserini_first(first: str, model_path: Path):
    """Pyserini's package is told of them while they are importing it."""
    code = (
        "import sys; from e2rank_pyserini.pyserini import hooks; hooks.attach()\n"
        f"import e2rank_pyserini.pyserini.{first}\n"
        "from pyserini.encode import document_encoder_class_map as one, query_encoder_class_map as other\n"
        "print([type(next(iter(made.values()))(sys.argv[1])).__name__ for made in (one, other)])"
    )
    done = program(sys.executable, "-c", code, str(model_path))
    assert done.stdout.splitlines()[-1] == "['E2RankDocumentEncoder', 'E2RankQueryEncoder']"


def test_as_a_library(beir: Path, model_path: Path, tiny_index: Path, tmp_path: Path):
    """By name, as a feedback rule, and on the hits of both searchers, against the plain functions."""
    from e2rank_pyserini.prompts import RERANK_TASK, document_text
    from e2rank_pyserini.reranking import rerank
    from e2rank_pyserini.types import Hit, ListwisePrompt

    query = "supersonic flow over a nose cone"
    done = program(
        sys.executable, "-c", LIBRARY + ENCODER, *map(str, (model_path, tiny_index, tmp_path / "lucene", beir)), query
    )
    found, *others = done.stdout.splitlines()[-6:]
    assert "document d: " in others[2]  # raw texts of another form
    assert [*others[:2], *others[3:]] == ["(1, 64)", "b a", "0.0", "expands: E2Rank encodes titles and texts alone"]
    answer = json.loads(found)
    encoder, stored = E2RankEncoder.load(str(model_path), device="cpu"), DenseIndex(tiny_index)
    texts = {
        document.docid: document_text(document.title, document.text, "{title} {text}")
        for document in documents(str(beir))
    }
    assert answer["class"] == "E2RankQueryEncoder"
    np.testing.assert_allclose(answer["object"], encoder.encode_queries([query])[0], atol=1e-6)
    (expected,) = stored.search(encoder.encode_queries([query]), 10)
    assert [docid for docid, _ in answer["hits"]] == [hit.docid for hit in expected]
    prompt = ListwisePrompt(query, tuple(texts[hit.docid] for hit in expected[:4]), RERANK_TASK)
    enhanced = encoder.encode_prompts([prompt])
    np.testing.assert_allclose(answer["vector"], enhanced[0], atol=1e-5)
    np.testing.assert_allclose(answer["batch"], enhanced[0], atol=1e-5)
    assert [docid for docid, _ in answer["again"]] == [hit.docid for hit in stored.search(enhanced, 5)[0]]
    first_stages = {"dense": expected, "reranked": [Hit(docid, 0.0) for docid in answer["lucene"]]}
    for name, hits in first_stages.items():
        ours = rerank({"q": hits}, {"q": query}, texts, stored, encoder, window=4, depth=100)["q"]
        assert [docid for docid, _ in answer[name]] == [hit.docid for hit in ours]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("encoder --fields text expand --fp16", "--fields text expand: E2Rank encodes title and text, not expand"),
        ("encoder --fields=expand", "--fields expand: E2Rank encodes title and text, not expand"),
        ("encoder --fields title", "--fields title: Pyserini has the text encoded as well; say --fields title text"),
        ("encoder --fields title --fields text title input --fields id", None),
        ("input --fields title text id output --embeddings e encoder --encoder m --fields title text", None),
        ("input --fields title text expand encoder --encoder m", None),
    ],
)
def test_fields_that_would_be_left_out_are_refused(words: str, told: str | None):
    assert asked(words.split()).refused == told


def test_a_field_too_many_is_refused_before_there_is_an_index(tmp_path: Path, model_path: Path):
    (tmp_path / "corpus.jsonl").write_text('{"id": "1", "text": "wing", "expand": "flow"}\n')
    words = encode_words(tmp_path, model_path, tmp_path / "index")
    done = runner("encode", *("expand" if word == "title" else word for word in words), check=False)
    assert done.returncode == 1
    told = "e2rank pyserini: --fields expand text: E2Rank encodes title and text, not expand"
    assert done.stderr.splitlines()[-1] == told
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-m told.x --a b", "told.x"),
        ("-um told.x -m y", "told.x"),
        ("-mtold.x -m y", "told.x"),
        ("-X dev -W ignore -Bumtold.x m", "told.x"),
        ("-c __import__('told') -m told.x", ""),
        ("told/x.py -m told.x", ""),
    ],
)
def test_the_program_is_known_however_python_is_told(tmp_path: Path, line: str, expected: str):
    """Asked, as the hook asks, while Python imports the package that the program is in."""
    (tmp_path / "told").mkdir()
    asks = (
        "import sys; from e2rank_pyserini.pyserini.main import program_of; print([program_of(sys.orig_argv, sys.argv)])"
    )
    (tmp_path / "told" / "__init__.py").write_text(asks)
    (tmp_path / "told" / "x.py").write_text("import sys; sys.path.append('.'); import told")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *line.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == f"{[expected]}\n"


def test_what_was_typed_is_read():
    assert asked([]) == Asked()
    words = "input --corpus c output --embeddings e --to-faiss encoder --encoder m --max-length 99 --fp16 --prefix p"
    assert asked(words.split()) == Asked(max_length=99, prefix="p", bfloat16=True, dimension=768)
    assert asked(["--query-prefix=a b", "--pooling", "eos", "--dimension", "64"]) == Asked(prefix="a b", pooling="eos")
    assert asked(["--add-sep"]).refused == "--add-sep: E2Rank has no separator token"
    assert asked(["--tokenizer=x"]).refused == "--tokenizer: the tokenizer comes with the model"
    hybrid = "dense --index d --encoder m sparse --index s --tokenizer x fusion --alpha 0.2 run --topics t --output o"
    assert asked(hybrid.split()) == Asked()
    assert asked(hybrid.replace("--encoder m", "--encoder m --tokenizer y").split()).refused is not None


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_word_is_the_option_that_argparse_takes_it_for(data: st.DataObject):
    parser = Parser(add_help=False)
    names = [
        "--max-length",
        "--max-passage",
        "--max",
        "--pooling",
        "--prefix",
        "--prefx",
        "--to-faiss",
        "--fp16",
        "--f",
    ]
    for name in data.draw(st.lists(st.sampled_from(names), unique=True)):
        parser.add_argument(name, dest=name, const="flag", nargs="?")
    name = data.draw(st.sampled_from(names))
    word = name[: data.draw(st.integers(3, len(name)))]
    words = [f"{word}=--x"] if data.draw(st.booleans()) else [word, "7"]
    try:
        found, left = parser.parse_known_args(words)
    except ValueError:  # it could be several
        return
    expected = {name: value for name, value in vars(found).items() if value is not None}
    full = in_full(words, parser._option_string_actions)
    assert left or {full[0].partition("=")[0]: full[-1].rpartition("=")[2]} == expected
    assert not left or full == words


def test_abbreviations_are_honoured_under_the_hook(
    beir: Path, model_path: Path, topics_file: Path, runs: dict[str, Path], hooked: Path, tmp_path: Path
):
    """--max-len and --pref of the encoder's part; --pool of the searcher's program: refused by its whole name."""
    words = encode_words(beir, model_path, tmp_path / "index")
    words[words.index("--dimension")] = "--dim"
    program(hooked, "-um", "pyserini.encode", *words, "--max-len", "8", "--pref=wing ")
    texts = [" ".join(filter(None, (one.title, one.text))) for one in documents(str(beir))]
    spec = document_spec(str(model_path), Asked(max_length=8))
    expected = E2RankEncoder.load(spec, device="cpu").encode_documents([f"wing {text}" for text in texts])
    np.testing.assert_allclose(DenseIndex(tmp_path / "index").index.reconstruct_n(0, len(texts)), expected, atol=1e-5)
    words = search_words(runs["runner"] / "index", model_path, topics_file, tmp_path / "out")
    done = program(hooked, "-mpyserini.search.faiss", *words, "--pool", "cls", check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("e2rank: --pooling cls: model ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_our_runner_is_the_same_where_the_hook_is_installed(beir: Path, model_path: Path, hooked: Path, tmp_path: Path):
    ours = (hooked, "-m", "e2rank_pyserini", "pyserini")
    program(*ours, "encode", *encode_words(beir, model_path, tmp_path / "index"), "--max-length", "8")
    texts = [" ".join(filter(None, (one.title, one.text))) for one in documents(str(beir))]
    expected = E2RankEncoder.load(document_spec(str(model_path), Asked(max_length=8)), device="cpu")
    found = DenseIndex(tmp_path / "index").index.reconstruct_n(0, len(texts))
    np.testing.assert_allclose(found, expected.encode_documents(texts), atol=1e-5)


def test_what_was_typed_is_honoured_or_refused(tiny_model: Path):
    name = str(tiny_model)
    assert document_spec(name, Asked(max_length=9)).lengths.document == 9
    assert query_spec(name, Asked(max_length=9)).lengths.query == 9
    assert query_spec(name, Asked(prefix="Find: ")).query == "Find: {query}"
    assert query_spec(name, Asked(pooling="eos")) == document_spec(name, Asked())
    with pytest.raises(E2RankError, match=r"--pooling mean: model .* is pooled by last"):
        document_spec(name, Asked(pooling="mean"))
    with pytest.raises(E2RankError, match="separator"):
        query_spec(name, dataclasses.replace(Asked(), refused="--add-sep: E2Rank has no separator token"))


def test_an_untested_pyserini_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from e2rank_pyserini.pyserini import hooks

    for version, said in (("1.6.0", False), ("2.3.0", False), ("2.4.0", True), ("1.5.0", True)):
        monkeypatch.setattr(hooks.importlib.metadata, "version", lambda _, version=version: version)
        hooks._check_version()
        assert ("outside the tested range" in capsys.readouterr().err) == said


def other_python() -> str | None:
    """A Python with Pyserini 2.x: E2RANK_PYSERINI2 names it, else python3.12 or newer on the PATH."""
    for name in (os.environ.get("E2RANK_PYSERINI2"), "python3.12", "python3.13"):
        python = shutil.which(name) if name else None
        code = "import importlib.metadata as m; print(m.version('pyserini'))"
        if python is not None:
            done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
            if done.stdout.startswith("2."):
                return python
    return None


def test_pyserini_2_writes_the_same(
    runs: dict[str, Path], beir: Path, model_path: Path, topics_file: Path, tmp_path: Path
):
    """Pyserini 2.x, which needs Python 3.12: the runner and the hook give the index and the bytes of 1.6."""
    python = other_python()
    if python is None:
        pytest.skip("no Python 3.12 with Pyserini 2.x here (name one with E2RANK_PYSERINI2)")
    program(python, "-m", "e2rank_pyserini", "pyserini", "encode", *encode_words(beir, model_path, tmp_path / "index"))
    words = search_words(tmp_path / "index", model_path, topics_file, tmp_path / "run")
    program(python, "-m", "e2rank_pyserini", "pyserini", "search.faiss", *words)
    assert (tmp_path / "run").read_bytes() == (runs["runner"] / "run").read_bytes()
    program(python, "-m", "e2rank_pyserini", "pyserini", "install-hook")
    try:
        words = search_words(tmp_path / "index", model_path, topics_file, tmp_path / "hooked")
        program(python, "-m", "pyserini.search.faiss", *words, "--encoder-class", "e2rank")
    finally:
        program(python, "-m", "e2rank_pyserini", "pyserini", "remove-hook")
    assert (tmp_path / "hooked").read_bytes() == (runs["runner"] / "run").read_bytes()
