"""Corpus -> shards: what is to be encoded, what is finished already, and the engine that does it in this process."""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from tqdm import tqdm

from e2rank_pyserini.ahead import ahead
from e2rank_pyserini.aside import Aside, Later
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.inference.tally import Tally
from e2rank_pyserini.inference.tokens import Ids
from e2rank_pyserini.prompts import document_text
from e2rank_pyserini.shards.folder import Shard, Shards, Task
from e2rank_pyserini.trec import check_word
from e2rank_pyserini.types import Document, E2RankError, Vectors, is_text, shown

Advance = Callable[[int, int], None]  # told (documents, tokens)
Engine = Callable[[Iterable[Document], Shards, Advance], Iterator[tuple[Shard, bool]]]
"""Encodes what is not finished; gives every shard, in any order, and whether it was encoded now."""


def encode(corpus: Iterable[Document], shards: Shards, engine: Engine) -> list[Shard]:
    """Every shard of the corpus, in order; those that are finished are not encoded again, which is said on stderr."""
    found: dict[int, Shard] = {}
    total = kept = 0
    with tqdm(unit=" documents", desc="index", disable=None, file=sys.stderr) as bar:

        def advance(documents: int, tokens: int) -> None:
            nonlocal total
            total += tokens
            bar.set_postfix_str(f"{total / max(bar.format_dict['elapsed'], 1e-9):,.0f} tokens/s", refresh=False)
            bar.update(documents)

        for shard, is_new in engine(corpus, shards, advance):
            found[shard.number] = shard
            kept += not is_new
    missing = next((number for number in range(len(found)) if number not in found), None)
    if missing is not None or not found:
        raise E2RankError(f"{shards.place}: shard {missing or 0} was not encoded")
    if kept:
        print(f"{shards.place}: {kept} shards were finished before and are not encoded again", file=sys.stderr)
    return [found[number] for number in range(len(found))]


def planned(corpus: Iterable[Document], shards: Shards) -> Iterator[Task | Shard]:
    """The corpus cut into shards: the record of each that is finished, the task of each that is not.

    Raises E2RankError for an empty corpus, and for a document whose docid, title (None is none) or text is no text.
    """
    size, template = shards.settings["shard_documents"], shards.settings["document_template"]
    iterator = iter(corpus)
    for number in itertools.count():
        documents = list(itertools.islice(iterator, size))
        if not documents:
            break
        for one in documents:
            _check(one)
        texts = tuple(document_text(one.title, one.text, template) for one in documents)
        task = Task(number, tuple(one.docid for one in documents), texts)
        yield shards.finished(task) or task
    if not number:
        raise E2RankError("the corpus is empty")


def _check(document: Document) -> None:
    """Refuse what no line of a corpus could be: the user may have made the document."""
    check_word(document.docid, "docid", "the corpus")
    where = f"the corpus: document {document.docid}"
    if not is_text(document.text):
        raise E2RankError(f"{where}: expected a text, got {shown(document.text)}")
    if document.title is not None and not is_text(document.title):
        raise E2RankError(f"{where}: expected a title as text, got {shown(document.title)}")


class Read(NamedTuple):
    """A task whose texts are tokenised: their ids, and what was counted."""

    task: Task
    rows: list[Ids]
    counts: dict[str, int]


def read(encoder: E2RankEncoder, task: Task) -> Read:
    """Tokenise a task's texts."""
    tokens = encoder.tokens.apart()
    return Read(task, tokens.documents(task.texts), tokens.tally.since(Tally()))


def encoded(encoder: E2RankEncoder, item: Read) -> Vectors:
    """The vectors of a task's texts, (n, dim), counted in the encoder's tally."""
    encoder.tally.add(item.counts)
    return encoder.forward.whole(item.rows)


def encode_shard(encoder: E2RankEncoder, task: Task, shards: Shards) -> Shard:
    """Encode one shard and write it."""
    item = read(encoder, task)
    return shards.write(task, encoded(encoder, item), item.counts)


def here(encoder: E2RankEncoder) -> Engine:
    """The engine that encodes in this process, one shard after the other.

    While the network is at one, a thread reads and tokenises the next, and another writes the one before.
    """

    def ready(corpus: Iterable[Document], shards: Shards) -> Iterator[Read | Shard]:
        for item in planned(corpus, shards):
            yield read(encoder, item) if isinstance(item, Task) else item

    def engine(corpus: Iterable[Document], shards: Shards, advance: Advance) -> Iterator[tuple[Shard, bool]]:
        with Aside() as writer:
            written: Later[Shard] | None = None
            for item in ahead(ready(corpus, shards)):
                if isinstance(item, Shard):
                    advance(item.documents, 0)
                    yield item, False
                    continue
                encoder.forward.progress = advance
                vectors = encoded(encoder, item)
                encoder.forward.progress = None
                before, written = written, writer.do(shards.write, item.task, vectors, item.counts)
                if before is not None:
                    yield before.result(), True
            if written is not None:
                yield written.result(), True

    return engine
