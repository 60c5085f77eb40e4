"""Bad input, end to end: one line that says what and where, the right exit code, and nothing half-written."""

import contextlib
import gzip
import json
import logging
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import matplotlib.font_manager  # noqa: F401  builds its cache, and says so, where there is none
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from e2rank_pyserini.cli import main
from e2rank_pyserini.integrity import hashes
from e2rank_pyserini.sealed import seal

# What a test fills in: {beir} {model} {index} {run} are the sound fixtures, {tmp} is the test's own directory,
# {out} the output (below {tmp}).
Fill = Callable[[str], list[str]]
Refused = Callable[..., None]
Change = Callable[[Path], object]


@pytest.fixture
def fill(tmp_path: Path, beir: Path, tiny_model: Path, tiny_index: Path, toy_run: Path) -> Fill:
    """A command line as a list of words, its places filled in."""
    places = {"beir": beir, "model": tiny_model, "index": tiny_index, "run": toy_run, "tmp": tmp_path}
    places["out"] = tmp_path / "out"
    return lambda line: [word.format(**places) for word in shlex.split(line)]


@pytest.fixture
def refused(
    fill: Fill,
    tmp_path: Path,
    tiny_index: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Refused:
    """Run a command line that must fail with 1, first without an output, then with an older one in its place."""

    def fails(line: str, *fragments: str) -> None:
        words = fill(line)
        before = _contents(tmp_path)
        capfd.readouterr()
        _libraries_log_here(monkeypatch)
        code = main(words)
        printed, told = capfd.readouterr()
        assert (code, printed) == (1, ""), told
        assert "Traceback" not in told
        assert told.startswith(f"e2rank {words[0]}: "), told
        assert told.split("\n")[1:] == [""], told
        for fragment in fragments:
            assert fragment.format(tmp=tmp_path) in told
        assert _contents(tmp_path) == before

    def twice(line: str, *fragments: str) -> None:
        fails(line, *fragments)
        if "{out}" in line and line.startswith("index "):
            shutil.copytree(tiny_index, tmp_path / "out")
            fails(f"{line} --overwrite", *fragments)
        elif "{out}" in line and line.startswith("report "):
            put(tmp_path / "out" / "report.html", '<meta name="generator" content="e2rank report">')
            fails(f"{line} --overwrite", *fragments)
        elif "{out}" in line:
            (tmp_path / "out").write_bytes(b"an older run\n")
            fails(line, *fragments)

    return twice


def _contents(place: Path) -> dict[str, bytes | None]:
    """Every path below `place`, hidden ones too, with its bytes; None for a directory."""
    return {str(path.relative_to(place)): path.read_bytes() if path.is_file() else None for path in place.rglob("*")}


def _libraries_log_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loggers keep the stderr of the test that imported them; give them this test's, as in a fresh process."""
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        for handler in getattr(logger, "handlers", []):
            if type(handler) is logging.StreamHandler:
                monkeypatch.setattr(handler, "stream", sys.stderr)


def cases(table: list[tuple[Any, ...]]) -> Any:
    """Rows of (id, column, …) as parametrize takes them."""
    return [pytest.param(*columns, id=name) for name, *columns in table]


def put(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def packed(text: str) -> bytes:
    return gzip.compress(text.encode(), mtime=0)


def damaged(text: str) -> bytes:
    """A gzip file whose header is sound and whose deflate stream is not."""
    whole = packed(text)
    return whole[:10] + b"\xff" * (len(whole) - 10)


# --- runs -------------------------------------------------------------------------------------------------------------

HIT = "007 Q0 000 1 0.9 x\n"
RUNS = [
    ("too-few-columns", "run.trec", HIT + "007 Q0 001 2 0.8 x\n007 Q0 002 3 0.7\n", "run.trec:3: expected 6 columns"),
    ("too-many-columns", "run.trec", HIT + "007 Q0 two words 2 0.8 x\n", "run.trec:2: expected 6 columns"),
    ("half-a-line", "run.trec", HIT + "007 Q0", "run.trec:2: expected 6 columns"),
    ("score-word", "run.trec", HIT + "007 Q0 001 2 high x\n", "run.trec:2: expected a finite score, got 'high'"),
    ("score-nan", "run.trec", HIT + "007 Q0 001 2 nan x\n", "run.trec:2: expected a finite score, got 'nan'"),
    ("score-inf", "run.trec", HIT + "007 Q0 001 2 -inf x\n", "run.trec:2: expected a finite score, got '-inf'"),
    ("score-overflows", "run.trec", HIT + "007 Q0 001 2 1e999 x\n", "run.trec:2: expected a finite score"),
    ("score-with-underscore", "run.trec", HIT + "007 Q0 001 2 1_0 x\n", "run.trec:2: "),
    ("rank-fraction", "run.trec", HIT + "007 Q0 001 2.5 0.8 x\n", "run.trec:2: expected an integer rank, got '2.5'"),
    ("rank-word", "run.trec", HIT + "007 Q0 001 second 0.8 x\n", "run.trec:2: expected an integer rank"),
    ("duplicate-docid", "run.trec", HIT + "008 Q0 000 1 1 x\n" + HIT, "run.trec:3: document 000 appears twice"),
    ("empty", "run.trec", "", "run.trec: the run is empty"),
    ("blank-lines-only", "run.trec", "\n  \n", "run.trec: the run is empty"),
    ("latin-1", "run.trec", b"007 Q0 caf\xe9 1 0.9 x\n", "run.trec: not UTF-8"),
    ("binary", "run.trec", bytes(range(256)), "run.trec: not UTF-8"),
    ("zeros", "run.trec", bytes(4096), "run.trec:1: expected 6 columns"),
    ("gz-truncated", "run.trec.gz", packed(HIT)[:-12], "run.trec.gz: cannot be read"),
    ("gz-not-gzip", "run.trec.gz", HIT, "run.trec.gz: cannot be read"),
    ("gz-damaged", "run.trec.gz", damaged(HIT), "run.trec.gz: cannot be read"),
    ("gz-wrong-checksum", "run.trec.gz", packed(HIT)[:-8] + bytes(8), "run.trec.gz: cannot be read"),
    ("gz-bad-line", "run.trec.gz", gzip.compress(b"007 Q0 000\n"), "run.trec.gz:1: expected 6 columns"),
]
RERANK = "rerank --dataset {beir} --index {index} --run {run} --output {out}"
REPORT = "report --dataset {beir} {run} {run} --output {out}"


@pytest.mark.parametrize("command", ["rerank", "eval", "report"])
@pytest.mark.parametrize(("name", "content", "fragment"), cases(RUNS))
def test_run(tmp_path: Path, refused: Refused, command: str, name: str, content: str | bytes, fragment: str):
    put(tmp_path / name, content)
    here = f"{{tmp}}/{name}"
    lines = {
        "rerank": RERANK.replace("{run}", here),
        "eval": f"eval --dataset {{beir}} {{run}} {here}",
        "report": REPORT.replace("{run} {run}", f"{{run}} {here}"),
    }
    refused(lines[command], f"{{tmp}}/{fragment}")


@pytest.mark.parametrize(
    ("old", "new", "options", "fragment"),
    cases(
        [
            ("unknown-qid", "012 Q0", "999 Q0", "", "query 999: in the run but not in the topics"),
            (
                "unjudged-qid",
                "012 Q0",
                "extra Q0",
                "",
                "/toy/qrels/test.tsv judges; --topics FILE takes all of a file",
            ),
            ("unknown-qid-by-query", "012 Q0", "999 Q0", "--by query", "query 999: in the run but not in the topics"),
            ("unknown-docid", " 1 ", "nowhere 1 ", "", "nowhere: in the run but not in the corpus"),
            ("unknown-docid-by-query", " 30 ", "nowhere 30 ", "--by query", "nowhere: in the run but not in the"),
            ("unknown-docid-below-window", " 30 ", "nowhere 30 ", "", "nowhere: in the run but not in the corpus"),
        ]
    ),
)
def test_run_that_names_the_unknown(
    tmp_path: Path, toy_run: Path, refused: Refused, old: str, new: str, options: str, fragment: str
):
    put(tmp_path / "run.trec", toy_run.read_text().replace(old, new))
    refused(RERANK.replace("{run}", "{tmp}/run.trec") + f" {options}", fragment)


@pytest.mark.parametrize(
    ("old", "new", "fragment"),
    [("012 Q0", "999 Q0", "query 999: in the run but not in the topics"), (" 1 ", "nowhere 1 ", "nowhere: in the run")],
    ids=["unknown-qid", "unknown-docid"],
)
def test_requests_of_the_unknown(tmp_path: Path, toy_run: Path, refused: Refused, old: str, new: str, fragment: str):
    put(tmp_path / "run.trec", toy_run.read_text().replace(old, new))
    refused("convert {tmp}/run.trec --to rank_llm --dataset {beir} --output {out}", fragment)


# --- corpora ----------------------------------------------------------------------------------------------------------

DOC = '{"_id": "a", "title": "t", "text": "wing flow"}\n'
CORPORA = [
    ("empty-file", "c.jsonl", "", "c.jsonl: the corpus is empty"),
    ("blank-lines-only", "c.jsonl", "\n\n", "c.jsonl: the corpus is empty"),
    ("duplicate-docid", "c.jsonl", DOC + DOC, "c.jsonl:2: document a appears twice"),
    ("docid-twice-as-number", "c.jsonl", '{"id": 1, "text": "x"}\n{"id": "1", "text": "y"}\n', "c.jsonl:2: document 1"),
    ("docid-with-blank", "c.jsonl", DOC + '{"_id": "b c", "text": "x"}\n', "c.jsonl:2: expected a docid without"),
    ("docid-with-newline", "c.jsonl", '{"_id": "b\\nc", "text": "x"}\n', "c.jsonl:1: expected a docid without blanks"),
    ("docid-with-newline-no-text", "c.jsonl", '{"_id": "b\\nc"}\n', "c.jsonl:1: "),
    ("docid-empty", "c.jsonl", '{"_id": "", "text": "x"}\n', "c.jsonl:1: expected a docid without blanks, got ''"),
    ("docid-missing", "c.jsonl", DOC + '{"text": "x"}\n', "c.jsonl:2: expected a docid"),
    ("docid-null", "c.jsonl", '{"_id": null, "text": "x"}\n', "c.jsonl:1: expected a docid"),
    ("docid-true", "c.jsonl", '{"_id": true, "text": "x"}\n', "c.jsonl:1: expected a docid"),
    ("docid-fraction", "c.jsonl", '{"_id": 1.5, "text": "x"}\n', "c.jsonl:1: expected a docid"),
    ("docid-half-surrogate", "c.jsonl", DOC + '{"_id": "\\ud83d", "text": "x"}\n', "c.jsonl:2: "),
    ("text-null", "c.jsonl", DOC + '{"_id": "b", "text": null}\n', "c.jsonl:2: document b: expected a text"),
    ("text-missing", "c.jsonl", '{"_id": "b", "title": "t"}\n', "c.jsonl:1: document b: expected a text"),
    ("text-number", "c.jsonl", '{"_id": "b", "text": 5}\n', "c.jsonl:1: document b: expected a text"),
    ("text-list", "c.jsonl", '{"_id": "b", "contents": ["x"]}\n', "c.jsonl:1: document b: expected a text"),
    ("text-half-surrogate", "c.jsonl", DOC + '{"_id": "b", "text": "flow \\ud83d"}\n', "c.jsonl:2: "),
    ("title-number", "c.jsonl", '{"_id": "b", "title": 5, "text": "x"}\n', "c.jsonl:1: document b: expected a title"),
    ("title-list", "c.jsonl", '{"_id": "b", "title": [], "text": "x"}\n', "c.jsonl:1: document b: expected a title"),
    ("not-json", "c.jsonl", DOC + "a\twing flow\n", "c.jsonl:2: not JSON"),
    ("half-a-line", "c.jsonl", DOC + DOC[:20], "c.jsonl:2: not JSON"),
    ("list-line", "c.jsonl", DOC + '["a", "wing"]\n', "c.jsonl:2: expected an object, got list"),
    ("number-line", "c.jsonl", "7\n", "c.jsonl:1: expected an object, got int"),
    ("json-array", "c.json", f"[\n{DOC}]\n", "c.json:1: not JSON"),
    ("deeply-nested", "c.jsonl", "[" * 100_000 + "\n", "c.jsonl:1: not JSON"),
    ("latin-1", "c.jsonl", b'{"_id": "a", "text": "caf\xe9"}\n', "c.jsonl: not UTF-8"),
    ("gz-truncated", "c.jsonl.gz", packed(DOC)[:-12], "c.jsonl.gz: cannot be read"),
    ("gz-not-gzip", "c.jsonl.gz", DOC, "c.jsonl.gz: cannot be read"),
    ("gz-damaged", "c.jsonl.gz", damaged(DOC), "c.jsonl.gz: cannot be read"),
]
INDEX = "index --corpus {beir} --encoder {model} --output {out}"


@pytest.mark.parametrize(("name", "content", "fragment"), cases(CORPORA))
def test_corpus(tmp_path: Path, refused: Refused, name: str, content: str | bytes, fragment: str):
    put(tmp_path / name, content)
    refused(INDEX.replace("{beir}", f"{{tmp}}/{name}"), f"{{tmp}}/{fragment}")


def test_corpus_directory_without_jsonl(tmp_path: Path, refused: Refused):
    put(tmp_path / "corpus" / "readme.txt", "nothing here\n")
    refused(INDEX.replace("{beir}", "{tmp}/corpus"), "{tmp}/corpus: expected corpus.jsonl or other files")


@pytest.mark.parametrize("command", ["index", "rerank"])
def test_corpus_missing(refused: Refused, command: str):
    line = INDEX if command == "index" else RERANK.replace("{run}", "{run} --corpus {beir}")
    refused(line.replace("--corpus {beir}", "--corpus {tmp}/nowhere.jsonl"), "{tmp}/nowhere.jsonl: no such corpus")


def test_duplicate_across_files_is_told_with_its_file(tmp_path: Path, refused: Refused):
    put(tmp_path / "corpus" / "one.jsonl", DOC)
    put(tmp_path / "corpus" / "two.jsonl", DOC)
    refused(INDEX.replace("{beir}", "{tmp}/corpus"), "{tmp}/corpus/two.jsonl:1: document a appears twice")


@pytest.mark.parametrize(
    ("line", "fragment"),
    cases(
        [
            ("text-null", '{"_id": "%s", "text": null}', "expected a text"),
            ("half-a-line", '{"_id": "%s", "te', "not JSON"),
            ("list-line", '["%s"]', "expected an object, got list"),
            ("half-surrogate", '{"_id": "%s", "text": "\\ud83d"}', ""),
        ]
    ),
)
def test_corpus_when_reranking(tmp_path: Path, beir: Path, toy_run: Path, refused: Refused, line: str, fragment: str):
    """The document that stands first in the run is the broken one."""
    docid = toy_run.read_text().split()[2]
    rows = (beir / "corpus.jsonl").read_text().splitlines()
    rows = [line % docid if json.loads(row)["_id"] == docid else row for row in rows]
    put(tmp_path / "c.jsonl", "\n".join(rows))
    where = f"{{tmp}}/c.jsonl:{int(docid) + 1}: "
    refused(f"{RERANK} --corpus {{tmp}}/c.jsonl", where, fragment)


# --- topics -----------------------------------------------------------------------------------------------------------

BEIR = '{"_id": "1", "text": "wing flow"}\n'
TREC = "<top>\n<num> Number: 1\n<title> wing flow\n<desc> Description:\nmore\n</top>\n"
WEB_TOPIC = '<topic number="1" type="faceted">\n<query>wing flow</query>\n</topic>\n'
UNNUMBERED = "<topic>\n<query>shock</query>\n</topic>\n"
WEB = f"<topics>\n{WEB_TOPIC}</topics>\n"
CACM = "<DOC>\n<DOCNO> 1 </DOCNO>\nwing flow\n</DOC>\n"
TOPICS = [
    ("empty", "t.tsv", "", "t.tsv: no topics"),
    ("blank-lines-only", "t.txt", "\n \n", "t.txt: no topics"),
    ("latin-1", "t.tsv", b"1\tcaf\xe9\n", "t.tsv: not UTF-8"),
    ("tsv-without-tab", "t.tsv", "1\twing flow\n2 shock wave\n", "t.tsv:2: expected `qid<TAB>query`"),
    ("tsv-duplicate-qid", "t.tsv", "1\twing\n2\tflow\n1\tshock\n", "t.tsv:3: topic 1 appears twice"),
    ("tsv-empty-query", "t.tsv", "1\twing\n2\t \n", "t.tsv:2: the query of topic 2 is empty"),
    ("tsv-empty-qid", "t.tsv", "\twing flow\n", "t.tsv:1: expected a query id"),
    ("tsv-qid-with-blank", "t.tsv", "1 2\twing flow\n", "t.tsv:1: expected a query id without blanks"),
    ("tsv-header-only", "t.tsv", "qid\tquery\n", "t.tsv: no topics"),
    ("tsv-gz-truncated", "t.tsv.gz", packed("1\twing\n")[:-12], "t.tsv.gz: cannot be read"),
    ("tsv-gz-damaged", "t.tsv.gz", damaged("1\twing\n"), "t.tsv.gz: cannot be read"),
    ("beir-without-id", "q.jsonl", BEIR + '{"text": "x"}\n', "q.jsonl:2: expected one of"),
    ("beir-without-text", "q.jsonl", BEIR + '{"_id": "2"}\n', "q.jsonl:2: expected one of"),
    ("beir-null-text", "q.jsonl", '{"_id": "2", "text": null}\n', "q.jsonl:1: expected one of"),
    ("beir-empty-text", "q.jsonl", '{"_id": "2", "text": ""}\n', "q.jsonl:1: the query of topic 2 is empty"),
    ("beir-duplicate-id", "q.jsonl", BEIR + BEIR, "q.jsonl:2: topic 1 appears twice"),
    ("beir-half-a-line", "q.jsonl", BEIR + BEIR[:15], "q.jsonl:2: not JSON"),
    ("beir-list-line", "q.jsonl", BEIR + '["2", "x"]\n', "q.jsonl:2: expected an object, got list"),
    ("beir-half-surrogate", "q.jsonl", '{"_id": "1", "text": "x \\ud83d"}\n', "q.jsonl:1: "),
    ("jsonl-without-id", "t.jsonl", '{"qid": "1", "query": "x"}\n{"query": "y"}\n', "t.jsonl:2: expected one of"),
    ("kilt-without-input", "t.jsonl", '{"id": "1", "output": []}\n', "t.jsonl:1: expected one of"),
    ("json-without-title", "t.json", '{"1": {"title": "wing"}, "2": {"desc": "x"}}', "t.json: topic 2: expected"),
    ("json-empty-title", "t.json", '{"1": {"title": ""}}', "t.json: the query of topic 1 is empty"),
    ("json-duplicate-qid", "t.json", '{"1": {"title": "wing"}, "1": {"title": "flow"}}', "topic 1 appears twice"),
    ("json-broken", "t.json", '{"1": {"title": "wing"}, "2": {"tit', "t.json:1: not JSON"),
    ("json-array", "t.json", '[{"id": "1", "title": "wing"}]', "t.json:1: expected an object"),
    ("trec-without-title", "t.trec", TREC + "<top>\n<num> 2\n<desc> x\n</top>\n", "t.trec:7: expected <num> and"),
    ("trec-without-num", "t.trec", TREC + "<top>\n<title> wing\n</top>\n", "t.trec:7: expected <num> and"),
    ("trec-empty-title", "t.trec", "<top>\n<num> 1\n<title>\n<desc> x\n</top>\n", "t.trec:1: the query of topic 1"),
    ("trec-duplicate-num", "t.trec", TREC + TREC, "t.trec:7: topic 1 appears twice"),
    ("web-without-query", "t.xml", WEB.replace("query>", "narrative>"), "topic 1"),
    ("web-without-number", "t.xml", WEB.replace("number=", "n="), "number"),
    ("web-second-without-number", "t.xml", WEB.replace("</topics>", f"{UNNUMBERED}</topics>"), "number"),
    ("web-half-a-topic", "t.xml", WEB.replace("</topics>", WEB_TOPIC[:40]), "t.xml:"),
    ("web-not-closed", "t.xml", WEB.replace("</topics>", ""), "t.xml:"),
    ("web-empty-query", "t.xml", WEB.replace("wing flow", ""), "the query of topic 1 is empty"),
    ("web-duplicate-number", "t.xml", WEB.replace(WEB_TOPIC, WEB_TOPIC * 2), "topic 1 appears twice"),
    ("cacm-without-docno", "t.xml", CACM + "<DOC>\nshock\n</DOC>\n", "t.xml:5: "),
    ("cacm-half-a-topic", "t.xml", CACM + "<DOC>\n<DOCNO> 2 </DOCNO>\nsho", "t.xml:5: "),
    ("cacm-empty-query", "t.xml", CACM.replace("wing flow", ""), "t.xml:1: the query of topic 1 is empty"),
    ("cacm-duplicate-docno", "t.xml", CACM + CACM, "t.xml:5: topic 1 appears twice"),
]
SEARCH = "search --dataset {beir} --index {index} --output {out}"
TOPIC_READERS = {
    "search": SEARCH,
    "rerank": RERANK,
    "report": REPORT,
    "bm25": "bm25 --corpus {beir} --output {out}",  # without an index it goes no further than its topics
}


@pytest.mark.parametrize("command", TOPIC_READERS)
@pytest.mark.parametrize(("name", "content", "fragment"), cases(TOPICS))
def test_topics(tmp_path: Path, refused: Refused, command: str, name: str, content: str | bytes, fragment: str):
    put(tmp_path / name, content)
    refused(f"{TOPIC_READERS[command]} --topics {{tmp}}/{name}", f"{{tmp}}/{name}", fragment)


# --- qrels ------------------------------------------------------------------------------------------------------------

QRELS = [
    ("two-columns", "007 0 000 1\n007 000\n", "qrels.txt:2: expected 4 columns"),
    ("five-columns", "007 0 two words 1\n", "qrels.txt:1: expected 4 columns"),
    ("grade-word", "007 0 000 1\n007 0 001 good\n", "qrels.txt:2: expected an integer grade, got 'good'"),
    ("grade-fraction", "007 0 000 0.5\n", "qrels.txt:1: expected an integer grade, got '0.5'"),
    ("grade-too-large", "007 0 000 1\n007 0 001 3000000000\n", "qrels.txt:2: expected a grade of at most 10000000"),
    ("grade-too-small", "007 0 000 -10000001\n", "qrels.txt:1: expected a grade of at most 10000000"),
    ("two-grades", "007 0 000 1\n007 0 001 0\n007 0 000 2\n", "qrels.txt:3: document 000 is judged twice"),
    ("empty", "", "qrels.txt: no judgments"),
    ("header-only", "query-id\tcorpus-id\tscore\n", "qrels.txt: no judgments"),
    ("latin-1", b"007 0 caf\xe9 1\n", "qrels.txt: not UTF-8"),
]


QREL_READERS = {
    "table": "eval --qrels {tmp}/qrels.txt {run}",
    "json": "eval --json --qrels {tmp}/qrels.txt {run}",
    "report": "report --qrels {tmp}/qrels.txt {run} {run} --output {out}",
}


@pytest.mark.parametrize("command", QREL_READERS)
@pytest.mark.parametrize(("content", "fragment"), cases(QRELS))
def test_qrels(tmp_path: Path, refused: Refused, command: str, content: str | bytes, fragment: str):
    put(tmp_path / "qrels.txt", content)
    refused(QREL_READERS[command], f"{{tmp}}/{fragment}")


def test_qrels_and_run_without_a_shared_topic(tmp_path: Path, refused: Refused):
    put(tmp_path / "qrels.txt", "7 0 000 1\n")
    put(tmp_path / "run.trec", HIT)
    refused("eval --qrels {tmp}/qrels.txt {tmp}/run.trec", "{tmp}/run.trec: ", "share no topic", "007", "qrels: 7 ")


# --- exclusions -------------------------------------------------------------------------------------------------------

EXCLUSIONS = [
    ("one-column", "007 000\n008\n", "x:2: expected 2 columns (qid docid), got 1"),
    ("three-columns", "007 000 1\n", "x:1: expected 2 columns (qid docid), got 3"),
    ("empty", "\n", "x: no exclusions found"),
    ("header-alone", "query-id\tcorpus-id\n", "x: no exclusions found"),
    ("latin-1", b"007 caf\xe9\n", "x: not UTF-8"),
    ("not-json", '{"id": "007", "excluded_ids"\n', "x:1: "),
    ("no-id", '{"excluded_ids": ["000"]}\n', "x:1: expected a query id under id, got None"),
    ("id-true", '{"id": true, "excluded_ids": []}\n', "x:1: expected a query id under id, got True"),
    ("no-list", '{"id": "007"}\n', "x:1: expected a list of docids under excluded_ids, got None"),
    (
        "a-word",
        '{"id": "007", "excluded_ids": "N/A"}\n',
        "x:1: expected a list of docids under excluded_ids, got 'N/A'",
    ),
    ("a-number", '{"id": "007", "excluded_ids": [7]}\n', "x:1: expected a list of docids under excluded_ids"),
    ("blank-in-docid", '{"id": "7", "excluded_ids": ["a b"]}\n', "x:1: expected a docid without blanks, got 'a b'"),
]
EXCLUDING = {
    "search": SEARCH,
    "rerank": RERANK,
    "bm25": TOPIC_READERS["bm25"] + " --topics {beir}/queries.jsonl",
    "eval": "eval --dataset {beir} {run}",
}


@pytest.mark.parametrize("command", EXCLUDING)
@pytest.mark.parametrize(("content", "fragment"), cases(EXCLUSIONS))
def test_exclusions(tmp_path: Path, refused: Refused, command: str, content: str | bytes, fragment: str):
    put(tmp_path / "x", content)
    refused(f"{EXCLUDING[command]} --excluded {{tmp}}/x", fragment)


@pytest.mark.parametrize("command", EXCLUDING)
def test_exclusions_missing(refused: Refused, command: str):
    refused(f"{EXCLUDING[command]} --excluded {{tmp}}/x", "{tmp}/x: no such file")


def test_exclusions_of_every_hit(tmp_path: Path, toy_run: Path, refused: Refused):
    lines = (line.split() for line in toy_run.read_text().splitlines())
    put(tmp_path / "x", "".join(f"{qid} {docid}\n" for qid, _, docid, *_ in lines))
    refused(f"{RERANK} --excluded {{tmp}}/x", "the run holds nothing but excluded documents")


def test_exclusions_of_what_is_relevant(tmp_path: Path, refused: Refused):
    put(tmp_path / "x", "007 000\n007 001\n")
    refused("eval --dataset {beir} {run} --excluded {tmp}/x", "query 007: document 001 is excluded, yet the qrels")


# --- other programs' runs and qrels -----------------------------------------------------------------------------------

CANDIDATE = '{"docid": "a", "score": 1.5, "doc": {"text": "x"}}'
REQUEST = f'{{"query": {{"text": "t", "qid": "1"}}, "candidates": [{CANDIDATE}]}}\n'
FORMS = [
    ("empty", "", "x.in: expected a run (six columns"),
    ("two-columns", "1\twing\n", "x.in: expected a run (six columns", "got 2 columns"),
    ("topics", "1\twing flow\n", "x.in:1: expected an integer grade, got 'flow'"),
    ("run-breaks-off", HIT + "007 Q0", "x.in:2: expected 6 columns"),
    ("run-score-too-large", "007 Q0 000 1 1e300 x\n", "x.in:1: expected a score of at most 1e+38"),
    ("qrels-break-off", "007 0 000 1\n007 0\n", "x.in:2: expected 4 columns"),
    ("latin-1", b'{"1": {"caf\xe9": 1.5}}', "x.in: not UTF-8"),
    ("ranx-breaks-off", '{\n  "1": {\n    "a": 1.5,\n', "x.in:3: not JSON"),
    ("ranx-deeply-nested", "[" * 100_000, "x.in: not readable as JSON"),
    ("ranx-query-twice", '{"1": {"a": 1.5}, "1": {"b": 1.5}}', "x.in: ", "'1' appears twice"),
    ("ranx-document-twice", '{"1": {"a": 1.5, "a": 1.4}}', "x.in: ", "'a' appears twice"),
    ("ranx-without-queries", "{}", "x.in: holds no scores"),
    ("ranx-without-hits", '{"1": {}, "2": {}}', "x.in: holds no scores"),
    ("ranx-scores-in-a-list", '{"1": [1.5]}', "x.in: query 1: expected an object of docids, got list"),
    (
        "ranx-score-word",
        '{"1": {"a": "1.5", "b": 0.5}}',
        "x.in: query 1, document a: expected a finite score, got '1.5'",
    ),
    ("ranx-score-true", '{"1": {"a": true, "b": 0.5}}', "x.in: query 1, document a: expected a finite score, got True"),
    ("ranx-score-nan", '{"1": {"a": NaN}}', "x.in: query 1, document a: expected a finite score, got nan"),
    ("ranx-score-overflows", '{"1": {"a": 1e999}}', "x.in: query 1, document a: expected a finite score, got inf"),
    ("ranx-score-too-large", '{"1": {"a": 1e300}}', "x.in: query 1, document a: expected a finite score, got 1e+300"),
    ("ranx-docid-with-blank", '{"1": {"a b": 1.5}}', "x.in: query 1: expected a docid without blanks, got 'a b'"),
    ("ranx-qid-empty", '{"": {"a": 1.5}}', "x.in: expected a query id without blanks, got ''"),
    ("ranx-half-surrogate", '{"1": {"\\ud83d": 1.5}}', "x.in: query 1: expected a docid"),
    ("ranx-run-or-qrels", '{"1": {"a": 2}}', "x.in: a run or qrels?", "say --kind"),
    ("beir-queries", BEIR, "x.in: query _id: expected an object of docids, got str"),
    ("request-breaks-off", REQUEST + REQUEST[:40], "x.in:2: not JSON"),
    ("request-list-line", REQUEST + "[]\n", "x.in:2: expected an object, got list"),
    ("request-without-query", '{"candidates": []}\n', "x.in:1: expected an object with a query"),
    ("request-query-word", '{"query": "t", "candidates": []}\n', "x.in:1: expected an object with a query"),
    ("request-without-candidates", '{"query": {"qid": "1"}}\n', "x.in:1: expected an object with a query"),
    ("request-without-qid", REQUEST.replace("qid", "id"), "x.in:1: expected a query id without blanks, got None"),
    ("request-qid-true", REQUEST.replace('"1"', "true"), "x.in:1: expected a query id without blanks, got True"),
    ("request-qid-twice", REQUEST + REQUEST.replace('"1"', "1"), "x.in:2: query 1 appears twice"),
    ("request-docid-fraction", REQUEST.replace('"a"', "1.5"), "x.in:1: query 1, candidate 1: expected a docid"),
    ("request-docid-twice", REQUEST.replace("[", f"[{CANDIDATE}, "), "x.in:1: query 1: document a appears twice"),
    ("request-score-null", REQUEST.replace("1.5", "null"), "x.in:1: query 1, document a: expected a finite score"),
    ("request-candidate-word", REQUEST.replace(CANDIDATE, '"a"'), "x.in:1: query 1, candidate 1: expected an object"),
    ("requests-without-hits", REQUEST.replace(CANDIDATE, ""), "x.in: the run is empty"),
    ("requests-in-an-array", f"[\n{REQUEST},\n{REQUEST}]", "x.in: request 2: query 1 appears twice"),
]


@pytest.mark.parametrize("row", cases([(name, columns) for name, *columns in FORMS]))
def test_what_is_converted(tmp_path: Path, refused: Refused, row: list[Any]):
    content, *fragments = row
    put(tmp_path / "x.in", content)
    refused("convert {tmp}/x.in --to trec --output {out}", *fragments)


QRELS_FORMS = [
    ("ranx-grade-fraction", '{"1": {"a": 1.0}}', "x.in: query 1, document a: expected an integer grade, got 1.0"),
    ("ranx-grade-true", '{"1": {"a": true}}', "x.in: query 1, document a: expected an integer grade, got True"),
    ("ranx-grade-too-large", f'{{"1": {{"a": {10**18}}}}}', "x.in: query 1, document a: expected a grade of at most"),
    ("ranx-without-judgments", '{"1": {}}', "x.in: no judgments"),
    ("requests", REQUEST, "x.in: rank_llm's requests are a run, not qrels"),
    ("run", HIT, "x.in:1: expected 4 columns"),
]


@pytest.mark.parametrize(("content", "fragment"), cases(QRELS_FORMS))
def test_what_is_converted_as_qrels(tmp_path: Path, refused: Refused, content: str, fragment: str):
    put(tmp_path / "x.in", content)
    refused("convert {tmp}/x.in --kind qrels --output {tmp}/out.trec", fragment)
    refused("convert {tmp}/x.in --to beir --output {out}", fragment)


# --- index directories ------------------------------------------------------------------------------------------------


def sidecar(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change what e2rank.json says."""

    def apply(place: Path) -> None:
        record = json.loads((place / "e2rank.json").read_text())
        change(record)
        (place / "e2rank.json").write_text(json.dumps(record))

    return apply


def docids(change: Callable[[list[str]], list[str]]) -> Change:
    """Change the docid file, a list of lines without their ends."""

    def apply(place: Path) -> None:
        lines = change((place / "docid").read_text().splitlines())
        (place / "docid").write_text("".join(f"{line}\n" for line in lines))

    return apply


def rebuilt(index: Any, vectors: np.ndarray, *, said: bool = False) -> Change:
    """An index by FAISS alone, docids 000 and on; only with `said` does the sidecar stay."""

    def apply(place: Path) -> None:
        index.reset()
        index.add(vectors)
        faiss.write_index(index, str(place / "index"))
        (place / "docid").write_text("".join(f"{row:03}\n" for row in range(len(vectors))))
        if not said:
            (place / "e2rank.json").unlink()

    return apply


def sealed_again(place: Path) -> None:
    """Have the sidecar name the files as they are: what is tested lies behind the hashes (faults/test_damage.py)."""
    with contextlib.suppress(OSError, ValueError):
        record = json.loads((place / "e2rank.json").read_text())
        if "files" in record:
            (place / "e2rank.json").write_text(json.dumps(seal({**record, **hashes(place)})))


def unit_rows(dim: int) -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((40, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def other_texts(place: Path) -> None:
    (place / "e2rank.json").unlink()
    docids(lambda lines: lines[::-1])(place)


def model_unsaid_and_other_texts(place: Path) -> None:
    sidecar(lambda record: record.clear())(place)
    docids(lambda lines: lines[::-1])(place)


def swap_identity(record: dict[str, Any]) -> None:
    record["model"]["identity"] = record["model"]["identity"][::-1]


NAMED = "--encoder {model}"  # an index without sidecar does not say its model
BAD_INDEXES = [
    ("directory-missing", shutil.rmtree, "", "{tmp}/index: expected a FAISS index"),
    ("no-docid-file", lambda place: (place / "docid").unlink(), "", "{tmp}/index: expected a FAISS index"),
    ("no-index-file", lambda place: (place / "index").unlink(), "", "{tmp}/index: expected a FAISS index"),
    ("more-docids", docids(lambda lines: [*lines, "040"]), "", "40 vectors but 41 docids"),
    ("fewer-docids", docids(lambda lines: lines[:-1]), "", "40 vectors but 39 docids"),
    ("duplicate-docid", docids(lambda lines: [*lines[:-1], "000"]), "", "/index/docid: 1 docids appear more than once"),
    ("docid-with-blank", docids(lambda lines: ["0 0", *lines[1:]]), "", "/index/docid"),
    ("docid-empty", docids(lambda lines: ["", *lines[1:]]), "", "/index/docid"),
    ("docid-latin-1", lambda place: put(place / "docid", b"caf\xe9\n"), "", "/index/docid: not UTF-8"),
    ("truncated-by-a-byte", lambda place: cut(place / "index", -1), "", "/index/index: not readable by FAISS"),
    ("truncated-to-half", lambda place: cut(place / "index", 5000), "", "/index/index: not readable by FAISS"),
    ("truncated-in-header", lambda place: cut(place / "index", 9), "", "/index/index: not readable by FAISS"),
    ("truncated-to-nothing", lambda place: cut(place / "index", 0), "", "/index/index: not readable by FAISS"),
    ("garbage", lambda place: put(place / "index", b"not an index" * 900), "", "/index/index: not readable by FAISS"),
    ("no-documents", rebuilt(faiss.IndexFlatIP(64), np.zeros((0, 64), np.float32)), NAMED, "{tmp}/index"),
    ("l2-metric", rebuilt(faiss.IndexFlatL2(64), unit_rows(64)), NAMED, "{tmp}/index: expected an inner-product index"),
    ("other-width", rebuilt(faiss.IndexFlatIP(32), unit_rows(32)), NAMED, "holds vectors of 32 dimensions"),
    ("other-vectors", rebuilt(faiss.IndexFlatIP(64), unit_rows(64)), NAMED, "{tmp}/index: document 000 encoded by"),
    ("nan-vectors", rebuilt(faiss.IndexFlatIP(64), unit_rows(64) * np.nan), NAMED, "{tmp}/index"),
    ("other-texts", other_texts, NAMED, "{tmp}/index: document 039 encoded by"),
    ("first-docid-unknown", rebuilt(faiss.IndexFlatIP(64), unit_rows(64)), f"{NAMED} --corpus {{tmp}}/c.jsonl", "000"),
    ("model-unsaid", lambda place: (place / "e2rank.json").unlink(), "", "/index: was not built by e2rank index"),
    ("sidecar-broken", lambda place: cut(place / "e2rank.json", 100), "", "/index/e2rank.json: not JSON"),
    ("sidecar-empty", lambda place: cut(place / "e2rank.json", 0), "", "/index/e2rank.json: not JSON"),
    ("sidecar-latin-1", lambda place: put(place / "e2rank.json", b"\xe9"), "", "/index/e2rank.json: not UTF-8"),
    ("sidecar-list", lambda place: put(place / "e2rank.json", "[]"), "", "/index/e2rank.json: expected an object"),
    ("sidecar-without-model", sidecar(lambda record: record.pop("model")), "", "{tmp}/index"),
    ("sidecar-without-model-nor-its-texts", model_unsaid_and_other_texts, NAMED, "{tmp}/index"),
    ("sidecar-model-word", sidecar(lambda record: record.update(model="tiny")), "", "{tmp}/index"),
    ("sidecar-model-word-named", sidecar(lambda record: record.update(model="tiny")), NAMED, "{tmp}/index"),
    ("sidecar-model-unknown-key", sidecar(lambda record: record["model"].update(poolng=1)), "", "mean pooling?"),
    ("sidecar-model-missing-key", sidecar(lambda record: record["model"].pop("eos")), "", "'eos' is missing"),
    ("sidecar-model-gone", sidecar(lambda record: record["model"].update(source="/gone/tiny")), "", "/gone/tiny"),
    ("sidecar-other-identity", sidecar(swap_identity), "", "{tmp}/index: built with model"),
    ("sidecar-other-identity-named", sidecar(swap_identity), NAMED, "{tmp}/index: built with model"),
    ("sidecar-other-width", rebuilt(faiss.IndexFlatIP(32), unit_rows(32), said=True), "", "vectors of 32 dimensions"),
]


@pytest.mark.parametrize("command", ["search", "rerank"])
@pytest.mark.parametrize(("change", "options", "fragment"), cases(BAD_INDEXES))
def test_index(
    tmp_path: Path, tiny_index: Path, refused: Refused, command: str, change: Change, options: str, fragment: str
):
    shutil.copytree(tiny_index, tmp_path / "index")
    put(tmp_path / "c.jsonl", DOC)
    change(tmp_path / "index")
    sealed_again(tmp_path / "index")
    line = SEARCH if command == "search" else RERANK
    refused(f"{line.replace('{index}', '{tmp}/index')} {options}", fragment)


# --- models -----------------------------------------------------------------------------------------------------------


def own(**changes: Any) -> Change:
    """Change the model's e2rank.yaml; a value of None removes the key."""

    def apply(place: Path) -> None:
        record = {**yaml.safe_load((place / "e2rank.yaml").read_text()), **changes}
        kept = {key: value for key, value in record.items() if value is not None}
        (place / "e2rank.yaml").write_text(yaml.safe_dump(kept))

    return apply


def lengths(**changes: Any) -> Change:
    return own(lengths={"document": 48, "query": 24, "prompt": 512, **changes})


def own_text(content: str | bytes) -> Change:
    return lambda place: put(place / "e2rank.yaml", content)


def config_alone(content: str) -> Change:
    """A model that e2rank.yaml does not describe, and its config.json."""

    def apply(place: Path) -> None:
        (place / "e2rank.yaml").unlink()
        put(place / "config.json", content)

    return apply


def config(**changes: Any) -> Change:
    def apply(place: Path) -> None:
        record = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps({**record, **changes}))

    return apply


def weights(change: Callable[[dict[str, np.ndarray]], object]) -> Change:
    def apply(place: Path) -> None:
        tensors = load_file(place / "model.safetensors")
        change(tensors)
        save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})

    return apply


