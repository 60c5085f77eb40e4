"""The steps of `e2rank data`: first stages -> docids drawn -> texts -> rankings. `arguments` is its command line."""

import math
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from e2rank_pyserini import corpus as corpora
from e2rank_pyserini.commands.inputs import admitted_run, corpus_source, exclusions_of, judgments, retrieval_task
from e2rank_pyserini.commands.opening import check_index, document_template, loaded_encoder, opened_index
from e2rank_pyserini.datasets import Dataset
from e2rank_pyserini.exclusions import check_disjoint, most_excluded
from e2rank_pyserini.inference.tally import Tally, cut
from e2rank_pyserini.prompts import document_text
from e2rank_pyserini.reranking import missing, rescore
from e2rank_pyserini.shards.sharded import fingerprint
from e2rank_pyserini.storage import local
from e2rank_pyserini.training.examples import UNKNOWN, Example
from e2rank_pyserini.training.labelling import (
    Listed,
    distinct,
    example,
)
from e2rank_pyserini.training.mining import (
    NO_TEXT,
    Draw,
    Drawn,
    Dropped,
    draw_lists,
    draw_pairs,
    negatives_of,
    positives_of,
)
from e2rank_pyserini.training.ranking import relevances
from e2rank_pyserini.trec import read_run
from e2rank_pyserini.types import Document, E2RankError, Hit, Qrels, Run, Topics

if TYPE_CHECKING:
    from e2rank_pyserini.encoder import E2RankEncoder
    from e2rank_pyserini.index import DenseIndex

TIED, COPIES = "lists whose documents all tie", "copies of a document of the list"


def make(arguments: Namespace, named: Dataset | None, topics: Topics) -> tuple[list[Example], Dropped]:
    """The examples that the command line asks for, run after run and topic after topic, and what was dropped and why.

    Raises E2RankError for whatever is missing or does not fit.
    """
    needed = arguments.labels == "qrels" or arguments.with_qrels is not None
    qrels, relevance = judgments(arguments, named) if needed else (None, 1)
    dense = _dense(arguments, named) if arguments.index else None
    dropped: Dropped = Counter()
    drawn = _drawn(arguments, named, topics, qrels, relevance, dense, dropped)
    template = document_template(dense[0] if dense else None, named)
    if dense is not None:
        encoder = dense[1]
        print(f"{encoder.spec.name}: {cut(encoder.tally.since(Tally()))}", file=sys.stderr)
    source = corpus_source(arguments, named)
    lists = _lists(arguments, source, template, topics, drawn, qrels or {}, relevance, dropped)
    if not lists:
        return [], dropped
    name = arguments.source or (named.spec.name if named else UNKNOWN)
    examples = []
    for one, labels in zip(lists, relevances(arguments, named, lists), strict=True):
        found = labels if isinstance(labels, str) else example(one, labels, name) or TIED
        if isinstance(found, str):
            dropped[found] += 1
        else:
            examples.append(found)
    return examples, dropped


def _dense(arguments: Namespace, named: Dataset | None) -> "tuple[DenseIndex, E2RankEncoder]":
    fingerprint(local(arguments.index))  # refuse damaged bytes before FAISS reads them
    opened = opened_index(arguments)
    encoder = loaded_encoder(arguments, opened, named)
    check_index(opened, encoder, arguments, named)
    return opened, encoder


def _first_stages(
    arguments: Namespace,
    named: Dataset | None,
    topics: Topics,
    qrels: Qrels | None,
    dense: "tuple[DenseIndex, E2RankEncoder] | None",
) -> list[Run]:
    """The runs that candidates come from, read or made here, without what no query may be given."""
    excluded = exclusions_of(arguments, named)
    check_disjoint(excluded, qrels or {})  # or a positive would be what the query must not be given
    hits = arguments.depth + most_excluded(excluded, topics)
    return [admitted_run(arguments, run, excluded) for run in _found(arguments, named, topics, dense, hits)]


def _found(
    arguments: Namespace,
    named: Dataset | None,
    topics: Topics,
    dense: "tuple[DenseIndex, E2RankEncoder] | None",
    hits: int,
) -> list[Run]:
    if arguments.mine == "bm25":
        from e2rank_pyserini.pyserini.bm25 import first_stage

        source, threads = corpus_source(arguments, named), arguments.threads or 1
        lucene = arguments.lucene_index
        return [first_stage(source, lucene, "--lucene-index", topics, hits=hits, threads=threads)]
    if dense is not None and arguments.mine == "dense":
        from e2rank_pyserini.retrieval import search

        return [search(topics, *dense, hits=hits, task=retrieval_task(arguments.task, named))]
    runs = []
    for path in arguments.run:
        runs.append(read_run(Path(path)))
        if not topics.keys() & runs[-1].keys():
            raise E2RankError(f"{path}: none of the {len(topics)} topics is in this run")
    return runs


