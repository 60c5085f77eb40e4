"""Models in the mteb library: what text reached the encoder, and its scores against plain computation.

The tasks are defined here, with data in memory; one is a real task of mteb, its data set written to a folder.
"""

import dataclasses
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import mteb
import numpy as np
import pytest
from mteb.abstasks import AbsTaskClassification, AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.aggregate_task_metadata import AggregateTaskMetadata
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.get_tasks import TASK_LIST
from scipy.stats import spearmanr

from e2rank_pyserini import DenseIndex, E2RankEncoder, E2RankError, ListwisePrompt, catalog, evaluate, search
from e2rank_pyserini.cli import main
from e2rank_pyserini.inference.forward import Forward
from e2rank_pyserini.mteb.evaluation import evaluate as evaluate_tasks
from e2rank_pyserini.mteb.evaluation import result_path, tasks_named
from e2rank_pyserini.mteb.instructions import instruction
from e2rank_pyserini.mteb.model import ListwiseMtebModel, MtebModel
from e2rank_pyserini.prompts import RERANK_TASK, RETRIEVAL_TASK
from e2rank_pyserini.topics import read_topics
from e2rank_pyserini.trec import read_qrels
from e2rank_pyserini.types import Hit
from tests.conftest import EOS, sentences

pytestmark = pytest.mark.usefixtures("one_thread")

ROOM = catalog.Lengths(document=160, query=160, prompt=2000)
PAIRS = list(zip(sentences(12, seed=1), sentences(12, seed=2), strict=True))
GRADES = [number % 6 for number in range(12)]
ASK = "Find texts that say the same"
SIMILAR = "Retrieve semantically similar text"  # whatever a task of this kind asks


def metadata(name: str, kind: str, measure: str, **others: Any) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        type=kind,
        main_score=measure,
        description="A test.",
        dataset={"path": f"nowhere/{name}", "revision": "1"},
        **{"eval_langs": ["eng-Latn"], **others},
    )


class InMemory:
    """Data that is there without a download."""

    data: Any

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        self.dataset = self.data()
        self.data_loaded = True


class ToyRetrieval(InMemory, AbsTaskRetrieval):
    metadata = metadata("ToyRetrieval", "Retrieval", "ndcg_at_10", category="t2t")


class ToyReranking(InMemory, AbsTaskRetrieval):
    metadata = metadata("ToyReranking", "Reranking", "ndcg_at_10", category="t2t", prompt={"query": "Find hits"})


class ToySTS(InMemory, AbsTaskSTS):
    metadata = metadata("ToySTS", "STS", "cosine_spearman", prompt=ASK)

    @staticmethod
    def data() -> datasets.DatasetDict:
        first, second = zip(*PAIRS, strict=True)
        rows = {"sentence1": first, "sentence2": second, "score": GRADES}
        return datasets.DatasetDict(test=datasets.Dataset.from_dict(rows))


class OtherSTS(ToySTS):
    metadata = metadata("OtherSTS", "STS", "cosine_spearman")


class BothSTS(AbsTaskAggregate):
    metadata = AggregateTaskMetadata(
        name="BothSTS",
        type="STS",
        main_score="cosine_spearman",
        description="A test.",
        tasks=[ToySTS(), OtherSTS()],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
    )


class ToyClassification(InMemory, AbsTaskClassification):
    metadata = metadata("ToyClassification", "Classification", "accuracy")

    @staticmethod
    def data() -> datasets.DatasetDict:
        rows = {"text": ["wing shock"] * 10 + ["jet nozzle drag"] * 10, "label": [0] * 10 + [1] * 10}
        return datasets.DatasetDict(train=datasets.Dataset.from_dict(rows), test=datasets.Dataset.from_dict(rows))


def retrieval(beir: Path, kind: type[Any] = ToyRetrieval, top_ranked: Any = None) -> Any:
    """The toy folder as a task of mteb."""
    task = kind()

    def data() -> Any:
        corpus = [json.loads(line) for line in (beir / "corpus.jsonl").read_text().splitlines()]
        rows = [{"id": row["_id"], "title": row["title"], "text": row["text"]} for row in corpus]
        queries = [{"id": qid, "text": text} for qid, text in read_topics(beir / "queries.jsonl").items()]
        split = {
            "corpus": datasets.Dataset.from_list(rows),
            "queries": datasets.Dataset.from_list(queries),
            "relevant_docs": read_qrels(beir / "qrels" / "test.tsv"),
            "top_ranked": top_ranked,
        }
        return {"default": {"test": split}}

    task.data = data
    return task


