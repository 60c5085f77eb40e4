"""From text to token ids: what is cut, where EOS goes, and how many tokens each document of a prompt gets."""

import copy
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from e2rank_pyserini.catalog import ModelSpec
from e2rank_pyserini.inference.pieces import are_apart, pieces
from e2rank_pyserini.inference.tally import Tally
from e2rank_pyserini.prompts import TAIL, query_text, user_turn
from e2rank_pyserini.types import E2RankError, ListwisePrompt

Ids = list[int]
Counted = dict[str, Any]  # text -> its tokens alone, as the tokenizers library has them: how many, where each ends
_TOGETHER = 32  # prompts: the tokenizers library's threads share them, but it keeps some 200 bytes a token


class TextTokenizer:
    """The three texts of the method as token ids, cut to the model's lengths.

    A model with an EOS: tokenised bare, cut to `length - 1`, EOS appended, so that it survives every cut. A model
    without (BERT): the tokenizer's own special tokens frame the text, within the length.
    """

    def __init__(self, tokenizer: Any, settings: ModelSpec, eos_id: int | None) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self.eos_id = eos_id
        self.frame = ([], [eos_id]) if eos_id is not None else _own_frame(tokenizer)
        self.in_pieces = tokenizer.is_fast and are_apart(tokenizer.backend_tokenizer)
        self.tally = Tally()

    def apart(self) -> "TextTokenizer":
        """The same with a tally of its own, for another thread."""
        other = copy.copy(self)
        other.tally = Tally()
        return other

    def documents(self, texts: Sequence[str]) -> list[Ids]:
        """Documents, each at most `lengths.document` tokens."""
        rows, truncated = self._framed(texts, self.settings.lengths.document)
        self.tally.documents += len(texts)
        self.tally.documents_truncated += truncated
        self.tally.documents_empty += sum(not text for text in texts)
        return rows

    def queries(self, queries: Sequence[str], task: str) -> list[Ids]:
        """Queries under their task, each at most `lengths.query` tokens."""
        texts = [query_text(query, task, self.settings.query) for query in queries]
        rows, truncated = self._framed(texts, self.settings.lengths.query)
        self.tally.queries += len(texts)
        self.tally.queries_truncated += truncated
        return rows

    def prompts(self, prompts: Sequence[ListwisePrompt]) -> tuple[list[Ids], list[int]]:
        """Listwise prompts, each at most `lengths.prompt` tokens, and what of each is pooled.

        See `fit` for what is cut, `_pooled` for the numbers.
        """
        rows: list[Ids] = []
        pooled: list[int] = []
        for start in range(0, len(prompts), _TOGETHER):
            some = prompts[start : start + _TOGETHER]
            fit = self.fit(some)
            pooled += self._pooled(fit)
            for prompt, (fitted, ids) in zip(some, fit, strict=True):
                self.tally.prompts += 1
                self.tally.prompts_query_truncated += fitted.query != prompt.query
                self.tally.prompt_documents += len(prompt.documents)
                self.tally.prompt_documents_truncated += sum(
                    left != right for left, right in zip(fitted.documents, prompt.documents, strict=True)
                )
                self.tally.tokens += len(ids)
                rows.append(ids)
        return rows, pooled

    def fit(self, prompts: Sequence[ListwisePrompt]) -> list[tuple[ListwisePrompt, Ids]]:
        """Each prompt cut to `lengths.prompt` tokens, and its ids. The query and the tail always survive.

        The query gets at most `lengths.query` tokens, a document at most `lengths.document`. Where that is too long,
        the query gets at most half of what the bare prompt leaves free, and the documents share the rest: each gets
        as many tokens as it has, but none more than the largest common budget with which the parts, each counted
        alone, fit, so short documents leave room for long ones. Text is cut at the end of a character and the whole
        tokenised again, so what fits is byte for byte the paper's prompt. E2RankError: not even empty documents fit.
        """
        lengths = self.settings.lengths
        long = [prompt.query for prompt in prompts if not _is_short(prompt.query, lengths.query)]
        long += [text for prompt in prompts for text in prompt.documents if not _is_short(text, lengths.document)]
        counted = self._counted(long)
        whole = [_cut(prompt, counted, lengths.query, lengths.document) for prompt in prompts]
        return [
            (fitted, ids) if len(ids) <= lengths.prompt else self._shortened(prompt, counted)
            for prompt, fitted, ids in zip(prompts, whole, self._prompt_ids(whole), strict=True)
        ]

    def _shortened(self, prompt: ListwisePrompt, counted: Counted) -> tuple[ListwisePrompt, Ids]:
        """A prompt that is too long although no part of it is, cut, and its ids."""
        lengths = self.settings.lengths
        counted = counted | self._counted({prompt.query, *prompt.documents} - counted.keys())
        empty = prompt._replace(documents=("",) * len(prompt.documents))
        (bare,) = self._prompt_ids([empty._replace(query="")])
        most = min(lengths.query, max(0, lengths.prompt - len(bare)) // 2)
        (bare,) = self._prompt_ids([_cut(empty, counted, most, 0)])
        sizes = [len(counted[text]) for text in prompt.documents]
        budget = common_budget(sizes, lengths.prompt - len(bare), lengths.document)
        while True:
            fitted = _cut(prompt, counted, most, budget)
            (ids,) = self._prompt_ids([fitted])
            if len(ids) <= lengths.prompt:
                return fitted, ids
            if budget == 0:
                raise E2RankError(
                    f"listwise prompt: the instruction and {len(prompt.documents)} empty documents already take "
                    f"{len(ids)} tokens of {lengths.prompt}; lower the window or raise the prompt length"
                )
            budget -= 1  # a cut text can join its neighbours in one token more than it had alone

    def _pooled(self, fit: Sequence[tuple[ListwisePrompt, Ids]]) -> list[int]:
        """How many leading tokens of each prompt, as `fit` has it, give its vector: all, or the query's (`pair`).

        Of the variant `tail` it is how many at the end, as a negative number: from that `Query:` on after which there
        are as many as the query itself holds. E2RankError: the tokenizer joins one with what stands beside it.
        """
        if self.settings.prompt == "pair":
            return [ids.index(self.tokenizer.sep_token_id) + 1 for _, ids in fit]
        if self.settings.prompt != "tail":
            return [len(ids) for _, ids in fit]
        start, end = TAIL.lstrip(), self.settings.eos or ""
        mark, *tails = self._ids([start.strip(), *(f"{start}{fitted.query}{end}".strip() for fitted, _ in fit)])
        pooled = []
        for (_, ids), tail in zip(fit, tails, strict=True):
            places, own = _places(mark, ids), len(_places(mark, tail))
            at = places[-own] if 0 < own <= len(places) else len(ids)
            known = tail if end else tail[:-1]  # a chat template may trim the query, or go on in its last token
            if list(ids[at : at + len(known)]) != list(known):
                raise E2RankError(f"listwise prompt: the tokenizer has no tokens of their own for {start.strip()!r}")
            pooled.append(at - len(ids))
        return pooled

    def prompt_text(self, prompt: ListwisePrompt) -> str:
        """The text that reaches the tokenizer: the user turn through the model's chat template, thinking off."""
        between = self.tokenizer.sep_token if self.settings.prompt == "pair" else self.settings.eos
        turn = user_turn(prompt, self.settings.prompt, between or "")
        if self.settings.chat == "none":
            return turn
        template = None if self.settings.chat == "tokenizer" else self.settings.chat
        text: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": turn}],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        return text

    def _prompt_ids(self, prompts: Sequence[ListwisePrompt]) -> list[Ids]:
        texts = [self.prompt_text(prompt) for prompt in prompts]
        if self.eos_id is None or not self.in_pieces:
            return self._ids(texts, special=self.eos_id is None)
        each = [pieces(text) for text in texts]
        ids = iter(self._ids(itertools.chain(*each)))
        return [list(itertools.chain(*itertools.islice(ids, len(some)))) for some in each]

    def _framed(self, texts: Sequence[str], length: int) -> tuple[list[Ids], int]:
        """Ids with their EOS (or the tokenizer's frame), and how many texts were cut."""
        if not texts:
            return [], 0
        before, after = self.frame
        most = length - len(before) - len(after)
        bare = self._ids(texts)
        rows = [[*before, *ids[:most], *after] for ids in bare]
        if not all(rows):
            raise E2RankError("an empty text has no token: `eos` is null, and the tokenizer adds none")
        self.tally.tokens += sum(map(len, rows))
        return rows, sum(len(ids) > most for ids in bare)

    def _ids(self, texts: Iterable[str], *, special: bool = False) -> list[Ids]:
        """The ids of each text, with the tokenizer's own special tokens where `special`."""
        return [one.ids for one in self._backend().encode_batch_fast(list(texts), add_special_tokens=special)]

    def _counted(self, texts: Iterable[str]) -> Counted:
        each = list(dict.fromkeys(texts))
        return dict(zip(each, self._backend().encode_batch(each, add_special_tokens=False), strict=True))

    def _backend(self) -> Any:
        """What Transformers calls to tokenise, set as it sets it: all of a text, nothing padded.

        Called directly it gives ids alone: Transformers makes lists of masks and offsets as well.
        """
        backend = self.tokenizer.backend_tokenizer
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()
        if backend.encode_special_tokens != self.tokenizer.split_special_tokens:
            backend.encode_special_tokens = self.tokenizer.split_special_tokens
        return backend


def tokens_of(text: str, most: int) -> int:
    """About how many tokens a text has that is cut to `most`, by its characters."""
    return min(len(text) // 4 + 1, most)


def common_budget(sizes: Sequence[int], room: int, most: int) -> int:
    """The largest b <= `most` with sum(min(size, b)) <= room; 0 when there is none."""
    sizes = [min(size, most) for size in sizes]
    if sum(sizes) <= room:
        return most
    left = room
    ordered = sorted(sizes)
    for index, size in enumerate(ordered):
        share = left // (len(ordered) - index)
        if size > share:
            return max(0, share)
        left -= size
    return most


def _places(part: Ids, ids: Ids) -> list[int]:
    """Where `part` begins in `ids`."""
    return [at for at, one in enumerate(ids) if one == part[0] and ids[at : at + len(part)] == part]


def _own_frame(tokenizer: Any) -> tuple[Ids, Ids]:
    """The special tokens that the tokenizer itself puts before and after a text ([CLS] and [SEP])."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    first = special.index(0)
    last = len(special) - special[::-1].index(0)
    return ids[:first], ids[last:]


def _is_short(text: str, length: int) -> bool:
    """Whether a text has at most `length` tokens whatever the tokenizer.

    A token is a character at least, and one may stand before the text; what is not ASCII can have more tokens.
    """
    return text.isascii() and len(text) < length


def _cut(prompt: ListwisePrompt, counted: Counted, query: int, document: int) -> ListwisePrompt:
    """The prompt with at most so many tokens of its query and of each document; what is not `counted` is not cut."""

    def cut_to(text: str, budget: int) -> str:
        encoding = counted.get(text)
        if encoding is None or len(encoding) <= budget:
            return text
        return text[: encoding.token_to_chars(budget - 1)[1]] if budget > 0 else ""

    documents = tuple(cut_to(text, document) for text in prompt.documents)
    return prompt._replace(query=cut_to(prompt.query, query), documents=documents)
