"""Where texts are cut: EOS survives, the query and the tail survive, budgets are the largest that fit."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2rank_pyserini.catalog import Lengths, model
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.inference.pieces import are_apart, pieces
from e2rank_pyserini.inference.tokens import TextTokenizer, common_budget
from e2rank_pyserini.types import E2RankError, ListwisePrompt
from tests.conftest import CHAT, EOS, LENGTHS, SPECIAL, WORDS, sentences
from tests.reference import plain
from tests.reference import tokens as reference


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(-10, 300), st.integers(1, 60))
def test_common_budget_is_the_largest_that_fits(sizes: list[int], room: int, most: int):
    def used(budget: int) -> int:
        return sum(min(size, budget) for size in sizes)

    budget = common_budget(sizes, room, most)
    assert 0 <= budget <= most
    assert used(budget) <= max(room, 0)
    assert budget == most or used(budget + 1) > room


def test_eos_survives_every_cut(encoder: E2RankEncoder):
    eos = encoder.tokens.eos_id
    for row in encoder.tokens.documents(["", "wing", " ".join(sentences(5))]):
        assert row[-1] == eos
        assert row.count(eos) == 1
        assert len(row) <= LENGTHS["document"]
    for row in encoder.tokens.queries(["", " ".join(sentences(5))], "a task"):
        assert row[-1] == eos
        assert len(row) <= LENGTHS["query"]


def test_what_is_cut_is_counted(tiny_model: Path):
    encoder = E2RankEncoder.load(str(tiny_model), device="cpu")
    long = " ".join(sentences(5))
    encoder.encode_documents(["wing", "", long])
    encoder.encode_queries(["wing", long], "t")
    encoder.encode_prompts([ListwisePrompt(long, (long, "wing", long), "t")])
    tally = encoder.tally
    assert (tally.documents, tally.documents_truncated, tally.documents_empty) == (3, 1, 1)
    assert (tally.queries, tally.queries_truncated) == (2, 1)
    assert (tally.prompts, tally.prompts_query_truncated) == (1, 1)
    assert (tally.prompt_documents, tally.prompt_documents_truncated) == (3, 2)


@pytest.mark.parametrize("variant", ["paper", "card", "train"])
@pytest.mark.parametrize("length", [110, 160, 512, 2000])
def test_fit_equals_the_reference(tiny_model: Path, encoder: E2RankEncoder, variant: str, length: int):
    import dataclasses

    lengths = dataclasses.replace(encoder.spec.lengths, prompt=length)
    spec = dataclasses.replace(model(str(tiny_model)), prompt=variant, lengths=lengths)
    ours = E2RankEncoder(spec, encoder.network, encoder.tokens.tokenizer, "x")
    for seed in range(6):
        documents = (*sentences(4, seed=seed), "")
        query = sentences(1, seed=seed, most=30)[0]
        ((fitted, ids),) = ours.tokens.fit([ListwisePrompt(query, documents, "Rank these")])
        expected_query, expected_documents = plain.fit(
            encoder.tokens.tokenizer,
            query,
            documents,
            task="Rank these",
            noun="Documents",
            variant=variant,
            eos=EOS,
            document_length=LENGTHS["document"],
            query_length=LENGTHS["query"],
            prompt_length=length,
        )
        assert fitted.query == expected_query
        assert list(fitted.documents) == list(expected_documents)
        assert len(ids) <= length
        text = encoder.tokens.tokenizer.decode(ids)
        assert text.endswith("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
        assert fitted.query in text


def test_the_prompt_ends_in_the_newlines_after_think(encoder: E2RankEncoder):
    """The vector is taken where the paper takes it: no EOS after the chat template."""
    ((_, ids),) = encoder.tokens.fit([ListwisePrompt("q", ("d",), "t")])
    tail = encoder.tokens.tokenizer("</think>\n\n", add_special_tokens=False)["input_ids"]
    assert ids[-len(tail) :] == tail
    assert ids[-1] != encoder.tokens.eos_id


QWEN = (  # how Qwen's tokenizers split a text before BPE
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@functools.cache
def _tokenizer(kind: str) -> Any:
    """Tokenizers of Qwen's, Llama's and BERT's kind, and one that was left cutting and padding."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    common: dict[str, Any] = {"show_progress": False, "special_tokens": [*SPECIAL, "[UNK]", "[CLS]", "[SEP]"]}
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer: Any = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, **common)
    raw = Tokenizer(models.BPE(unk_token="[UNK]" if kind == "llama" else None))
    if kind == "llama":  # a space before the text, no byte without a token
        raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        trainer = trainers.BpeTrainer(vocab_size=600, **common)
    elif kind == "bert":
        raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=300, **common)
    else:
        raw.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN), behavior="isolated")
        raw.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    raw.train_from_iterator(sentences(200, seed=9), trainer)
    if kind == "bert":
        ends = [(one, raw.token_to_id(one)) for one in ("[CLS]", "[SEP]")]
        raw.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    if kind == "cutting":
        raw.enable_truncation(3)
        raw.enable_padding(length=9)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=EOS, pad_token=EOS, sep_token="[SEP]")
    tokenizer.chat_template = CHAT
    return tokenizer


