"""What each reader reads: sound content with what it says, and a plain parse that says what any content holds.

A `Form` draws a text and what reading it must give. `holds` is the second opinion: from the lines of a file that a
reader has accepted, sound or damaged, to what must have come out of it, written without the package.
"""

import collections
import csv
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import yaml
from hypothesis import strategies as st

from e2rank_pyserini import catalog, provenance
from e2rank_pyserini import forms as other
from e2rank_pyserini.choices import DTYPES, VARIANTS
from e2rank_pyserini.corpus import documents
from e2rank_pyserini.exclusions import read_exclusions
from e2rank_pyserini.index import DenseIndex, read_sidecar
from e2rank_pyserini.sealed import seal
from e2rank_pyserini.topics import read_topics
from e2rank_pyserini.training.examples import read_examples
from e2rank_pyserini.training.recipe import recipe
from e2rank_pyserini.trec import read_qrels, read_run

Draw = Callable[..., Any]


class Form(NamedTuple):
    """`name`: of the file (.gz may be added where `packs`); `read` gives something that `holds` of its lines equals."""

    name: str
    sound: st.SearchStrategy[tuple[str, Any]]
    read: Callable[[Path], Any]
    holds: Callable[[list[str]], Any]
    packs: bool = True
    blanks: bool = True  # whether blank lines say nothing


def lines_of(text: str) -> list[str]:
    """As every editor counts them, those with nothing but blanks left out."""
    return [line for line in re.split(r"\r\n|\r|\n", text) if line.strip()]


# --- words and texts --------------------------------------------------------------------------------------------------

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff")
WORDS = st.one_of(
    st.integers(0, 10**6).map(str),
    st.sampled_from(["007", "clueweb22-en0000-00-00000", "Ωmega", "日本", "a\1b", "N/A.", "-", "x" * 5000, "1e5"]),
    st.text(CHARACTERS, min_size=1, max_size=12).filter(lambda word: word.split() == [word]),
).filter(lambda word: word[0] not in "{[<#" and "\0" not in word and word != "N/A")
TEXTS = st.one_of(
    st.text(CHARACTERS, max_size=30), st.sampled_from(["wing flow", "", "two\nlines", "\u2028\x85", "long " * 3000])
)
PLAIN = st.text(st.characters(categories=["L", "N", "P"], exclude_characters="<>&{[#\ufeff"), min_size=1, max_size=9)
YAML_TEXTS = st.text(CHARACTERS, max_size=30).filter(str.isprintable)  # PyYAML's writer folds the others
SCORES = st.one_of(st.floats(-1e38, 1e38), st.integers(-3, 3).map(float))
GRADES = st.integers(-2, 10**7)
HEADS = {"query-id", "query_id", "qid", "_id", "id", "topic"}


def whole(word: str) -> bool:
    """Whether an id may stand in JSON as a number."""
    return bool(re.fullmatch(r"0|[1-9][0-9]{0,15}", word))


def as_id(draw: Draw, word: str) -> Any:
    return int(word) if whole(word) and draw(st.booleans()) else word


def dumped(draw: Draw, value: Any, **layout: Any) -> str:
    return json.dumps(value, ensure_ascii=draw(st.booleans()), **layout)


def rows(draw: Draw, columns: Iterable[Iterable[Any]]) -> str:
    """Lines of columns between blanks or tabs."""
    return "".join(draw(st.sampled_from([" ", "\t", "  \t "])).join(map(str, row)) + "\n" for row in columns)


@st.composite
def judged(draw: Draw, values: st.SearchStrategy[Any]) -> dict[str, dict[str, Any]]:
    """qid -> docid -> value, nowhere empty."""
    inner = st.dictionaries(WORDS, values, min_size=1, max_size=5)
    found: dict[str, dict[str, Any]] = draw(st.dictionaries(WORDS, inner, min_size=1, max_size=4))
    return found


# --- runs, qrels, exclusions ------------------------------------------------------------------------------------------