def candidates(beir: Path) -> dict[str, list[str]]:
    """25 documents a query, the relevant ones first, as mteb's reranking sets list them."""
    found = {}
    for qid, judged in read_qrels(beir / "qrels" / "test.tsv").items():
        relevant = [docid for docid, grade in judged.items() if grade > 0]
        others = [f"{number:03}" for number in range(40) if f"{number:03}" not in relevant]
        found[qid] = relevant + others[: 25 - len(relevant)]
    return found


@pytest.fixture
def load(tiny_model: Path) -> Callable[..., Any]:
    """The tiny Qwen3 with room for the instruction, recording the text of every row that it reads."""

    def loaded(**changes: Any) -> Any:
        spec = dataclasses.replace(catalog.model(str(tiny_model)), **{"lengths": ROOM, **changes})
        encoder = E2RankEncoder.load(spec, device="cpu")
        encoder.read = []

        class Recording(Forward):
            def stream(self, parts: Any, count: int) -> Any:
                parts = list(parts)
                encoder.read += [encoder.tokens.tokenizer.decode(row) for part in parts for row in part.ids]
                return super().stream(iter(parts), count)

        encoder.forward = Recording(encoder.spec.name, encoder.network, encoder.spec.pooling, None)
        return encoder

    return loaded


def run(model: MtebModel, task: Any, output: Path, **options: Any) -> Any:
    (result,) = evaluate_tasks(model, [task], output, **options)
    return result


def notes(model: MtebModel, task: str, output: Path) -> list[dict[str, Any]]:
    path = result_path(model, output, task)
    return json.loads((path.parent / "encoded" / path.name).read_text())["encoded"]


# --- the texts --------------------------------------------------------------------------------------------------------


def test_queries_go_under_the_task_and_documents_bare(load: Callable[..., Any], beir: Path, tmp_path: Path):
    encoder = load()
    model = MtebModel(encoder)
    run(model, retrieval(beir), tmp_path)
    corpus = [json.loads(line) for line in (beir / "corpus.jsonl").read_text().splitlines()]
    queries = read_topics(beir / "queries.jsonl").values()
    assert sorted(encoder.read) == sorted(
        [f"Instruct: {RETRIEVAL_TASK}\nQuery:{query}{EOS}" for query in queries]
        + [f"{row['title']} {row['text']}".strip() + EOS for row in corpus]
    )
    told = {note["as"]: note for note in notes(model, "ToyRetrieval", tmp_path)}
    assert told["query"]["text"] == f"Instruct: {RETRIEVAL_TASK}\nQuery:{{text}}"
    assert told["query"]["instruction_from"] == "the paper's default"
    assert (told["query"]["counts"]["queries"], told["document"]["counts"]["documents"]) == (6, 40)


@pytest.mark.parametrize("task", [ToySTS, OtherSTS], ids=["instead-of-its-own", "has-none"])
def test_symmetric_texts_go_under_the_instruction_on_both_sides(
    load: Callable[..., Any], tmp_path: Path, task: type[Any]
):
    encoder = load()
    run(MtebModel(encoder), task(), tmp_path)
    assert sorted(encoder.read) == sorted(f"Instruct: {SIMILAR}\nQuery:{text}{EOS}" for pair in PAIRS for text in pair)


def test_questions_that_are_searched_by_questions_go_under_the_instruction_too(
    load: Callable[..., Any], beir: Path, tmp_path: Path
):
    class ArguAna(ToyRetrieval):
        metadata = metadata("ArguAna", "Retrieval", "ndcg_at_10", category="t2t", prompt={"query": ASK})

    encoder = load()
    model = MtebModel(encoder)
    run(model, retrieval(beir, ArguAna), tmp_path)
    assert len(encoder.read) == 46
    assert all(text.startswith(f"Instruct: {ASK}\nQuery:") for text in encoder.read)
    assert {note["as"] for note in notes(model, "ArguAna", tmp_path)} == {"query", "symmetric"}


def test_classification_too(load: Callable[..., Any], tmp_path: Path):
    encoder = load()
    result = run(MtebModel(encoder), ToyClassification(), tmp_path)
    texts = {f"Instruct: Classify user passages.\nQuery:{text}{EOS}" for text in ("wing shock", "jet nozzle drag")}
    assert set(encoder.read) == texts
    assert result.get_score() == 1.0  # one text a class: whatever separates them is always right


