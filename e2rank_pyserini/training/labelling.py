"""What ranks the documents of a list: judgments, or the scores of other models and runs."""

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from e2rank_pyserini.inference.tally import Tally, cut
from e2rank_pyserini.reranking import cosines
from e2rank_pyserini.training.examples import Example, ranked
from e2rank_pyserini.trec import read_run
from e2rank_pyserini.types import E2RankError, first_line

if TYPE_CHECKING:
    from e2rank_pyserini.encoder import E2RankEncoder

_CHUNK = 4096  # pairs that are tokenised together, so that batches hold pairs of like length
_DIGITS = 9  # of z-scores that are compared: what sums round differently is no difference
_LENGTH = 512  # tokens of a query and a document together, where a cross-encoder takes more


class Listed(NamedTuple):
    """A list without its ranking: n texts in first-stage order, all different, their copies' docids and grades."""

    qid: str
    query: str
    texts: tuple[str, ...]
    docids: tuple[tuple[str, ...], ...]
    grades: tuple[float, ...]


Scores = NDArray[np.float64]  # (n,), a list's; nan where the scorer does not know the document
Scorer = Callable[[Sequence[Listed]], list[Scores]]


def example(listed: Listed, relevance: Sequence[float], source: str) -> Example | None:
    """The list ranked by `relevance`, (n,), ties in first-stage order; None where all documents tie."""
    if len(set(relevance)) < 2:
        return None
    return Example(listed.query, listed.texts, ranked(relevance), source, tuple(map(float, relevance)))


def distinct(
    qid: str,
    query: str,
    documents: Iterable[tuple[str, str]],
    graded: Mapping[str, float],
    positives: Collection[str] = (),
) -> Listed:
    """The list of these (docid, text), each text once, in its first copy's place; what is not `graded` has grade 0.

    `positives`: texts that none but the first document may have, as in a line of a positive and its negatives.
    """
    kept: dict[str, list[str]] = {}
    for docid, text in documents:
        if not (kept and text in positives):
            kept.setdefault(text, []).append(docid)
    copies = tuple(tuple(docids) for docids in kept.values())
    return Listed(qid, query, tuple(kept), copies, tuple(graded.get(text, 0.0) for text in kept))


def levels(scores: Scores) -> list[float]:
    """Scores as relevance, (n,): n for the best, 1 less for every document that is better; equal scores are tied."""
    near = np.round(scores, _DIGITS)
    return [float(len(near) - np.count_nonzero(near > score)) for score in near]


def combined(scores: Sequence[Scores], judged: Sequence[float] | None = None, weight: float = 0.0) -> Scores:
    """The mean of the scorers' z-scores in one list, plus `weight` x grade, (n,).

    A document that a scorer does not know counts one standard deviation below the last that it knows, so that several
    such are last and tied. A scorer that tells none apart counts 0.
    """
    total: Scores = np.mean([_standardised(row) for row in scores], axis=0)
    return total if judged is None else total + weight * np.asarray(judged, dtype=np.float64)


def by_encoder(encoder: "E2RankEncoder", task: str | None) -> Scorer:
    """Cosines of query and document; every different text is encoded once."""

    def score(lists: Sequence[Listed]) -> list[Scores]:
        queries = {query: row for row, query in enumerate(dict.fromkeys(one.query for one in lists))}
        texts = {text: row for row, text in enumerate(dict.fromkeys(text for one in lists for text in one.texts))}
        asked = encoder.encode_queries(list(queries), task)  # (queries, dim)
        answers = encoder.encode_documents(list(texts))  # (texts, dim)
        print(f"scorer {encoder.spec.name}: {cut(encoder.tally.since(Tally()))}", file=sys.stderr)
        found = []
        for one in lists:
            vectors = answers[[texts[text] for text in one.texts]]  # (n, dim)
            found.append(cosines(vectors, asked[queries[one.query]]).astype(np.float64))
        return found

    return score


def by_run(path: Path) -> Scorer:
    """The scores of a run, of a text's copies the best; nan for texts that it lacks."""
    run = read_run(path)

    def score(lists: Sequence[Listed]) -> list[Scores]:
        if not any(one.qid in run for one in lists):
            raise E2RankError(f"{path}: none of the queries is in this run (the first is {lists[0].qid})")
        lacking = sum(one.qid not in run for one in lists)
        if lacking:
            print(f"scorer {path}: {lacking} of {len(lists)} lists are of queries that it lacks", file=sys.stderr)
        known = {qid: {hit.docid: hit.score for hit in run.get(qid, [])} for qid in {one.qid for one in lists}}
        return [np.array([_best(known[one.qid], copies) for copies in one.docids]) for one in lists]

    return score


