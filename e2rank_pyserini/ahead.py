"""Work in parts: while one is in use, a thread makes the next."""

from collections.abc import Generator, Iterable, Iterator
from typing import Any, TypeVar

from e2rank_pyserini.aside import Aside, Later

T = TypeVar("T")
_FIRST, _MOST = 4096, 131072  # tokens of a part: what is made before the first one waits is little, then few batches


def ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The items, each made in a thread while the one before is in use; an error is raised where its item would come."""
    with Aside() as thread:
        end = object()
        following: Later[Any] = thread.do(next, items, end)
        while (item := following.result()) is not end:
            following = thread.do(next, items, end)
            yield item


def parts(tokens: Iterable[int]) -> list[slice]:
    """Texts of about so many tokens each, cut into parts: a small one, then each twice as large, up to a limit.

    They depend on nothing else, so that what is computed from them does not depend on how quickly it is.
    """
    found: list[slice] = []
    start = stop = held = 0
    most = _FIRST
    for stop, size in enumerate(tokens, start=1):
        held += size
        if held >= most:
            found.append(slice(start, stop))
            start, held, most = stop, 0, min(2 * most, _MOST)
    return [*found, slice(start, stop)] if start < stop else found