def test_a_model_without_an_instruction_gets_the_text_alone(load: Callable[..., Any], beir: Path, tmp_path: Path):
    encoder = load(query="{query}")
    model = MtebModel(encoder)
    run(model, ToySTS(), tmp_path)
    assert sorted(encoder.read) == sorted(text + EOS for pair in PAIRS for text in pair)
    assert notes(model, "ToySTS", tmp_path)[0].keys() == {"split", "subset", "as", "text", "counts"}


def test_what_is_cut_is_counted(load: Callable[..., Any], tmp_path: Path):
    encoder = load(lengths=catalog.Lengths(document=60, query=12, prompt=200))
    model = MtebModel(encoder)
    run(model, ToySTS(), tmp_path)
    (note,) = notes(model, "ToySTS", tmp_path)
    texts = [f"Instruct: {SIMILAR}\nQuery:{text}{EOS}" for pair in PAIRS for text in pair]
    longer = [len(encoder.tokens.tokenizer(text)["input_ids"]) > 60 for text in texts]
    assert note["counts"]["documents_truncated"] == sum(longer) > 0
    assert note["counts"]["documents"] == len(longer)


@pytest.mark.parametrize(
    ("task", "subset", "text", "source"),
    [
        ("TRECCOVID", "default", "Given a query on COVID-19, retrieve documents that answer the query", "trec-covid"),
        ("Touche2020Retrieval.v3", "default", "Given a question, retrieve detailed and persuasive", "webis-touche2020"),
        ("BrightRetrieval", "earth_science", "Given a post, retrieve relevant", "bright-earth-science"),
        ("BrightPonyRetrieval", "default", "Given a question about pony program", "bright-pony"),
        ("AskUbuntuDupQuestions", "default", "Retrieve duplicate questions from AskUbuntu forum", "mteb's task"),
        ("ArguAna", "default", "Given a claim, find documents that refute the claim", "mteb's task"),
        ("CovidQA", "Covid-QA", RETRIEVAL_TASK, "the paper's default"),
        ("BUCC.v2", "de-en", "Retrieve parallel sentences", "E2Rank's evaluation"),
        ("TwitterURLCorpus", "default", "Retrieve semantically similar text", "E2Rank's evaluation"),
        ("FEVERHardNegatives", "default", "Given a claim, retrieve documents that support", "E2Rank's evaluation"),
        ("SummEvalFr", "default", "Given a news summary, retrieve other", "mteb's default for the kind of task"),
    ],
)
def test_instruction(task: str, subset: str, text: str, source: str):
    found, said = instruction(mteb.get_task(task).metadata, subset)
    assert found.startswith(text)
    assert source in said


def test_every_mteb_name_of_a_data_set_is_one_of_mtebs():
    known = {task.metadata.name: task.metadata for task in TASK_LIST}
    named = [name for each in catalog.dataset_names() for name in catalog.dataset(each).mteb]
    assert len(named) == len(set(named)) > 20
    for name in named:
        task, _, subset = name.partition("/")
        assert task in known
        assert not subset or subset in known[task].hf_subsets


# --- the scores -------------------------------------------------------------------------------------------------------


def test_retrieval_scores_are_those_of_our_own_search(
    load: Callable[..., Any], tiny_model: Path, tiny_index: Path, beir: Path, tmp_path: Path
):
    lengths = catalog.model(str(tiny_model)).lengths  # what the index was built with
    encoder = load(lengths=lengths)
    result = run(MtebModel(encoder), retrieval(beir), tmp_path)
    topics, qrels = read_topics(beir / "queries.jsonl"), read_qrels(beir / "qrels" / "test.tsv")
    ours = evaluate(search(topics, DenseIndex(tiny_index), encoder), qrels, measures=("nDCG@10",))["nDCG@10"]
    assert 0 < ours < 1
    assert result.get_score() == pytest.approx(ours, abs=5.1e-6)  # mteb rounds to five digits


def test_sts_is_the_rank_correlation_of_the_cosines(load: Callable[..., Any], tmp_path: Path):
    encoder = load()
    result = run(MtebModel(encoder), ToySTS(), tmp_path)
    left, right = (encoder.encode_queries([pair[side] for pair in PAIRS], SIMILAR) for side in (0, 1))
    assert result.get_score() == pytest.approx(spearmanr((left * right).sum(axis=1), GRADES).statistic, abs=1e-6)


