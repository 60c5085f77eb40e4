"""A model as a folder of sentence-transformers that gives our vectors, and that we load again as the same model.

Only files are written, in the form that every release on Transformers 5 reads; sentence-transformers itself is not
needed. What it does with them: tokenise with the tokenizer's special tokens, cut to a length, pool, normalise.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoTokenizer

from e2rank_pyserini import directories
from e2rank_pyserini.catalog import OWN_FILE, ModelSpec
from e2rank_pyserini.directories import built_aside
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.inference.writing import write_model
from e2rank_pyserini.prompts import RETRIEVAL_TASK, query_text
from e2rank_pyserini.types import E2RankError

MODULES = "modules.json"
_SLOT = "{query}"
_WRITTEN = (  # what an export may hold: ours, and what Transformers and tokenizers write
    *("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json", "*.jinja"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "*.model"),
    *("vocab.json", "vocab.txt", "merges.txt", MODULES, "sentence_bert_config.json"),
    *("config_sentence_transformers.json", "1_Pooling", "2_Normalize", OWN_FILE, "README.md"),
)
_PLAIN = "PreTrainedTokenizerFast"  # the class that reads tokenizer.json and builds nothing of its own
_POOLINGS = {"last": "lasttoken", "mean": "mean_tokens", "cls": "cls_token"}  # ours, sentence-transformers'


def export(encoder: E2RankEncoder, directory: Path, *, task: str = RETRIEVAL_TASK, overwrite: bool = False) -> None:
    """Write the encoder's model, its adapter merged, in the dtype in which it was loaded.

    The prompt of queries says `task`. The folder is complete when it exists. Raises E2RankError where it exists
    already (unless `overwrite`, and it is such a folder), where the query's template has text after the query, and
    where the tokenizer, once it adds our EOS, does not read texts as we do.
    """
    prompt = query_prompt(encoder.spec, task)
    check_replaceable(directory, overwrite=overwrite)
    with built_aside(directory) as staging:
        try:
            write_model(staging, encoder.network, encoder.tokens.tokenizer, encoder.spec)
        except SafetensorError as error:
            raise E2RankError(f"{directory}: cannot be written: {error}") from error
        _change(staging / "tokenizer_config.json", padding_side="right", truncation_side="right")
        if encoder.tokens.eos_id is not None:
            pad = encoder.tokens.tokenizer.pad_token or encoder.spec.eos
            _change(staging / "tokenizer_config.json", tokenizer_class=_PLAIN, pad_token=pad)
            _let_the_tokenizer_add(staging / "tokenizer.json", str(encoder.spec.eos), encoder.tokens.eos_id)
        check_tokenizer(staging, encoder)
        for name, content in _settings(encoder, prompt).items():
            (staging / name).parent.mkdir(exist_ok=True)
            (staging / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (staging / "README.md").write_text(_card(encoder, task), encoding="utf-8")


def check_replaceable(directory: Path, *, overwrite: bool) -> None:
    """Refuse to write over what exists: without `overwrite` anything, with it anything that was not exported."""
    directories.check_replaceable(directory, overwrite=overwrite, ours=_is_export, what="an exported model")


def _is_export(directory: Path) -> bool:
    """A folder that was exported, and nothing of anybody else's in it."""
    if not ((directory / MODULES).is_file() and (directory / OWN_FILE).is_file()):
        return False
    found = [path for path in directory.rglob("*") if path.parent == directory or path.name != "config.json"]
    return all(path.parent == directory and any(path.match(pattern) for pattern in _WRITTEN) for path in found)


def query_prompt(spec: ModelSpec, task: str) -> str:
    """What stands before a query. E2RankError where the template has more after it: a prompt is only put in front."""
    before, _, after = spec.query.partition(_SLOT)
    if after:
        raise E2RankError(
            f"model {spec.name}: its query template has {after!r} after the query, and sentence-transformers only puts "
            "a prompt in front"
        )
    return query_text("", task, before)


