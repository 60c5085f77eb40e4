"""`e2rank serve`: search and rerank over HTTP, one model and one index, until it is told to stop."""

import logging
import math
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2rank_pyserini.choices import DEPTH
from e2rank_pyserini.commands import options
from e2rank_pyserini.numerals import positive, real
from e2rank_pyserini.types import E2RankError

if TYPE_CHECKING:
    import socket

    from e2rank_pyserini.datasets import Dataset
    from e2rank_pyserini.serving.answering import Answering, Listwise
    from e2rank_pyserini.serving.exchange import Service
    from e2rank_pyserini.serving.gate import Metrics


def serve(arguments: Namespace) -> None:
    """Answer until SIGTERM (returns) or SIGINT (raises KeyboardInterrupt), then finish what is under way."""
    from e2rank_pyserini.commands.inputs import named_dataset, rerank_task
    from e2rank_pyserini.commands.opening import reads_task
    from e2rank_pyserini.serving.answering import Listwise

    try:
        from e2rank_pyserini.serving.app import app
        from e2rank_pyserini.serving.batching import Worker
        from e2rank_pyserini.serving.gate import Metrics
    except ImportError as error:
        raise E2RankError(f"serving needs FastAPI ({error}); pip install 'e2rank-pyserini[serve]'") from error
    data = named_dataset(arguments)
    task, noun = rerank_task(arguments, data)
    depth = arguments.depth or min(DEPTH, arguments.max_documents)
    if depth > arguments.max_documents:
        raise E2RankError(f"depth {depth}: expected 1 to max-documents ({arguments.max_documents})")
    if arguments.window and arguments.window > depth:
        raise E2RankError(f"window {arguments.window}: expected 1 to depth ({depth})")
    token = _token(arguments)
    metrics = Metrics()
    worker = Worker(arguments.queue, metrics.batches.observe)
    metrics.waiting.set_function(lambda: worker.waiting)
    with _bound(arguments.host, arguments.port) as listening:
        answering = worker.start(lambda: _opened(arguments, data))
        metrics.tally = lambda: answering.encoder.tally
        try:
            reads_task(arguments, answering.encoder.spec)
            window = arguments.window or answering.encoder.spec.window
            listwise = Listwise(depth, window, task, noun)
            service = _service(arguments, data, answering, listwise, token)
            _listen(listening, service)
            _run(app(worker, service, metrics), listening, metrics, arguments.timeout)
        finally:
            finished = worker.stop(arguments.timeout)
    if not finished:
        raise E2RankError(f"the model was still at work {arguments.timeout:g} s after the last request")


def _opened(arguments: Namespace, data: "Dataset | None") -> "Answering":
    """Index, model and corpus, in the thread that will use them: FAISS counts its threads by thread."""
    from e2rank_pyserini.commands.inputs import corpus_source
    from e2rank_pyserini.commands.opening import (
        check_index,
        document_template,
        loaded_encoder,
        opened_index,
        tell_other_corpus,
    )
    from e2rank_pyserini.serving.answering import Answering
    from e2rank_pyserini.serving.texts import opened_texts
    from e2rank_pyserini.shards.sharded import fingerprint
    from e2rank_pyserini.storage import local

    fingerprint(local(arguments.index))  # refuse damaged bytes before FAISS reads them
    index = opened_index(arguments)
    source = corpus_source(arguments, data) if arguments.corpus or data else None
    if source is not None:
        tell_other_corpus(index, source, "serve")
    texts = opened_texts(source) if source is not None else None
    encoder = loaded_encoder(arguments, index, data)
    check_index(index, encoder, arguments, data)
    return Answering(index, encoder, texts, document_template(index, data))


def _service(
    arguments: Namespace, data: "Dataset | None", answering: "Answering", listwise: "Listwise", token: str | None
) -> "Service":
    from e2rank_pyserini.serving.exchange import Service

    return Service(
        spec=answering.encoder.spec,
        listwise=listwise,
        task=data.spec.retrieval_task if data else None,
        template=answering.template,
        has_texts=answering.texts is not None,
        documents=arguments.max_documents,
        query=arguments.max_query,
        body=arguments.max_body,
        timeout=arguments.timeout,
        token=token,
    )


def _token(arguments: Namespace) -> str | None:
    """The bearer token of --token-file, else of the environment; None when there is none."""
    from e2rank_pyserini.trec import read_lines

    if arguments.token_file:
        where, token = arguments.token_file, "\n".join(read_lines(Path(arguments.token_file))).strip()
    elif "E2RANK_TOKEN" in os.environ:
        where, token = "E2RANK_TOKEN", os.environ["E2RANK_TOKEN"].strip()
    else:
        return None
    if not token or not token.isascii() or len(token.split()) != 1:
        raise E2RankError(f"{where}: expected a token, one word of ASCII")
    return token


