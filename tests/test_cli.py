"""The commands on good input: what they write, what they say, and that they agree with the functions."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest

from e2rank_pyserini.cli import main
from e2rank_pyserini.exclusions import admitted
from e2rank_pyserini.topics import read_topics
from e2rank_pyserini.trec import read_qrels, read_run
from e2rank_pyserini.types import E2RankError
from tests.reference import plain

ROOT = Path(__file__).resolve().parents[1]


def rerank(toy_run: Path, beir: Path, tiny_index: Path, output: Path, *more: str) -> None:
    words = ["--run", str(toy_run), "--dataset", str(beir), "--index", str(tiny_index), "--output", str(output)]
    assert main(["rerank", *words, *more]) == 0


def test_a_length_that_is_not_the_indexs(
    beir: Path, tiny_index: Path, toy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A search reads no document; what the index lacks, and prompts, are cut to what is asked for."""
    both = ["--dataset", str(beir), "--index", str(tiny_index), "--output", str(tmp_path / "x.trec")]
    told = f"--max-length 9: the documents of {tiny_index} were cut to 48 tokens"
    assert main(["search", *both, "--max-length", "9"]) == 1
    assert capsys.readouterr().err == f"e2rank search: {told}, and no others are read\n"
    assert not (tmp_path / "x.trec").exists()
    assert main(["search", *both, "--max-length", "48"]) == 0
    rerank(toy_run, beir, tiny_index, tmp_path / "y.trec", "--max-length", "9")
    assert (
        f"e2rank rerank: {told}; documents that it lacks, and those in prompts, are cut to" in capsys.readouterr().err
    )


