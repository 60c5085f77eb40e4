"""The HTTP interface: paths, errors, and how a request waits for its answer."""

import asyncio
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException as StarletteHTTPException

from e2rank_pyserini import __version__
from e2rank_pyserini.serving.answering import Answer, Question, tokens_about
from e2rank_pyserini.serving.batching import Full, Stopped, Worker
from e2rank_pyserini.serving.exchange import (
    Refusal,
    RerankAnswer,
    RerankRequest,
    SearchAnswer,
    SearchRequest,
    Service,
    rerank_answer,
    rerank_question,
    search_answer,
    search_question,
)
from e2rank_pyserini.serving.gate import DEADLINE, GONE, Gate, Metrics, one_line
from e2rank_pyserini.types import E2RankError

RERANK_PATHS = ("/rerank", "/v1/rerank", "/v2/rerank")
_REFUSALS = (401, 413, 422, 429, 503, 504)
_PATHS = frozenset({"/search", *RERANK_PATHS, "/healthz", "/metrics", "/openapi.json"})


def app(worker: Worker, service: Service, metrics: Metrics) -> FastAPI:
    """The application. Errors are `{"message": …}` of one line."""
    made = FastAPI(title="e2rank serve", version=__version__, docs_url=None, redoc_url=None)
    made.add_middleware(
        Gate, metrics=metrics, paths=_PATHS, token=service.token, most_bytes=service.body, timeout=service.timeout
    )
    made.add_exception_handler(StarletteHTTPException, _refused)
    made.add_exception_handler(RequestValidationError, _invalid)
    made.add_exception_handler(E2RankError, _unanswerable)

    async def answered(request: Request, question: Question) -> Answer:
        return await _answered(worker, request, question, tokens_about(question, service.spec.lengths))

    shape: Any = {"response_model_exclude_none": True, "responses": {code: {"model": Refusal} for code in _REFUSALS}}

    @made.post("/search", **shape)
    async def search(asked: SearchRequest, request: Request) -> SearchAnswer:
        """The nearest documents; with `rerank`, the first `depth` by the listwise prompt of the first `window`."""
        return search_answer(asked, await answered(request, search_question(asked, service)), service)

    async def rerank(asked: RerankRequest, request: Request) -> RerankAnswer:
        """The documents, in the order of a first stage, by the listwise prompt of the first `window`."""
        answer = await answered(request, rerank_question(asked, service))
        return rerank_answer(asked, answer, service, "1" if request.scope["path"].startswith("/v1/") else "2")

    for path in RERANK_PATHS:
        made.post(path, **shape)(rerank)

    @made.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the model is loaded and its thread lives."""
        if not worker.alive:
            raise HTTPException(503, "the model's thread does not run")
        return {"status": "ok"}

    @made.get("/metrics")
    async def numbers() -> Response:
        """Prometheus' text."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return made


async def _answered(worker: Worker, request: Request, question: Question, size: int) -> Answer:
    """The worker's answer. A question whose client goes away, or whose time is up, is taken back."""
    try:
        future = asyncio.wrap_future(worker.submit(question, size))
    except Full as error:
        raise HTTPException(429, "too many requests wait; try again later", {"Retry-After": "1"}) from error
    except Stopped as error:
        raise HTTPException(503, "the server is stopping") from error
    gone = asyncio.create_task(_gone(request))
    left = request.scope[DEADLINE] - asyncio.get_running_loop().time()
    try:
        await asyncio.wait((future, gone), timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        if gone.done():
            raise HTTPException(GONE, "the client has gone")
        raise HTTPException(504, "no answer in time")
    except Stopped as error:
        raise HTTPException(503, "the server has stopped") from error
    finally:
        future.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refused(_: Request, error: Any) -> JSONResponse:
    return JSONResponse({"message": one_line(str(error.detail))}, error.status_code, error.headers)


async def _invalid(_: Request, error: Any) -> JSONResponse:
    """The first thing that is wrong with a request, and where."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    if first["type"] == "json_invalid":
        said = f"body: not JSON: {first['ctx']['error']}"
    elif not place:
        said = "body: expected a JSON object of Unicode text, and Content-Type: application/json"
    else:
        said = f"{place}: {first['msg'].removeprefix('Value error, ')}"
    return JSONResponse({"message": one_line(said)}, 422)


async def _unanswerable(_: Request, error: Any) -> JSONResponse:
    return JSONResponse({"message": one_line(str(error))}, 422)