def by_score(hits: list[tuple[str, float, int]]) -> list[tuple[str, float]]:
    return [(docid, score) for docid, score, _ in sorted(hits, key=lambda hit: (-hit[1], hit[2]))]


@st.composite
def runs(draw: Draw) -> tuple[str, Any]:
    found = draw(judged(st.tuples(SCORES, st.integers(-9, 9))))
    listed = [(qid, docid, *value) for qid, hits in found.items() for docid, value in hits.items()]
    listed = draw(st.permutations(listed))
    text = rows(draw, ((qid, "Q0", docid, rank, repr(score), "tag") for qid, docid, score, rank in listed))
    hits: dict[str, list[tuple[str, float, int]]] = {}
    for qid, docid, score, rank in listed:
        hits.setdefault(qid, []).append((docid, score, rank))
    return text, {qid: by_score(one) for qid, one in hits.items()}


def run_holds(lines: list[str]) -> Any:
    hits: dict[str, list[tuple[str, float, int]]] = {}
    for line in lines:
        qid, _, docid, rank, score, _ = line.split()
        hits.setdefault(qid, []).append((docid, float(score), int(rank)))
    return {qid: by_score(one) for qid, one in hits.items()}


def pairs(run: Any) -> Any:
    return {qid: [tuple(hit) for hit in hits] for qid, hits in run.items()}


@st.composite
def qrels(draw: Draw) -> tuple[str, Any]:
    found = draw(judged(GRADES).filter(lambda found: "query-id" not in found))
    listed = [(qid, docid, grade) for qid, docids in found.items() for docid, grade in docids.items()]
    if draw(st.booleans()):
        heads = ["", "query-id\tcorpus-id\tscore\n"] if '"' not in str(listed) else [""]  # under it stands csv
        return draw(st.sampled_from(heads)) + rows(draw, listed), found
    return rows(draw, ((qid, "0", docid, grade) for qid, docid, grade in listed)), found


def qrels_hold(lines: list[str]) -> Any:
    found: dict[str, dict[str, int]] = {}
    table = [line.split() for line in lines]
    if table[0][0] == "query-id":
        quoted = {number: next(csv.reader([line], delimiter="\t")) for number, line in enumerate(lines) if '"' in line}
        table = [quoted.get(number, row) for number, row in enumerate(table)][1:]
    assert len({len(row) for row in table}) == 1, "a line has lost a column"
    for row in table:
        found.setdefault(row[0], {})[row[-2]] = int(row[-1])
    return found


@st.composite
def exclusions(draw: Draw) -> tuple[str, Any]:
    found = draw(st.dictionaries(WORDS, st.frozensets(WORDS, max_size=4), min_size=1, max_size=4))
    if draw(st.booleans()):
        text = "".join(
            dumped(draw, {"id": as_id(draw, qid), "excluded_ids": list(docids) or ["N/A"], "query": "q"}) + "\n"
            for qid, docids in found.items()
        )
    else:
        text = rows(draw, ((qid, docid) for qid, docids in found.items() for docid in docids or ["N/A"]))
    return text, {qid: docids for qid, docids in found.items() if docids}


def exclusions_hold(lines: list[str]) -> Any:
    found: dict[str, set[str]] = {}
    for number, line in enumerate(lines):
        if line.lstrip().startswith("{"):
            row = json.loads(line, object_pairs_hook=once)
            found.setdefault(str(row["id"]), set()).update(row["excluded_ids"])
        elif number or line.split() != ["query-id", "corpus-id"]:
            qid, docid = line.split()
            found.setdefault(qid, set()).add(docid)
    return {qid: frozenset(docids - {"N/A"}) for qid, docids in found.items() if docids - {"N/A"}}


