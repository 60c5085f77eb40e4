"""Every reader on sound files in odd layouts, on damaged ones and on nonsense: all of it, or one line that says why."""

import collections
import contextlib
import gzip
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from e2rank_pyserini.cli import main
from e2rank_pyserini.types import E2RankError
from tests.faults.forms import FORMS, Form, lines_of
from tests.faults.limits import within

SOAK = os.environ.get("E2RANK_SOAK") == "1"
COUNTED: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
LONGEST = 2000  # characters of an error
SECONDS = 10.0  # for one small file
LINED = ("run", "qrels", "exclusions", "corpus", "examples")  # whose every fault is of one line, but for these
OF_THE_FILE = r": (the run is empty|no [a-z ]+ found|the corpus is empty|not UTF-8|cannot be read)"


def counts(sound: int, damaged: int) -> dict[str, settings]:
    factor = 30 if SOAK else 1
    common: dict[str, Any] = dict(
        deadline=None,  # `within` ends what hangs; this one only complains afterwards
        derandomize=not SOAK,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    return {
        "sound": settings(max_examples=sound * factor, **common),
        "damaged": settings(max_examples=damaged * factor, **common),
    }


COUNTS = counts(15, 35)


@pytest.fixture(scope="module", autouse=True)
def figures() -> Iterator[None]:
    yield
    total = sum(sum(found.values()) for found in COUNTED.values())
    print(f"\n{total:6} files read: " + "; ".join(f"{name} {dict(found)}" for name, found in COUNTED.items()))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def written(place: Path, form: Form, content: bytes, *, pack: bool = False) -> Path:
    for path in place.iterdir():
        path.unlink()
    path = place / (f"{form.name}.gz" if pack else form.name)
    path.write_bytes(content)
    return path


# --- sound files ------------------------------------------------------------------------------------------------------


@st.composite
def laid_out(draw: Any, text: str, *, blanks: bool) -> bytes:
    """Another layout of the same lines."""
    lines = text.split("\n")
    if blanks and draw(st.booleans()):
        lines = [part for line in lines for part in (line, draw(st.sampled_from(["", "", "  "]))) if part or line]
    text = draw(st.sampled_from(["\n", "\r\n"])).join(lines)
    text = text.rstrip("\r\n") if draw(st.booleans()) else text
    return (draw(st.sampled_from(["", "\ufeff"])) + text).encode()


@pytest.mark.parametrize("name", FORMS)
@COUNTS["sound"]
@given(data=st.data())
def test_sound_files_come_back_whole(place: Path, name: str, data: st.DataObject):
    form = FORMS[name]
    text, expected = data.draw(form.sound)
    content = data.draw(laid_out(text, blanks=form.blanks))
    if name == "config.json":  # Transformers itself reads none with a byte order mark
        content = content.removeprefix(b"\xef\xbb\xbf")
    pack = form.packs and data.draw(st.booleans())
    path = written(place, form, gzip.compress(content, mtime=0) if pack else content, pack=pack)
    COUNTED[name]["sound"] += 1
    with within(SECONDS, name):
        assert form.read(path) == expected


# --- damaged files ----------------------------------------------------------------------------------------------------

ODD = [
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"1_0", b"0x1F", b"true", b"null", b"\xef\xbc\x91", b"+7"),
    *(b"9" * 5000, b"x" * 100_000, b" " * 20_000, b"\0", b"\r", b"\t", b"\xe2\x80\xa8", b"\xc2\x85", b"\x1c", b"\xff"),
    *(b'"\\ud800"', b'"\\u0000"', b'{"a":1,"a":2}', b"{}", b"[]", b'""', b'{"title": "x"}', b"N/A", b"query-id"),
    *(b"[" * 100_000, *(b"[" * depth + b"]" * depth for depth in (50, 900, 960, 980, 990))),
    *(b'{"a":' * 970 + b"1" + b"}" * 970, b"*a", b"&a", b"<<: {a: 1}", b"!!python/name:os.system", b"2001-99-99"),
    *(b"!!int x", b"? [a]", b"0x" + b"f" * 5000, b"<top>", b"</top>", b"<num>", b"<title>", b"</topic>", b"<topic>"),
    *(b"<DOC>", b"<DOCNO>", b"&amp;", b"<!DOCTYPE a>", b"#", b": ", b"---\n", b"%YAML 9\n", b"\x1b[31m", b"\x1f\x8b"),
]