@pytest.mark.parametrize("variant", ["paper", "card", "train"])
def test_a_reranked_run_equals_the_reference(
    toy_run: Path, beir: Path, tiny_index: Path, tiny_model: Path, tmp_path: Path, variant: str
):
    """From files to file: corpus, run and topics read here by hand, vectors by the plain reference."""
    from transformers import AutoModel, AutoTokenizer

    rerank(toy_run, beir, tiny_index, tmp_path / "out", "--prompt", variant, "--window", "4", "--depth", "12")
    import torch

    network = AutoModel.from_pretrained(tiny_model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = [json.loads(line) for line in (beir / "corpus.jsonl").read_text().splitlines()]
    texts = {row["_id"]: f"{row['title']} {row['text']}".strip() for row in rows}
    vectors = {docid: plain.document_vector(network, tokenizer, text, max_length=48) for docid, text in texts.items()}
    first_stage: dict[str, list[str]] = {}
    for line in toy_run.read_text().splitlines():
        first_stage.setdefault(line.split()[0], []).append(line.split()[2])
    queries = {row["_id"]: row["text"] for row in map(json.loads, (beir / "queries.jsonl").read_text().splitlines())}
    found = read_run(tmp_path / "out")
    assert list(found) == list(first_stage)
    for qid, docids in first_stage.items():
        prompt = plain.prompt_vector(
            network,
            tokenizer,
            queries[qid],
            [texts[docid] for docid in docids[:4]],
            task="Given a web search query and some relevant documents, rerank the documents that answer the query",
            variant=variant,
            document_length=48,
            query_length=24,
            prompt_length=512,
        )
        expected = plain.rerank(prompt, docids, vectors, 12)
        assert [hit.docid for hit in found[qid]] == [docid for docid, _ in expected] + docids[12:]
        for hit, (_, score) in zip(found[qid], expected, strict=False):
            assert hit.score == pytest.approx(score, abs=2e-5)


def test_rerank_by_query_is_the_dense_order(toy_run: Path, beir: Path, tiny_index: Path, tmp_path: Path):
    rerank(toy_run, beir, tiny_index, tmp_path / "out", "--by", "query", "--depth", "30")
    dense, again = read_run(toy_run), read_run(tmp_path / "out")
    assert {qid: [hit.docid for hit in hits] for qid, hits in dense.items()} == {
        qid: [hit.docid for hit in hits] for qid, hits in again.items()
    }


def test_what_is_cut_of_plain_queries_and_of_documents_encoded_on_the_fly_is_said(
    toy_run: Path, beir: Path, tiny_model: Path, tiny_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    one = tmp_path / "one.jsonl"
    one.write_text((beir / "corpus.jsonl").read_text().splitlines(keepends=True)[0])
    words = ["--corpus", str(one), "--encoder", str(tiny_model), "--max-length", "9", "--output", str(tmp_path / "i")]
    assert main(["index", *words]) == 0
    words = ["--run", str(toy_run), "--dataset", str(beir), "--query-length", "3", "--by", "query"]
    capsys.readouterr()
    assert main(["rerank", *words, "--index", str(tiny_index), "--output", str(tmp_path / "a")]) == 0
    assert "6 of 6 queries cut\n" in capsys.readouterr().err
    assert main(["rerank", *words, "--index", str(tmp_path / "i"), "--output", str(tmp_path / "b")]) == 0
    assert re.search(r"\n[1-9]\d* of \d+ documents, 6 of 6 queries cut\n", capsys.readouterr().err)


def test_documents_that_the_index_lacks_are_counted(
    toy_run: Path, beir: Path, tiny_model: Path, tiny_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    half = tmp_path / "half.jsonl"
    half.write_text("".join((beir / "corpus.jsonl").read_text().splitlines(keepends=True)[:25]))
    words = ["--corpus", str(half), "--encoder", str(tiny_model), "--output", str(tmp_path / "index")]
    assert main(["index", *words]) == 0
    rerank(toy_run, beir, tmp_path / "index", tmp_path / "half.trec")
    absent = {hit.docid for hits in read_run(toy_run).values() for hit in hits if int(hit.docid) >= 25}
    assert f"{len(absent)} documents encoded on the fly" in capsys.readouterr().err
    words = ["--run", str(toy_run), "--dataset", str(beir), "--index", str(tmp_path / "index"), "--passes", "3"]
    more = ["--by", "rocchio", "--interpolate", "rocchio=1", "query=1", "--output", str(tmp_path / "passes.trec")]
    assert main(["rerank", *words, *more]) == 0  # each once, whatever reads it
    assert f" {len(absent)} documents encoded on the fly" in capsys.readouterr().err
    rerank(toy_run, beir, tiny_index, tmp_path / "full.trec")
    half_run, full_run = read_run(tmp_path / "half.trec"), read_run(tmp_path / "full.trec")
    for qid, hits in full_run.items():  # encoded in other batches: equal but for the rounding of float32
        scores = dict(half_run[qid])
        assert scores == pytest.approx(dict(hits), abs=1e-5)
        assert [score for _, score in half_run[qid]] == sorted(scores.values(), reverse=True)


def test_the_task_reaches_the_prompt(toy_run: Path, beir: Path, tiny_index: Path, tmp_path: Path):
    rerank(toy_run, beir, tiny_index, tmp_path / "generic")
    rerank(toy_run, beir, tiny_index, tmp_path / "other", "--task", "Sort them", "--noun", "Tweets")
    assert (tmp_path / "generic").read_text() != (tmp_path / "other").read_text()


def test_eval_prints_one_table_and_json(toy_run: Path, beir: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["eval", "--dataset", str(beir), str(toy_run), str(toy_run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "nDCG@10", "MAP", "R@100", "MRR@10"]
    assert len(lines) == 3
    assert lines[1] == lines[2]
    assert main(["eval", "--qrels", str(beir / "qrels" / "test.tsv"), "--json", str(toy_run)]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["topics"] == 6
    qrels, run = read_qrels(beir / "qrels" / "test.tsv"), read_run(toy_run)
    by_hand = [plain.ndcg(qrels[qid], [hit.docid for hit in run[qid]], 10) for qid in qrels]
    assert values["nDCG@10"] == pytest.approx(sum(by_hand) / 6)


def test_runs_keep_qids_and_topics_order(toy_run: Path, beir: Path):
    assert list(read_run(toy_run)) == list(read_topics(beir / "queries.jsonl"))
    assert toy_run.read_text().startswith("007 Q0 ")


def test_the_same_command_gives_the_same_bytes(toy_run: Path, beir: Path, tiny_index: Path, tmp_path: Path):
    for name, tokens in (("a", "200"), ("b", "5000")):
        rerank(toy_run, beir, tiny_index, tmp_path / name, "--batch-tokens", tokens)
    first, second = read_run(tmp_path / "a"), read_run(tmp_path / "b")
    for qid, hits in first.items():
        assert [hit.docid for hit in hits] == [hit.docid for hit in second[qid]]


def test_an_error_is_one_write(monkeypatch: pytest.MonkeyPatch):
    """Processes that share an unbuffered stderr, as torchrun's do, would write into each other's lines."""
    written: list[str] = []
    monkeypatch.setattr("sys.stderr", SimpleNamespace(write=written.append, flush=lambda: None))
    assert main(["eval", "nowhere.trec", "--dataset", "nowhere"]) == 1
    assert len(written) == 1
    assert re.fullmatch(r"e2rank eval: .*nowhere.*\n", written[0])


def test_a_name_that_is_no_text_is_refused_where_a_record_would_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Before any work. So is the working directory's."""
    place = tmp_path / "caf\udce9"
    place.mkdir()
    words = ["search", "--dataset", "x", "--index", "i", "--output"]
    told = "expected names of files, and other words, as text in this locale's encoding\n"
    assert main([*words, str(place / "o")]) == 1
    assert capsys.readouterr().err.endswith(told)
    monkeypatch.chdir(place)
    assert main([*words, "o"]) == 1
    assert capsys.readouterr().err.endswith(told)
    assert list(place.iterdir()) == []
    (place / "r.trec").write_text("1 Q0 a 1 1 t\n")
    (place / "q").write_text("1 0 a 1\n")
    assert main(["eval", str(place / "r.trec"), "--qrels", "q"]) == 0
    assert main(["convert", str(place / "r.trec"), "--output", "r.json"]) == 0


def test_a_removed_working_directory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["search", "--dataset", "x", "--index", "i", "--output", "o"]) == 1
    assert capsys.readouterr().err == "e2rank search: the working directory has been removed\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_what_stdout_cannot_take(tmp_path: Path):
    """A name that its encoding lacks, and a full disk."""
    (tmp_path / "r.trec").write_text("1 Q0 x 1 2 t\n1 Q0 \xe9 2 1 t\n")
    (tmp_path / "s.trec").write_text("1 Q0 \xe9 1 2 t\n1 Q0 x 2 1 t\n")
    (tmp_path / "q").write_text("1 0 \xe9 1\n")
    command = [sys.executable, "-m", "e2rank_pyserini", "compare", "r.trec", "s.trec", "--qrels", "q", "--gains", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "grade 1 \\xe9" in done.stdout
    done = subprocess.run(["bash", "-c", '"$@" >&-', "-", *command], cwd=tmp_path, env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")  # closed: nothing is asked for
    told = "e2rank compare: what it prints cannot be written: No space left on device\n"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr.decode()) == (1, told)


def test_what_an_interrupt_made_of_a_lock_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupted(_: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            threading.Lock().release()  # as Condition does when it has not got its lock back

    monkeypatch.setattr("e2rank_pyserini.commands.plain.info", interrupted)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "e2rank info: interrupted\n"
    monkeypatch.setattr("e2rank_pyserini.commands.plain.info", lambda _: threading.Lock().release())
    with pytest.raises(RuntimeError):
        main(["info"])


def test_info(capsys: pytest.CaptureFixture[str]):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "minilm" in out
    assert "faiss-" in out
    assert "java" in out


def make(*words: str) -> str:
    """What make would run in a fresh checkout: a directory that holds nothing, under no other make."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    with tempfile.TemporaryDirectory() as place:
        command = ["make", "-n", "-f", str(ROOT / "Makefile"), "-o", ".venv/.ready-cpu", *words]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_make_picks_the_model_by_data_set():
    carried, real = make("rerank"), make("rerank", "DATASET=trec-covid")
    assert "--encoder e2rank-minilm --output indexes/semanlink.e2rank-minilm" in carried
    assert "runs/semanlink.demo.e2rank-minilm.dense.e2rank.trec" in carried
    assert "--encoder e2rank-0.6b --output indexes/trec-covid.e2rank-0.6b" in real
    assert "runs/trec-covid.bm25.e2rank-0.6b.e2rank.trec" in real


def test_make_reranks_any_run_and_builds_only_what_is_missing(toy_run: Path, beir: Path):
    printed = make("rerank", f"DATASET={beir}", "MODEL=minilm", f"RUN={toy_run}", "DEPTH=7", "WINDOW=3")
    assert f"--run {toy_run} --index indexes/toy-" in printed
    assert "--depth 7 --window 3" in printed
    assert re.search(r"--output runs/toy-\d{6}\.toy\.dense-\d{6}\.minilm\.e2rank\.d7\.w3\.trec", printed)
    assert "bm25" not in printed
    assert "search" not in printed


def test_make_hybrid_fuses_with_pyserini_and_reranks_what_comes_out():
    printed = make("hybrid")
    fused = "runs/semanlink.demo.e2rank-minilm.hybrid.trec"
    first_stages = "runs/semanlink.demo.bm25.trec runs/semanlink.demo.e2rank-minilm.dense.trec"
    assert f"pyserini fusion --method rrf --depth 1000 --k 1000 --runs {first_stages} --output {fused}.part" in printed
    assert f"--run {fused} " in printed
    assert "--output runs/semanlink.demo.e2rank-minilm.hybrid.e2rank.trec" in printed


def test_make_feedback_searches_the_whole_index_again():
    printed = make("feedback", "HITS=50")
    assert " --hits 50 --task " in " ".join(printed.split())
    for stage in ("bm25.k50.e2rank-minilm", "e2rank-minilm.dense.k50"):
        wide = f"runs/semanlink.demo.{stage}.feedback.k50.trec"
        assert f"--output {wide}" in printed
        assert wide in printed.splitlines()[-1]
    assert "feedback" not in make("rerank")


def test_make_report_shows_what_rerank_makes():
    line = make("report").splitlines()[-1]
    assert "report --dataset semanlink --split demo runs/semanlink.demo.bm25.trec " in line
    assert "runs/semanlink.demo.e2rank-minilm.dense.e2rank.trec" in line
    assert "--output runs/semanlink.demo.e2rank-minilm.report --overwrite" in line


def test_make_names_another_setting_another_file(tmp_path: Path):
    (tmp_path / "mine.trec").write_text("1 Q0 a 1 1 x\n")
    run = f"RUN={tmp_path}/mine.trec"
    outputs = {
        line.split("--output ")[1].split()[0]
        for more in ((), ("WINDOW=3",), ("DEPTH=50",), ("TASK=dataset",), ("TASK=Sort them",), ("MODEL=smollm2-135m",))
        for line in make("rerank", run, *more).splitlines()
        if "e2rank rerank" in line
    }
    assert len(outputs) == 6
    assert any(re.fullmatch(r"runs/semanlink\.demo\.mine-\d+\.e2rank-minilm\.e2rank\.trec", one) for one in outputs)


def test_make_names_other_runs_otherwise():
    """Also those whose names hold the data set's or the model's already."""
    runs = ["bm25", "foo", "semanlink.demo.foo", "foo.e2rank-minilm", "semanlink.demo.foo.e2rank-minilm"]
    runs += ["semanlink.demo.bm25", "semanlink.demo.e2rank-minilm.dense"]
    printed = [make("rerank", f"RUN=runs/{run}.trec", "-o", f"runs/{run}.trec") for run in runs]
    assert len({re.search(r"e2rank rerank .* --output (\S+)", one)[1] for one in printed}) == len(runs)


def test_make_takes_a_task_as_it_is_typed():
    """`dataset` is a word only where it stands alone, and the shell reads nothing in a text."""
    names = set()
    for task in ("generic", "dataset", "find the dataset", "sort: each dataset by size", """it's "so" `id` $HOME"""):
        line = next(line for line in make("rerank", f"TASK={task}").splitlines() if "e2rank rerank" in line)
        words = shlex.split(line)
        assert words[words.index("--task") + 1] == task
        names.add(words[words.index("--output") + 1])
    assert len(names) == 5


def test_make_fuses_as_deep_as_it_searches_and_names_reports_by_their_settings():
    assert "--depth 2000 --k 2000 --runs runs/semanlink.demo.bm25.k2000.trec" in make("hybrid", "HITS=2000")
    asked = ([], ["DEPTH=7", "WINDOW=3"], ["hybrid"], ["feedback"], [f"RUN={ROOT}/setup.cfg"], [f"RUN={ROOT}/Makefile"])
    pages = [re.search(r" --output (\S+report\S*) ", make("report", *words))[1] for words in asked]
    assert pages[1] == "runs/semanlink.demo.e2rank-minilm.report.d7.w3"
    assert len(set(pages)) == len(pages)
    fused = make("hybrid", f"RUN={ROOT / 'setup.cfg'}").splitlines()[-1]
    assert f"{ROOT / 'setup.cfg'} " in fused
    assert "runs/semanlink.demo.e2rank-minilm.hybrid.trec" in fused


@pytest.mark.parametrize("changed", ["queries.jsonl", "qrels/test.tsv", "excluded/test.tsv"])
def test_make_reranks_again_where_topics_or_exclusions_changed(beir: Path, tmp_path: Path, changed: str):
    """In a folder whose name, dl19, is a named data set's: it has an index of its own."""
    shutil.copytree(beir, tmp_path / "dl19")
    (tmp_path / "dl19" / "excluded").mkdir()
    kept = ["dl19/excluded/test.tsv", "indexes/dl19.minilm/e2rank.json", "runs/dl19.bm25.trec"]
    made = ["runs/dl19.bm25.minilm.e2rank.trec"]
    for place in (*kept, *made):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    for path in tmp_path.rglob("*"):
        os.utime(path, (1e9, 1e9))
    command = ["make", "-n", "-f", str(ROOT / "Makefile"), "-o", ".venv/.ready-cpu", "rerank"]
    command += ["DATASET=dl19", "MODEL=minilm", "RUN=runs/dl19.bm25.trec"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    for again in (False, True):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert (f"--output {made[0]}" in done.stdout) is again
        (tmp_path / "dl19" / changed).touch()


def made_of(*words: str) -> subprocess.CompletedProcess[str]:
    """What make would do, whatever is there."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "-n", "-o", ".venv/.ready-cpu", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "characters"),
    [("DATASET", " \t\n[]*?\\$'\"`();&|<>#:=%{}!"), ("SPLIT", " "), ("MODEL", "["), ("VENV", "'"), ("RUN", " #")],
)
def test_make_takes_no_name_that_it_or_a_shell_reads_otherwise(name: str, characters: str):
    for character in characters:
        done = made_of("help", f"{name}=a{character}b")
        assert (done.returncode, done.stdout) == (2, ""), character
        assert f"{name}=a{character}b: expected letters, digits and".replace("\n", " ") in done.stderr
    assert "a line break" in made_of("help", f"{name}=ab\n").stderr
    assert made_of("help", f"{name}=../ä-b/c_d.e+f,g@h~2").returncode == 0


def test_make_reads_no_file_of_a_model_as_a_rule(tmp_path: Path):
    for name in ("config.json;touch made;: x.json", "config (1).json", "config.json"):
        (tmp_path / name).write_text("{}")
    done = made_of("index", "DATASET=semanlink", f"MODEL={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "touch made" not in done.stdout
    assert f"--encoder {tmp_path} " in done.stdout


def test_what_does_not_fit_into_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def full(arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr("e2rank_pyserini.commands.plain.info", full)
    assert main(["info"]) == 1
    assert capsys.readouterr().err == "e2rank info: what it reads does not fit into memory\n"


def test_a_report_of_all_is_one_name():
    for goals in (("hybrid", "feedback"), ("feedback", "hybrid")):
        done = made_of("report", *goals)
        assert "--output runs/semanlink.demo.e2rank-minilm.hybrid.feedback.report " in f"{done.stdout} ".replace(
            "\n", " "
        )


def test_make_forgets_the_faiss_that_it_takes_away():
    """Before that, so that nothing says ready where the other could not be had."""
    with tempfile.TemporaryDirectory() as place:
        command = ["make", "-n", "-f", str(ROOT / "Makefile"), "-o", "setup.cfg", "-o", "constraints.txt", "install"]
        done = subprocess.run([*command, "FAISS=gpu"], cwd=place, capture_output=True, text=True, check=True)
    assert (
        0 < done.stdout.index("rm -f .venv/.ready-*") < done.stdout.index("pip uninstall") < done.stdout.index("[gpu,")
    )


def test_search_says_where_the_index_is_of_another_corpus(tiny_index: Path, beir: Path, tmp_path: Path, capsys):
    shutil.copytree(beir, tmp_path / "toy")
    words = [
        "search",
        "--dataset",
        str(tmp_path / "toy"),
        "--index",
        str(tiny_index),
        "--output",
        str(tmp_path / "out"),
    ]
    told = f"e2rank search: {tiny_index} was built from "
    corpus = tmp_path / "toy" / "corpus.jsonl"
    for change, said in (
        (lambda: None, False),
        (lambda: corpus.write_text(corpus.read_text() + "\n"), True),
        (lambda: corpus.rename(f"{corpus}.part"), False),  # nothing of it is read
    ):
        change()
        assert main(words) == 0
        assert (told in capsys.readouterr().err) is said


def test_make_names_runs_of_one_name_apart(tmp_path: Path):
    runs = [tmp_path / "a" / "mine.trec", tmp_path / "b" / "mine.trec", tmp_path / "b" / "mine.trec.gz"]
    outputs = set()
    for run in runs:
        run.parent.mkdir(exist_ok=True)
        run.touch()
        (line,) = [line for line in make("rerank", f"RUN={run}").splitlines() if "e2rank rerank" in line]
        outputs.add(line.split("--output ")[1].split()[0])
    assert len(outputs) == 3


def test_eval_says_which_topics_have_no_hits(toy_run: Path, beir: Path, tmp_path: Path, capsys):
    (tmp_path / "half").write_text(
        "".join(line + "\n" for line in toy_run.read_text().splitlines() if line.startswith("007 "))
    )
    assert main(["eval", "--dataset", str(beir), str(tmp_path / "half")]) == 0
    assert "5 of 6 judged topics have no hits and count 0" in capsys.readouterr().err


def test_eval_holds_one_run_at_a_time(
    toy_run: Path, beir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    class Held(dict):
        """A run that a weak reference can watch."""

    watched: list[weakref.ref] = []
    alive: list[int] = []

    def held(run: dict, excluded: dict) -> tuple[dict, int]:
        alive.append(sum(one() is not None for one in watched))
        found, removed = admitted(run, excluded)
        kept = Held(found)
        watched.append(weakref.ref(kept))
        return kept, removed

    monkeypatch.setattr("e2rank_pyserini.commands.judged.admitted", held)
    assert main(["eval", "--dataset", str(beir), *[str(toy_run)] * 3]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert alive == [0, 0, 0]


def test_eval_says_nothing_of_a_run_where_a_later_one_is_damaged(toy_run: Path, beir: Path, tmp_path: Path, capsys):
    (tmp_path / "half").write_text(toy_run.read_text().splitlines(keepends=True)[0])
    (tmp_path / "damaged").write_text("1 Q0 a\n")
    assert main(["eval", "--dataset", str(beir), str(tmp_path / "half"), str(tmp_path / "damaged")]) == 1
    printed, told = capsys.readouterr()
    assert printed == ""
    assert re.fullmatch(r"e2rank eval: .*damaged:1: .*\n", told)


def test_by_query_refuses_what_it_would_not_read(toy_run: Path, beir: Path, tiny_index: Path, tmp_path: Path, capsys):
    words = ["rerank", "--run", str(toy_run), "--dataset", str(beir), "--index", str(tiny_index), "--by", "query"]
    assert main([*words, "--output", str(tmp_path / "out"), "--window", "3"]) == 1
    assert "--by query reads no documents" in capsys.readouterr().err


def test_a_lucene_index_of_another_corpus_is_refused(tmp_path: Path):
    from e2rank_pyserini.pyserini.bm25 import CORPUS, check_corpus

    (tmp_path / CORPUS).write_text("abc\n")
    check_corpus(tmp_path, "a corpus", "abc")
    with pytest.raises(E2RankError, match="built from another corpus"):
        check_corpus(tmp_path, "a corpus", "abd")


@pytest.mark.parametrize("found", [6, 1])
def test_bm25_says_how_many_topics_have_no_hits(
    beir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: int
):
    from e2rank_pyserini.pyserini import bm25
    from e2rank_pyserini.types import Hit

    monkeypatch.setattr(
        bm25,
        "first_stage",
        lambda source, lucene, option, topics, **how: {
            qid: [Hit("000", 1.0)] if number < found else [] for number, qid in enumerate(topics)
        },
    )
    assert main(["bm25", "--dataset", str(beir), "--output", str(tmp_path / "run")]) == 0
    told = "e2rank bm25: 5 of 6 topics have no hits and are not in the run"
    assert (told in capsys.readouterr().err.splitlines()) == (found == 1)
    assert len((tmp_path / "run").read_text().splitlines()) == found


def test_an_empty_topic_that_is_not_judged_is_no_obstacle(beir: Path, tmp_path: Path):
    from e2rank_pyserini.datasets import dataset

    shutil.copytree(beir, tmp_path / "set")
    expected = dataset(str(tmp_path / "set")).topics()
    with (tmp_path / "set" / "queries.jsonl").open("a") as file:
        file.write('{"_id": "nobody-judged-it", "text": ""}\n')
    assert dataset(str(tmp_path / "set")).topics() == expected
    with (tmp_path / "set" / "qrels" / "test.tsv").open("a") as file:
        file.write("nobody-judged-it\t001\t1\n")
    with pytest.raises(E2RankError, match="the query of topic nobody-judged-it is empty"):
        dataset(str(tmp_path / "set")).topics()