def once(found: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which no key stands twice."""
    assert max(collections.Counter(key for key, _ in found).values(), default=1) == 1, "a key twice"
    return dict(found)


# --- topics -----------------------------------------------------------------------------------------------------------

QUERIES = TEXTS.map(str.strip).filter(bool)
LINES = QUERIES.map(lambda text: re.sub(r"[\t\r\n]", " ", text).strip()).filter(bool)
SPACED = st.lists(PLAIN, min_size=1, max_size=5).map(" ".join)


@st.composite
def topics(draw: Draw) -> tuple[str, Any]:
    kind = draw(st.sampled_from(["tsv", "json", "jsonl", "trec", "xml", "cacm"]))
    marked = kind in ("trec", "xml", "cacm")
    qids = PLAIN if marked else WORDS.filter(lambda word: word.lower() not in HEADS)
    queries = SPACED if marked else LINES if kind == "tsv" else QUERIES
    found = draw(st.dictionaries(qids, queries, min_size=1, max_size=4))
    write = {"tsv": tsv, "json": one_object, "jsonl": jsonl, "trec": trec, "xml": xml, "cacm": cacm}[kind]
    return write(draw, found), found


def tsv(draw: Draw, found: dict[str, str]) -> str:
    more = draw(st.sampled_from(["", "\tfurther column"]))
    return draw(st.sampled_from(["", "qid\tquery\n"])) + "".join(f"{qid}\t{q}{more}\n" for qid, q in found.items())


def one_object(draw: Draw, found: dict[str, str]) -> str:
    key = draw(st.sampled_from(["title", "text"]))
    return dumped(draw, {qid: {key: query} for qid, query in found.items()}, indent=draw(st.sampled_from([None, 1])))


def jsonl(draw: Draw, found: dict[str, str]) -> str:
    names = draw(st.sampled_from([("_id", "text"), ("qid", "query"), ("id", "title")]))
    return "".join(
        dumped(draw, dict(zip(names, (as_id(draw, qid), query), strict=True))) + "\n" for qid, query in found.items()
    )


def trec(draw: Draw, found: dict[str, str]) -> str:
    label, close = draw(st.sampled_from([("Number: ", ""), ("", "</num>")]))
    end = draw(st.sampled_from(["", "</top>"]))
    return "".join(
        f"<top>\n<num> {label}{qid} {close}\n<title> {query}\n<desc> Description:\nmore\n{end}\n\n"
        for qid, query in found.items()
    )


def xml(draw: Draw, found: dict[str, str]) -> str:
    tag = draw(st.sampled_from(["query", "title"]))
    topics = "".join(f'<topic number="{_quoted(qid)}">\n<{tag}>{q}</{tag}>\n</topic>\n' for qid, q in found.items())
    return f"<topics>\n{topics}</topics>"


def _quoted(qid: str) -> str:
    return qid.replace('"', "&quot;")


def cacm(draw: Draw, found: dict[str, str]) -> str:
    return "".join(f"<DOC>\n<DOCNO>{qid}</DOCNO>\n{query}\n</DOC>\n" for qid, query in found.items())


def topics_hold(lines: list[str]) -> Any:
    """How many topics the file says there are."""
    text = "\n".join(lines)
    if text.lstrip().startswith("<") and re.search(r"<(top|topic|doc)[\s>]", text, re.I):
        mark = re.search(r"<(top|topic|doc)[\s>]", text, re.I)
        assert mark is not None
        marks = {"top": r"<num>", "topic": r"<topic[\s>]", "doc": r"<DOCNO>"}
        return len(re.findall(marks[mark[1].lower()], text, re.I))
    if not text.lstrip().startswith("{"):
        return len(lines) - (lines[0].split("\t")[0].lower() in HEADS)
    try:
        top = json.loads(text, object_pairs_hook=once)
    except ValueError:
        return len([json.loads(line, object_pairs_hook=once) for line in lines])
    return len(top) if all(isinstance(value, dict) for value in top.values()) else 1


# --- corpus, training examples ----------------------------------------------------------------------------------------


@st.composite
def corpora(draw: Draw) -> tuple[str, Any]:
    docids = draw(st.lists(WORDS, min_size=1, max_size=5, unique=True))
    found, text = [], ""
    for docid in docids:
        title, body = draw(TEXTS), draw(TEXTS)
        beir = {"_id": as_id(draw, docid), "title": title, "text": body, "metadata": {"url": "x"}}
        ours = {"id": as_id(draw, docid), "contents": body}
        row, said = draw(st.sampled_from([(beir, title), (ours, "")]))
        text += dumped(draw, row) + "\n"
        found.append((docid, said.strip(), body.strip()))
    return text, found


def corpus_holds(lines: list[str]) -> Any:
    found = []
    for line in lines:
        row = json.loads(line, object_pairs_hook=once)
        docid = next(row[key] for key in ("_id", "id", "docid") if row.get(key) is not None)
        body = row["text"] if "text" in row else row["contents"]
        found.append((str(docid), (row.get("title") or "").strip(), body.strip()))
    return found


@st.composite
def examples(draw: Draw) -> tuple[str, Any]:
    found, text = [], ""
    for _ in range(draw(st.integers(1, 4))):
        # a negative that is the positive would go
        query, listed = draw(LINES), draw(st.lists(TEXTS.map(str.strip), min_size=2, max_size=5, unique=True))
        order = draw(st.permutations(range(len(listed))))
        authors = {"query": query, "document": listed, "ranking": [n + 1 for n in order], "source": "s"}
        flag = {"query": query, "pos": listed[:1], "neg": listed[1:]}
        passages = [{"docid": str(n), "text": one} for n, one in enumerate(listed)]
        ranker = {"query": query, "positive_passages": passages[0], "negative_passages": passages[1:]}
        row, ranking = draw(st.sampled_from([(authors, tuple(order)), (flag, None), (ranker, None)]))
        text += dumped(draw, row) + "\n"
        found.append((query, tuple(listed), ranking or tuple(range(len(listed)))))
    return text, found


def examples_hold(lines: list[str]) -> Any:
    return len([json.loads(line, object_pairs_hook=once) for line in lines])


# --- records ----------------------------------------------------------------------------------------------------------


@st.composite
def run_records(draw: Draw) -> tuple[str, Any]:
    """A record of inputs that are nowhere, so that `e2rank rerun` never runs anything."""
    count = st.integers(1, 10**9 - 1)
    words = ["search", "--topics", "/nowhere/topics", "--index", "/nowhere/index", "--output", draw(PLAIN)]
    record = {
        "format": 1,
        "run": {"file": draw(PLAIN).replace("/", "-"), "sha256": "0" * 64, "topics": draw(count), "hits": draw(count)},
        "command": words,
        "options": {"command": "search", "topics": "/nowhere/topics", "dataset": None, "excluded": None},
        "directory": "/tmp",
        "model": draw(st.none() | st.dictionaries(TEXTS, TEXTS, max_size=3)),
        "prompt": draw(st.none() | st.fixed_dictionaries({"window": count})),
        "inputs": {"topics": {"path": "/nowhere/topics", "fingerprint": "0"}},
        "seconds": {"encode": draw(st.floats(0, 1e6))},
        "versions": {"python": draw(TEXTS)},
        "machine": {"cores": draw(count)},
    }
    record["run"]["file"] = "r" + record["run"]["file"]
    return dumped(draw, record, indent=draw(st.sampled_from([None, 1]))), record


def object_holds(lines: list[str]) -> Any:
    return json.loads("\n".join(lines), object_pairs_hook=once)


@st.composite
def sidecars(draw: Draw) -> tuple[str, Any]:
    record = {
        "format": 1,
        "model": draw(st.none() | st.dictionaries(TEXTS, TEXTS, max_size=3)),
        "documents": draw(st.integers()),
        "document_template": draw(TEXTS),
        "seconds": draw(st.floats(allow_nan=False, allow_infinity=False)),
    }
    record = seal({**record, "files": {}})
    return dumped(draw, record, indent=draw(st.sampled_from([None, 1]))), record


def sidecar_of(path: Path) -> Any:
    return read_sidecar(path.parent)


@st.composite
def docid_files(draw: Draw) -> tuple[str, Any]:
    found = draw(st.lists(WORDS, min_size=1, max_size=6, unique=True))
    return "".join(f"{docid}\n" for docid in found), found


def docids_of(path: Path) -> Any:
    """The docids of an index directory with a vector for each line."""
    index = faiss.IndexFlatIP(4)
    lines = re.split(rb"\r\n|\r|\n", path.read_bytes())
    index.add(np.eye(max(1, len(lines) - (not lines[-1])), 4, dtype=np.float32))
    faiss.write_index(index, str(path.parent / "index"))
    return DenseIndex(path.parent).docids


def docids_hold(lines: list[str]) -> Any:
    return [line.strip() for line in lines]


def yaml_text(draw: Draw, fields: dict[str, Any]) -> str:
    fold = 10**9  # a folded text means its blank lines
    return str(yaml.safe_dump(fields, width=fold, allow_unicode=draw(st.booleans()), sort_keys=draw(st.booleans())))


@st.composite
def model_records(draw: Draw) -> tuple[str, Any]:
    length = st.integers(2, 10**6)
    fields = {
        "pooling": draw(st.sampled_from(catalog.POOLINGS)),
        "eos": draw(st.none() | YAML_TEXTS),
        "query": draw(YAML_TEXTS) + "{query}",
        "prompt": draw(st.sampled_from(VARIANTS)),
        "chat": draw(YAML_TEXTS),
        "lengths": {key: draw(length) for key in ("document", "query", "prompt")},
        "window": draw(st.integers(1, 100)),
        "dtype": draw(st.sampled_from(DTYPES)),
    }
    return yaml_text(draw, fields), fields


def model_of(path: Path) -> Any:
    spec = catalog.model(str(path.parent))
    lengths = {key: getattr(spec.lengths, key) for key in ("document", "query", "prompt")}
    names = ("pooling", "eos", "query", "prompt", "chat", "window", "dtype")
    return {**{key: getattr(spec, key) for key in names}, "lengths": lengths}


class Strict(yaml.SafeLoader):
    """A second opinion on YAML: a key that stands twice is seen."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        once([(key.value, None) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"])
        return super().construct_mapping(node, deep)