def cut(draw: Any, content: bytes) -> bytes:
    return content[: draw(st.integers(0, len(content)))]


def flip(draw: Any, content: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        bit = draw(st.integers(0, 8 * len(content) - 1))
        damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def drop(draw: Any, content: bytes) -> bytes:
    start = draw(st.integers(0, len(content) - 1))
    return content[:start] + content[start + draw(st.integers(1, 40)) :]


def repeat_line(draw: Any, content: bytes) -> bytes:
    lines = content.split(b"\n")
    number = draw(st.integers(0, len(lines) - 1))
    return b"\n".join([*lines[:number], lines[number], *lines[number:]])


def drop_word(draw: Any, content: bytes) -> bytes:
    """A column, a value or a key goes."""
    words = re.split(rb"(\s+)", content)
    number = draw(st.integers(0, len(words) - 1))
    return b"".join([*words[:number], *words[number + 1 :]])


def put_word(draw: Any, content: bytes) -> bytes:
    """A word, a number or a text becomes an odd one."""
    places = list(re.finditer(rb'"[^"]*"|[^\s{}\[\]:,"]+', content))
    if not places:
        return draw(st.sampled_from(ODD))
    found = places[draw(st.integers(0, len(places) - 1))]
    return content[: found.start()] + draw(st.sampled_from(ODD)) + content[found.end() :]


def put_in(draw: Any, content: bytes) -> bytes:
    start = draw(st.integers(0, len(content)))
    return content[:start] + draw(st.sampled_from(ODD)) + content[start:]


def splice(draw: Any, content: bytes) -> bytes:
    """The beginning of this file and the end of one that may be of another kind."""
    text, _ = draw(draw(st.sampled_from([form.sound for form in FORMS.values()])))
    rest = text.encode()
    return content[: draw(st.integers(0, len(content)))] + rest[draw(st.integers(0, len(rest))) :]


DAMAGES = (cut, flip, flip, drop, repeat_line, drop_word, put_word, put_word, put_in, splice)


@st.composite
def damaged(draw: Any, sound: st.SearchStrategy[tuple[str, Any]]) -> bytes:
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    content = draw(sound)[0].encode()
    for _ in range(draw(st.integers(1, 2))):
        content = draw(st.sampled_from(DAMAGES))(draw, content) if content else b""
    return content


def check_refusal(name: str, error: str, path: Path, content: bytes) -> None:
    """One line, not too long, the file named, and the line that is wrong where it is one that is."""
    assert error.isprintable(), error
    assert len(error) <= LONGEST, len(error)
    assert str(path) in error or str(path.parent) in error
    number = re.search(rf"{re.escape(str(path))}:(\d+)", error)
    if number is None:
        assert name not in LINED or re.search(OF_THE_FILE, error), error
        return
    text = content.decode(errors="replace")
    lines = text.splitlines() if path.suffix == ".yaml" else re.split(r"\r\n|\r|\n", text)  # YAML knows more ends
    assert 1 <= int(number[1]) <= max(1, len(lines)) + (path.suffix == ".yaml")


@pytest.mark.parametrize("name", FORMS)
@COUNTS["damaged"]
@given(data=st.data())
def test_damaged_files_are_refused_or_read_whole(place: Path, name: str, data: st.DataObject):
    form = FORMS[name]
    content = data.draw(damaged(form.sound))
    packed = form.packs and data.draw(st.integers(0, 3)) == 0
    raw = gzip.compress(content, mtime=0) if packed else content
    if packed and data.draw(st.booleans()):
        raw = data.draw(st.sampled_from((cut, flip, drop)))(data.draw, raw)
    path = written(place, form, raw, pack=packed)
    try:
        with within(SECONDS, name):
            found = form.read(path)
    except E2RankError as error:
        COUNTED[name]["refused"] += 1
        check_refusal(name, str(error), path, content)
        return
    COUNTED[name]["read"] += 1
    text = (gzip.decompress(raw) if packed else raw).decode("utf-8-sig")
    said = form.holds([text] if path.suffix == ".yaml" else lines_of(text))
    if isinstance(said, int):
        assert len(found) == said
    elif path.suffix == ".yaml":
        assert found | {key: value for key, value in said.items() if key in found} == found
    else:
        assert found == said


@pytest.mark.parametrize(
    ("name", "line"), [("RUN.json", "rerun {}"), ("convert run", "convert {} --kind run --output {}.trec")]
)
@COUNTS["damaged"]
@given(data=st.data())
def test_commands_say_one_line_of_damaged_files(place: Path, name: str, line: str, data: st.DataObject):
    form = FORMS[name]
    content = data.draw(damaged(form.sound))
    path = written(place, form, content)
    told = io.StringIO()
    with within(SECONDS, name), contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        code = main(line.format(path, path).split())
    COUNTED[line.split()[0]]["refused" if code else "done"] += 1
    made = place / f"{path.name}.trec"
    if code:
        assert told.getvalue().count("\n") == 1, told.getvalue()
        assert str(path) in told.getvalue()
        assert not made.exists()
    else:
        before, after = form.read(path), FORMS["run"].read(made)
        assert {q: {d for d, _ in hits} for q, hits in before.items() if hits} == {
            q: {d for d, _ in hits} for q, hits in after.items()
        }


# --- what would take for ever, or all memory --------------------------------------------------------------------------

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
ENTITIES = "".join(f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in zip("abcdefghi", "bcdefghij", strict=True))
MILLION = 1_000_000 if SOAK else 300_000  # enough to see what grows by the square
ASKED = '{"messages": [{"role": "user", "content": "%s\\nSearch Query: q"}, {"role": "assistant", "content": "[1]%s"}]}'
BOMBS = {
    "blanks in a title": ("topics", f"<top><num> 1 <title> a{' ' * MILLION}b</top>"),
    "blanks for a number": ("topics", f"<top><num>{' ' * MILLION}<title>a</top>"),
    "many topics": ("topics", "<top>" * (MILLION // 5)),
    "many ends of a topic": ("topics", "<top>" + "</top" * (MILLION // 5)),
    "nested topics": ("topics", "<topics>" + "<topic>" * (MILLION // 5)),
    "entities": ("topics", f'<!DOCTYPE t [<!ENTITY a "ha">{ENTITIES}]><topic number="1"><query>&j;</query></topic>'),
    "CACM's ids": ("topics", f"<DOC>{'<DOCNO>' * (MILLION // 5)}</DOC>"),
    "one object": ("topics", "{" + "".join(f'"{n}": {{"title": "q"}}, ' for n in range(MILLION // 10)) + '"7": {}}'),
    "a long line": ("exclusions", "q " * MILLION),
    "a long word": ("run", "q" * MILLION),
    "many hits": ("run", "".join(f"q Q0 {n} 1 1 t\n" for n in range(MILLION // 5)) + "q Q0 7 1 1 t\n"),
    "many first passages": ("examples", ASKED.replace("\\nSearch", "Search") % ("\\n[1] " * (MILLION // 5), "")),
    "many passages": ("examples", ASKED % ("".join(f"\\n[{n}] " for n in range(1, MILLION // 10)), "")),
    "an order of blanks": ("examples", ASKED % ("\\n[1] a\\n[2] b", " " * MILLION)),
    "a docid twice": ("convert run", '{"q": {' + "".join(f'"{n}": 1.0, ' for n in range(MILLION // 5)) + '"7": 1.0}}'),
    "a long number": ("corpus", f'{{"_id": {"9" * MILLION}}}'),
    "nested lists": ("corpus", "[" * MILLION),
    "laughs in a model": ("e2rank.yaml", f"{LAUGHS}window: *j\n"),
    "laughs in a recipe": ("recipe", f"stage: rank\n{LAUGHS}batch: *j\n"),
    "nested lists of YAML": ("e2rank.yaml", "window: " + "[" * 50_000),
    "nested objects": ("RUN.json", '{"format": 1, "run": ' + '{"a":' * MILLION),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_nothing_takes_for_ever(place: Path, bomb: str):
    name, text = BOMBS[bomb]
    path = written(place, FORMS[name], text.encode())
    COUNTED[name]["bombs"] += 1
    with within(SECONDS, bomb):
        try:
            FORMS[name].read(path)
        except E2RankError as error:
            check_refusal(name, str(error), path, text.encode())


@pytest.mark.parametrize("name", [name for name in FORMS if FORMS[name].packs])
def test_a_gz_bomb_is_refused(place: Path, name: str):
    """A line a thousand times as long as its file."""
    content = b"q" * ((256 if SOAK else 16) << 20)
    path = written(place, FORMS[name], gzip.compress(content, 1), pack=True)
    COUNTED[name]["bombs"] += 1
    with within(SECONDS, name), pytest.raises(E2RankError) as caught:
        FORMS[name].read(path)
    check_refusal(name, str(caught.value), path, content)
