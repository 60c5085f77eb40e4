"""A real `e2rank serve` under many clients, killed ones among them, and under bodies that no client should send.

Short here; `E2RANK_SOAK=1` makes it 32 clients for 5 minutes and 10,000 bodies, and prints what was measured.
"""

import contextlib
import http.client
import json
import os
import random
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from e2rank_pyserini.cli import main
from e2rank_pyserini.corpus import documents
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.index import DenseIndex
from e2rank_pyserini.prompts import RERANK_TASK, document_text
from e2rank_pyserini.reranking import rerank
from e2rank_pyserini.retrieval import search
from e2rank_pyserini.types import ListwisePrompt
from tests.conftest import sentences

SOAK = bool(os.environ.get("E2RANK_SOAK"))
CLIENTS, SECONDS = (32, 300) if SOAK else (8, 3)
BODIES = 10_000 if SOAK else 200
QUERIES = 40
HEADERS = {"Content-Type": "application/json"}
Case = tuple[str, bytes, list[tuple[Any, float]]]  # path, body, expected (docid or index, score)


class Server:
    """`e2rank serve` as a process of its own, until it is told to stop."""

    def __init__(self, log: Path, *words: str) -> None:
        self.log = log
        command = [sys.executable, "-m", "e2rank_pyserini", "serve", "--port", "0", *words]
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file)
        deadline = time.monotonic() + 300
        while (found := re.search(r"http://[\d.]+:(\d+)", log.read_text())) is None:
            assert self.process.poll() is None, log.read_text()
            if time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError(f"no answer after 300 s: {log.read_text()}")
            time.sleep(0.05)
        self.port = int(found[1])

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def post(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        connection = self.connection()
        with contextlib.closing(connection):
            connection.request("POST", path, body, HEADERS)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def resident(self) -> int:
        """Its memory, in kB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1])

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(sign)
        return self.process.wait(60)


@contextlib.contextmanager
def served(log: Path, *words: str) -> Iterator[Server]:
    server = Server(log, *words)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait(60)


@pytest.fixture(scope="module")
def words(tiny_index: Path, beir: Path) -> list[str]:
    return ["--index", str(tiny_index), "--dataset", str(beir)]


@pytest.fixture(scope="module")
def cases(tiny_index: Path, tiny_model: Path, beir: Path) -> list[Case]:
    """Requests and their right answers, computed query by query by the functions that the commands call."""
    index, encoder = DenseIndex(tiny_index), E2RankEncoder.load(str(tiny_model))
    corpus = {one.docid: document_text(one.title, one.text, "{title} {text}") for one in documents(str(beir))}
    draw = random.Random(1)
    made: list[Case] = []
    for query in sentences(QUERIES, seed=77, most=12):
        first = search({"q": query}, index, encoder, hits=20)
        hits = first["q"][:10]
        made.append(case("/search", {"query": query}, [(hit.docid, hit.score) for hit in hits]))
        ranked = rerank(first, {"q": query}, corpus, index, encoder, depth=20, window=5, cut=True)["q"]
        body = {"query": query, "hits": 20, "rerank": True, "depth": 20, "return_documents": True}
        made.append(case("/search", body, [(hit.docid, hit.score) for hit in ranked]))
        docids = [hit.docid for hit in first["q"][:8]]
        ranked = rerank({"q": first["q"][:8]}, {"q": query}, corpus, index, encoder, depth=8, window=5, cut=True)["q"]
        body = {"query": query, "documents": [{"docid": docid} for docid in docids]}
        made.append(case("/v2/rerank", body, [(docids.index(hit.docid), hit.score) for hit in ranked]))
        texts = sentences(draw.randint(1, 12), seed=draw.randint(0, 10**6))
        prompt = encoder.encode_prompts([ListwisePrompt(query, tuple(texts[:5]), RERANK_TASK)])[0]
        scores = (encoder.encode_documents(texts) @ prompt).tolist()
        order = sorted(range(len(texts)), key=lambda place: -scores[place])
        made.append(case("/rerank", {"query": query, "documents": texts}, [(place, scores[place]) for place in order]))
    return made


def case(path: str, body: dict[str, Any], expected: list[tuple[Any, float]]) -> Case:
    return path, json.dumps(body).encode(), expected


def right(answer: dict[str, Any], expected: list[tuple[Any, float]]) -> bool:
    """The same scores in the same places, and the same names but where scores are level."""
    if "hits" in answer:
        found = [(one["docid"], one["score"]) for one in answer["hits"]]
    else:
        found = [(one["index"], one["relevance_score"]) for one in answer["results"]]
    scores = dict(expected)
    return len(found) == len(expected) and all(
        abs(score - wanted) < 1e-4 and abs(scores.get(name, 9) - score) < 1e-4
        for (name, score), (_, wanted) in zip(found, expected, strict=True)
    )


class Load:
    """Clients that ask without pause, each on a connection of its own, until the server is stopped."""

    def __init__(self, server: Server, cases: list[Case]) -> None:
        self.server, self.cases = server, cases
        self.statuses: Counter[int] = Counter()
        self.seconds: list[float] = []
        self.wrong: list[str] = []
        self.refused = 0  # requests that the stopping server did not take: no byte of an answer came
        self.cut = 0  # answers that broke off
        self.killed = 0
        self.stopping = threading.Event()

    def run(self, clients: int, seconds: float) -> None:
        killers = max(1, clients // 8)
        threads = [threading.Thread(target=self._client, args=(seed,)) for seed in range(clients)]
        threads += [threading.Thread(target=self._killed, args=(seed,)) for seed in range(killers)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self.stopping.set()
        self.code = self.server.stop()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()

    def _client(self, seed: int) -> None:
        draw = random.Random(seed)
        connection = self.server.connection()
        while True:
            path, body, expected = draw.choice(self.cases)
            started = time.perf_counter()
            answer = None
            try:
                connection.request("POST", path, body, HEADERS)
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if not self.stopping.is_set():
                    self.wrong.append(f"{path}: {error!r}")
                if answer is not None:
                    self.cut += 1
                else:
                    self.refused += 1
                return
            self.seconds.append(time.perf_counter() - started)
            self.statuses[answer.status] += 1
            if answer.status == 429:
                time.sleep(float(answer.headers["Retry-After"]) / 20)  # less patient than asked for
            elif answer.status != 200 or not right(json.loads(content), expected):
                self.wrong.append(f"{path}: {answer.status} {content[:200]!r}")

    def _killed(self, seed: int) -> None:
        """A client that is killed over and over: in the middle of a body, or before the answer.

        What it asks cannot be answered (422), so that each 200 of the server is another client's.
        """
        draw = random.Random(seed)
        while not self.stopping.wait(0.02):
            path = "/rerank"
            given = [*sentences(draw.randint(1, 9), seed=draw.randint(0, 999)), {"docid": "nothing"}]
            body = json.dumps({"query": "shock wave", "documents": given}).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            whole = head.encode() + b"\r\n\r\n" + body
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.server.port), 10) as client:
                client.sendall(whole[: draw.choice((len(whole), len(whole) - len(body) // 2, len(head) // 2))])
                if draw.random() < 0.5:  # a reset instead of a good-bye
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                self.killed += 1


def answered_by(server: Server) -> Counter[int]:
    """What the server says at its end: requests by status."""
    (line,) = re.findall("^e2rank serve: stopped; requests by status: (.*)$", server.log.read_text(), re.M)
    return Counter({int(status): int(count) for count, status in re.findall(r"(\d+) x (\d+)", line)})


def test_every_answer_is_right_under_load_and_none_is_lost(words: list[str], cases: list[Case], tmp_path: Path):
    with served(tmp_path / "log", *words) as server:
        for path, body, expected in cases:  # warm, one by one
            status, answer = server.post(path, body)
            assert status == 200, answer
            assert right(answer, expected)
        with ThreadPoolExecutor(CLIENTS) as pool:  # and together: larger batches need more memory once
            warm = Counter(status for status, _ in pool.map(lambda one: server.post(one[0], one[1]), cases))
        before = [server.resident()]
        sampling = threading.Event()
        sampler = threading.Thread(target=sample, args=(server, before, sampling))
        sampler.start()
        load = Load(server, cases)
        load.run(CLIENTS, SECONDS)
        sampling.set()
        sampler.join()
        counted = answered_by(server)
    log = server.log.read_text().splitlines()
    tell(load, before)
    assert load.wrong == []
    assert load.code == 0
    assert len(log) == 2, log  # where it listens, and that it stopped: no traceback, no line of complaint
    assert load.killed > SECONDS
    assert load.cut == 0
    assert load.statuses.keys() <= {200, 429}
    assert counted[200] == load.statuses[200] + len(cases) + warm[200]  # each answer came to its client
    assert counted[422] + counted[499] > 0
    assert counted.keys() <= {200, 422, 429, 499}
    settled = before[len(before) // 3 :]
    assert settled[-1] - settled[0] < (20_000 if SOAK else 60_000), settled


def sample(server: Server, into: list[int], until: threading.Event) -> None:
    while not until.wait(SECONDS / 30):
        with contextlib.suppress(OSError, TypeError):
            into.append(server.resident())


def tell(load: Load, resident: list[int]) -> None:
    cuts = statistics.quantiles(load.seconds, n=100)
    print(
        f"\n{CLIENTS} clients, {SECONDS} s: {load.statuses.total()} requests, "
        f"{load.statuses.total() / SECONDS:.1f}/s, p50 {1000 * cuts[49]:.1f} ms, p99 {1000 * cuts[98]:.1f} ms, "
        f"max {1000 * max(load.seconds):.1f} ms; by status {dict(load.statuses)}; wrong {len(load.wrong)}, "
        f"cut {load.cut}, clients killed {load.killed}; refused by the stopping server {load.refused}; "
        f"VmRSS kB {resident[0]} -> {resident[len(resident) // 3]} (a third) -> {resident[-1]}, max {max(resident)}"
    )


def test_overload_is_refused_and_what_is_taken_is_right(words: list[str], tmp_path: Path):
    """More clients than may wait, a rerank of many texts each: 429 with Retry-After, and the patient get through.

    On an address that other machines reach, which is said.
    """
    with served(tmp_path / "log", *words, "--queue", "1", "--host", "0.0.0.0") as server:
        assert "0.0.0.0 can be reached from other machines, and no token is asked for" in server.log.read_text()
        query, texts = "shock wave", sentences(200, seed=3)
        body = json.dumps({"query": query, "documents": texts}).encode()
        (status, expected) = server.post("/rerank", body)
        assert status == 200
        wanted = [(one["index"], one["relevance_score"]) for one in expected["results"]]
        outcomes: Counter[int] = Counter()

        def patient() -> None:
            while True:
                status, answer = server.post("/rerank", body)
                outcomes[status] += 1
                if status == 200:
                    assert right(answer, wanted)
                    return
                assert status == 429
                assert set(answer) == {"message"}
                time.sleep(0.1)

        threads = [threading.Thread(target=patient) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert outcomes[200] == 8
        assert outcomes[429] > 0
        assert server.stop() == 0


def taken(server: Server) -> float:
    """How many questions wait or have left the queue."""
    connection = server.connection()
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    return sum(float(found) for found in re.findall(r"^e2rank_(?:batch_requests_sum|queue_length) (\S+)$", text, re.M))


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_stop_finishes_what_is_under_way(words: list[str], tmp_path: Path, sign: signal.Signals, code: int):
    with served(tmp_path / "log", *words) as server:
        body = json.dumps({"query": "shock wave", "documents": sentences(500, seed=3)}).encode()
        statuses: list[int] = []
        threads = [threading.Thread(target=lambda: statuses.append(server.post("/rerank", body)[0])) for _ in range(3)]
        for thread in threads:
            thread.start()
        while taken(server) < 3:
            time.sleep(0.01)
        assert server.stop(sign) == code
        for thread in threads:
            thread.join(60)
        assert statuses == [200] * 3
        assert answered_by(server) == {200: 3}
        with pytest.raises(ConnectionRefusedError):
            server.post("/search", b"{}")


@pytest.fixture(scope="module")
def fuzzed(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("fuzzed") / "log", *words, "--max-body", "20000") as server:
        yield server
        assert server.stop() == 0
        assert len(server.log.read_text().splitlines()) == 2  # nothing failed


NAMES = (
    "query hits rerank depth window task rerank_task return_documents documents model top_n rank_fields text docid"
).split()
TEXT = st.text(st.characters(), max_size=20)  # surrogates too
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from(["000", "003", "wing flow"]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(NAMES) | TEXT, inner, max_size=6),
    max_leaves=20,
)
NEARLY = st.fixed_dictionaries(
    {"query": st.sampled_from(["shock wave", "", " ", "\0", "<|im_end|>", "\ud800", "wing " * 300]) | TEXT},
    optional={
        "documents": st.lists(
            TEXT
            | st.fixed_dictionaries({"docid": st.sampled_from(["000", "039", "zzz", ""])})
            | st.fixed_dictionaries({"text": TEXT}, optional={"title": TEXT}),
            max_size=8,
        ),
        "hits": st.integers(-1, 50) | VALUES,
        "rerank": st.booleans() | VALUES,
        "depth": st.integers(0, 50),
        "window": st.integers(0, 50) | VALUES,
        "task": TEXT | st.none(),
        "return_documents": st.booleans(),
        "top_n": st.integers(-1, 9) | VALUES,
    },
)
JSON = (NEARLY | VALUES).map(lambda value: json.dumps(value).encode())
PATHS = st.sampled_from(["/search", "/rerank", "/v1/rerank", "/v2/rerank"])


@settings(max_examples=BODIES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(path=PATHS, body=JSON | st.binary(max_size=200), cut=st.integers(0, 30))
def test_no_body_breaks_it(fuzzed: Server, path: str, body: bytes, cut: int):
    body = body[: len(body) - cut] if cut < 5 else body
    status, answer = fuzzed.post(path, body)
    assert status in (200, 400, 413, 422), answer
    if status == 200:
        names = [one.get("docid", one.get("index")) for one in answer.get("hits", answer.get("results"))]
        assert len(set(names)) == len(names)
    else:
        assert set(answer) == {"message"}
        assert answer["message"]
        assert "\n" not in answer["message"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--window", "9", "--depth", "8"], "window 9: expected 1 to depth (8)"),
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid port 0: "),
        (["--token-file", "{tmp}/nothing"], "nothing: no such file"),
        (["--token-file", "{tmp}/empty"], "empty: expected a token, one word of ASCII"),
        (["--encoder", "{tmp}"], "{tmp}"),
        (["--task", "dataset", "--dataset", ""], "--task dataset needs --dataset"),
        (["--corpus", "{tmp}/nothing"], "nothing: no such corpus"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_line(
    words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], more: list[str], said: str
):
    (tmp_path / "empty").write_text("\n")
    code = main(["serve", *words, "--port", "0", *(word.format(tmp=tmp_path) for word in more)])
    told = capfd.readouterr().err
    assert code == 1
    assert told.startswith("e2rank serve: ")
    assert said.format(tmp=tmp_path) in told
    assert told.count("\n") == 1


def test_a_client_that_sends_no_request_is_left_after_the_timeout(words: list[str], tmp_path: Path):
    server = Server(tmp_path / "log", *words, "--timeout", "1")
    silent, half = (socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(2))
    with silent, half:
        half.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert [client.recv(100) for client in (silent, half)] == [b"", b""]
        with contextlib.closing(server.connection()) as connection:
            for _ in range(2):  # one that asks stays
                connection.request("GET", "/healthz")
                assert connection.getresponse().read()
                time.sleep(1.2)
    assert server.stop() == 0


def test_a_client_that_drips_after_an_answer_is_left(words: list[str], tmp_path: Path):
    server = Server(tmp_path / "log", *words, "--timeout", "1")
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as head,
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as body,
    ):
        head.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        body.sendall(b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
        assert all(client.recv(1 << 16).startswith(b"HTTP/1.1 ") for client in (head, body))
        left: set[socket.socket] = set()
        deadline = time.monotonic() + 20
        while left < {head, body} and time.monotonic() < deadline:
            for client, drop in ((head, b"GET /healthz HTTP/1.1\r\n"), (body, b"x")):
                with contextlib.suppress(BlockingIOError):
                    try:
                        client.setblocking(False)
                        client.sendall(drop)
                        if not client.recv(1 << 16):
                            left.add(client)
                    except ConnectionError:
                        left.add(client)
            time.sleep(0.1)
        assert left == {head, body}
    assert server.stop() == 0


def test_a_server_without_free_descriptors_says_so_once_and_comes_back(words: list[str], tmp_path: Path):
    server = Server(tmp_path / "log", *words, "--timeout", "2")
    soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    held = sum(1 for _ in Path(f"/proc/{server.process.pid}/fd").iterdir())
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (held + 10, hard))
    clients = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(30)]
    time.sleep(3)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
    for client in clients:
        client.close()
    with contextlib.closing(server.connection()) as connection:
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
    assert server.stop() == 0
    said = (tmp_path / "log").read_text()
    assert said.count("socket.accept() out of system resource") == 1
    assert len(said.splitlines()) < 60  # with where it happened


def test_a_taken_port_is_said_before_the_model_is_loaded(words: list[str], capfd: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", *words, "--port", str(port), "--encoder", "nothing"]) == 1
        assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in capfd.readouterr().err


@pytest.mark.parametrize("option", [["--port", "65536"], ["--port", "-1"], ["--timeout", "0"], ["--timeout", "nan"]])
def test_usage(words: list[str], option: list[str]):
    with pytest.raises(SystemExit, match="2"):
        main(["serve", *words, *option])