def slowly_reranked(encoder: Any, beir: Path, window: int) -> dict[str, list[Hit]]:
    """The method by plain loops: candidates by the query's cosine, prompt of the first, candidates by its cosine."""
    corpus = [json.loads(line) for line in (beir / "corpus.jsonl").read_text().splitlines()]
    texts = {row["_id"]: f"{row['title']} {row['text']}".strip() for row in corpus}
    vectors = {docid: encoder.encode_documents([text])[0] for docid, text in texts.items()}
    found = {}
    for qid, query in read_topics(beir / "queries.jsonl").items():
        asked = encoder.encode_queries([query], "Find hits")[0]
        ranked = sorted(candidates(beir)[qid], key=lambda docid: -float(vectors[docid] @ asked))
        read = tuple(texts[docid] for docid in ranked[:window])
        enhanced = encoder.encode_prompts([ListwisePrompt(query, read, RERANK_TASK)])[0]
        found[qid] = [Hit(docid, float(vectors[docid] @ enhanced)) for docid in ranked]
    return found


def test_listwise_scores_are_those_of_the_method(load: Callable[..., Any], beir: Path, tmp_path: Path):
    encoder = load()
    model = ListwiseMtebModel(encoder, 4)
    result = run(model, retrieval(beir, ToyReranking, candidates(beir)), tmp_path)
    qrels = read_qrels(beir / "qrels" / "test.tsv")
    ours = evaluate(slowly_reranked(load(), beir, 4), qrels, measures=("nDCG@10", "MAP"))
    scores = result.scores["test"][0]
    assert scores["ndcg_at_10"] == pytest.approx(ours["nDCG@10"], abs=5.1e-6)
    assert scores["map_at_1000"] == pytest.approx(ours["MAP"], abs=5.1e-6)
    plain = run(MtebModel(load()), retrieval(beir, ToyReranking, candidates(beir)), tmp_path)
    assert plain.get_score() != result.get_score()
    told = notes(model, "ToyReranking", tmp_path)[-1]
    assert (told["as"], told["variant"], told["window"], told["task"]) == ("prompt", "paper", 4, RERANK_TASK)
    assert (told["counts"]["prompts"], told["counts"]["prompt_documents"]) == (6, 24)


def test_the_order_of_the_candidates_cannot_reach_the_prompt(load: Callable[..., Any], beir: Path, tmp_path: Path):
    """mteb lists the relevant candidates first: what the prompt reads must not follow from that."""
    given = candidates(beir)
    shuffled = {qid: random.Random(qid).sample(docids, len(docids)) for qid, docids in given.items()}
    assert shuffled != given
    results = []
    for name, ranked in (("given", given), ("shuffled", shuffled)):
        encoder = load()
        result = run(ListwiseMtebModel(encoder, 4), retrieval(beir, ToyReranking, ranked), tmp_path / name)
        results.append((result.scores, [text for text in encoder.read if "Search Query" in text]))
    assert results[0] == results[1]
    corpus = [json.loads(line) for line in (beir / "corpus.jsonl").read_text().splitlines()]
    texts = {row["_id"]: row["text"] for row in corpus}
    as_given = [texts[docids[0]] in prompt for docids, prompt in zip(given.values(), results[0][1], strict=True)]
    assert not all(as_given)  # reading the candidates as they come would have made them all true


def test_candidates_of_equal_cosines_are_read_by_their_texts(load: Callable[..., Any], tmp_path: Path):
    """Their ids may name the label, as the order in which mteb gives them does."""
    same = "wing lift " * 60  # longer than what is read of a document
    rows = [("a0", f"{same} z"), ("b1", f"{same} y"), ("c2", f"{same} x"), ("d3", "a jet")]
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": docid, "title": "", "text": text}) for docid, text in rows]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "wing"}))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta0\t1\n")
    encoder = load(lengths=catalog.Lengths(document=16, query=32, prompt=512))
    model = ListwiseMtebModel(encoder, 4)
    seen: list[list[str]] = []
    prompts = model._prompts

    def kept(first: Any, *more: Any) -> Any:
        seen.append([hit.docid for hit in first["q"]])
        return prompts(first, *more)

    model._prompts = kept
    run(model, retrieval(folder, ToyReranking, {"q": ["a0", "b1", "c2", "d3"]}), tmp_path / "out")
    assert [docid for docid in seen[0] if docid != "d3"] == ["c2", "b1", "a0"]