def fewer_embeddings(place: Path) -> None:
    """As when tokens were added to the tokenizer and the weights were not resized."""
    weights(lambda tensors: tensors.update({"embed_tokens.weight": tensors["embed_tokens.weight"][:100]}))(place)
    config(vocab_size=100)(place)


def without_any_record(place: Path) -> None:
    (place / "e2rank.yaml").unlink()
    (place / "config.json").unlink()


def without_chat_template(place: Path) -> None:
    (place / "chat_template.jinja").unlink()


def without_tokenizer(place: Path) -> None:
    for file in place.glob("tokenizer*"):
        file.unlink()


MODELS = [
    ("no-config-nor-own-file", without_any_record, "config.json"),
    ("no-config", lambda place: (place / "config.json").unlink(), "is not a readable model"),
    ("config-broken", config_alone('{"model_type": "qwe'), "config.json"),
    ("config-broken-with-own-file", lambda place: cut(place / "config.json", 40), "is not a readable model"),
    ("config-list", config_alone("[]"), "config.json"),
    ("config-without-model-type", config_alone("{}"), "its model_type None is not one of"),
    ("config-model-type-unknown", config_alone('{"model_type": "mamba"}'), "its model_type 'mamba' is not one of"),
    ("config-model-type-list", config_alone('{"model_type": ["qwen3"]}'), "model_type"),
    ("config-of-another-shape", config(hidden_size=32), "{tmp}/model"),
    ("own-unknown-key", own(poolling="last"), "e2rank.yaml: unknown key 'poolling'; did you mean pooling?"),
    ("own-key-not-a-word", own_text("on: last\n"), "e2rank.yaml: unknown key"),
    ("own-missing-key", own(pooling=None), "e2rank.yaml: key 'pooling' is missing"),
    ("own-ill-typed", own(window="five"), "e2rank.yaml: window: expected int, got 'five'"),
    ("own-true-for-number", own(window=True), "e2rank.yaml: window: expected int, got True"),
    ("own-window-zero", own(window=0), "window at least 1"),
    ("own-bad-pooling", own(pooling="max"), "pooling: expected one of last, mean, cls, got 'max'"),
    ("own-bad-prompt", own(prompt="papr"), "prompt: expected one of paper, card, train, pair, tail, got 'papr'"),
    ("own-bad-dtype", own(dtype="float8"), "dtype: expected one of"),
    ("own-query-without-slot", own(query="Instruct: {task}"), "query"),
    ("own-eos-not-a-token", own(eos="</s>"), "expected its EOS '</s>' to be one token"),
    ("own-eos-empty", own(eos=""), "EOS"),
    ("own-source-gone", own(source="/gone/tiny"), "/gone/tiny"),
    ("own-adapter-gone", own(adapter="/gone/adapter"), "/gone/adapter"),
    ("own-lengths-number", own(lengths=48), "e2rank.yaml: lengths: expected a mapping"),
    ("own-lengths-unknown-key", lengths(documents=1), "unknown key 'documents'; did you mean document?"),
    ("own-lengths-ill-typed", lengths(query="24"), "e2rank.yaml: lengths: query: expected int, got '24'"),
    ("own-lengths-too-small", lengths(document=1), "lengths must be at least 2 tokens"),
    ("own-lengths-beyond-positions", lengths(document=4096), "it has 2048 positions"),
    ("own-broken-yaml", own_text("pooling: [last\nlengths: }"), "e2rank.yaml:2: not readable as YAML"),
    ("own-empty", own_text(""), "e2rank.yaml: expected a mapping"),
    ("own-list", own_text("- pooling\n"), "e2rank.yaml: expected a mapping"),
    ("own-latin-1", own_text(b"pooling: caf\xe9\n"), "e2rank.yaml: not readable as YAML"),
    ("weights-missing", lambda place: (place / "model.safetensors").unlink(), "is not a readable model"),
    ("weights-truncated", lambda place: cut(place / "model.safetensors", 300_000), "is not a readable model"),
    ("weights-truncated-in-header", lambda place: cut(place / "model.safetensors", 50), "is not a readable model"),
    ("weights-garbage", lambda place: put(place / "model.safetensors", b"\xff" * 999), "is not a readable model"),
    ("weights-lack-a-layer", config(num_hidden_layers=3, layer_types=["full_attention"] * 3), "layers.2"),
    ("weights-lack-a-tensor", weights(lambda tensors: tensors.pop("norm.weight")), "norm.weight"),
    ("weights-nan", weights(lambda tensors: tensors["norm.weight"].fill(np.nan)), "{tmp}/model"),
    ("weights-lack-embeddings", fewer_embeddings, "{tmp}/model"),
    ("tokenizer-missing", without_tokenizer, "tokenizer"),
    ("tokenizer-broken", lambda place: cut(place / "tokenizer.json", 500), "is not a readable model"),
    ("tokenizer-garbage", lambda place: put(place / "tokenizer.json", b"\xff\xfe"), "is not a readable model"),
    ("tokenizer-without-chat-template", without_chat_template, "its tokenizer has no chat template"),
]