def yaml_holds(lines: list[str]) -> Any:
    return yaml.load("\n".join(lines), Strict)


@st.composite
def recipes(draw: Draw) -> tuple[str, Any]:
    fields = {
        "stage": draw(st.sampled_from(["embed", "rank"])),
        "learning_rate": draw(st.floats(1e-9, 1.0)),
        "batch": draw(st.integers(1, 10**6)),
        "warmup": draw(st.floats(0, 1)),
        "seed": draw(st.integers()),
        "cached": draw(st.booleans()),
        "tasks": {draw(YAML_TEXTS): {"noun": draw(YAML_TEXTS)}},
    }
    return yaml_text(draw, fields), fields


def recipe_of(path: Path) -> Any:
    found = recipe(str(path), None)
    fields = {key: getattr(found, key) for key in ("stage", "learning_rate", "batch", "warmup", "seed", "cached")}
    return {**fields, "tasks": {name: {"noun": task.noun} for name, task in found.tasks.items()}}


@st.composite
def configs(draw: Draw) -> tuple[str, Any]:
    kind = draw(st.sampled_from(["qwen3", "llama"]))
    return dumped(draw, {"model_type": kind, "hidden_size": draw(st.integers()), "x": draw(TEXTS)}), kind


def config_of(path: Path) -> Any:
    spec = catalog.model(str(path.parent))
    return {"e2rank-0.6b": "qwen3"}.get(next(n for n in ("e2rank-0.6b", "smollm2-135m") if same(spec, n)), "llama")


