"""The steps of `e2rank data`: first stages -> docids drawn -> texts -> rankings. `arguments` is its command line."""

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from e2rank_pyserini import corpus as corpora
from e2rank_pyserini.datasets import Dataset
from e2rank_pyserini.exclusions import most_excluded
from e2rank_pyserini.inputs import (
    admitted_run,
    check_index,
    corpus_source,
    document_template,
    exclusions_of,
    judgments,
    loaded_encoder,
    opened_index,
    retrieval_task,
)
from e2rank_pyserini.prompts import document_text
from e2rank_pyserini.reranking import missing, rescore
from e2rank_pyserini.sharded import fingerprint
from e2rank_pyserini.storage import local
from e2rank_pyserini.tally import Tally, cut
from e2rank_pyserini.training.answers import answered, place_of
from e2rank_pyserini.training.endpoint import Endpoint
from e2rank_pyserini.training.examples import Example, positions
from e2rank_pyserini.training.labelling import (
    Listed,
    Scorer,
    by_cross_encoder,
    by_encoder,
    by_run,
    combined,
    example,
    grades,
    levels,
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
from e2rank_pyserini.trec import read_run
from e2rank_pyserini.types import Document, E2RankError, Hit, Qrels, Run, Topics

if TYPE_CHECKING:
    from e2rank_pyserini.encoder import E2RankEncoder
    from e2rank_pyserini.index import DenseIndex

RUN, CROSS = "run:", "cross:"  # what a scorer that is no encoder begins with
TIED = "lists whose documents all tie"


def make(arguments: Namespace, named: Dataset | None, topics: Topics) -> tuple[list[Example], Dropped]:
    """The examples that the command line asks for, run after run and topic after topic, and what was dropped and why.

    Raises E2RankError for whatever is missing or does not fit.
    """
    qrels = _qrels(arguments, named)
    dense = _dense(arguments, named) if arguments.index else None
    dropped: Dropped = Counter()
    drawn = _drawn(arguments, named, topics, qrels, dense, dropped)
    template = document_template(dense[0] if dense else None, named)
    if dense is not None:
        encoder = dense[1]
        print(f"{encoder.spec.name}: {cut(encoder.tally.since(Tally()))}", file=sys.stderr)
    lists = _with_texts(arguments, corpus_source(arguments, named), template, topics, drawn, dropped)
    if not lists:
        return [], dropped
    source = arguments.source or (named.spec.name if named else "unknown")
    examples = []
    for listed, relevance in zip(lists, _relevances(arguments, named, lists, qrels), strict=True):
        found = relevance if isinstance(relevance, str) else example(listed, relevance, source) or TIED
        if isinstance(found, str):
            dropped[found] += 1
        else:
            examples.append(found)
    return examples, dropped


def _qrels(arguments: Namespace, named: Dataset | None) -> Qrels | None:
    """The judgments, where something needs them."""
    if arguments.labels != "qrels" and arguments.with_qrels is None:
        return None
    return judgments(arguments, named)[0]


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
    dense: "tuple[DenseIndex, E2RankEncoder] | None",
) -> list[Run]:
    """The runs that candidates come from, read or made here, without what no query may be given."""
    excluded = exclusions_of(arguments, named)
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
    dense: "tuple[DenseIndex, E2RankEncoder] | None",
    dropped: Dropped,
) -> list[Drawn]:
    """What is to be written, by docids: run after run, topic after topic."""
    how = Draw(arguments.documents, arguments.depth, arguments.lists, arguments.seed, arguments.keep_top)
    relevance = arguments.relevance or (named.spec.relevance if named else 1)
    drawn = []
    for number, run in enumerate(_first_stages(arguments, named, topics, dense)):
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
    return drawn


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


def _with_texts(
    arguments: Namespace, source: str, template: str, topics: Topics, drawn: Sequence[Drawn], dropped: Dropped
) -> list[Listed]:
    """The drawn lists with queries and texts. A hit that the corpus lacks is an error, a judged positive is dropped."""
    texts = _texts(corpora.find(source, {docid for one in drawn for docid in one.docids}).values(), template)
    if arguments.max_words:
        texts = {docid: _cut(text, arguments.max_words) for docid, text in texts.items()}
    hits = {docid for one in drawn for docid in (one.docids[1:] if arguments.pairs else one.docids)}
    unknown = hits - texts.keys()
    if unknown:
        raise E2RankError(f"document {min(unknown)}: in the run but not in the corpus ({len(unknown)} such)")
    known = [one for one in drawn if one.docids[0] in texts]
    dropped[NO_TEXT] += len(drawn) - len(known)
    return [Listed(qid, topics[qid], docids, tuple(texts[docid] for docid in docids)) for qid, docids in known]


def _relevances(
    arguments: Namespace, named: Dataset | None, lists: Sequence[Listed], qrels: Qrels | None
) -> Iterable[Sequence[float] | str]:
    """For each list a relevance a document, or the reason why there is none."""
    if arguments.pairs:
        return [[1.0] + [0.0] * (len(one.docids) - 1) for one in lists]
    if arguments.labels == "llm":
        return _by_llm(arguments, lists)
    judged = [grades(one, (qrels or {}).get(one.qid, {})) for one in lists]
    if arguments.labels == "qrels":
        return judged
    scored = [_scorer(name, arguments, named)(lists) for name in arguments.scorer]
    return [
        levels(combined(row, grade, arguments.with_qrels or 0.0))
        for row, grade in zip(zip(*scored, strict=True), judged, strict=True)
    ]


def _by_llm(arguments: Namespace, lists: Sequence[Listed]) -> Iterable[Sequence[float] | str]:
    from tqdm import tqdm

    endpoint = Endpoint(arguments.endpoint, arguments.llm, arguments.parallel, arguments.timeout, arguments.retries)
    asked = [(one.query, one.texts) for one in lists]
    coming = answered(asked, endpoint, place_of(Path(arguments.output)))
    found = tqdm(coming, total=len(asked), unit=" lists", desc="llm", disable=None, file=sys.stderr)
    return [order if isinstance(order, str) else positions(order) for order in found]


def _scorer(name: str, arguments: Namespace, named: Dataset | None) -> Scorer:
    """A scorer by its prefix; without one, an encoder."""
    if name.startswith(RUN):
        return by_run(Path(name.removeprefix(RUN)))
    if name.startswith(CROSS):
        return by_cross_encoder(
            name.removeprefix(CROSS),
            device=arguments.device,
            dtype=arguments.dtype or "float32",  # what bfloat16 cannot tell apart would be tied
            max_length=arguments.max_length,
            batch_tokens=arguments.batch_tokens,
        )
    encoder = loaded_encoder(Namespace(**{**vars(arguments), "encoder": name}), None, named)
    return by_encoder(encoder, retrieval_task(arguments.task, named))


def _texts(documents: Iterable[Document], template: str) -> dict[str, str]:
    return {document.docid: document_text(document.title, document.text, template) for document in documents}


def _cut(text: str, words: int) -> str:
    """The first words; a text that is short enough stays as it is."""
    found = text.split()
    return text if len(found) <= words else " ".join(found[:words])