@pytest.mark.parametrize(("change", "fragment"), cases(MODELS))
def test_model(tmp_path: Path, tiny_model: Path, refused: Refused, change: Change, fragment: str):
    shutil.copytree(tiny_model, tmp_path / "model")
    change(tmp_path / "model")
    refused(INDEX.replace("{model}", "{tmp}/model"), "{tmp}/model" if "/gone" not in fragment else "", fragment)


MODELS_ON_AN_INDEX = [
    ("other-weights", weights(lambda tensors: tensors["norm.weight"].fill(2)), "", "{index}: built with model"),
    ("other-pooling", own(pooling="mean"), "", "pooling"),
    ("other-eos", own(eos="<|im_end|>"), "", "eos"),
    ("other-like", lambda place: None, "--like minilm", "pooling"),
    ("without-chat-template", without_chat_template, "", "its tokenizer has no chat template"),
    ("chat-broken-jinja", own(chat="{% if %}"), "", "chat"),
    ("chat-misspelt", own(chat="tokeniser"), "", "chat"),
    ("chat-without-the-turn", own(chat="{{ bos_token }}"), "", "chat"),
]


@pytest.mark.parametrize(("change", "options", "fragment"), cases(MODELS_ON_AN_INDEX))
def test_model_on_an_index(
    tmp_path: Path, tiny_model: Path, tiny_index: Path, refused: Refused, change: Change, options: str, fragment: str
):
    """The index was built with the sound model of the same weights."""
    shutil.copytree(tiny_model, tmp_path / "model")
    change(tmp_path / "model")
    refused(f"{RERANK} --encoder {{tmp}}/model {options}", fragment.replace("{index}", str(tiny_index)))