def same(spec: catalog.ModelSpec, name: str) -> bool:
    return spec.lengths == catalog.model(name).lengths and spec.query == catalog.model(name).query


def config_holds(lines: list[str]) -> Any:
    return json.loads("\n".join(lines))["model_type"]


# --- the forms of `convert` -------------------------------------------------------------------------------------------


@st.composite
def converted_runs(draw: Draw) -> tuple[str, Any]:
    found = draw(judged(SCORES))
    listed = {qid: list(hits.items()) for qid, hits in found.items()}
    if draw(st.booleans()):
        return dumped(draw, found, indent=draw(st.sampled_from([None, 2]))), listed
    requests = [
        {
            "query": {"text": "q", "qid": as_id(draw, qid)},
            "candidates": [{"docid": as_id(draw, docid), "score": score, "doc": {}} for docid, score in hits],
        }
        for qid, hits in listed.items()
    ]
    if draw(st.booleans()):
        return dumped(draw, requests, indent=draw(st.sampled_from([None, 2]))), listed
    return "".join(dumped(draw, row) + "\n" for row in requests), listed


def converted_run(path: Path) -> Any:
    form, _ = other.tell(path, "run")
    return pairs(other.run_of(path, form))


def is_trec(line: str) -> bool:
    """A line of a run or of qrels, whatever its qid begins with."""
    return line.split()[1:2] in (["Q0"], ["0"])


