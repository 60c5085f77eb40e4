"""`e2rank serve` without a socket: its answers against the commands and a plain reference, its refusals in words."""

import asyncio
import dataclasses
import json
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from e2rank_pyserini.cli import _parser, main
from e2rank_pyserini.corpus import documents
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.index import DenseIndex
from e2rank_pyserini.prompts import RERANK_TASK, document_text
from e2rank_pyserini.serving.answering import Answer, Answering, Candidate, Listwise, Question, Rerank, Search
from e2rank_pyserini.serving.app import app
from e2rank_pyserini.serving.batching import Worker
from e2rank_pyserini.serving.exchange import Service
from e2rank_pyserini.serving.gate import Metrics
from e2rank_pyserini.serving.serve_command import _opened
from e2rank_pyserini.serving.texts import opened_texts
from e2rank_pyserini.topics import read_topics
from e2rank_pyserini.trec import read_run
from e2rank_pyserini.types import Document, Hit, ListwisePrompt, Run

LISTWISE = Listwise(100, 5, RERANK_TASK, "Documents")
TEMPLATE = "{title} {text}"


@pytest.fixture(scope="module")
def answering(tiny_index: Path, beir: Path) -> Answering:
    """The toy index and corpus under their own model."""
    from e2rank_pyserini.commands.opening import loaded_encoder, opened_index

    absent = dict.fromkeys(
        ("encoder", "like", "threads", "max_length", "query_length", "prompt_length", "dtype", "device", "batch_tokens")
    )
    index = opened_index(Namespace(index=tiny_index, **absent))
    return Answering(index, loaded_encoder(Namespace(**absent), index), opened_texts(str(beir)), TEMPLATE)


Made = Callable[..., TestClient]


@pytest.fixture
def made(answering: Answering) -> Iterator[Made]:
    """A client of an application with these limits, on the toy index or another answerer."""
    workers = []

    def make(answers: Any = answering, *, waiting: int = 8, **changes: Any) -> TestClient:
        metrics = Metrics()
        worker = Worker(waiting, metrics.batches.observe)
        workers.append(worker)
        metrics.waiting.set_function(lambda: worker.waiting)
        metrics.tally = lambda: answering.encoder.tally
        worker.start(lambda: answers)
        limits = {"documents": 100, "query": 1000, "body": 100_000, "timeout": 10.0, "has_texts": True}
        spec = changes.pop("spec", answering.encoder.spec)
        service = Service(spec, LISTWISE, None, TEMPLATE, **{**limits, **changes})
        client = TestClient(app(worker, service, metrics))
        client.worker = worker
        return client

    yield make
    for worker in workers:
        worker.stop(10)


@pytest.fixture
def client(made: Made) -> TestClient:
    return made()


@pytest.fixture
def corpus(beir: Path) -> dict[str, Document]:
    return {document.docid: document for document in documents(str(beir))}


def assert_hits(found: list[dict[str, Any]], hits: list[Hit]) -> None:
    assert [one["docid"] for one in found] == [hit.docid for hit in hits]
    assert [one["score"] for one in found] == pytest.approx([hit.score for hit in hits], abs=1e-5)


def commands(tmp_path: Path, beir: Path, index: Path, search: Sequence[str] = (), rerank: Sequence[str] = ()) -> Run:
    """What `e2rank search` and, with its options, `e2rank rerank` write."""
    both = ["--dataset", str(beir), "--index", str(index)]
    assert main(["search", *both, "--output", str(tmp_path / "first.trec"), *search]) == 0
    if not rerank:
        return read_run(tmp_path / "first.trec")
    run = ["--run", str(tmp_path / "first.trec"), "--output", str(tmp_path / "second.trec")]
    assert main(["rerank", *both, *run, *rerank]) == 0
    return read_run(tmp_path / "second.trec")


