"""A run being refined: what `e2rank rerank` and `e2rank feedback` open once and use in every pass."""

import functools
import sys
from argparse import Namespace
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from e2rank_pyserini import corpus as corpora
from e2rank_pyserini.commands.inputs import (
    admitted_run,
    corpus_source,
    exclusions_of,
    fingerprints,
    named_dataset,
    rerank_task,
    retrieval_task,
    topics_of,
)
from e2rank_pyserini.commands.opening import (
    check_index,
    document_template,
    loaded_encoder,
    opened_index,
    reads_task,
    tell_other_corpus,
)
from e2rank_pyserini.commands.outputs import Used, report, run_tag, tell_few, tell_parts, write_with_record
from e2rank_pyserini.exclusions import admitted, most_excluded
from e2rank_pyserini.feedback import Part, average, interpolate, prf_vectors, reading, rocchio, search_again, slide
from e2rank_pyserini.inference.tally import cut
from e2rank_pyserini.prompts import document_text
from e2rank_pyserini.remembering import Memory
from e2rank_pyserini.reranking import check_known, check_texts, missing, prompt_vectors, rescore
from e2rank_pyserini.timing import timed
from e2rank_pyserini.trec import read_run
from e2rank_pyserini.types import E2RankError, Run, Vectors

_PRF_WINDOW = 3  # Pyserini's --rocchio-topk