EXPORT = "export --encoder {model} --output {tmp}/folder"


@pytest.mark.parametrize(
    ("change", "fragment"),
    cases(
        [
            ("query-in-the-middle", own(query="{query} {task}"), "its query template has ' {task}' after the query"),
            ("query-twice", own(query="{query}{query}"), "its query template has '{query}' after the query"),
            ("own-missing-key", own(pooling=None), "e2rank.yaml: key 'pooling' is missing"),
            ("weights-missing", lambda place: (place / "model.safetensors").unlink(), "is not a readable model"),
        ]
    ),
)
def test_export_of_a_model(tmp_path: Path, tiny_model: Path, refused: Refused, change: Change, fragment: str):
    shutil.copytree(tiny_model, tmp_path / "model")
    change(tmp_path / "model")
    refused(EXPORT.replace("{model}", "{tmp}/model"), "{tmp}/model", fragment.replace("{", "{{").replace("}", "}}"))


def test_export_over_what_was_not_exported(tmp_path: Path, refused: Refused):
    put(tmp_path / "folder" / "modules.json", "[]")
    refused(EXPORT, "{tmp}/folder: exists already")
    refused(f"{EXPORT} --overwrite", "{tmp}/folder: is not an exported model")


# --- command lines ----------------------------------------------------------------------------------------------------