def asked(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("task", [None, "Find what is meant"])
def test_search_is_the_command(client: TestClient, beir: Path, tiny_index: Path, tmp_path: Path, task: str | None):
    run = commands(tmp_path, beir, tiny_index, ["--hits", "7", *(["--task", task] if task else [])])
    for qid, query in read_topics(beir / "queries.jsonl").items():
        body = {"query": query, "hits": 7, **({"task": task} if task else {})}
        assert_hits(asked(client, "/search", **body)["hits"], run[qid])


@pytest.mark.parametrize(
    ("body", "search", "rerank"),
    [
        ({"hits": 40}, ["--hits", "100"], ["--depth", "100"]),
        ({"hits": 12, "depth": 8, "window": 4}, ["--hits", "12"], ["--depth", "8", "--window", "4"]),
        ({"hits": 3, "depth": 3}, ["--hits", "3"], ["--depth", "3"]),
        ({"hits": 40, "rerank_task": "Rank them"}, ["--hits", "100"], ["--task", "Rank them"]),
    ],
)
def test_search_and_rerank_are_the_commands(
    client: TestClient,
    beir: Path,
    tiny_index: Path,
    tmp_path: Path,
    body: dict[str, Any],
    search: list[str],
    rerank: list[str],
):
    run = commands(tmp_path, beir, tiny_index, search, rerank)
    for qid, query in read_topics(beir / "queries.jsonl").items():
        found = asked(client, "/search", query=query, rerank=True, **body)["hits"]
        if "depth" in body:  # below it the scores count down from -1 in both
            assert all(one["score"] <= -1 for one in found[body["depth"] :])
        assert_hits(found, run[qid][: body["hits"]])


def test_documents_come_with_the_hits_where_they_are_asked_for(client: TestClient, corpus: dict[str, Document]):
    bare = asked(client, "/search", query="shock wave", hits=4)["hits"]
    assert all(set(one) == {"docid", "score"} for one in bare)
    for rerank in (False, True):
        for one in asked(client, "/search", query="shock wave", rerank=rerank, return_documents=True)["hits"]:
            assert Document(one["docid"], one["title"], one["text"]) == corpus[one["docid"]]


def plain_rerank(
    answering: Answering, query: str, texts: list[str], window: int = 5, task: str = RERANK_TASK
) -> list[tuple[int, float]]:
    """By the encoder alone: one prompt, all documents, cosines."""
    encoder = answering.encoder
    prompt = encoder.encode_prompts([ListwisePrompt(query, tuple(texts[:window]), task)])[0]
    scores = [float(encoder.encode_documents([text])[0] @ prompt) for text in texts]
    order = sorted(range(len(texts)), key=lambda place: -scores[place])
    return [(place, scores[place]) for place in order]


def assert_ranked(answer: dict[str, Any], expected: list[tuple[int, float]]) -> None:
    results = answer["results"]
    assert [one["index"] for one in results] == [place for place, _ in expected]
    scores = [one["relevance_score"] for one in results]
    assert scores == pytest.approx([score for _, score in expected], abs=1e-5)


@pytest.mark.parametrize(("path", "version"), [("/rerank", "2"), ("/v1/rerank", "1"), ("/v2/rerank", "2")])
def test_rerank_takes_and_gives_what_cohere_does(
    client: TestClient, answering: Answering, corpus: dict[str, Document], path: str, version: str
):
    texts = [document.text for document in list(corpus.values())[:12]]
    given: list[Any] = [text if place % 2 else {"text": text} for place, text in enumerate(texts)]
    answer = asked(client, path, model="rerank-v3.5", query=" shock wave ", documents=given, top_n=7)
    assert set(answer) == {"id", "results", "meta"}
    assert all(set(one) == {"index", "relevance_score"} for one in answer["results"])
    assert_ranked(answer, plain_rerank(answering, "shock wave", texts)[:7])
    assert answer["meta"]["api_version"] == {"version": version}
    assert answer["meta"]["warnings"] == ["answered by the model of this server, tiny-qwen3"]
    shown = asked(client, path, query="shock wave", documents=given, return_documents=True)
    assert [one["document"] for one in shown["results"]] == [{"text": texts[one["index"]]} for one in shown["results"]]
    assert shown["id"] != answer["id"]
    assert shown["meta"] == {"api_version": {"version": version}}


def test_what_of_coheres_request_is_not_read_is_said(client: TestClient):
    meta = asked(client, "/rerank", query="a", documents=["b"], max_tokens_per_doc=9, priority=1)["meta"]
    assert meta["warnings"] == ["not read: max_tokens_per_doc, priority"]


@pytest.mark.parametrize(("prompt", "query"), [("tail", "Query: {query}"), ("paper", "{task}: {query}")])
def test_a_task_that_the_model_does_not_read_is_said(made: Made, answering: Answering, prompt: str, query: str):
    """Only what is told of the model changes here: its prompt and its query say a task, or neither does."""
    spec = dataclasses.replace(answering.encoder.spec, prompt=prompt, query=query)
    client = made(spec=spec)
    told = asked(client, "/search", query="a", task="b", rerank=True, rerank_task="c")
    meta = asked(client, "/rerank", query="a", documents=["b"], task="c", priority=1)["meta"]
    if prompt == "paper":
        assert "warnings" not in told
        assert meta["warnings"] == ["not read: priority"]
    else:
        assert told["warnings"] == ["not read: task, rerank_task"]
        assert meta["warnings"] == ["not read: priority, task"]
    assert "warnings" not in asked(client, "/search", query="a", rerank=True)


def test_rerank_by_docid_is_the_command(client: TestClient, beir: Path, tiny_index: Path, tmp_path: Path):
    first = commands(tmp_path, beir, tiny_index, ["--hits", "9"])
    second = commands(tmp_path, beir, tiny_index, ["--hits", "9"], ["--window", "4"])
    for qid, query in read_topics(beir / "queries.jsonl").items():
        docids = [hit.docid for hit in first[qid]]
        given = [{"docid": docid} for docid in docids]
        answer = asked(client, "/rerank", query=query, documents=given, window=4)
        assert_ranked(answer, [(docids.index(hit.docid), hit.score) for hit in second[qid]])


def test_texts_and_docids_mix_and_a_title_goes_through_the_template(
    client: TestClient, answering: Answering, corpus: dict[str, Document]
):
    titled, other = corpus["000"], corpus["001"]
    given = [
        {"docid": "000"},
        {"title": titled.title, "text": titled.text},
        {"title": f" {titled.title}", "text": f"{titled.text}\n"},  # as the blanks around those of a corpus, they go
        {"docid": "001"},
        {"docid": "000"},
    ]
    answer = asked(client, "/rerank", query="wing", documents=given, return_documents=True, task="Rank")
    texts = [document_text(one.title, one.text, TEMPLATE) for one in (titled, titled, titled, other, titled)]
    scores = {one["index"]: one["relevance_score"] for one in answer["results"]}
    expected = dict(plain_rerank(answering, "wing", texts, task="Rank"))
    assert scores == pytest.approx(expected, abs=1e-5)
    shown = {one["index"]: one["document"] for one in answer["results"]}
    assert shown[0] == shown[4] == {"docid": "000", "title": titled.title, "text": titled.text}
    assert shown[1] == {"title": titled.title, "text": titled.text}


def test_a_document_of_the_corpus_that_the_index_lacks_is_encoded(answering: Answering, corpus: dict[str, Document]):
    texts = {**corpus, "new": Document("new", "a title", "shock wave")}
    wider = Answering(answering.index, answering.encoder, texts, TEMPLATE)
    candidates = (Candidate("000"), Candidate("new"), Candidate("001"))
    (answer,) = wider.answer([Rerank("wing", candidates, LISTWISE)])
    read = [document_text(texts[one.docid].title, texts[one.docid].text, TEMPLATE) for one in candidates]
    expected = plain_rerank(answering, "wing", read)
    assert [int(hit.docid) for hit in answer.hits] == [place for place, _ in expected]
    assert [hit.score for hit in answer.hits] == pytest.approx([score for _, score in expected], abs=1e-5)


class Counting:
    """An encoder that says how it was called."""

    def __init__(self, encoder: E2RankEncoder) -> None:
        self.inner, self.calls = encoder, []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("encode_"):
            self.calls.append(name)
        return getattr(self.inner, name)


def mixed(corpus: dict[str, Document]) -> list[Question]:
    texts = [document.text for document in corpus.values()]
    return [
        Search("shock wave", 5),
        Search("drag and lift", 12, None, LISTWISE._replace(depth=8, window=3)),
        Rerank("jet nozzle", tuple(Candidate(None, text) for text in texts[:6]), LISTWISE),
        Search("heat", 3, documents=True),
        Rerank("cone", (Candidate("003"), Candidate("", texts[9]), Candidate(None, texts[2])), LISTWISE),
        Search("buckling shell", 40, None, LISTWISE),
        Search("plate", 5, "Another task"),
    ]


def test_what_is_asked_together_is_encoded_together_and_answered_as_if_alone(
    answering: Answering, corpus: dict[str, Document]
):
    encoder = Counting(answering.encoder)
    counted = Answering(answering.index, encoder, {**corpus, "": corpus["001"]}, TEMPLATE)
    questions = mixed(corpus)
    together = counted.answer(questions)
    assert encoder.calls == ["encode_queries", "encode_queries", "encode_documents", "encode_prompts"]  # two tasks
    for question, answer in zip(questions, together, strict=True):
        (alone,) = counted.answer([question])
        assert [hit.docid for hit in answer.hits] == [hit.docid for hit in alone.hits]
        assert [hit.score for hit in answer.hits] == pytest.approx([hit.score for hit in alone.hits], abs=1e-5)
        assert answer.documents == alone.documents
    assert list(together[3].documents) == [hit.docid for hit in together[3].hits]


def test_nothing_to_answer_and_an_index_that_finds_nothing(answering: Answering):
    class Empty(DenseIndex):
        def __init__(self) -> None:
            pass

        def search(self, vectors: np.ndarray, hits: int) -> list[list[Hit]]:
            return [[] for _ in vectors]

    assert answering.answer([]) == []
    empty = Answering(Empty(), answering.encoder, {}, TEMPLATE)
    assert empty.answer([Search("a", 3, None, LISTWISE), Search("b", 3)]) == [Answer([], {}), Answer([], {})]


HEADERS = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/search", "{", "body: not JSON: Expecting property name enclosed in double quotes"),
        ("/search", "", "body: expected a JSON object"),
        ("/search", "[]", "body: expected a JSON object"),
        ("/search", "{}", "query: Field required"),
        ("/search", '{"query": 1}', "query: Input should be a valid string"),
        ("/search", '{"query": " \\n"}', "query: expected some text, got none"),
        ("/search", '{"query": "\\ud800"}', "query: holds half of a surrogate pair"),
        ("/search", '{"query": "a", "\\ud800": 1}', "body: "),
        ("/search", '{"query": "a", "b\\nc": 1}', "b c: Extra inputs are not permitted"),
        ("/search", json.dumps({"query": "a" * 1001}), "query: expected at most 1000 characters, got 1001"),
        ("/search", json.dumps({"query": "a", "task": "a" * 1001}), "task: expected at most 1000 characters"),
        ("/search", '{"query": "a", "hits": 0}', "hits: Input should be greater than or equal to 1"),
        ("/search", '{"query": "a", "hits": true}', "hits: Input should be a valid integer"),
        ("/search", '{"query": "a", "hits": 101}', "hits: expected at most 100, got 101"),
        ("/search", '{"query": "a", "hits": NaN}', "hits: Input should be a valid integer"),
        ("/search", '{"query": "a", "window": 3}', "window: goes with rerank"),
        ("/search", '{"query": "a", "rerank": 1}', "rerank: Input should be a valid boolean"),
        ("/search", '{"query": "a", "rerank": true, "depth": 101}', "depth: expected at most 100, got 101"),
        ("/search", '{"query": "a", "rerank": true, "depth": 3, "window": 4}', "window: expected at most 3, got 4"),
        ("/rerank", '{"query": "a", "documents": []}', "documents: List should have at least 1 item"),
        ("/rerank", '{"query": "a", "documents": "b"}', "documents: Input should be a valid list"),
        ("/rerank", '{"query": "a", "documents": [1]}', "documents.0: Input should be"),
        ("/rerank", '{"query": "a", "documents": ["b", {}]}', "documents.1: expected a text or a docid"),
        ("/rerank", '{"query": "a", "documents": [{"text": "b", "docid": "c"}]}', "documents.0: expected a text or"),
        ("/rerank", json.dumps({"query": "a", "documents": ["b"] * 101}), "documents: expected at most 100, got 101"),
        ("/rerank", '{"query": "a", "documents": [{"docid": "zzz"}]}', "document zzz: is not in the corpus"),
        ("/rerank", '{"query": "a", "documents": ["b"], "top_n": 0}', "top_n: Input should be greater than"),
        (
            "/rerank",
            json.dumps({"query": "a", "documents": ["b"] * 100, "window": 100, "task": "t " * 500}),
            "listwise prompt: the instruction and 100 empty documents already take",
        ),
    ],
)
def test_a_bad_request_gets_one_line(client: TestClient, path: str, body: str, said: str):
    answer = client.post(path, content=body, headers=HEADERS)
    assert answer.status_code == 422
    assert set(answer.json()) == {"message"}
    assert answer.json()["message"].startswith(said)
    assert "\n" not in answer.json()["message"]


