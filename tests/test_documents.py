"""What README, docs and cards say is there: files, headings, modules, commands and their options, words of make."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2rank_pyserini import cli

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page
    for folder in (".", "docs", "benchmarks", "recipes/*", "e2rank_pyserini/models/*")
    for page in ROOT.glob(f"{folder}/*.md")
    if page.name != "CHANGELOG.md"  # it tells of what is gone, too
)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str) -> Iterator[list[str]]:
    """The words of each line of `e2rank` or `make` in an indented block or between backquotes."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    blocks = [re.sub(r"\s#\s.*", "", line) for line in lines if line.startswith("    ")]
    for line in (*blocks, *re.findall(r"`([^`]+)`", text.replace("\n", " "))):
        words = line.split()
        if words and words[0].rpartition("/")[2] in ("e2rank", "make"):
            yield words


def options() -> dict[str, set[str]]:
    """Each command's long options."""
    parsers = next(a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {command: set(_words(parser)) for command, parser in parsers.choices.items()}


def _words(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from _words(one)


def test_pages_and_commands_are_found():
    assert {"README.md", "docs/searching.md", "benchmarks/RESULTS.md"} <= {name(page) for page in PAGES}
    found = [words[0] for words in commands((ROOT / "README.md").read_text())]
    assert found.count("e2rank") > 10
    assert found.count("make") > 10


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in link:
            place, _, heading = link.partition("#")
            target = (page.parent / place).resolve() if place else page
            assert target.exists(), link
            assert not heading or heading in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_have_the_options_that_are_shown(page: Path):
    known = options()
    for words in commands(page.read_text()):
        if words[0].endswith("e2rank") and words[1:] and re.fullmatch(r"[a-z]+", words[1]):
            assert words[1] in known, words
            if words[1] != "pyserini":  # its options are Pyserini's
                shown = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
                assert shown <= known[words[1]], words


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_has_the_words_that_are_shown(page: Path):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(" ".join(re.findall(r"^([a-z][a-z -]*):", makefile, re.MULTILINE)).split())
    assert {"rerank", "test"} <= targets
    for words in commands(page.read_text()):
        if words[0] == "make":
            for word in words[1:]:
                variable, given, _ = word.strip("[]").partition("=")
                if given:
                    assert re.search(rf"\b{variable}\b", makefile), words
                elif re.fullmatch("[a-z-]+", word):
                    assert word in targets, words


def test_the_tree_of_readme_names_every_module():
    tree = (ROOT / "README.md").read_text().partition("## The house")[2].partition("```")[2].partition("```")[0]
    package = ROOT / "e2rank_pyserini"
    modules = [path for path in package.rglob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    missing = [m for m in modules if m.name not in tree and not m.name.endswith("_command.py")]
    assert not missing
    assert len(modules) > 100
    for folder in {m.parent for m in modules} - {package}:
        assert f"{folder.name}/" in tree
    for module in re.findall(r"(?<!\*)\b([a-z_0-9]+\.py)\b", tree):
        assert module == "test_layers.py" or any(m.name == module for m in modules), module
