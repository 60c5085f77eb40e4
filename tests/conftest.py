"""Fixtures for every test: a tiny random Qwen3 with its own tokenizer, a small corpus, real data if present."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from e2rank_pyserini.encoder import E2RankEncoder

if not os.environ.get("E2RANK_HUB"):  # the tests marked `hub` use what the cache holds; E2RANK_HUB=1 lets them download
    os.environ["HF_HUB_OFFLINE"] = "1"
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in the background of a script; the commands would ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
EOS = "<|endoftext|>"
SPECIAL = [EOS, "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LENGTHS = {"document": 48, "query": 24, "prompt": 512}

WORDS = (
    "wing flow pressure boundary layer shock wave heat transfer supersonic laminar turbulent vortex lift drag nose "
    "cone plate buckling shell jet nozzle mach number velocity gradient theory experiment measured results method"
).split()


def sentences(count: int, *, seed: int = 0, least: int = 3, most: int = 60) -> list[str]:
    """Deterministic texts of varied length."""
    import random

    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(least, most))) + "." for _ in range(count)]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """What two runs must agree on to the last digit is computed in one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a random two-layer Qwen3, a BPE tokenizer trained here, a chat template and an e2rank.yaml."""
    import torch
    import yaml
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

    place = tmp_path_factory.mktemp("models") / "tiny-qwen3"
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(sentences(300, seed=9), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=EOS, pad_token=EOS)
    tokenizer.chat_template = CHAT
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=2048,
        initializer_range=0.2,
    )
    Qwen3Model(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    record = {
        "pooling": "last",
        "eos": EOS,
        "query": "Instruct: {task}\nQuery:{query}",
        "prompt": "paper",
        "chat": "tokenizer",
        "lengths": LENGTHS,
        "window": 5,
        "dtype": "float32",
    }
    (place / "e2rank.yaml").write_text(yaml.safe_dump(record))
    return place


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a random two-layer BERT with dropout, and a WordPiece tokenizer of whole words and letters."""
    import torch
    import yaml
    from transformers import BertConfig, BertModel, BertTokenizerFast

    place = tmp_path_factory.mktemp("models") / "tiny-bert"
    place.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyz.[]"
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "of",
        *WORDS,
        *letters,
        *(f"##{one}" for one in letters),
    ]
    (place / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizerFast(str(place / "vocab.txt"), do_lower_case=True)
    tokenizer.save_pretrained(place)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(place)
    record = {
        "pooling": "mean",
        "eos": None,
        "query": "{query}",
        "prompt": "pair",
        "chat": "none",
        "lengths": {"document": 16, "query": 12, "prompt": 60},
        "window": 4,
        "dtype": "float32",
    }
    (place / "e2rank.yaml").write_text(yaml.safe_dump(record))
    return place


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> "E2RankEncoder":
    """The tiny model, loaded."""
    from e2rank_pyserini.encoder import E2RankEncoder

    return E2RankEncoder.load(str(tiny_model), device="cpu")


@pytest.fixture(scope="session")
def beir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BEIR folder: 40 documents (ids 000 to 039, some without title), 6 queries, qrels/test.tsv."""
    place = tmp_path_factory.mktemp("data") / "toy"
    (place / "qrels").mkdir(parents=True)
    texts = sentences(40)
    rows = [{"_id": f"{n:03}", "title": "" if n % 3 else f"title {n}", "text": text} for n, text in enumerate(texts)]
    (place / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = [{"_id": f"{n:03}", "text": text} for n, text in enumerate(sentences(6, seed=5, most=8), start=7)]
    (place / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    judged = [(row["_id"], f"{(n * 7 + k) % 40:03}", k % 3) for n, row in enumerate(queries) for k in range(5)]
    lines = ["query-id\tcorpus-id\tscore", *(f"{qid}\t{docid}\t{grade}" for qid, docid, grade in judged)]
    (place / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return place


@pytest.fixture(scope="session")
def tiny_index(tiny_model: Path, beir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy corpus encoded by the tiny model."""
    from e2rank_pyserini.cli import main

    place = tmp_path_factory.mktemp("indexes") / "toy"
    assert main(["index", "--dataset", str(beir), "--encoder", str(tiny_model), "--output", str(place)]) == 0
    return place


@pytest.fixture(scope="session")
def toy_run(beir: Path, tiny_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dense run of the toy topics, 30 hits each."""
    from e2rank_pyserini.cli import main

    path = tmp_path_factory.mktemp("runs") / "toy.dense.trec"
    words = ["search", "--dataset", str(beir), "--index", str(tiny_index), "--hits", "30", "--output", str(path)]
    assert main(words) == 0
    return path


@pytest.fixture
def shared() -> Path:
    """The development collections; tests that read them are skipped where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("the development collections (../shared/data) are not here")
    return SHARED
