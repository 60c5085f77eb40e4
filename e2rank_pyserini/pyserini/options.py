"""What a user typed to one of Pyserini's programs that Pyserini does not hand on to third-party encoders.

Pyserini constructs such an encoder from the model and the device alone. Each option here is honoured or refused with
a word, never ignored. A leaf: it imports nothing of Pyserini's.
"""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from e2rank_pyserini.catalog import ModelSpec, model
from e2rank_pyserini.types import E2RankError

KEY = "e2rank"
_SAME = {"eos": "last"}  # Pyserini's other word for a pooling
_REFUSED = {
    "--add-sep": "E2Rank has no separator token",
    "--multimodal": "E2Rank encodes text only",
    "--explicit-truncate": "E2Rank always truncates before it appends EOS",
    "--instruction-config": "the instruction is the query template; give another with --query-prefix",
    "--tokenizer": "the tokenizer comes with the model",
}


@dataclasses.dataclass(frozen=True)
class Asked:
    """The options as typed; None where they were not."""

    max_length: int | None = None
    pooling: str | None = None
    prefix: str | None = None
    bfloat16: bool = False
    dimension: int | None = None
    refused: str | None = None


def put_first(classes: dict[str, Any], ours: Callable[..., Any]) -> None:
    """Ours first in one of Pyserini's maps, in place (the first key that is a substring of a path wins), and once."""
    others = {key: value for key, value in classes.items() if key != KEY}
    classes.clear()
    classes.update({KEY: ours, **others})


def in_full(words: Sequence[str], options: Collection[str]) -> list[str]:
    """A command line with the whole name of each option: argparse takes `--max-len` for the one that begins so."""
    found = []
    for word in words:
        name, equals, value = word.partition("=")
        named = [option for option in options if name.startswith("--") and option.startswith(name)]
        alone = len(named) == 1 and name not in options
        found.append(f"{named[0]}{equals}{value}" if alone else word)
    return found


def asked(words: Sequence[str]) -> Asked:
    """Read the options out of a command line of pyserini.encode, encode.query, search.faiss or search.hybrid.

    They are there by their whole names (see `in_full`).
    """
    names = {word.partition("=")[0] for word in _without_sparse(words)}
    dimension = _value(words, "--dimension")
    length = _value(words, "--max-length")
    prefixes = [_value(words, option) for option in ("--query-prefix", "--prefix", "--prefx")]
    refused = next((f"{option}: {reason}" for option, reason in _REFUSED.items() if option in names), None)
    refused = refused or _refused_fields(words)
    return Asked(
        max_length=int(length) if length is not None and length.isdigit() else None,
        pooling=_value(words, "--pooling"),
        prefix=next((value for value in prefixes if value is not None), None),
        bfloat16="--fp16" in names,
        dimension=(int(dimension) if dimension and dimension.isdigit() else 768) if "--to-faiss" in names else None,
        refused=refused,
    )


def _without_sparse(words: Sequence[str]) -> Iterator[str]:
    """Without what search.hybrid is told of its sparse side, which has a --tokenizer of its own."""
    skipped = False
    for word in words:
        skipped = word == "sparse" or (skipped and word not in ("dense", "fusion", "run"))
        if not skipped:
            yield word


def is_ours(name: str) -> bool:
    """Whether a model name or path is E2Rank's by Pyserini's own rule: it holds our key."""
    return KEY in name.lower()


def document_spec(name: str, options: Asked) -> ModelSpec:
    """The model's record with what was asked for documents: --max-length is a document's."""
    spec = _checked(name, options)
    lengths = dataclasses.replace(spec.lengths, document=options.max_length or spec.lengths.document)
    return dataclasses.replace(spec, lengths=lengths)


def query_spec(name: str, options: Asked) -> ModelSpec:
    """The record with what was asked for queries: --max-length is a query's, a prefix replaces the instruction."""
    spec = _checked(name, options)
    lengths = dataclasses.replace(spec.lengths, query=options.max_length or spec.lengths.query)
    query = spec.query if options.prefix is None else options.prefix + "{query}"
    return dataclasses.replace(spec, lengths=lengths, query=query)


def check_dimension(name: str, dim: int, options: Asked) -> None:
    """Pyserini makes the index before it sees a vector, of 768 dimensions unless told: stop before it breaks."""
    if options.dimension is not None and options.dimension != dim:
        raise E2RankError(f"--dimension {options.dimension}: model {name} makes {dim}; say --dimension {dim}")


def _checked(name: str, options: Asked) -> ModelSpec:
    spec = model(name)
    if options.refused is not None:
        raise E2RankError(options.refused)
    if options.pooling is not None and _SAME.get(options.pooling, options.pooling) != spec.pooling:
        raise E2RankError(f"--pooling {options.pooling}: model {name} is pooled by {spec.pooling}")
    return spec


def _refused_fields(words: Sequence[str]) -> str | None:
    """Why the fields that pyserini.encode was told to encode are not those that it would, None where they are."""
    part = itertools.dropwhile(lambda word: word != "encoder", words)
    encoder = list(itertools.takewhile(lambda word: word not in ("input", "output"), part))
    fields: list[str] = []
    for number, word in enumerate(encoder):
        name, equals, value = word.partition("=")
        if name == "--fields":
            more = itertools.takewhile(lambda other: not other.startswith("-"), encoder[number + 1 :])
            fields = [value] if equals else list(more)
    others = [field for field in fields if field not in ("title", "text")]
    if others:
        return f"--fields {' '.join(fields)}: E2Rank encodes title and text, not {', '.join(others)}"
    if fields and "text" not in fields:
        return f"--fields {' '.join(fields)}: Pyserini has the text encoded as well; say --fields title text"
    return None


def _value(words: Sequence[str], option: str) -> str | None:
    """The word after an option, or after its `=`; the last one typed."""
    found = None
    for number, word in enumerate(words):
        if word == option and number + 1 < len(words):
            found = words[number + 1]
        elif word.startswith(f"{option}="):
            found = word.partition("=")[2]
    return found