def test_listwise_leaves_retrieval_within_candidates_plain(load: Callable[..., Any], beir: Path, tmp_path: Path):
    """BRIGHT's tasks give each query all documents but those that it excludes."""
    given = {qid: [f"{number:03}" for number in range(40) if number != 7] for qid in candidates(beir)}
    plain = run(MtebModel(load()), retrieval(beir, ToyRetrieval, given), tmp_path)
    model = ListwiseMtebModel(load(), 4)
    assert run(model, retrieval(beir, ToyRetrieval, given), tmp_path).scores == plain.scores
    assert {note["as"] for note in model.encoded["ToyRetrieval"]} == {"query", "document"}


def test_listwise_without_candidates_is_the_plain_search(load: Callable[..., Any], beir: Path, tmp_path: Path):
    plain = run(MtebModel(load()), retrieval(beir), tmp_path)
    model = ListwiseMtebModel(load())
    listwise = run(model, retrieval(beir), tmp_path)
    assert listwise.scores == plain.scores
    assert [note["as"] for note in notes(model, "ToyRetrieval", tmp_path)] == ["query", "document"]
    assert run(model, ToySTS(), tmp_path).scores == run(MtebModel(load()), ToySTS(), tmp_path).scores


def test_queries_without_candidates_score_nothing_and_are_counted(load: Callable[..., Any], beir: Path, tmp_path: Path):
    ranked = candidates(beir)
    ranked[next(iter(ranked))] = []
    model = ListwiseMtebModel(load(), 4)
    run(model, retrieval(beir, ToyReranking, ranked), tmp_path)
    assert notes(model, "ToyReranking", tmp_path)[-1]["queries_without_candidates"] == 1


def test_a_candidate_that_the_corpus_lacks_is_named(load: Callable[..., Any], beir: Path, tmp_path: Path):
    ranked = candidates(beir)
    ranked["007"][3] = "nowhere"
    with pytest.raises(E2RankError, match="ToyReranking: query 007: candidate nowhere is not in the corpus"):
        run(ListwiseMtebModel(load(), 4), retrieval(beir, ToyReranking, ranked), tmp_path)


# --- the files --------------------------------------------------------------------------------------------------------


def test_results_are_read_by_mteb_and_not_made_twice(load: Callable[..., Any], tmp_path: Path):
    encoder = load()
    model = MtebModel(encoder)
    first = run(model, ToySTS(), tmp_path)
    kept = mteb.ResultCache(tmp_path).load_task_result("ToySTS", model.mteb_model_meta)
    assert kept.get_score() == pytest.approx(first.get_score(), abs=1e-6)
    encoder.read.clear()
    assert run(model, ToySTS(), tmp_path).get_score() == pytest.approx(first.get_score(), abs=1e-6)
    assert encoder.read == []
    run(model, ToySTS(), tmp_path, overwrite=True)
    assert len(encoder.read) == 24


def test_a_result_that_was_not_finished_is_made_again(load: Callable[..., Any], tmp_path: Path):
    encoder = load()
    model = MtebModel(encoder)
    run(model, ToySTS(), tmp_path)
    path = result_path(model, tmp_path, "ToySTS")
    (path.parent / "encoded" / path.name).unlink()
    path.write_text(path.read_text()[:100])
    encoder.read.clear()
    run(model, ToySTS(), tmp_path)
    assert len(encoder.read) == 24
    assert json.loads(path.read_text())["task_name"] == "ToySTS"


def test_other_settings_are_refused(load: Callable[..., Any], tmp_path: Path):
    run(MtebModel(load()), ToySTS(), tmp_path)
    other = MtebModel(load(lengths=dataclasses.replace(ROOM, document=100)))
    with pytest.raises(E2RankError, match=r"ToySTS.json: was made with lengths .*; choose another --output or give"):
        run(other, ToySTS(), tmp_path)
    run(other, ToySTS(), tmp_path, overwrite=True)