def by_cross_encoder(
    name: str, *, device: str | None, dtype: str, max_length: int | None, batch_tokens: int | None
) -> Scorer:
    """The logit of a sequence-classification model with one label on (query, document); each pair is scored once."""
    from e2rank_pyserini.inference.devices import choose_device

    device = choose_device(device)
    network, tokenizer = _cross_encoder(name, device, dtype)
    length = _pair_length(name, network, tokenizer, max_length)
    budget = batch_tokens or (4096 if device == "cpu" else 65536)

    def score(lists: Sequence[Listed]) -> list[Scores]:
        from tqdm import tqdm

        pairs = list(dict.fromkeys((one.query, text) for one in lists for text in one.texts))
        scores: dict[tuple[str, str], float] = {}
        full = 0
        with tqdm(total=len(pairs), unit=" pairs", desc="cross", disable=None, file=sys.stderr) as bar:
            for start in range(0, len(pairs), _CHUNK):
                part = pairs[start : start + _CHUNK]
                found, filled = _logits(network, tokenizer, part, length, budget)
                full += filled
                scores |= zip(part, found.tolist(), strict=True)
                bar.update(len(part))
        if full:
            print(f"scorer {name}: {full} of {len(pairs)} pairs fill its {length} tokens or are cut", file=sys.stderr)
        if not np.isfinite(list(scores.values())).all():
            raise E2RankError(f"model {name}: gave a score that is not a number")
        return [np.array([scores[one.query, text] for text in one.texts]) for one in lists]

    return score


def _best(known: Mapping[str, float], docids: Iterable[str]) -> float:
    return max((known[docid] for docid in docids if docid in known), default=np.nan)


def _standardised(scores: Scores) -> Scores:
    known = scores[~np.isnan(scores)]
    if not len(known):
        return np.zeros_like(scores)
    spread = float(known.std()) if known.max() > known.min() else 0.0
    filled = np.where(np.isnan(scores), known.min() - (spread or 1.0), scores)
    if filled.max() == filled.min():  # not by the deviation, which rounding keeps from 0
        return np.zeros_like(scores)
    standardised: Scores = (filled - filled.mean()) / filled.std()
    return standardised


def _cross_encoder(name: str, device: str, dtype: str) -> tuple[Any, Any]:
    """The model in evaluation mode and its tokenizer; E2RankError when it is not whole or gives no single score."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from e2rank_pyserini.inference.devices import choose_dtype
    from e2rank_pyserini.inference.loading import quiet

    try:
        with quiet():  # what it would warn of is checked below, and is an error here
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            network, report = AutoModelForSequenceClassification.from_pretrained(
                name, dtype=choose_dtype(dtype, device), output_loading_info=True, trust_remote_code=False
            )
    except Exception as error:
        raise E2RankError(f"model {name}: cannot be loaded as a cross-encoder: {first_line(error)}") from error
    if report["missing_keys"]:
        raise E2RankError(
            f"model {name}: is no cross-encoder, or is not whole: its weights lack {min(report['missing_keys'])}"
        )
    if network.config.num_labels != 1:
        raise E2RankError(
            f"model {name}: expected a cross-encoder with one score, got one with {network.config.num_labels} labels"
        )
    if tokenizer.pad_token_id is None:
        raise E2RankError(f"model {name}: its tokenizer has no padding token")
    network.config.pad_token_id = tokenizer.pad_token_id  # decoders find the last token by it
    return network.to(device).eval(), tokenizer


def _pair_length(name: str, network: Any, tokenizer: Any, wanted: int | None) -> int:
    """Tokens of a pair: what was asked for, else as many as the model takes, up to 512."""
    from e2rank_pyserini.encoder import positions

    places = positions(getattr(network, network.base_model_prefix, network)) or _LENGTH
    if wanted is not None and wanted > places:
        raise E2RankError(f"model {name}: pairs of up to {wanted} tokens were asked for, but it has {places}")
    return int(wanted or min(_LENGTH, places, tokenizer.model_max_length))


def _logits(
    network: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], length: int, budget: int
) -> tuple[Scores, int]:
    """(pairs,) the model's score of each, and how many fill `length`; a longer one loses the end of its longer text."""
    import torch

    from e2rank_pyserini.inference.forward import batches

    queries, texts = map(list, zip(*pairs, strict=True))
    rows = dict(tokenizer(queries, texts, truncation="longest_first", max_length=length))
    scores: Scores = np.empty(len(pairs), dtype=np.float64)
    for batch in batches([len(row) for row in rows["input_ids"]], budget):
        longest = max(len(rows["input_ids"][number]) for number in batch)
        inputs = {}
        for key, values in rows.items():  # (B, T) each, padded on the right
            fill = tokenizer.pad_token_id if key == "input_ids" else 0
            padded = [values[number] + [fill] * (longest - len(values[number])) for number in batch]
            inputs[key] = torch.tensor(padded, device=network.device)
        with torch.inference_mode():
            scores[batch] = network(**inputs).logits[:, 0].double().cpu().numpy()
    return scores, sum(len(row) >= length for row in rows["input_ids"])