class Chosen(NamedTuple):
    """The settings of a model that its tokenizer needs."""

    eos: str | None
    prompt: str
    chat: str
    lengths: Lengths
    query: str = "{query}"


ODD = [
    *SPECIAL,
    "[SEP]",
    " ",
    "\n\n",
    "\n[",
    "[1] ",
    ".\n",
    " \n",
    "\r",
    "\u2028",
    "\t",
    "é",
    "e\u0301",
    "\u0958",
    "𝅘𝅥",
    "ﷺ",
    "漢字",
    "🙂",
    "\x00",
    "'S",
    "0123",
    "<|im_",
    "wing" * 9,
]
ANY = st.lists(st.sampled_from([*WORDS, *ODD]) | st.text(max_size=4), max_size=14).map(" ".join)
JOINED = st.lists(st.sampled_from([*WORDS, *ODD]), max_size=8).map("".join)


@pytest.mark.parametrize(
    ("kind", "variant"),
    [("qwen", "paper"), ("qwen", "card"), ("cutting", "train"), ("llama", "tail"), ("bert", "pair")],
)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_ids_equal_the_slow_reference_of_any_text(kind: str, variant: str, data: st.DataObject):
    """Tokenised directly, in batches, without offsets: the same ids as of Transformers' call, one at a time."""
    tokenizer = _tokenizer(kind)
    eos_id = None if kind == "bert" else tokenizer.convert_tokens_to_ids(EOS)
    lengths = Lengths(data.draw(st.integers(2, 30)), data.draw(st.integers(3, 20)), data.draw(st.integers(12, 150)))
    spec = Chosen(None if kind == "bert" else EOS, variant, "none" if kind == "bert" else "tokenizer", lengths)
    texts = data.draw(st.lists(ANY | JOINED, max_size=6))
    tokens = TextTokenizer(tokenizer, spec, eos_id)
    expected = [reference.framed(tokenizer, text, lengths.document, eos_id) for text in texts]
    prompts = [
        ListwisePrompt(data.draw(ANY | JOINED), tuple(data.draw(st.lists(ANY | JOINED, max_size=5))), "Rank")
        for _ in range(data.draw(st.integers(0, 3)))
    ]
    fitted = [
        reference.fit(tokenizer, prompt, tokens.prompt_text, lengths, special=eos_id is None) for prompt in prompts
    ]
    if kind == "cutting":  # as another user of the tokenizer leaves it
        tokenizer(["wing", "wing flow pressure"], truncation=True, max_length=2, padding=True)
    if eos_id is not None or lengths.document > 2:
        assert tokens.documents(texts) == [ids for ids, _ in expected]
        assert tokens.tally.documents_truncated == sum(cut for _, cut in expected)
    if None in fitted:
        with pytest.raises(E2RankError, match="empty documents already take"):
            tokens.fit(prompts)
    else:
        assert tokens.fit(prompts) == fitted


@settings(max_examples=300, deadline=None)
@given(st.text("\n\n\n[[ .w1'é\r\t\u0301\u2028", max_size=24))
def test_where_qwens_tokenizer_is_given_pieces_they_have_the_ids_of_the_whole(text: str):
    backend = _tokenizer("qwen").backend_tokenizer
    assert "".join(pieces(text)) == text
    assert [one for piece in pieces(text) for one in backend.encode(piece).ids] == backend.encode(text).ids


def test_only_what_splits_as_qwen_does_reads_a_prompt_in_pieces(encoder: E2RankEncoder):
    """GPT-2's expression splits white space by what follows it: `wing \\n` alone is not what it is before `[`."""
    from tokenizers import AddedToken, Tokenizer

    apart = [are_apart(_tokenizer(kind).backend_tokenizer) for kind in ("qwen", "cutting", "llama", "bert")]
    assert apart == [True, True, False, False]
    assert not are_apart(encoder.tokens.tokenizer.backend_tokenizer)
    for wrong in (AddedToken("<|x|>", lstrip=True), AddedToken("<|x|>", rstrip=True), AddedToken("a\n[b")):
        other = Tokenizer.from_str(_tokenizer("qwen").backend_tokenizer.to_str())
        other.add_tokens([wrong])
        assert not are_apart(other)


def test_a_text_of_as_many_characters_as_its_length_can_have_a_token_more():
    tokens = TextTokenizer(_tokenizer("llama"), Chosen(EOS, "tail", "tokenizer", Lengths(3, 3, 99)), 0)
    ((fitted, _),) = tokens.fit([ListwisePrompt("!!", ("!!!", "!!"), "Rank")])
    assert fitted.documents == ("!!", "!!")  # a space stands before it


def test_more_prompts_than_are_tokenised_together(encoder: E2RankEncoder):
    texts = sentences(90, seed=3)
    prompts = [ListwisePrompt(text, (texts[0], text), "Rank") for text in texts]
    each = [encoder.tokens.apart().prompts([one]) for one in prompts]
    assert encoder.tokens.apart().prompts(prompts) == ([ids for (ids,), _ in each], [pooled for _, (pooled,) in each])