def converted_run_holds(lines: list[str]) -> Any:
    try:
        top = json.loads("\n".join(lines), object_pairs_hook=once)
    except ValueError:
        if is_trec(lines[0]) or not lines[0].lstrip().startswith("{"):
            return run_holds(lines)
        top = [json.loads(line, object_pairs_hook=once) for line in lines]
    if isinstance(top, dict) and not {"query", "candidates"} & top.keys():
        return {qid: [(docid, float(score)) for docid, score in hits.items()] for qid, hits in top.items()}
    return {
        str(row["query"]["qid"]): [(str(one["docid"]), float(one["score"])) for one in row["candidates"]]
        for row in (top if isinstance(top, list) else [top])
    }


@st.composite
def converted_qrels(draw: Draw) -> tuple[str, Any]:
    found = draw(judged(GRADES))
    return dumped(draw, found, indent=draw(st.sampled_from([None, 2]))), found


def converted_qrel(path: Path) -> Any:
    form, _ = other.tell(path, "qrels")
    return other.qrels_of(path, form)


def converted_qrels_hold(lines: list[str]) -> Any:
    if lines[0].lstrip().startswith("{") and not is_trec(lines[0]):
        top = json.loads("\n".join(lines), object_pairs_hook=once)
        return {qid: grades for qid, grades in top.items() if grades}
    return qrels_hold(lines)


FORMS = {
    "run": Form("x.trec", runs(), lambda path: pairs(read_run(path)), run_holds),
    "qrels": Form("x.qrels", qrels(), read_qrels, qrels_hold),
    "exclusions": Form("x.excluded", exclusions(), read_exclusions, exclusions_hold),
    "topics": Form("x.topics", topics(), read_topics, topics_hold),
    "corpus": Form("x.jsonl", corpora(), lambda path: [tuple(one) for one in documents(str(path))], corpus_holds),
    "examples": Form("x.jsonl", examples(), lambda path: [one[:3] for one in read_examples(path)], examples_hold),
    "docid": Form("docid", docid_files(), docids_of, docids_hold, packs=False, blanks=False),
    "RUN.json": Form("x.json", run_records(), provenance.read, object_holds, packs=False),
    "e2rank.json": Form("e2rank.json", sidecars(), sidecar_of, object_holds, packs=False),
    "e2rank.yaml": Form("e2rank.yaml", model_records(), model_of, yaml_holds, packs=False),
    "config.json": Form("config.json", configs(), config_of, config_holds, packs=False),
    "recipe": Form("x.yaml", recipes(), recipe_of, yaml_holds, packs=False),
    "convert run": Form("x.in", converted_runs(), converted_run, converted_run_holds),
    "convert qrels": Form("x.in", converted_qrels(), converted_qrel, converted_qrels_hold),
}