FEEDBACK = "feedback --run {run} --dataset {beir} --index {index} --output {out}"
WITHOUT_DATASET = "rerank --index {index} --run {run} --output {out}"
OWN_PARTS = "--topics {beir}/queries.jsonl --corpus {beir}"
MTEB = "mteb --encoder {model} --output {tmp}/scores --tasks"
COMMANDS = [
    (
        "model-near-miss",
        INDEX.replace("{model}", "minillm"),
        "model 'minillm'",
        "did you mean minilm or e2rank-minilm?",
    ),
    ("model-directory-missing", INDEX.replace("{model}", "{tmp}/nowhere"), "{tmp}/nowhere"),
    ("like-unknown", f"{INDEX} --like minillm", "like 'minillm'", "did you mean minilm or e2rank-minilm?"),
    (
        "like-of-a-named-model",
        f"{INDEX.replace('{model}', 'e2rank-minilm')} --like smollm2-135m",
        "e2rank index: model 'e2rank-minilm': is a named one; --like goes with a directory or a hub name",
    ),
    ("split-alone", "eval --qrels {beir}/qrels/test.tsv {run} --split test", "--split goes with --dataset"),
    ("seed-of-a-t-test", "compare --dataset {beir} {run} {run} --seed 5", "--seed goes with --test randomisation"),
    ("by-query-prompt-length", f"{RERANK} --by query --prompt-length 99", "--by query reads no documents: --prompt-le"),
    ("device-cuda-7", f"{INDEX} --device cuda:7", "device 'cuda:7': not usable here"),
    ("device-unknown", f"{INDEX} --device gpu", "device 'gpu': not usable here"),
    ("device-not-built-in", f"{INDEX} --device hpu", "device 'hpu': not usable here"),
    ("device-meta", f"{INDEX} --device meta", "device 'meta': not usable here"),
    ("index-type-unknown", f"{INDEX} --index-type Flatt", "index type 'Flatt': FAISS cannot build it"),
    ("index-type-lower", f"{INDEX} --index-type flat", "inner product: could not parse index string flat"),
    ("index-type-empty", f"{INDEX} --index-type ''", "index type '': FAISS cannot build it"),
    ("index-type-does-not-divide", f"{INDEX} --index-type PQ7", "index type 'PQ7': FAISS cannot build it"),
    ("index-type-not-inner-product", f"{INDEX} --index-type LSH", "index type 'LSH': FAISS cannot build it"),
    ("index-type-wants-ids", f"{INDEX} --index-type IDMap,Flat", "index type 'IDMap,Flat': FAISS cannot build it"),
    ("max-length-one", f"{INDEX} --max-length 1", "lengths must be at least 2 tokens"),
    ("max-length-beyond-positions", f"{INDEX} --max-length 4096", "up to 4096 tokens", "2048 positions"),
    ("prompt-length-beyond-positions", f"{RERANK} --prompt-length 4096", "up to 4096 tokens", "2048 positions"),
    ("prompt-length-too-small", f"{RERANK} --prompt-length 8", "prompt"),
    ("corpus-unnamed", "index --encoder {model} --output {out}", "--corpus", "--dataset"),
    ("corpus-unnamed-bm25", "bm25 --topics {beir}/queries.jsonl --output {out}", "--corpus", "--dataset"),
    ("lucene-index-unnamed", "bm25 --dataset {beir} --output {out}", "--index"),
    ("corpus-unnamed-rerank", f"{WITHOUT_DATASET} --topics {{beir}}/queries.jsonl", "--corpus", "--dataset"),
    ("topics-unnamed", "search --index {index} --output {out}", "--topics", "--dataset"),
    ("topics-unnamed-rerank", f"{WITHOUT_DATASET} --corpus {{beir}}", "--topics", "--dataset"),
    ("topics-missing", f"{SEARCH} --topics {{tmp}}/t.tsv", "{tmp}/t.tsv: no such file"),
    ("topics-directory", f"{SEARCH} --topics {{tmp}}", "{tmp}: cannot be read"),
    ("qrels-unnamed", "eval {run}", "--qrels", "--dataset"),
    ("qrels-missing", "eval --qrels {tmp}/qrels.txt {run}", "{tmp}/qrels.txt: no such file"),
    ("qrels-directory", "eval --qrels {tmp} {run}", "{tmp}: cannot be read"),
    ("run-missing", RERANK.replace("{run}", "{tmp}/run.trec"), "{tmp}/run.trec: no such file"),
    ("run-missing-gz", RERANK.replace("{run}", "{tmp}/run.trec.gz"), "{tmp}/run.trec.gz: no such file"),
    ("run-directory", RERANK.replace("{run}", "{tmp}"), "{tmp}: cannot be read"),
    ("run-missing-eval", "eval --dataset {beir} {run} {tmp}/run.trec", "{tmp}/run.trec: no such file"),
    ("qrels-unnamed-report", "report {run} {run} --output {out}", "--qrels", "--dataset"),
    ("run-missing-report", REPORT.replace("{run} {run}", "{run} {tmp}/run.trec"), "{tmp}/run.trec: no such file"),
    ("topics-missing-report", f"{REPORT} --topics {{tmp}}/t.tsv", "{tmp}/t.tsv: no such file"),
    ("split-unknown-report", f"{REPORT} --split dev", "qrels/dev.tsv: no such file", "test"),
    ("seed-negative-report", f"{REPORT} --seed -1", "seed -1: expected a whole number of at least 0"),
    ("convert-missing", "convert {tmp}/x.json --output {tmp}/y.trec", "{tmp}/x.json: no such file"),
    ("convert-to-what", "convert {run} --output {out}", "/out: expected --to, or a name that ends in .trec"),
    ("convert-to-gz", "convert {run} --output {tmp}/y.trec.gz", "/y.trec.gz: is written plain"),
    ("convert-run-to-qrels", "convert {run} --output {tmp}/y.tsv", "expected 4 columns"),
    ("convert-kind-of-beir", "convert {run} --kind run --output {tmp}/y.tsv", "the form beir holds qrels"),
    ("convert-kind-of-requests", "convert {run} --kind qrels --output {tmp}/y.jsonl", "the form rank_llm holds a run"),
    ("convert-needless-texts", "convert {run} --output {tmp}/y.json --dataset {beir}", "the form ranx holds no texts"),
    ("requests-without-topics", "convert {run} --to rank_llm --output {out} --corpus {beir}", "--topics", "--dataset"),
    (
        "requests-without-corpus",
        "convert {run} --to rank_llm --output {out} --topics {beir}/queries.jsonl",
        "--corpus",
        "--dataset",
    ),
    ("export-near-miss", EXPORT.replace("{model}", "minillm"), "model 'minillm'", "did you mean minilm"),
    ("export-task-of-what", f"{EXPORT} --dataset scifct", "'scifct'", "did you mean scifact"),
    ("export-below-a-file", EXPORT.replace("{tmp}/folder", "{run}/folder"), "/folder: cannot be written"),
    ("window-above-depth", f"{RERANK} --depth 5 --window 6", "window 6: expected 1 to depth (5)"),
    ("window-above-default-depth", f"{RERANK} --window 101", "window 101: expected 1 to depth (100)"),
    ("by-average-with-task", f"{RERANK} --by average --task x", "--by average reads no such thing: --task"),
    ("index-output-empty", "index --corpus {beir} --encoder {model} --output=", "expected a name, got nothing"),
    ("index-shards-empty", f"{INDEX} --shards=", "--output and --shards: expected a name, got nothing"),
    (
        "search-task-of-no-dataset",
        "search --topics {beir}/queries.jsonl --index {index} --output {out} --task dataset",
        "--task dataset needs --dataset",
    ),
    ("compare-corpus-alone", "compare --dataset {beir} {run} {run} --corpus {beir}", "--corpus goes with --gains N"),
    ("compare-gains-as-json", "compare --dataset {beir} {run} {run} --gains 2 --json", "--json does not go with it"),
    ("output-is-a-record", f"{RERANK.replace('{out}', '{run}.json')}", "is the record of the run toy.dense.trec"),
    ("by-query-with-order", f"{RERANK} --by query --order reverse", "--by query reads no documents: --order"),
    ("by-average-with-prompt", f"{RERANK} --by average --prompt card", "--by average reads no such thing: --prompt"),
    ("by-prompt-with-alpha", f"{FEEDBACK} --rocchio-alpha 1", "--by prompt reads no such thing: --rocchio-alpha"),
    ("seed-without-shuffle", f"{RERANK} --seed 3", "--seed goes with --order shuffle"),
    (
        "passes-of-query",
        f"{RERANK} --by query --passes 2",
        "--by query reads no documents: --passes does not go with it",
    ),
    ("like-without-encoder", f"{RERANK} --like minilm", "--like goes with --encoder"),
    ("depth-in-vain", f"{FEEDBACK} --depth 7", "--depth goes with --adaptive"),
    ("stride-without-window", f"{RERANK} --stride 3", "--stride needs --window"),
    ("stride-above-window", f"{RERANK} --stride 3 --window 2", "stride 3: expected 1 to window (2)"),
    ("stride-with-adaptive", f"{RERANK} --stride 1 --window 2 --adaptive 0.5", "--stride slides over whole windows"),
    ("interpolate-unknown", f"{RERANK} --interpolate prompt=1 bm25=1", "--interpolate bm25: expected first, query"),
    ("interpolate-twice", f"{RERANK} --interpolate prompt=1 prompt=2", "--interpolate: a score is named twice"),
    ("interpolate-without-by", f"{RERANK} --interpolate first=1", "expected a weight above 0 for prompt"),
    ("record-of-a-run-missing", "rerun {tmp}/run.trec.json", "{tmp}/run.trec.json: no such file"),
    ("task-of-no-dataset", f"{WITHOUT_DATASET} {OWN_PARTS} --task dataset", "--task dataset needs --dataset"),
    ("dataset-near-miss", INDEX.replace("--corpus {beir}", "--dataset scifct"), "'scifct'", "did you mean scifact"),
    ("dataset-is-a-file", INDEX.replace("--corpus {beir}", "--dataset {beir}/corpus.jsonl"), "expected a folder"),
    ("dataset-folder-missing", INDEX.replace("--corpus {beir}", "--dataset {tmp}/toy"), "expected a folder"),
    ("split-unknown-eval", "eval --dataset {beir} --split dev {run}", "qrels/dev.tsv: no such file", "test"),
    ("split-unknown-search", f"{SEARCH} --split dev", "dev"),
    ("split-unknown-rerank", f"{RERANK} --split dev", "dev"),
    ("table-data-missing", "table --encoder {model} --data {tmp}/data", "{tmp}/data: no such folder"),
    ("table-model-near-miss", "table --encoder minillm --data {tmp}", "did you mean minilm"),
    ("split-of-a-named-dataset", f"{SEARCH} --split dev".replace("{beir}", "scifact"), "scifact: has no split 'dev'"),
    ("mteb-task-near-miss", f"{MTEB} SciFct", "task 'SciFct': expected a task or benchmark", "did you mean SciFact"),
    ("mteb-task-not-of-text", f"{MTEB} VisualSTS17Eng", "task VisualSTS17Eng: is not of text alone (", "image"),
    ("mteb-data-out-of-reach", f"{MTEB} STS12", "task STS12: its data set mteb/sts12-sts", "put a clone", "Couldn't"),
    ("mteb-window-alone", f"{MTEB} STS12 --window 5", "--window goes with --listwise"),
    ("mteb-below-a-file", f"{MTEB} STS12 --output {{run}}", "cannot be written", "is not a directory"),
    ("mteb-model-near-miss", f"{MTEB} STS12 --encoder minillm", "model 'minillm'", "did you mean minilm"),
]