class TwoSTS(InMemory, AbsTaskSTS):
    """A task of two languages, of which a benchmark may want one."""

    metadata = metadata("TwoSTS", "STS", "cosine_spearman", eval_langs={"en": ["eng-Latn"], "de": ["deu-Latn"]})

    @staticmethod
    def data() -> dict[str, datasets.DatasetDict]:
        first, second = zip(*PAIRS, strict=True)
        rows = {"sentence1": first, "sentence2": second, "score": GRADES}
        turned = {**rows, "sentence2": second[::-1]}
        return {
            name: datasets.DatasetDict(test=datasets.Dataset.from_dict(some))
            for name, some in (("en", rows), ("de", turned))
        }


def test_a_part_of_a_task_is_not_taken_for_the_whole(load: Callable[..., Any], tmp_path: Path):
    model = MtebModel(load())
    whole = run(model, TwoSTS(), tmp_path / "a").get_score()
    part = run(model, TwoSTS().filter_languages(["eng"]), tmp_path / "b").get_score()
    assert part != pytest.approx(whole, abs=1e-3)
    for task, place in ((TwoSTS(), "b"), (TwoSTS().filter_languages(["eng"]), "a")):
        with pytest.raises(E2RankError, match=r"TwoSTS.json: was made with subsets .*; choose another --output"):
            run(model, task, tmp_path / place)
    found = run(model, TwoSTS().filter_languages(["eng"]), tmp_path / "a", overwrite=True)
    assert found.get_score() == pytest.approx(part)
    assert run(model, TwoSTS().filter_languages(["eng"]), tmp_path / "a").get_score() == pytest.approx(part, abs=1e-6)


def test_a_result_under_another_instruction_is_not_taken(load: Callable[..., Any], tmp_path: Path):
    """Instructions come from mteb and from us, and either may say another one in its next release."""
    model = MtebModel(load())
    run(model, OtherSTS(), tmp_path)
    [note] = tmp_path.rglob("encoded/OtherSTS.json")
    note.write_text(note.read_text().replace(SIMILAR, ASK))
    with pytest.raises(
        E2RankError, match=r"OtherSTS.json: was made with instructions .*say the same.*; choose another"
    ):
        run(model, OtherSTS(), tmp_path)


def test_benchmarks_that_want_other_parts_of_a_task_are_refused():
    with pytest.raises(E2RankError, match=r"task \w+: MTEB\(eng, v2\) evaluates other parts of it than"):
        tasks_named(["MTEB(deu, v1)", "MTEB(eng, v2)"])


@pytest.mark.parametrize("content", ["", "[]", '{"settings": {}}'])
def test_a_damaged_note_is_named(load: Callable[..., Any], tmp_path: Path, content: str):
    model = MtebModel(load())
    path = result_path(model, tmp_path, "ToySTS")
    note = path.parent / "encoded" / path.name
    note.parent.mkdir(parents=True)
    note.write_text(content)
    path.write_text("{}")
    with pytest.raises(E2RankError, match=r"ToySTS\.json: not a file that `e2rank mteb` wrote; --overwrite"):
        run(model, ToySTS(), tmp_path)


def test_a_damaged_result_is_named(load: Callable[..., Any], tmp_path: Path):
    model = MtebModel(load())
    run(model, ToySTS(), tmp_path)
    result_path(model, tmp_path, "ToySTS").write_text("{}")
    with pytest.raises(E2RankError, match=r"mteb could not evaluate it: .*; --overwrite evaluates it again"):
        run(model, ToySTS(), tmp_path)


def test_an_aggregate_is_the_mean_of_its_parts(load: Callable[..., Any], tmp_path: Path):
    model = MtebModel(load())
    whole = run(model, BothSTS(), tmp_path)
    parts = [run(model, task, tmp_path).get_score() for task in (ToySTS(), OtherSTS())]
    assert whole.get_score() == pytest.approx(np.mean(parts), abs=1e-5)
    path = result_path(model, tmp_path, "BothSTS")
    path.write_text(path.read_text().replace(str(whole.get_score()), "0.123"))
    assert run(model, BothSTS(), tmp_path).get_score() == whole.get_score()


