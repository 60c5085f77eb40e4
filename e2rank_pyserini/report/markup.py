"""Pieces of HTML: whatever is not Markup already is escaped."""

import html
from collections.abc import Mapping, Sequence

from e2rank_pyserini.types import clean


class Markup(str):
    """HTML that was made here, not text from a file."""

    __slots__ = ()


Rows = Sequence[Sequence[str]]


def text(words: str) -> Markup:
    """Escaped, in an element that keeps its writing direction to itself; Markup stays as it is."""
    return words if isinstance(words, Markup) else Markup(f"<bdi>{attribute(words)}</bdi>")


def attribute(words: str) -> str:
    """Escaped, to stand between double quotes."""
    return html.escape(clean(words))


def table(
    columns: Sequence[str], rows: Rows | Mapping[str, Rows], caption: str, *, wordy: Sequence[str] = ()
) -> Markup:
    """A table in its box; the first cell of a row is its header. `rows` may be in groups by name.

    Columns hold numbers, but for the first and those in `wordy`.
    """
    wide = {0, *map(columns.index, wordy)}
    heads = "".join(
        f'<th scope="col"{_wordy(place in wide)}>{attribute(name)}</th>' for place, name in enumerate(columns)
    )
    bodies = []
    for name, group in (rows if isinstance(rows, Mapping) else {"": rows}).items():
        title = f'<tr><th scope="rowgroup" colspan="{len(columns)}">{attribute(name)}</th></tr>\n' if name else ""
        lines = "".join(_row(row, wide) for row in group)
        bodies.append(f"<tbody>{title}{lines}</tbody>\n")
    head = f"<caption>{attribute(caption)}</caption><thead><tr>{heads}</tr></thead>"
    return box(f"<table>{head}\n{''.join(bodies)}</table>")


def _row(row: Sequence[str], wide: set[int]) -> str:
    cells = "".join(f"<td{_wordy(place in wide)}>{text(cell)}</td>" for place, cell in enumerate(row) if place)
    return f'<tr><th scope="row">{text(row[0])}</th>{cells}</tr>\n'


def _wordy(is_wordy: bool) -> str:
    return ' class="text"' if is_wordy else ""


def box(inner: str) -> Markup:
    """What may be wider than the page scrolls in its own box, by keyboard too."""
    return Markup(f'<div class="wide" tabindex="0">{inner}</div>\n')