@pytest.mark.parametrize("row", cases([(name, columns) for name, *columns in COMMANDS]))
def test_command_line(refused: Refused, row: list[str]):
    refused(*row)


USAGE = [
    ("no-command", "", "required: COMMAND"),
    ("unknown-command", "serch", "invalid choice: 'serch'"),
    ("unknown-option", f"{SEARCH} --hitz 5", "--hitz"),
    ("hits-zero", f"{SEARCH} --hits 0", "argument --hits: expected a whole number of at least 1, got 0"),
    ("hits-negative", f"{SEARCH} --hits -5", "argument --hits"),
    ("hits-word", f"{SEARCH} --hits many", "argument --hits"),
    ("hits-fraction", f"{SEARCH} --hits 1.5", "argument --hits"),
    ("hits-zero-bm25", "bm25 --dataset {beir} --output {out} --hits 0", "argument --hits"),
    ("depth-zero", f"{RERANK} --depth 0", "argument --depth"),
    ("depth-word", f"{RERANK} --depth all", "argument --depth"),
    ("window-zero", f"{RERANK} --window 0", "argument --window"),
    ("prompt-unknown", f"{RERANK} --prompt papr", "argument --prompt: invalid choice: 'papr'"),
    ("adaptive-above-one", f"{RERANK} --adaptive 1.5", "argument --adaptive: expected a number from 0 to 1"),
    ("interpolate-no-weight", f"{RERANK} --interpolate prompt", "argument --interpolate: expected SCORE=WEIGHT"),
    ("interpolate-negative", f"{RERANK} --interpolate prompt=-1", "argument --interpolate: expected a number from 0"),
    (
        "interpolate-too-large",
        f"{RERANK} --interpolate prompt=1e308",
        "argument --interpolate: expected a number from 0",
    ),
    ("alpha-nan", f"{RERANK} --by rocchio --rocchio-alpha nan", "argument --rocchio-alpha: expected a number from 0"),
    ("adaptive-word", f"{RERANK} --adaptive x", "argument --adaptive: expected a number from 0 to 1, got 'x'"),
    ("passes-zero", f"{FEEDBACK} --passes 0", "argument --passes"),
    ("by-query-feedback", f"{FEEDBACK} --by query", "argument --by"),
    ("by-unknown", f"{RERANK} --by title", "argument --by"),
    ("dtype-unknown", f"{INDEX} --dtype float8", "argument --dtype"),
    ("threads-zero", f"{INDEX} --threads 0", "argument --threads"),
    ("batch-tokens-zero", f"{INDEX} --batch-tokens 0", "argument --batch-tokens"),
    ("prompt-length-word", f"{RERANK} --prompt-length long", "argument --prompt-length"),
    ("relevance-word", "eval --dataset {beir} --relevance high {run}", "argument --relevance"),
    ("relevance-zero", "eval --dataset {beir} --relevance 0 {run}", "argument --relevance"),
    ("relevance-negative", "eval --dataset {beir} --relevance -1 {run}", "argument --relevance"),
    ("no-encoder", "index --corpus {beir} --output {out}", "--encoder"),
    ("no-output", "search --dataset {beir} --index {index}", "--output"),
    ("no-index", "search --dataset {beir} --output {out}", "--index"),
    ("no-run", "rerank --dataset {beir} --index {index} --output {out}", "--run"),
    ("no-runs", "eval --dataset {beir}", "RUN"),
    ("table-no-encoder", "table", "--encoder"),
    ("no-runs-report", "report --dataset {beir} {run} --output {out}", "RUN"),
    ("no-output-report", "report --dataset {beir} {run} {run}", "--output"),
    ("gains-zero-report", f"{REPORT} --gains 0", "argument --gains"),
    ("seed-word-report", f"{REPORT} --seed many", "argument --seed"),
    ("test-unknown-report", f"{REPORT} --test z", "argument --test"),
    ("mteb-no-task", f"{MTEB}", "argument --tasks"),
    ("mteb-window-zero", f"{MTEB} STS12 --listwise --window 0", "argument --window"),
    ("export-two-tasks", f"{EXPORT} --task x --dataset scifact", "argument --dataset: not allowed with"),
    ("export-dtype", f"{EXPORT} --dtype auto", "argument --dtype"),
    ("export-where", "export --encoder {model}", "--output"),
    ("form-unknown", "convert {run} --to lz4 --output {out}", "argument --to: invalid choice: 'lz4'"),
    ("kind-unknown", "convert {run} --kind topics --output {out}", "argument --kind"),
    ("nothing-to-convert", "convert --output {out}", "INPUT"),
]


