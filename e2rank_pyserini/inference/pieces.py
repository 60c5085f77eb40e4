"""Where a tokenizer may be given a long text in pieces, so that its threads share it."""

import json
import re
from typing import Any

QWEN = (  # how the tokenizers of Qwen2, 2.5 and 3 split a text before BPE
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BEFORE = re.compile(r"(?<=\n)(?=\[)")


def pieces(text: str) -> list[str]:
    """A text cut before each line that begins with `[`, as the documents of a listwise prompt do."""
    return _BEFORE.split(text)


def are_apart(backend: Any) -> bool:
    """Whether the ids of a text are those of its `pieces`, one after another: by what the tokenizer is made of.

    They are where Qwen's expression splits the text. No match of it reaches over a newline and a `[`; nothing in it
    looks back; and it looks ahead only from white space that no newline ends. Neither NFC nor an added token that is
    found by its own text alone joins the two.
    """
    made_of = [_state(part) for part in (backend.normalizer, backend.pre_tokenizer)]
    split = {"type": "Split", "pattern": {"Regex": QWEN}, "behavior": "Isolated", "invert": False}
    bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    steps = made_of[1].get("pretokenizers", [])
    return (
        made_of[0] in ({}, {"type": "NFC"})
        and len(steps) == 2
        and steps[0] == split
        and bytes_of.items() <= steps[1].items()
        and type(backend.model).__name__ == "BPE"
        and not any(
            one.lstrip or one.rstrip or one.single_word or "\n[" in one.content
            for one in backend.get_added_tokens_decoder().values()
        )
    )


def _state(part: Any) -> dict[str, Any]:
    return {} if part is None else dict(json.loads(part.__getstate__()))
