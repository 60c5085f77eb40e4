"""The page of `e2rank report` in a real browser: its width, its pictures, its text, and no complaint of the browser."""

import html
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from e2rank_pyserini.cli import main

WIDTHS = (400, 1400)
LOOK = """
<script>
onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement
    return {
      width: root.clientWidth,
      wide: root.scrollWidth,
      font: parseFloat(getComputedStyle(page.body).fontSize),
      small: Math.min(...[...page.body.querySelectorAll("*")].map(one => parseFloat(getComputedStyle(one).fontSize))),
      images: [...page.images].map(one => [one.complete, one.naturalWidth, one.alt.length, one.width]),
      boxes: [...page.querySelectorAll(".wide")].map(one => one.scrollWidth > one.clientWidth),
    }
  })
  const out = document.createElement("pre")
  out.id = "found"
  out.textContent = JSON.stringify(found)
  document.body.append(out)
}
</script>
"""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no browser here (chromium, chromium-browser or google-chrome)")
    return found


@pytest.fixture(scope="module")
def page(beir: Path, toy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report, the cost of one of its runs known; its run names and queries are as bad as they come."""
    place = tmp_path_factory.mktemp("report")
    other = place / f"{'a-rather-long.name.of-a-run.' * 4}{'x' * 80}.trec"
    rows = [line.split() for line in toy_run.read_text().splitlines()]
    other.write_text("".join(f"{qid} Q0 {docid} {rank} {rank} x\n" for qid, _, docid, rank, *_ in rows))
    queries = [json.loads(line) for line in (beir / "queries.jsonl").read_text().splitlines()]
    bad = "</td></table></div><script>alert(1)</script><img src=x onerror=alert(2)>" + "w" * 300
    (place / "topics.tsv").write_text("".join(f"{query['_id']}\t{bad}\n" for query in queries))
    words = ["report", str(toy_run), str(other), "--dataset", str(beir), "--topics", str(place / "topics.tsv")]
    words += ["--output", str(place / "out")]
    assert main(words) == 0
    return (place / "out" / "report.html").read_text(encoding="utf-8")


def complaints(browser: str, page: str, place: Path) -> list[str]:
    """What of the page is not as it should be, seen at every width."""
    frames = "".join(
        f'<iframe style="width: {width}px; height: 800px; border: 0" srcdoc="{html.escape(page)}"></iframe>'
        for width in WIDTHS
    )
    (place / "look.html").write_text(f"<!DOCTYPE html><body>{frames}{LOOK}", encoding="utf-8")
    words = "--headless --no-sandbox --disable-gpu --hide-scrollbars --dump-dom --enable-logging=stderr"
    words += f" --virtual-time-budget=20000 --user-data-dir={place}/profile"
    command = [browser, *words.split(), (place / "look.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    dumped = done.stdout.rpartition('<pre id="found">')[2].partition("</pre>")[0]
    told = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    for width, found in zip(WIDTHS, json.loads(html.unescape(dumped)), strict=True):
        if found["width"] != width:
            told.append(f"{width}: is {found['width']} wide")
        if found["wide"] > found["width"]:
            told.append(f"{width}: scrolls sideways, to {found['wide']}")
        if found["font"] < 14 or found["small"] < 12:
            told.append(f"{width}: text of {found['font']} and {found['small']} px")
        if len(found["images"]) != 4:
            told.append(f"{width}: {len(found['images'])} pictures")
        for complete, natural, alt, shown in found["images"]:
            if not complete or not natural or not alt or shown < 500:
                told.append(f"{width}: picture {complete} {natural} {alt} {shown}")
        if width == 400 and not all(found["boxes"][:2]):
            told.append("400: the first table and picture do not scroll in their boxes")
    return told


def test_in_a_browser(chromium: str, page: str, tmp_path: Path):
    assert complaints(chromium, page, tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("overflow-wrap: anywhere", "", "400: scrolls sideways"),
        (".wide { overflow-x: auto;", ".wide {", "400: scrolls sideways"),
        ("data:image/png;base64,iVBOR", "data:image/png;base64,AAAA", "picture True 0"),
        ('alt="', 'alt="" title="', "picture True 1216 0"),
        ("font: 1rem/1.5", "font: 13px/1.5", "text of 13"),
        ("</main>", '<img src="data:image/png;base64,AAAA" alt="x"></main>', "5 pictures"),
        ("</main>", "<script>alert(1)</script></main>", "CONSOLE"),  # the page's own policy refuses it
        ("</main>", '<img src="file:///nowhere.png" alt="x"></main>', "CONSOLE"),
    ],
)
def test_what_is_wrong_is_seen(chromium: str, page: str, tmp_path: Path, old: str, new: str, complaint: str):
    assert old in page
    told = complaints(chromium, page.replace(old, new), tmp_path)
    assert any(complaint in one for one in told), told