@pytest.mark.parametrize(("line", "fragment"), cases(USAGE))
def test_usage(tmp_path: Path, fill: Fill, capfd: pytest.CaptureFixture[str], line: str, fragment: str):
    words = fill(line)
    capfd.readouterr()
    with pytest.raises(SystemExit) as left:
        main(words)
    printed, told = capfd.readouterr()
    assert (left.value.code, printed) == (2, "")
    assert told.startswith("usage: e2rank ")
    assert "Traceback" not in told
    assert ": error: " in told.splitlines()[-1]
    assert fragment in told.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


# --- data set folders -------------------------------------------------------------------------------------------------


def unjudged(place: Path) -> None:
    put(place / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\nnobody\t000\t1\n")


FOLDERS = [
    ("no-corpus", "corpus.jsonl", INDEX.replace("--corpus {beir}", "--dataset {tmp}/toy"), "corpus.jsonl"),
    ("no-queries", "queries.jsonl", SEARCH.replace("{beir}", "{tmp}/toy"), "queries.jsonl"),
    ("no-qrels", "qrels/test.tsv", "eval --dataset {tmp}/toy {run}", "{tmp}/toy/qrels/test.tsv: no such file"),
]


@pytest.mark.parametrize(("gone", "line", "fragment"), cases(FOLDERS))
def test_dataset_folder_that_lacks_a_part(
    tmp_path: Path, beir: Path, refused: Refused, gone: str, line: str, fragment: str
):
    shutil.copytree(beir, tmp_path / "toy")
    (tmp_path / "toy" / gone).unlink()
    refused(line, fragment)


def test_dataset_folder_whose_judged_topics_have_no_query(tmp_path: Path, beir: Path, refused: Refused):
    shutil.copytree(beir, tmp_path / "toy")
    unjudged(tmp_path / "toy")
    refused(SEARCH.replace("{beir}", "{tmp}/toy"), "{tmp}/toy")


# --- outputs ----------------------------------------------------------------------------------------------------------


CONVERT = "convert {run} --to ranx --output {out}"


@pytest.mark.parametrize("line", [SEARCH, RERANK, CONVERT], ids=["search", "rerank", "convert"])
def test_output_is_a_directory(tmp_path: Path, refused: Refused, line: str):
    put(tmp_path / "there" / "kept", "kept")
    refused(line.replace("{out}", "{tmp}/there"), "{tmp}/there")


@pytest.mark.parametrize(
    "line", [SEARCH, RERANK, INDEX, REPORT, CONVERT], ids=["search", "rerank", "index", "report", "convert"]
)
def test_output_below_a_file(tmp_path: Path, refused: Refused, line: str):
    put(tmp_path / "file", "kept")
    refused(line.replace("{out}", "{tmp}/file/output"), "{tmp}/file/output: cannot be written")


@pytest.mark.parametrize("line", [SEARCH, RERANK, INDEX, CONVERT], ids=["search", "rerank", "index", "convert"])
def test_output_behind_a_url(refused: Refused, line: str):
    refused(line.replace("{out}", "s3://bucket/out"), "--output s3://bucket/out: expected a path on this machine")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (f"{SEARCH} --topics s3://b/t.tsv", "--topics s3://b/t.tsv"),
        (f"{SEARCH} --excluded s3://b/e.txt", "--excluded s3://b/e.txt"),
        (RERANK.replace("{run}", "s3://b/r.trec"), "--run s3://b/r.trec"),
        ("eval --qrels s3://b/q.txt {run}", "--qrels s3://b/q.txt"),
        ("eval --dataset {beir} s3://b/r.trec", "s3://b/r.trec"),
        ("compare --dataset {beir} s3://b/r.trec {run}", "s3://b/r.trec"),
        (REPORT.replace("{run} {run}", "{run} s3://b/r.trec"), "s3://b/r.trec"),
        ("convert s3://b/x --to trec --output {out}", "s3://b/x"),
        ("data --dataset {beir} --run {run} --run s3://b/r.trec --output {out}", "--run s3://b/r.trec"),
    ],
)
def test_a_file_behind_a_url(refused: Refused, line: str, what: str):
    refused(line, f": {what}: expected a path on this machine, got a URL")