def _bound(host: str, port: int) -> "socket.socket":
    """A socket that has the address before the model is loaded, and does not listen yet."""
    import socket

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise E2RankError(f"cannot listen on {host} port {port}: {reason}") from error
    return bound


def _listen(bound: "socket.socket", service: "Service") -> None:
    """Let clients come, and say so."""
    import ipaddress

    host, port = bound.getsockname()[:2]
    try:
        bound.listen(1024)
    except OSError as error:
        raise E2RankError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    if service.token is None and not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        print(f"e2rank serve: {host} can be reached from other machines, and no token is asked for", file=sys.stderr)
    shown = f"[{host}]" if ":" in host else host
    print(f"e2rank serve: {service.spec.name} on http://{shown}:{port}", file=sys.stderr, flush=True)


def _run(app: Any, listening: "socket.socket", metrics: "Metrics", timeout: float) -> None:
    """Until SIGTERM or SIGINT; every request under way has its answer or its 504 before this returns."""
    import signal

    import uvicorn

    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(timeout) + 1,
        http=_hurried(timeout),
    )
    logging.getLogger("asyncio").addFilter(_Once())
    server = uvicorn.Server(config)
    # uvicorn raises each signal again when it is done: SIGTERM must then not kill, and is not lost before it begins
    before = signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
    try:
        server.run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)
        answered = ", ".join(f"{count} x {status}" for status, count in metrics.by_status().items())
        print(f"e2rank serve: stopped; requests by status: {answered or 'none'}", file=sys.stderr)


def _hurried(timeout: float) -> Any:
    """uvicorn's HTTP, but a client is left that in `timeout` seconds sends no whole head of its first or a further
    request, or that does not read its answer: what it drips would keep the connection for ever.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Hurried(AutoHTTPProtocol):  # type: ignore[valid-type,misc]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.loop.call_later(timeout, self._look, None, False)

        def _look(self, before: Any, same: bool) -> None:
            """`before`: the request at the last look; `same`: it was that of the look before too."""
            if self.transport.is_closing():
                return
            if self.cycle is not before:
                self.loop.call_later(timeout, self._look, self.cycle, False)
            elif before is None or before.response_complete:
                self.transport.close()
            elif same:
                self.transport.abort()
            else:
                self.loop.call_later(timeout, self._look, before, True)

    return Hurried


class _Once(logging.Filter):
    """Lets each kind of message through once: without free descriptors asyncio has thousands, for every client some."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        first = record.getMessage().partition("\n")[0]
        is_new = first not in self.said
        self.said.add(first)
        return is_new


def add_serve_parser(subparsers: Any) -> None:
    """The `serve` command."""
    parser: ArgumentParser = subparsers.add_parser(
        "serve", help="search and rerank over HTTP: /search, /rerank (as Cohere's), /healthz, /metrics"
    )
    parser.set_defaults(function=serve)
    for add in (options.dataset, options.corpus, options.model):
        add(parser)
    parser.add_argument("--index", required=True, metavar="DIR", help="a FAISS directory of ours or of Pyserini's")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1, this machine only")
    parser.add_argument("--port", type=_port, default=8000, metavar="N", help="default: 8000; 0: any that is free")
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="the bearer token that requests must bring (default: the environment's E2RANK_TOKEN, else none)",
    )
    parser.add_argument(
        "--depth", type=positive, metavar="N", help=f"hits rescored (default: {DEPTH}, or --max-documents)"
    )
    parser.add_argument("--window", type=positive, metavar="N", help="hits in the prompt (default: the model's)")
    parser.add_argument(
        "--task",
        metavar="generic|dataset|TEXT",
        help="rerank_task of requests that name none: the paper's (default), the data set's, a text",
    )
    parser.add_argument("--noun", metavar="WORD", help="what the prompt calls the list (default: as the task's)")
    parser.add_argument("--queue", type=positive, default=64, metavar="N", help="requests that may wait (default: 64)")
    parser.add_argument(
        "--timeout", type=_seconds, default=30.0, metavar="SECONDS", help="of a request, and of a stop (default: 30)"
    )
    parser.add_argument(
        "--max-body", type=positive, default=1 << 22, metavar="BYTES", help="of a request (default: 4 MiB)"
    )
    parser.add_argument(
        "--max-documents",
        type=positive,
        default=1000,
        metavar="N",
        help="that a request may send or ask for (default: 1000)",
    )
    parser.add_argument(
        "--max-query",
        type=positive,
        default=1 << 15,
        metavar="N",
        help="characters of a query or task (default: 32768)",
    )


def _port(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) <= 5 and int(word) < 1 << 16):
        raise ArgumentTypeError(f"expected a port from 0 to 65535, got {word!r}")
    return int(word)


def _seconds(word: str) -> float:
    seconds = real(word)
    if not 0 < seconds <= 86400:  # nor nan
        raise ArgumentTypeError(f"expected seconds from 0 to 86400, got {word!r}")
    return seconds
