"""The three texts of the method as pure string functions (Liu et al. 2025, arXiv 2510.22733, section 3 and appendix C).

Nothing here knows a tokenizer: what is too long is cut before it comes here.
"""

import re
from collections.abc import Sequence

from e2rank_pyserini.choices import VARIANTS
from e2rank_pyserini.types import ListwisePrompt

RETRIEVAL_TASK = "Given a web search query, retrieve relevant passages that answer the query"
RERANK_TASK = "Given a web search query and some relevant documents, rerank the documents that answer the query"

TITLE_AND_TEXT = "{title} {text}"  # a document, unless its data set says otherwise
TAIL = "\nQuery: "  # between the documents and the query of the variant `tail`

# Templates are split, not formatted: tasks, queries and documents may hold braces of their own.
_SLOTS = re.compile(r"(\{(?:task|query|title|text)\})")


def query_text(query: str, task: str, template: str) -> str:
    """The text of a query for retrieval, without EOS. `template` holds `{query}` and may hold `{task}`."""
    return "".join({"{task}": task, "{query}": query}.get(part, part) for part in _SLOTS.split(template))


def document_text(title: str, text: str, template: str = TITLE_AND_TEXT) -> str:
    """The text of a document without EOS. A document without a title (or text) is its text (or title) alone."""
    if not title or not text:
        return title or text
    return "".join({"{title}": title, "{text}": text}.get(part, part) for part in _SLOTS.split(template))


def user_turn(prompt: ListwisePrompt, variant: str, eos: str) -> str:
    """The user turn of the listwise prompt, before the chat template.

    `paper` is appendix C of the paper and the authors' evaluation code, `card` the model card (its printed scores
    come from it), `train` the released training code. `eos` is the model's end-of-text string. `pair` is ours, for
    encoders that read in both directions: the query, then the documents, `eos` (BERT's [SEP]) between them and no
    instruction; its vector is taken from the query's tokens, which have read the documents, and added to the bare
    query's vector, so that the documents never drown it. `tail` is ours, for decoders: the documents by number, then
    the query, `eos` after it and no instruction; its vector is taken from the query's tokens at the end.
    """
    if variant == "pair":
        return eos.join(text.replace(eos, " ") for text in (prompt.query, *prompt.documents))
    if variant == "tail":
        return f"{_numbered(prompt.documents)}{TAIL}{prompt.query}{eos}"
    head = f"{prompt.task}:\n{prompt.noun}:\n"
    if variant == "paper":
        return f"{head}{_numbered(prompt.documents)}\nSearch Query: {prompt.query}"
    if variant == "card":
        return f"{head}{_numbered([document + eos for document in prompt.documents])}Search Query:{prompt.query}"
    if variant == "train":
        return f"{head}{_numbered(prompt.documents)}\nQuery: {prompt.query}{eos}"
    raise ValueError(f"prompt variant: expected one of {', '.join(VARIANTS)}, got {variant!r}")


def _numbered(documents: Sequence[str]) -> str:
    return "\n".join(f"[{rank}] {document}" for rank, document in enumerate(documents, start=1))