def _drawn(
    arguments: Namespace,
    named: Dataset | None,
    topics: Topics,
    qrels: Qrels | None,
    relevance: int,
    dense: "tuple[DenseIndex, E2RankEncoder] | None",
    dropped: Dropped,
) -> list[Drawn]:
    """What is to be written, by docids: run after run, topic after topic."""
    how = Draw(arguments.documents, arguments.depth, arguments.lists, arguments.seed, arguments.keep_top)
    drawn = []
    for number, run in enumerate(_first_stages(arguments, named, topics, qrels, dense)):
        if arguments.pairs and qrels is not None:
            likeness = None
            if dense is not None and arguments.margin is not None:
                likeness = _likeness(arguments, named, topics, run, qrels, relevance, dense)
            found, lost = draw_pairs(
                run,
                topics,
                qrels,
                how,
                number=number,
                relevance=relevance,
                skip_top=arguments.skip_top,
                likeness=likeness,
                margin=arguments.margin or 0.0,
            )
        else:
            judged_only = arguments.unjudged == "skip"
            found, lost = draw_lists(
                run, topics, how, number=number, qrels=qrels, relevance=relevance, judged_only=judged_only
            )
        drawn += found
        dropped.update(lost)
    once = list(dict.fromkeys(drawn))
    dropped["lists that another run gave too"] += len(drawn) - len(once)
    return once


def _likeness(
    arguments: Namespace,
    named: Dataset | None,
    topics: Topics,
    run: Run,
    qrels: Qrels,
    relevance: int,
    dense: "tuple[DenseIndex, E2RankEncoder]",
) -> dict[str, dict[str, float]]:
    """qid -> docid -> cosine with the query, of every hit that may be a negative and every positive with a text."""
    opened, encoder = dense
    wanted: Run = {}
    beside: dict[str, list[str]] = {}  # positives, which unlike a run's hits may be unknown to the corpus
    for qid in topics:
        positives = positives_of(qrels, qid, relevance)
        if positives and run.get(qid):
            negatives = negatives_of(run[qid], positives, arguments.skip_top, arguments.depth)
            wanted[qid] = [Hit(docid, 0.0) for docid in (*positives, *negatives)]
            beside[qid] = positives
    depth = max(map(len, wanted.values()), default=1)
    absent = set(missing(wanted, opened, depth=depth))
    documents = corpora.find(corpus_source(arguments, named), absent)
    unknown = absent - documents.keys()
    lost = {qid: unknown.intersection(positives) for qid, positives in beside.items()}
    wanted = {qid: [hit for hit in hits if hit.docid not in lost[qid]] for qid, hits in wanted.items()}
    vectors = encoder.encode_queries([topics[qid] for qid in wanted], retrieval_task(arguments.task, named))
    scored = rescore(
        wanted,
        dict(zip(wanted, vectors, strict=True)),
        _texts(documents.values(), document_template(opened, named)),
        opened,
        encoder,
        depth=depth,
    )
    return {qid: {hit.docid: hit.score for hit in hits} for qid, hits in scored.items()}


def _lists(
    arguments: Namespace,
    source: str,
    template: str,
    topics: Topics,
    drawn: Sequence[Drawn],
    qrels: Qrels,
    relevance: int,
    dropped: Dropped,
) -> list[Listed]:
    """The drawn lists, each text once: a copy of a positive is no negative, and nothing ranks a text above itself.

    A hit that the corpus lacks is an error, a judged positive is dropped.
    """
    judged = {one.qid: qrels.get(one.qid, {}) for one in drawn}
    wanted = {docid for one in drawn for docid in one.docids}.union(*judged.values())
    texts = _texts(corpora.find(source, wanted).values(), template)
    if arguments.max_words:
        texts = {docid: _cut(text, arguments.max_words) for docid, text in texts.items()}
    hits = {docid for one in drawn for docid in (one.docids[1:] if arguments.pairs else one.docids)}
    unknown = hits - texts.keys()
    if unknown:
        raise E2RankError(f"document {min(unknown)}: in the run but not in the corpus ({len(unknown)} such)")
    known = [one for one in drawn if one.docids[0] in texts]
    dropped[NO_TEXT] += len(drawn) - len(known)
    if arguments.pairs:
        drawn, known = known, [one for one in known if texts[one.docids[0]].strip()]
        dropped["positives whose text is empty"] += len(drawn) - len(known)
    graded = {qid: _by_text(grades, texts) for qid, grades in judged.items()}
    found = []
    for qid, docids in known:
        positives = {text for text, grade in graded[qid].items() if arguments.pairs and grade >= relevance}
        documents = [(docid, texts[docid]) for docid in docids]
        found.append(distinct(qid, topics[qid], documents, graded[qid], positives))
    dropped[COPIES] += sum(len(one.docids) for one in known) - sum(len(one.texts) for one in found)
    return _different(found, dropped)


def _different(lists: Sequence[Listed], dropped: Dropped) -> list[Listed]:
    """Those of several texts, the same texts of a query once."""
    once: dict[tuple[str, tuple[str, ...]], Listed] = {}
    for one in lists:
        once.setdefault((one.qid, one.texts), one)
    dropped["lists that differ from one in copies alone"] += len(lists) - len(once)
    several = [one for one in once.values() if len(one.texts) > 1]
    dropped["lists of copies alone"] += len(once) - len(several)
    return several


def _by_text(grades: Mapping[str, int], texts: Mapping[str, str]) -> dict[str, float]:
    """The best grade of each judged text: of copies often one alone was judged, and none of the list's perhaps."""
    found: dict[str, float] = {}
    for docid, grade in grades.items():
        if docid in texts:
            found[texts[docid]] = max(float(grade), found.get(texts[docid], -math.inf))
    return found


def _texts(documents: Iterable[Document], template: str) -> dict[str, str]:
    return {document.docid: document_text(document.title, document.text, template) for document in documents}


def _cut(text: str, words: int) -> str:
    """The first words; a text that is short enough stays as it is."""
    found = text.split()
    return text if len(found) <= words else " ".join(found[:words])