def test_names_of_models_and_benchmarks(load: Callable[..., Any], tiny_model: Path):
    meta = MtebModel(load()).mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.use_instructions) == (f"local/{tiny_model.name}", 64, True)
    assert meta.revision == E2RankEncoder.load(str(tiny_model), device="cpu").identity
    assert [task.metadata.name for task in tasks_named(["STS12", "SciFact", "STS12"])] == ["STS12", "SciFact"]
    assert {"SciFact", "NFCorpus", "TRECCOVID"} <= {task.metadata.name for task in tasks_named(["BEIR"])}


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def scifact(beir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy folder where mteb's task SciFact finds it: a clone of its repository below the working directory."""
    place = tmp_path / "here" / "mteb" / "scifact"
    place.mkdir(parents=True)
    for name in ("corpus", "queries"):
        (place / f"{name}.jsonl").write_text((beir / f"{name}.jsonl").read_text())
    judged = [line.split("\t") for line in (beir / "qrels" / "test.tsv").read_text().splitlines()[1:]]
    rows = [{"query-id": qid, "corpus-id": docid, "score": int(grade)} for qid, docid, grade in judged]
    (place / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    configs = [("default", "test", "test"), ("corpus", "corpus", "corpus"), ("queries", "queries", "queries")]
    parts = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {file}.jsonl\n"
        for name, split, file in configs
    )
    (place / "README.md").write_text(f"---\nconfigs:\n{parts}---\n")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path / "here")


@pytest.mark.usefixtures("scifact")
def test_data_that_is_there_but_not_readable(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "here" / "mteb" / "scifact" / "queries.jsonl").write_text("no JSON")
    words = ["mteb", "--encoder", str(tiny_model), "--tasks", "SciFact", "--output", str(tmp_path / "out")]
    assert main(words) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"e2rank mteb: task SciFact: its data set in {tmp_path}/here/mteb/scifact is not readable: ")
    assert "JSON" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("scifact")
def test_a_clone_that_changed_is_read_anew(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """`datasets` would give what it has in its cache of any clone with this README."""
    words = ["mteb", "--encoder", str(tiny_model), "--tasks", "SciFact", "--output", str(tmp_path / "out"), "--json"]
    assert main(words) == 0
    before = json.loads(capsys.readouterr().out)["score"]
    judged = tmp_path / "here" / "mteb" / "scifact" / "test.jsonl"
    rows = [json.loads(line) for line in judged.read_text().splitlines()]
    moved = [{**row, "corpus-id": f"{39 - int(row['corpus-id']):03}"} for row in rows]
    judged.write_text("".join(json.dumps(row) + "\n" for row in moved))
    assert main(words) == 1
    assert "SciFact.json: was made with data " in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    after = json.loads(capsys.readouterr().out)["score"]
    assert after != before
    judged.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([*words, "--overwrite"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == before


@pytest.mark.usefixtures("scifact")
def test_cut_queries_that_other_commands_read_whole_are_told(tiny_model: Path, tmp_path: Path, capsys):
    words = ["mteb", "--encoder", str(tiny_model), "--tasks", "BrightBiologyRetrieval", "--output", str(tmp_path / "o")]
    assert main(words) == 1  # its data are not here
    told = "BrightBiologyRetrieval: queries are cut to 24 tokens; other commands read up to 512 (--query-length 512)\n"
    assert told in capsys.readouterr().err
    assert main([*words, "--query-length", "512"]) == 1
    assert "are cut to" not in capsys.readouterr().err


def test_without_mteb(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    assert main(["mteb", "--encoder", "minilm", "--tasks", "STS12", "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "e2rank mteb: this needs mteb; pip install 'e2rank-pyserini[mteb]'\n"


@pytest.mark.usefixtures("scifact")
def test_command(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["mteb", "--encoder", str(tiny_model), "--tasks", "SciFact", "--output", str(tmp_path / "out")]
    assert main(words) == 0
    printed, told = capsys.readouterr()
    head, row = printed.splitlines()
    assert head.split() == ["task", "type", "measure", "score", "parts"]
    assert "SciFact: 6 queries, 6 queries truncated" in told
    (path,) = (tmp_path / "out" / "results").glob("*/*/SciFact.json")
    score = json.loads(path.read_text())["scores"]["test"][0]["main_score"]
    assert row.split() == ["SciFact", "Retrieval", "ndcg_at_10", f"{100 * score:.2f}", "1"]
    assert main([*words, "--json", "--listwise"]) == 0
    printed, told = capsys.readouterr()
    assert json.loads(printed)["score"] == pytest.approx(score)
    assert "SciFact: gives no candidates: scored without the listwise prompt" in told
    assert main(words) == 0
    assert "SciFact.json is there already (--overwrite evaluates again)" in capsys.readouterr().err