@pytest.mark.parametrize("body", [b'{"query": "\xff"}', b"[" * 50_000, b'{"query": %s}' % (b"9" * 5000)])
def test_what_no_parser_takes_is_no_failure_of_the_server(client: TestClient, body: bytes):
    answer = client.post("/search", content=body, headers=HEADERS)
    assert answer.status_code in (400, 422)
    assert "\n" not in answer.json()["message"]


def test_a_form_of_a_browser_is_refused(client: TestClient):
    answer = client.post("/search", content='{"query": "a"}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 422
    assert "application/json" in answer.json()["message"]


def test_unknown_paths_and_methods(client: TestClient):
    assert client.get("/nothing").status_code == 404
    wrong = client.get("/search")
    assert (wrong.status_code, wrong.json(), wrong.headers["allow"]) == (405, {"message": "Method Not Allowed"}, "POST")
    assert client.get("/docs").status_code == 404
    told = client.get("/openapi.json").json()
    assert set(told["paths"]) > {"/search", "/rerank", "/v2/rerank"}
    for path in ("/search", "/v1/rerank"):
        answers = told["paths"][path]["post"]["responses"]
        assert set(answers) == {"200", "401", "413", "422", "429", "503", "504"}
        for code in set(answers) - {"200"}:
            assert answers[code]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Refusal"}
    assert set(told["components"]["schemas"]["Refusal"]["properties"]) == {"message"}


def test_without_a_corpus_what_needs_texts_is_refused(made: Made, answering: Answering):
    client = made(Answering(answering.index, answering.encoder, None, TEMPLATE), has_texts=False)
    assert len(asked(client, "/search", query="wing")["hits"]) == 10
    assert asked(client, "/rerank", query="wing", documents=["a", "b"])["results"]
    for path, body in (
        ("/search", {"query": "wing", "rerank": True}),
        ("/search", {"query": "wing", "return_documents": True}),
        ("/rerank", {"query": "wing", "documents": [{"docid": "000"}], "return_documents": True}),
        ("/rerank", {"query": "wing", "documents": [{"docid": "000"}]}),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == 422
        assert "no corpus is open" in answer.json()["message"] or "no corpus open" in answer.json()["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit(made: Made, chunked: bool):
    client = made(body=200)
    body = json.dumps({"query": "a" * 300}).encode()
    pieces = (body[start : start + 50] for start in range(0, len(body), 50))
    answer = client.post("/search", content=pieces if chunked else body, headers=HEADERS)
    assert ("content-length" in answer.request.headers) is not chunked
    assert (answer.status_code, answer.json()) == (413, {"message": "body: expected at most 200 bytes"})
    exact = json.dumps({"query": ""}).encode()
    exact = json.dumps({"query": "a" * (200 - len(exact))}).encode()
    assert client.post("/search", content=exact, headers=HEADERS).status_code == 200


def test_the_token(made: Made):
    client = made(token="secret")
    for given in (None, "Bearer wrong", "Bearer", "secret", "Basic secret", "Bearer secret2", "Bearer \xff"):
        for path in ("/search", "/metrics", "/openapi.json", "/nothing"):
            headers = {"Authorization": given.encode("latin-1")} if given else {}
            answer = client.request("POST" if path == "/search" else "GET", path, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert set(answer.json()) == {"message"}
    assert client.get("/healthz").json() == {"status": "ok"}
    for given in ("Bearer secret", "bearer secret"):
        client.headers["Authorization"] = given
        assert asked(client, "/search", query="wing")["hits"]
    assert client.get("/metrics").status_code == 200


class Held:
    """Answers when it is let."""

    batch_tokens = 1000

    def __init__(self) -> None:
        self.go, self.busy = threading.Event(), threading.Event()
        self.queries: list[str] = []

    def check(self, question: Question) -> None:
        pass

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        self.busy.set()
        assert self.go.wait(10)
        self.queries += [question.query for question in questions]
        if any(question.query == "break" for question in questions):
            raise ZeroDivisionError("line one\nline two")
        return [Answer([], {}) for _ in questions]


def posted(client: TestClient, query: str, into: list[int]) -> threading.Thread:
    thread = threading.Thread(target=lambda: into.append(client.post("/search", json={"query": query}).status_code))
    thread.start()
    return thread


def test_a_full_queue_and_a_late_answer(made: Made):
    held = Held()
    client = made(held, waiting=1, timeout=1.0)
    statuses: list[int] = []
    first = posted(client, "first", statuses)
    assert held.busy.wait(10)
    second = posted(client, "second", statuses)
    while not client.worker.waiting:
        pass
    full = client.post("/search", json={"query": "third"})
    assert (full.status_code, full.headers["retry-after"]) == (429, "1")
    assert set(full.json()) == {"message"}
    first.join()
    second.join()
    assert statuses == [504, 504]
    held.go.set()
    assert client.post("/search", json={"query": "fourth"}).status_code == 200
    assert held.queries == ["first", "fourth"]  # the second's time was up before its turn
    found = numbers(client)
    assert found["e2rank_rejections_total", ("reason", "queue full")] == 1
    assert found["e2rank_rejections_total", ("reason", "timeout")] == 2
    assert found["e2rank_queue_length",] == 0


def test_an_unforeseen_failure_is_a_line_on_stderr_and_harms_nobody_else(made: Made, capsys: pytest.CaptureFixture):
    held = Held()
    client = made(held)
    statuses: list[int] = []
    first = posted(client, "first", statuses)
    assert held.busy.wait(10)
    threads = [posted(client, query, statuses) for query in ("a", "break", "b")]
    while client.worker.waiting < 3:
        pass
    held.go.set()
    for thread in (first, *threads):
        thread.join()
    assert sorted(statuses) == [200, 200, 200, 500]
    answer = client.post("/search", json={"query": "break"})
    assert answer.json() == {"message": "the server failed; its log says at what"}
    assert capsys.readouterr().err == "e2rank serve: /search: ZeroDivisionError: line one line two\n" * 2


def test_healthz_follows_the_thread(made: Made):
    client = made()
    assert client.get("/healthz").status_code == 200
    client.worker.stop(10)
    assert client.get("/healthz").status_code == 503
    assert client.post("/search", json={"query": "a"}).status_code == 503


def by_hand(client: TestClient, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the application sends to a client that sends these messages and then nothing."""

    async def call() -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []
        rest = iter(messages)

        async def receive() -> dict[str, Any]:
            for message in rest:
                return message
            return await asyncio.Event().wait()

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/search", "raw_path": b"/search", "query_string": b""}
        headers = [(b"content-type", b"application/json")]
        await client.app({**scope, "headers": headers, "http_version": "1.1"}, receive, send)
        return sent

    return asyncio.run(call())


def part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_that_does_not_come(made: Made):
    (head, _) = by_hand(made(timeout=0.2), [part(b'{"query"', more=True)])
    assert head["status"] == 408
    assert (b"connection", b"close") in head["headers"]


def test_a_client_that_goes_in_the_middle_of_its_body(made: Made):
    client = made()
    (head, _) = by_hand(client, [part(b'{"query"', more=True), {"type": "http.disconnect"}])
    assert head["status"] == 499
    assert numbers(client)["e2rank_rejections_total", ("reason", "client gone")] == 1


def test_a_client_that_goes_before_its_answer_is_not_encoded_for(made: Made):
    held = Held()
    client = made(held)
    first = posted(client, "first", [])
    assert held.busy.wait(10)
    (head, _) = by_hand(client, [part(b'{"query": "gone"}'), {"type": "http.disconnect"}])
    assert head["status"] == 499
    held.go.set()
    first.join()
    assert client.post("/search", json={"query": "last"}).status_code == 200
    assert held.queries == ["first", "last"]


def test_another_corpus_than_the_indexes_is_told(tiny_index: Path, beir: Path, tmp_path: Path, capsys):
    (tmp_path / "other.jsonl").write_text((beir / "corpus.jsonl").read_text() + "\n")
    for corpus, said in ((beir / "corpus.jsonl", 0), (tmp_path / "other.jsonl", 1)):
        words = ["serve", "--index", str(tiny_index), "--corpus", str(corpus), "--device", "cpu"]
        opened = _opened(_parser().parse_args(words), None)
        assert opened.texts is not None
        assert capsys.readouterr().err.count(f"e2rank serve: {tiny_index} was built from ") == said


def test_no_more_hits_than_a_request_may_ask_for_where_it_asks_for_none(made: Made):
    client = made(documents=5)
    assert len(asked(client, "/search", query="shock wave")["hits"]) == 5
    assert client.post("/search", json={"query": "shock wave", "hits": 6}).status_code == 422


def test_a_depth_above_what_a_request_may_ask_for(tiny_index: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["serve", "--index", str(tiny_index), "--depth", "51", "--max-documents", "50"]) == 1
    assert capsys.readouterr().err == "e2rank serve: depth 51: expected 1 to max-documents (50)\n"


def numbers(client: TestClient) -> dict[tuple[Any, ...], float]:
    text = client.get("/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, *sorted(sample.labels.items())): sample.value for sample in samples}


def test_metrics(made: Made, answering: Answering):
    client, other = made(), made()
    before = answering.encoder.tally.tokens
    for _ in range(3):
        asked(client, "/search", query="wing")
    client.post("/search", content="{", headers=HEADERS)
    client.get("/one")
    client.get("/two")
    found = numbers(client)
    assert found["e2rank_requests_total", ("path", "/search"), ("status", "200")] == 3
    assert found["e2rank_requests_total", ("path", "/search"), ("status", "422")] == 1
    assert found["e2rank_requests_total", ("path", "other"), ("status", "404")] == 2
    assert found["e2rank_request_seconds_count", ("path", "/search")] == 4
    assert found["e2rank_batch_requests_count",] == found["e2rank_batch_requests_sum",] == 3
    assert found["e2rank_encoded_tokens_total",] == answering.encoder.tally.tokens > before
    assert ("e2rank_requests_total", ("path", "/search"), ("status", "200")) not in numbers(other)