class Refining:
    """The inputs of one command line, and the steps that each pass is made of.

    `given` is the run as it was read, `first` what the passes begin with: all of it where the `whole` index is
    searched, else its first `depth` hits, which are rescored. `weights` are those of the interpolated scores, empty for
    none. What is encoded is remembered until the run is written; within `with`, it is kept where that fails.
    """

    def __init__(self, arguments: Namespace, weights: dict[str, float], *, whole: bool) -> None:
        self.arguments, self.weights, self.whole = arguments, weights, whole
        self.data = named_dataset(arguments)
        with timed("read"):
            self.excluded = exclusions_of(arguments, self.data)
            self.given = admitted_run(arguments, read_run(Path(arguments.run)), self.excluded)
            self.topics = topics_of(arguments, self.data)
        check_known(self.given, self.topics, self._whose())
        self.first = self.given if whole else {qid: hits[: arguments.depth] for qid, hits in self.given.items()}
        self.source = corpus_source(arguments, self.data) if arguments.corpus or self.data else None
        self.inputs = fingerprints(arguments, self.topics, self.excluded, source=self.source, index=arguments.index)
        with timed("load"):
            self.index = opened_index(arguments)
        self.encoder = loaded_encoder(arguments, self.index, self.data)
        check_index(self.index, self.encoder, arguments, self.data)
        self.texts: dict[str, str] = {}
        self.encoded: dict[str, Vectors] = {}  # of documents that the index lacks
        most = self.encoder.spec.window if arguments.by == "prompt" else _PRF_WINDOW
        self.window = arguments.window or (most if whole else min(most, arguments.depth))
        self.reads_task = reads_task(arguments, self.encoder.spec, plain=arguments.by == "query")
        self.encoder.forward.memory = self.memory = Memory(Path(arguments.output), self.encoder)

    def __enter__(self) -> "Refining":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.memory.leave(interrupted=kind is KeyboardInterrupt)

    def _whose(self) -> str:
        """What the topics are, in words."""
        if self.arguments.topics or self.data is None or self.data.folder is None:
            return "the topics"
        return f"the topics that {self.data.qrels_file()} judges; --topics FILE takes all of a file"

    def passes(self) -> Run:
        """The run after all passes."""
        run, times = self.first, self.arguments.passes
        if not self.whole:  # before anything is encoded; a pass changes the order alone
            absent = missing(run, self.index, depth=self.arguments.depth)
            self.need({*absent, *self._readable(run)})
            check_texts(absent, self.texts)
        for _ in range(times):
            run = self._slid(run) if self.arguments.stride else self._refined(run)
        return run

    def _readable(self, run: Run) -> set[str]:
        """The docids that prompts may come to read: any of the run's hits where there are several prompts a query."""
        if self.arguments.by != "prompt":
            return set()
        window = None if self.arguments.passes > 1 or self.arguments.stride else self.window
        return {hit.docid for hits in run.values() for hit in hits[:window]}

    def need(self, docids: Collection[str]) -> None:
        """Have the texts of these documents; the corpus is read once for all that are new."""
        wanted = set(docids) - self.texts.keys()
        if not wanted:
            return
        if self.source is None:
            raise E2RankError("name the documents with --corpus PATH or --dataset")
        with timed("read"):
            found = corpora.find_all(self.source, wanted)
        if not self.texts:  # the first that are read
            tell_other_corpus(self.index, self.source, self.arguments.command)
        template = document_template(self.index, self.data)
        self.texts |= {docid: document_text(one.title, one.text, template) for docid, one in found.items()}

    @functools.cached_property
    def queries(self) -> dict[str, Vectors]:
        """qid -> (dim,): the plain queries of the run."""
        asked = {qid: query for qid, query in self.topics.items() if qid in self.first}
        task = retrieval_task(self.arguments.task if self.arguments.by == "query" else None, self.data)
        return dict(zip(asked, self.encoder.encode_queries(list(asked.values()), task), strict=True))

    def vectors(self, run: Run) -> dict[str, Vectors]:
        """qid -> (dim,): what the run's hits are scored by."""
        arguments = self.arguments
        if arguments.by == "query":
            return self.queries
        read = reading(
            run,
            window=self.window,
            order=arguments.order or "initial",
            seed=arguments.seed or 0,
            share=arguments.adaptive,
            depth=arguments.depth,
        )
        if arguments.by == "prompt":
            return self._prompted(read)
        self.need(missing(read, self.index, depth=self.window))
        weights = {"alpha": arguments.rocchio_alpha, "beta": arguments.rocchio_beta}
        given = {key: value for key, value in weights.items() if value is not None}
        rule = average if arguments.by == "average" else functools.partial(rocchio, **given)
        return prf_vectors(read, self.queries, self.texts, self.index, self.encoder, rule, encoded=self.encoded)

    def write(self, run: Run, what: str) -> None:
        """The run, its record, and what was cut or encoded on the way, on stderr."""
        read = self.arguments.by if self.arguments.by != "prompt" else self.encoder.spec.prompt
        tag = f"{run_tag(self.encoder)}-{read}{self.window if read != 'query' else ''}{'-whole' if self.whole else ''}"
        tally = self.encoder.tally
        write_with_record(self.arguments, run, tag, Used(self.inputs, self.encoder, self._prompt()))
        self.memory.finish()
        by = f"prompt {read}, window {self.window}: " if tally.prompts else ""
        print(f"{by}{cut(vars(tally))}", file=sys.stderr)
        tell_parts(len(run))
        report(f"{len(run)} queries, {what}, {tally.documents} documents encoded on the fly -> {self.arguments.output}")

    def _refined(self, run: Run) -> Run:
        by = self.arguments.by
        scored = self._scored(run, self.vectors(run))
        if not self.weights:
            return scored
        runs = {by: scored, "first": self.first}
        if "query" in self.weights and by != "query":
            runs["query"] = self._scored(run, self.queries)
        parts = [Part(self.weights[name], runs[name]) for name in runs if name in self.weights]
        return interpolate(parts, hits=self.arguments.hits if self.whole else self.arguments.depth)

    def _scored(self, run: Run, vectors: dict[str, Vectors]) -> Run:
        if self.whole:
            hits = self.arguments.hits
            asked = hits + most_excluded(self.excluded, vectors)
            found = search_again(vectors, self.index, hits=asked)
            tell_few("feedback", found, asked, len(self.index), hits)
            return admitted(found, self.excluded, hits)[0]
        depth = self.arguments.depth
        return rescore(run, vectors, self.texts, self.index, self.encoder, depth=depth, encoded=self.encoded)

    def _slid(self, run: Run) -> Run:
        return slide(
            run,
            lambda part: self._scored(part, self.vectors(part)),
            depth=self.arguments.depth,
            window=self.window,
            stride=self.arguments.stride,
        )

    def _prompted(self, read: Run) -> dict[str, Vectors]:
        self.need({hit.docid for hits in read.values() for hit in hits})
        task, noun = rerank_task(self.arguments, self.data)
        with tqdm(total=len(read), unit=" queries", desc="prompts", disable=None, file=sys.stderr) as bar:
            return prompt_vectors(
                read, self.topics, self.texts, self.encoder, task=task, noun=noun, window=self.window, done=bar.update
            )

    def _prompt(self) -> dict[str, Any] | None:
        if self.arguments.by != "prompt":
            return None
        task, noun = rerank_task(self.arguments, self.data) if self.reads_task else (None, None)
        return {
            "variant": self.encoder.spec.prompt,
            "window": self.window,
            "task": task,
            "noun": noun,
            "order": self.arguments.order or "initial",
        }
