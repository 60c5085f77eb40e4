"""Corpus -> shards: what is to be encoded, what is finished already, and the engine that does it in this process."""

import copy
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator

from tqdm import tqdm

from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.prompts import document_text
from e2rank_pyserini.shards import Shard, Shards, Task
from e2rank_pyserini.types import Document, E2RankError

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
    """The corpus cut into shards: the record of each that is finished, the task of each that is not."""
    size, template = shards.settings["shard_documents"], shards.settings["document_template"]
    iterator = iter(corpus)
    for number in itertools.count():
        documents = list(itertools.islice(iterator, size))
        if not documents:
            break
        texts = tuple(document_text(one.title, one.text, template) for one in documents)
        task = Task(number, tuple(one.docid for one in documents), texts)
        yield shards.finished(task) or task


def encode_shard(encoder: E2RankEncoder, task: Task, shards: Shards) -> Shard:
    """Encode one shard and write it."""
    before = copy.copy(encoder.tally)
    vectors = encoder.encode_documents(task.texts)
    return shards.write(task, vectors, encoder.tally.since(before))


def here(encoder: E2RankEncoder) -> Engine:
    """The engine that encodes in this process, one shard after the other."""

    def engine(corpus: Iterable[Document], shards: Shards, advance: Advance) -> Iterator[tuple[Shard, bool]]:
        for item in planned(corpus, shards):
            if isinstance(item, Task):
                encoder.forward.progress = advance
                shard = encode_shard(encoder, item, shards)
                encoder.forward.progress = None
                yield shard, True
            else:
                advance(item.documents, 0)
                yield item, False

    return engine
