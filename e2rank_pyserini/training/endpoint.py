"""Rankings by a language model behind an OpenAI-compatible endpoint: one list a call, several calls in flight."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from e2rank_pyserini.aside import Aside
from e2rank_pyserini.training.examples import permutation
from e2rank_pyserini.types import E2RankError

if TYPE_CHECKING:
    from openai import OpenAI

KEY = "OPENAI_API_KEY"
MALFORMED, SILENT, UNASKED = "malformed answers", "calls without an answer", "not asked after too many such"
_GIVE_UP = 20  # calls in a row without an answer: the endpoint is gone, and every further one costs its retries
_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.S)  # what some servers leave in front of the answer

_SLOT = re.compile(r"\{(query|count|passages)\}")
_SYSTEM = "You judge search results. You order passages by how well they answer a query and reply with the order alone."
_USER = """Query: {query}

The {count} passages below were found for this query. Each begins with its number in brackets.

{passages}

Query: {query}

Put the {count} passages in order, from the one that answers the query best to the one that answers it least. Write \
every number exactly once, in the form [2] > [3] > [1], and nothing else."""


class Endpoint(NamedTuple):
    """Where the model is (`url` up to and with /v1) and how patiently it is asked. `timeout` is in seconds."""

    url: str
    model: str
    parallel: int = 4
    timeout: float = 120.0
    retries: int = 5


def messages(query: str, documents: Sequence[str]) -> list[dict[str, str]]:
    """The chat that asks for an order of the documents; each is put on one line."""
    passages = "\n".join(f"[{number}] {' '.join(text.split())}" for number, text in enumerate(documents, start=1))
    fills = {"query": " ".join(query.split()), "count": str(len(documents)), "passages": passages}
    user = _SLOT.sub(lambda slot: fills[slot[1]], _USER)  # in one pass: the texts may hold braces of their own
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": user}]


def orders(
    asked: Sequence[tuple[str, Sequence[str]]],
    endpoint: Endpoint,
    *,
    keep: Callable[[int, tuple[int, ...]], None] = lambda number, order: None,
    begun: bool = False,
) -> Iterator[tuple[int, ...] | str]:
    """For each (query, documents), in order: 0-based document numbers, best first, or the reason why there are none.

    An answer must be an order of all documents and nothing else; it is never repaired. Rate limits, server errors,
    lost connections and timeouts are retried with growing pauses. The first call is made alone: when it fails, so would
    the others, and E2RankError says why. Later failures cost one list each, and so does the first where the job was
    `begun` before. `keep` is told the number of a list and its order as soon as there is one, in the thread that asked.
    """
    silent, over = 0, False

    def order(number: int) -> tuple[int, ...] | str:
        nonlocal silent
        if over or silent >= _GIVE_UP:
            return UNASKED
        found = _order(client, endpoint, *asked[number])
        if isinstance(found, E2RankError):
            silent += 1
            if number == 0 and not begun:
                raise found
            return SILENT
        silent = 0
        if isinstance(found, tuple):
            keep(number, found)
        return found

    with _client(endpoint) as client, Aside(endpoint.parallel) as threads:
        try:
            yield from map(order, range(len(asked))[:1])
            for later in [threads.do(order, number) for number in range(1, len(asked))]:
                yield later.result()
        finally:
            over = True  # interrupted: no one waits for the lists that are not asked for yet


def _order(
    client: "OpenAI", endpoint: Endpoint, query: str, documents: Sequence[str]
) -> tuple[int, ...] | str | E2RankError:
    from openai import OpenAIError

    try:
        answer = client.chat.completions.create(
            model=endpoint.model,
            messages=messages(query, documents),  # type: ignore[arg-type]
            temperature=0,
        )
        content = answer.choices[0].message.content
    except OpenAIError as error:
        return E2RankError(f"endpoint {endpoint.url}: {_reason(error)}")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError):
        return MALFORMED  # it answered, but with no chat completion
    if not isinstance(content, str):
        return MALFORMED
    found = permutation(_THOUGHTS.sub("", content, count=1), len(documents))
    return MALFORMED if found is None else found


def _client(endpoint: Endpoint) -> "OpenAI":
    from openai import OpenAI

    key = os.environ.get(KEY, "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise E2RankError(f"{KEY}: expected a key of printable ASCII characters")
    # a local server asks for no key, but the client does
    return OpenAI(
        base_url=checked(endpoint.url), api_key=key or "none", timeout=endpoint.timeout, max_retries=endpoint.retries
    )


def checked(url: str) -> str:
    """The URL of an endpoint, refused with E2RankError if it is none."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or not url.isascii() or not url.isprintable() or " " in url:
        raise E2RankError(f"endpoint {url!r}: expected a URL such as http://localhost:8000/v1")
    return url


def _reason(error: Exception) -> str:
    """One short line; a server may answer with a page of HTML."""
    text = " ".join(str(error).split()) or type(error).__name__
    cause = "" if error.__cause__ is None else f" ({' '.join(str(error.__cause__).split())})"
    return f"{text}{cause}"[:300]
