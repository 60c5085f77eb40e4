"""What every request passes: the token, the size of its body, its deadline; and what is counted of it."""

import asyncio
import hmac
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict

from fastapi import HTTPException
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from e2rank_pyserini.inference.tally import Tally

DEADLINE = "e2rank.deadline"  # in a request's scope: the loop's time at which it is given up
OPEN = "/healthz"  # needs no token
GONE = 499  # nginx's status for a client that did not wait: counted, sent to nobody
_REFUSALS = {
    401: "token",
    408: "slow body",
    413: "body too large",
    422: "bad request",
    429: "queue full",
    GONE: "client gone",
    503: "stopped",
    504: "timeout",
}
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The numbers of one server, in a registry of its own. `tally` counts what was encoded, by the thread that does."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.tally: Callable[[], Tally] = Tally
        self.requests = Counter(
            "e2rank_requests", "Requests by path and status", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "e2rank_request_seconds", "Seconds to an answer", ["path"], buckets=_SECONDS, registry=self.registry
        )
        self.refused = Counter("e2rank_rejections", "Requests that got no answer", ["reason"], registry=self.registry)
        self.waiting = Gauge("e2rank_queue_length", "Questions that wait", registry=self.registry)
        self.batches = Histogram(
            "e2rank_batch_requests", "Questions answered together", buckets=_BATCHES, registry=self.registry
        )
        self.registry.register(_Encoded(self))

    def count(self, path: str, status: int, seconds: float) -> None:
        """One request."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)
        if status in _REFUSALS:
            self.refused.labels(_REFUSALS[status]).inc()

    def by_status(self) -> dict[str, int]:
        """status -> requests, over all paths but `/healthz` and `/metrics`."""
        found: dict[str, int] = {}
        for sample in next(iter(self.requests.collect())).samples:
            if sample.name.endswith("_total") and sample.labels["path"] not in (OPEN, "/metrics"):
                found[sample.labels["status"]] = found.get(sample.labels["status"], 0) + int(sample.value)
        return dict(sorted(found.items()))


class _Encoded:
    """The encoder's tally as counters: tokens, texts, and what was cut."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics

    def collect(self) -> Iterator[CounterMetricFamily]:
        for name, value in asdict(self.metrics.tally()).items():
            yield CounterMetricFamily(f"e2rank_encoded_{name}", f"{name.replace('_', ' ')}, by the encoder", value)


class Gate:
    """ASGI middleware around the whole application.

    A wrong `token` gets 401, a body over `most_bytes` 413 however it comes, one that is late 408, an exception 500 and
    a line on stderr. `timeout` seconds after its first byte a request is given up. Paths that are not in `paths` are
    counted as one.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        paths: Collection[str],
        token: str | None,
        most_bytes: int,
        timeout: float,
    ) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths
        self.token = token.encode() if token is not None else None
        self.most_bytes, self.timeout = most_bytes, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        scope[DEADLINE] = asyncio.get_running_loop().time() + self.timeout
        passing = _Passing(scope, receive, send, self.most_bytes)
        try:
            if self._admitted(scope):
                await self.app(scope, passing.receive, passing.send)
            else:
                said = "expected the header Authorization: Bearer TOKEN with this server's token"
                await passing.refuse(401, said, {"WWW-Authenticate": "Bearer"})
        except Exception as error:  # noqa: BLE001  an answer never holds a traceback, and the server goes on
            what = f"{type(error).__name__}: {one_line(str(error))}"
            print(f"e2rank serve: {one_line(scope['path'])}: {what}", file=sys.stderr)
            await passing.refuse(500, "the server failed; its log says at what")
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            # no status: the server stopped before there was one
            self.metrics.count(path, passing.status or 503, time.perf_counter() - started)

    def _admitted(self, scope: Scope) -> bool:
        if self.token is None or scope["path"] == OPEN:
            return True
        kind, _, given = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), self.token)


class _Passing:
    """The channels of one request, watched."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, most_bytes: int) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._most_bytes, self._bytes, self._whole = most_bytes, 0, False
        self.status = 0  # none yet

    async def receive(self) -> Message:
        if self._whole:  # nothing comes but the news that the client has gone
            return await self._receive()
        said = f"body: expected at most {self._most_bytes} bytes"
        length = dict(self._scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._most_bytes:
            raise HTTPException(413, said)
        try:
            async with asyncio.timeout_at(self._scope[DEADLINE]):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPException(408, "body: was not there in time", {"Connection": "close"}) from error
        if message["type"] == "http.disconnect":
            raise HTTPException(GONE, "the client has gone")
        self._bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._bytes > self._most_bytes:
            raise HTTPException(413, said)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def refuse(self, status: int, said: str, headers: dict[str, str] | None = None) -> None:
        """Answer with an error, unless an answer has begun."""
        if not self.status:
            await JSONResponse({"message": said}, status, headers)(self._scope, self.receive, self.send)


def one_line(text: str) -> str:
    """Text from anywhere as one printable line."""
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return line if len(line) <= 300 else f"{line[:300]} …"