def test_a_file_of_this_machine_may_be_a_url(beir: Path, toy_run: Path, capsys: pytest.CaptureFixture[str]):
    tables = []
    for before in ("", "file://"):
        assert main(["eval", "--qrels", f"{before}{beir}/qrels/test.tsv", f"{before}{toy_run}"]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]


def test_index_exists_already(tmp_path: Path, tiny_index: Path, refused: Refused):
    shutil.copytree(tiny_index, tmp_path / "old")
    refused(INDEX.replace("{out}", "{tmp}/old"), "{tmp}/old: exists already")


def test_report_over_what_is_no_report(tmp_path: Path, refused: Refused):
    put(tmp_path / "file", "kept")
    put(tmp_path / "home" / "thesis.tex", "kept")
    refused(REPORT.replace("{out}", "{tmp}/home"), "{tmp}/home: exists already")
    for name in ("file", "home"):
        refused(REPORT.replace("{out}", f"{{tmp}}/{name} --overwrite"), f"{{tmp}}/{name}: is not a report")


def test_index_over_a_file(tmp_path: Path, refused: Refused):
    put(tmp_path / "file", "kept")
    refused(INDEX.replace("{out}", "{tmp}/file --overwrite"), "{tmp}/file")


def test_index_over_a_directory_that_is_no_index(tmp_path: Path, refused: Refused):
    """`--overwrite` with a slip of the hand must not delete somebody's files."""
    put(tmp_path / "home" / "thesis.tex", "kept")
    refused(INDEX.replace("{out}", "{tmp}/home --overwrite"), "{tmp}/home")


def test_index_over_the_working_directory(tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch):
    put(tmp_path / "home" / "thesis.tex", "kept")
    monkeypatch.chdir(tmp_path / "home")
    refused(INDEX.replace("{out}", ". --overwrite"), "e2rank index: ")


# --- outputs that are inputs ------------------------------------------------------------------------------------------

DATA = "data --dataset {tmp}/toy --run {tmp}/run.trec"
OWN_SEARCH = "search --index {tmp}/index --topics {tmp}/q.jsonl"
OWN_RERANK = "rerank --index {tmp}/index --run {tmp}/run.trec --topics {tmp}/q.jsonl --corpus {tmp}/c"
OWN_FEEDBACK = OWN_RERANK.replace("rerank", "feedback")
BM25 = "bm25 --index {tmp}/lucene --topics {tmp}/q.jsonl --corpus {tmp}/c"
READ = [
    ("search-topics", OWN_SEARCH, "q.jsonl", "topics"),
    ("search-topics-by-a-link", OWN_SEARCH, "link", "topics"),
    ("search-corpus", f"{OWN_SEARCH} --corpus {{tmp}}/c/1.jsonl", "c/1.jsonl", "corpus"),
    ("search-excluded", f"{OWN_SEARCH} --excluded {{tmp}}/x.tsv", "x.tsv", "excluded"),
    ("search-dataset", "search --index {tmp}/index --dataset {tmp}/toy", "toy/queries.jsonl", "dataset"),
    ("search-judgments", "search --index {tmp}/index --dataset {tmp}/toy", "toy/qrels/test.tsv", "dataset"),
    ("bm25-topics", BM25, "q.jsonl", "topics"),
    ("bm25-corpus", BM25, "c/deep/2.jsonl", "corpus"),
    ("rerank-run", OWN_RERANK, "run.trec", "run"),
    ("rerank-topics", OWN_RERANK, "q.jsonl", "topics"),
    ("rerank-corpus", OWN_RERANK, "c/1.jsonl", "corpus"),
    ("feedback-corpus", OWN_FEEDBACK, "c/1.jsonl", "corpus"),
    ("data-run", DATA, "run.trec", "run"),
    ("data-second-run", f"{DATA} --run {{tmp}}/x.tsv", "x.tsv", "run"),
    ("data-qrels", f"{DATA} --qrels {{tmp}}/x.tsv", "x.tsv", "qrels"),
    ("data-scorer", f"{DATA} --labels scores --scorer run:{{tmp}}/x.tsv", "x.tsv", "scorer"),
    ("data-dataset", DATA, "toy/corpus.jsonl", "dataset"),
]
INDEXES = [
    ("search", OWN_SEARCH, "index/docid", "index"),
    ("search-new", OWN_SEARCH, "index/new.trec", "index"),
    ("search-lucene-corpus", f"{OWN_SEARCH} --corpus {{tmp}}/lucene", "lucene/segments_1", "lucene"),
    ("bm25", BM25, "lucene/segments_1", "lucene"),
    ("rerank", OWN_RERANK, "index/e2rank.json", "index"),
    ("feedback", OWN_FEEDBACK, "index/docid", "index"),
    ("data", "data --dataset {tmp}/toy --mine dense --index {tmp}/index", "index/docid", "index"),
    ("data-lucene", "data --dataset {tmp}/toy --mine bm25 --lucene-index {tmp}/lucene", "lucene/segments_1", "lucene"),
]


@pytest.fixture
def own(tmp_path: Path, beir: Path, tiny_index: Path, toy_run: Path) -> None:
    """In the test's directory a copy of everything that a command reads."""
    shutil.copytree(beir, tmp_path / "toy")
    shutil.copytree(tiny_index, tmp_path / "index")
    shutil.copy(toy_run, tmp_path / "run.trec")
    shutil.copy(beir / "queries.jsonl", tmp_path / "q.jsonl")
    (tmp_path / "link").symlink_to("q.jsonl")
    put(tmp_path / "x.tsv", "007 000\n")
    put(tmp_path / "lucene" / "segments_1", "")
    rows = (beir / "corpus.jsonl").read_text().splitlines(keepends=True)
    put(tmp_path / "c" / "1.jsonl", "".join(rows[:20]))
    put(tmp_path / "c" / "deep" / "2.jsonl", "".join(rows[20:]))


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(("line", "output", "option"), cases(READ))
def test_what_is_read_is_not_written_over(refused: Refused, line: str, output: str, option: str):
    told = f"{{tmp}}/{output}: is what --{option} reads; choose another name"
    refused(f"{line} --output {{tmp}}/{output}", told)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(("line", "output", "index"), cases(INDEXES))
def test_nothing_is_written_into_an_index(refused: Refused, line: str, output: str, index: str):
    told = f"{{tmp}}/{output}: lies in the index {{tmp}}/{index}, which is read; choose another name"
    refused(f"{line} --output {{tmp}}/{output}", told)


AMONG = [
    ("search", f"{OWN_SEARCH} --corpus {{tmp}}/c --output {{tmp}}/c/deep/run.trec", "{tmp}/c/deep/run.trec"),
    ("bm25", f"{BM25} --output {{tmp}}/c/run.trec", "{tmp}/c/run.trec"),
    ("rerank", f"{OWN_RERANK} --output {{tmp}}/c/run.trec", "{tmp}/c/run.trec"),
    ("index", "index --encoder {model} --corpus {tmp}/c --output {tmp}/c/index", "{tmp}/c/index"),
    ("shards", "index --encoder {model} --corpus {tmp}/c --output {tmp}/i --shards {tmp}/c/s", "{tmp}/c/s"),
]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(("line", "output"), cases(AMONG))
def test_nothing_is_written_among_documents(refused: Refused, line: str, output: str):
    """All files of the folder are read, and a run has its record, a JSON file, beside it."""
    told = f"{output}: lies in {{tmp}}/c, all files of which are read as documents; choose another place"
    refused(line, told)


@pytest.mark.usefixtures("own")
def test_beside_what_is_read_is_room_for_a_run(fill: Fill, tmp_path: Path):
    words = fill("search --index {tmp}/index --dataset {tmp}/toy --output {tmp}/toy/run.trec")
    assert [main(words), main(words)] == [0, 0]  # the second replaces the first's
    assert (tmp_path / "toy" / "run.trec.json").is_file()


# --- not an error -----------------------------------------------------------------------------------------------------


def test_more_hits_than_documents_is_told_and_not_an_error(
    tmp_path: Path, fill: Fill, capfd: pytest.CaptureFixture[str]
):
    words = fill(f"{SEARCH} --hits 41")
    capfd.readouterr()
    assert main(words) == 0
    printed, told = capfd.readouterr()
    assert printed == ""
    assert "e2rank search: asked for 41 hits, the index holds 40 documents" in told.splitlines()
    rows = [line.split() for line in (tmp_path / "out").read_text().splitlines()]
    everything = {f"{number:03}" for number in range(40)}
    found = {qid: {row[2] for row in rows if row[0] == qid} for qid in dict.fromkeys(row[0] for row in rows)}
    assert found == {f"{number:03}": everything for number in range(7, 13)}
    assert len(rows) == 6 * 40


def test_byte_order_mark_is_no_part_of_an_id(tmp_path: Path, fill: Fill):
    put(tmp_path / "t.tsv", "\ufeff1\twing flow\n2\tshock wave\n")
    refused = main(fill(f"{SEARCH} --topics {{tmp}}/t.tsv")) == 1
    assert refused or {line.split()[0] for line in (tmp_path / "out").read_text().splitlines()} == {"1", "2"}
