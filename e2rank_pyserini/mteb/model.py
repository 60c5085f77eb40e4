"""A model as the mteb library evaluates it, with the text that each kind of task wants.

A query goes under its task's instruction, a document bare. Where both sides are alike (STS, clustering, classification,
pair classification, bitext mining, summarisation, and retrieval of questions for questions) every text goes under the
instruction, as in the evaluations of Qwen3-Embedding and of E2Rank's authors; a model whose query template has no place
for one gets the text alone. Such a text is cut at a document's length, not at a query's.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from e2rank_pyserini import catalog
from e2rank_pyserini.choices import WITHOUT_TASK
from e2rank_pyserini.mteb.instructions import has_bare_documents, instruction
from e2rank_pyserini.prompts import RERANK_TASK, query_text
from e2rank_pyserini.reranking import order, prompt_vectors
from e2rank_pyserini.types import E2RankError, Run, Topics, Vectors

if TYPE_CHECKING:
    from e2rank_pyserini.encoder import E2RankEncoder


class MtebModel:
    """What mteb calls an encoder. `encoded` says for each task what was encoded, and as what."""

    def __init__(self, encoder: "E2RankEncoder") -> None:
        self.encoder = encoder
        self.encoded: dict[str, list[dict[str, Any]]] = {}

    @property
    def experiment(self) -> dict[str, Any] | None:
        """What mteb names the results' folder after, where it is not the plain model."""
        return None

    @property
    def settings(self) -> dict[str, Any]:
        """All that a score depends on; the same weights elsewhere have the same."""
        kept = ("pooling", "eos", "query", "chat", "lengths", "identity")
        record = {key: self.encoder.record[key] for key in kept}
        return {**record, "dtype": self.encoder.dtype_name, **(self.experiment or {})}

    @property
    def mteb_model_meta(self) -> Any:
        """Name, revision (the identity of the weights) and sizes, as mteb files results under them."""
        from mteb.models.model_meta import ModelMeta

        spec = self.encoder.spec
        facts = {
            "name": _name(spec),
            "revision": self.encoder.identity,
            "embed_dim": self.encoder.dim,
            "max_tokens": spec.lengths.document,
            "n_parameters": sum(part.numel() for part in self.encoder.network.parameters()),
            "framework": ["PyTorch", "Transformers"],
            "similarity_fn_name": "cosine",
            "use_instructions": "{task}" in spec.query,
            "experiment_kwargs": self.experiment,
        }
        unknown = {name: None for name, field in ModelMeta.model_fields.items() if field.is_required()}
        return ModelMeta(**{**unknown, **facts})

    def encode(
        self,
        inputs: Iterable[Mapping[str, Sequence[str]]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: str | None = None,
        **_: Any,
    ) -> Vectors:
        """The texts of a data loader -> (n, dim), in its order. mteb's batches are not ours: a token budget is."""
        texts = [text for batch in inputs for text in batch["text"]]
        return self._encode(texts, task_metadata, (hf_split, hf_subset), prompt_type)

    def similarity(self, left: Any, right: Any) -> Any:
        """Cosines of (n, dim) with (m, dim): (n, m)."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(left, right)

    def similarity_pairwise(self, left: Any, right: Any) -> Any:
        """Cosines of (n, dim) with (n, dim), row by row: (n,)."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(left, right)

    def _encode(
        self, texts: Sequence[str], task_metadata: Any, part: tuple[str, str], prompt_type: str | None
    ) -> Vectors:
        encoder, template = self.encoder, self.encoder.spec.query
        before = dataclasses.replace(encoder.tally)
        if prompt_type == "document" and has_bare_documents(task_metadata):
            vectors = encoder.encode_documents(texts)
            self._note(task_metadata, part, {"as": "document", "text": "{text}"}, before)
            return vectors
        task, source = instruction(task_metadata, part[1])
        if prompt_type == "query":
            vectors = encoder.encode_queries(texts, task)
        else:
            vectors = encoder.encode_documents([query_text(text, task, template) for text in texts])
        kind = "query" if prompt_type == "query" else "symmetric"
        said = {"as": kind, "text": query_text("{text}", task, template)}
        if "{task}" in template:
            said["instruction_from"] = source
        self._note(task_metadata, part, said, before)
        return vectors

    def _note(self, task_metadata: Any, part: tuple[str, str], said: dict[str, Any], before: Any) -> None:
        """Add what was encoded since `before` to the notes of a task; one note a split, subset and text."""
        split, subset = part
        head = {"split": split, "subset": subset, **said}
        notes = self.encoded.setdefault(task_metadata.name, [])
        note = next((one for one in notes if head.items() <= one.items()), None)
        if note is None:
            note = {**head, "counts": {}}
            notes.append(note)
        for key, count in self.encoder.tally.since(before).items():
            note["counts"][key] = note["counts"].get(key, 0) + count


class ListwiseMtebModel(MtebModel):
    """The same, but tasks that give each query its candidates (reranking) are scored by the listwise prompt.

    The candidates are first ordered by their cosine with the query's own vector, whatever order they come in: mteb's
    reranking sets list the relevant ones first, so a prompt of the first `window` as given would read the labels.
    """

    def __init__(self, encoder: "E2RankEncoder", window: int | None = None) -> None:
        super().__init__(encoder)
        self.window = window or encoder.spec.window

    @property
    def experiment(self) -> dict[str, Any]:
        return {"listwise": self.encoder.spec.prompt, "window": self.window}

    def index(self, corpus: Any, **_: Any) -> None:
        """Keep the corpus for `search`, which encodes what it needs of it."""
        self._corpus = corpus

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        encode_kwargs: Any,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        num_proc: int | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """qid -> docid -> score, at most `top_k` a query. Without candidates, mteb's own search by `encode`.

        So where a task retrieves: BRIGHT's give as candidates whatever a query does not exclude.
        """
        if top_ranked is None or "Reranking" not in task_metadata.type:
            known = dict(task_metadata=task_metadata, hf_split=hf_split, hf_subset=hf_subset, num_proc=num_proc)
            return self._search_plainly(queries, top_k, top_ranked, encode_kwargs=encode_kwargs, **known)
        part = (hf_split, hf_subset)
        topics = dict(zip(queries["id"], _texts(queries, task_metadata, "query"), strict=True))
        candidates = {qid: set(top_ranked.get(qid, ())) for qid in topics}
        texts = self._candidate_texts(candidates, task_metadata)
        vectors = dict(zip(texts, self._encode(list(texts.values()), task_metadata, part, "document"), strict=True))
        plainly = self._encode(list(topics.values()), task_metadata, part, "query")
        first: Run = {}
        for (qid, given), vector in zip(candidates.items(), plainly, strict=True):
            if given:  # equal cosines by text: in some sets the ids name the label, as the order given does
                docids = sorted(given, key=lambda docid: (texts[docid], docid))
                first[qid] = order(docids, _rows(vectors, docids), vector)
        enhanced = self._prompts(first, topics, texts, task_metadata, part)
        scores: dict[str, dict[str, float]] = {qid: {} for qid in topics}
        for qid, hits in first.items():
            docids = [hit.docid for hit in hits]
            scores[qid] = dict(order(docids, _rows(vectors, docids), enhanced[qid])[:top_k])
        return scores

    def _search_plainly(self, queries: Any, top_k: int, top_ranked: Any, **known: Any) -> dict[str, dict[str, float]]:
        from mteb.models.search_wrappers import SearchEncoderWrapper

        plain = SearchEncoderWrapper(self)
        plain.index(self._corpus, **known)
        found: dict[str, dict[str, float]] = plain.search(queries, top_k=top_k, top_ranked=top_ranked, **known)
        return found

    def _prompts(
        self, first: Run, topics: Topics, texts: Mapping[str, str], task_metadata: Any, part: tuple[str, str]
    ) -> dict[str, Vectors]:
        before = dataclasses.replace(self.encoder.tally)
        vectors = prompt_vectors(first, topics, texts, self.encoder, window=self.window)
        variant = self.encoder.spec.prompt
        task = None if variant in WITHOUT_TASK else RERANK_TASK
        said = {"as": "prompt", "variant": variant, "window": self.window, "task": task}
        self._note(task_metadata, part, {**said, "queries_without_candidates": len(topics) - len(first)}, before)
        return vectors

    def _candidate_texts(self, candidates: Mapping[str, set[str]], task_metadata: Any) -> dict[str, str]:
        """docid -> text, in the order of the corpus, which the candidates' own order cannot change."""
        wanted = set().union(*candidates.values())
        ids = list(self._corpus["id"])
        rows = [row for row, docid in enumerate(ids) if docid in wanted]
        found = self._corpus.select(rows)
        texts = dict(zip(found["id"], _texts(found, task_metadata, "document"), strict=True))
        for qid, docids in candidates.items():
            if lacking := docids - texts.keys():
                raise E2RankError(
                    f"task {task_metadata.name}: query {qid}: candidate {min(lacking)} is not in the corpus"
                )
        return texts


def _name(spec: catalog.ModelSpec) -> str:
    """mteb's names are OWNER/NAME; those that the hub has keep theirs."""
    if spec.adapter is None and re.fullmatch(r"[\w.-]+/[\w.-]+", spec.source) and not Path(spec.source).is_dir():
        return spec.source
    return f"local/{Path(spec.name).name}"


def _rows(vectors: Mapping[str, Vectors], docids: Sequence[str]) -> Vectors:
    return np.stack([vectors[docid] for docid in docids])


def _texts(rows: Any, task_metadata: Any, prompt_type: str) -> list[str]:
    """The texts of queries or documents as mteb makes them: title and text, query and instruction, in one."""
    from mteb._create_dataloaders import create_dataloader
    from mteb.types import PromptType

    loader = create_dataloader(rows, task_metadata=task_metadata, prompt_type=PromptType(prompt_type))
    return [text for batch in loader for text in batch["text"]]