def _let_the_tokenizer_add(file: Path, eos: str, eos_id: int) -> None:
    """Make EOS what the tokenizer itself puts after a text, so that cutting leaves room for it, and nothing else.

    Where special tokens are not asked for, as we never do with an EOS, the tokenizer stays as it was.
    """
    old = json.loads(file.read_text(encoding="utf-8"))["post_processor"] or {}
    parts = old["processors"] if old.get("type") == "Sequence" else [old]
    kept = [part for part in parts if part.get("type") == "ByteLevel"]  # the only one that adds no tokens
    end = {"SpecialToken": {"id": eos, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    template = {
        "type": "TemplateProcessing",
        "single": [first, end],
        "pair": [first, end, second, end],
        "special_tokens": {eos: {"id": eos, "ids": [eos_id], "tokens": [eos]}},
    }
    _change(file, post_processor={"type": "Sequence", "processors": [*kept, template]})


def _change(path: Path, **fields: Any) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**record, **fields}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check_tokenizer(place: Path, encoder: E2RankEncoder) -> None:
    """Short, empty and long texts must become the same ids by the folder's tokenizer alone and by us."""
    length = encoder.spec.lengths.document
    texts = ["", " a text ", "a text " * length]
    tokenizer = AutoTokenizer.from_pretrained(place)
    found = tokenizer(texts, truncation=True, max_length=length)["input_ids"]
    for text, theirs, ours in zip(texts, found, encoder.tokens.documents(texts), strict=True):
        if theirs != ours:
            raise E2RankError(
                f"model {encoder.spec.name}: its tokenizer alone reads {text[:10]!r} as {len(theirs)} tokens ending in "
                f"{theirs[-3:]}, we as {len(ours)} ending in {ours[-3:]}"
            )


def _settings(encoder: E2RankEncoder, prompt: str) -> dict[str, Any]:
    """The files by which sentence-transformers knows a model, with the class names that every release of it reads."""
    names = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    lengths = encoder.spec.lengths
    transformer: dict[str, Any] = {"max_seq_length": lengths.document, "do_lower_case": False}
    if lengths.query != lengths.document:  # from release 6 on
        transformer |= {"query_length": lengths.query, "document_length": lengths.document}
    modes = {f"pooling_mode_{mode}": ours == encoder.spec.pooling for ours, mode in _POOLINGS.items()}
    return {
        MODULES: [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
            for number, (name, path) in enumerate(names)
        ],
        "sentence_bert_config.json": transformer,
        "config_sentence_transformers.json": {
            "prompts": {"query": prompt, "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "1_Pooling/config.json": {"word_embedding_dimension": encoder.dim, **modes, "include_prompt": True},
        "2_Normalize/config.json": {},
    }


def _card(encoder: E2RankEncoder, task: str) -> str:
    spec = encoder.spec
    name = Path(spec.name).name if Path(spec.name).is_dir() else spec.name
    adapter = ", its adapter merged" if spec.adapter is not None else ""
    dtype = encoder.dtype_name
    release = " 6 or newer" if spec.lengths.query != spec.lengths.document else ""
    exact = ""
    if dtype != "float32":
        exact = f", but for the rounding to\n{dtype} (of lengths too: normalise before you take inner products)"
    told = f" under the task “{task}”" if "{task}" in spec.query else ""
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, retrieval, e2rank]
---
# {name} for sentence-transformers

The model `{name}` (identity `{encoder.identity}`{adapter}) in {dtype}, written by `e2rank export` of e2rank_pyserini.
The weights keep the licence of the model. Vectors have {encoder.dim} dimensions and length 1 and equal those of
e2rank_pyserini{exact}. Documents are cut to {spec.lengths.document} tokens, queries{told} to {spec.lengths.query}.

With sentence-transformers{release}:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
queries = model.encode_query(["how long is the life cycle of a flea"])
documents = model.encode_document(["A flea can live up to a year."])
scores = model.similarity(queries, documents)
```

`encode` alone adds no prompt: it encodes documents, and cuts all that it is given at their length. Texts are padded on
the right.

The listwise prompt, which reranks, is not in this form: it needs e2rank_pyserini, which reads this folder too
(`e2rank rerank --encoder path/to/this/folder …`; `{OWN_FILE}` says how).
"""
