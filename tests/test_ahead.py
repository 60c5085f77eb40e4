"""What is tokenised while the network is at the part before: that it is, and that nothing else changes."""

import dataclasses
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2rank_pyserini.ahead import parts
from e2rank_pyserini.aside import Aside
from e2rank_pyserini.encoder import E2RankEncoder
from e2rank_pyserini.inference.tokens import TextTokenizer
from e2rank_pyserini.remembering import Memory
from e2rank_pyserini.timing import recording, so_far
from e2rank_pyserini.types import E2RankError, ListwisePrompt
from tests.conftest import sentences

pytestmark = pytest.mark.usefixtures("one_thread")
TEXTS = sentences(400, seed=8)
PROMPTS = [ListwisePrompt("wing", tuple(TEXTS[n : n + 8]), "Rank") for n in range(0, 400, 8)]  # three parts


@pytest.fixture
def encoder(tiny_model: Path) -> E2RankEncoder:
    return E2RankEncoder.load(str(tiny_model), device="cpu", batch_tokens=1500)


class Telling(TextTokenizer):
    """Does `then` after each of its calls, told how many there were."""

    def __init__(self, like: TextTokenizer, then: Callable[[int], object]) -> None:
        super().__init__(like.tokenizer, like.settings, like.eos_id)
        self.then, self.calls = then, 0

    def prompts(self, prompts: Any) -> Any:
        found = super().prompts(prompts)
        self.calls += 1
        self.then(self.calls)
        return found


def in_aside(frame: FrameType | None) -> bool:
    return frame is not None and (frame.f_code is Aside._run.__code__ or in_aside(frame.f_back))


def threads_left() -> int:
    """How many threads an Aside has; one that has said that it ended may take a moment to."""
    deadline = time.monotonic() + 30
    while (found := sum(map(in_aside, sys._current_frames().values()))) and time.monotonic() < deadline:
        time.sleep(0.001)
    return found


@given(st.lists(st.integers(0, 9000), max_size=300))
def test_parts_are_all_texts_in_order_and_each_no_larger_than_twice_what_was_before(sizes: list[int]):
    found = parts(sizes)
    assert [number for part in found for number in range(len(sizes))[part]] == list(range(len(sizes)))
    held = [sum(sizes[part]) for part in found]
    assert all(total >= 4096 for total in held[:-1])
    assert all(sum(sizes[part][:-1]) < min(4096 * 2**place, 131072) for place, part in enumerate(found))


def test_while_the_network_is_at_a_part_the_next_is_tokenised(encoder: E2RankEncoder):
    """The network's first pass waits for the second part: it would wait forever were that tokenised afterwards."""
    second = threading.Event()
    encoder.tokens = Telling(encoder.tokens, lambda calls: calls == 2 and second.set())
    passes: list[bool] = []
    hook = encoder.network.embed_tokens.register_forward_pre_hook(lambda *_: passes.append(second.wait(30)))
    told: list[tuple[int, int]] = []
    encoder.forward.progress = lambda texts, tokens: told.append((texts, tokens))
    vectors = encoder.encode_prompts(PROMPTS)
    assert len(passes) > 3
    assert all(passes)
    assert encoder.tokens.calls == 3
    assert (sum(n for n, _ in told), sum(n for _, n in told)) == (len(PROMPTS), encoder.tally.tokens)
    hook.remove()
    expected = [encoder.encode_prompts([prompt])[0] for prompt in PROMPTS]  # one part, held against tests/reference
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_the_counts_and_vectors_of_every_kind_are_those_of_small_calls(tiny_model: Path, encoder: E2RankEncoder):
    other = E2RankEncoder.load(str(tiny_model), device="cpu")
    prompts = [ListwisePrompt(text, tuple(TEXTS[n : n + 8]), "Rank") for n, text in enumerate(TEXTS[:30])]
    for name, texts in (("documents", [*TEXTS, ""]), ("queries", TEXTS[:300]), ("prompts", prompts)):
        found = getattr(encoder, f"encode_{name}")(texts)
        each = [getattr(other, f"encode_{name}")(texts[n : n + 10]) for n in range(0, len(texts), 10)]
        np.testing.assert_allclose(found, np.concatenate(each), atol=1e-5)
        assert encoder.tally == other.tally


def test_a_call_of_one_part_starts_no_thread(encoder: E2RankEncoder):
    seen: list[int] = []
    encoder.network.embed_tokens.register_forward_pre_hook(
        lambda *_: seen.append(sum(map(in_aside, sys._current_frames().values())))
    )
    encoder.encode_prompts(PROMPTS[:5])
    encoder.encode_documents(TEXTS)
    assert seen
    assert not any(seen)
    encoder.forward.packing = False  # padded rows of like length are together in a batch: one part
    encoder.encode_prompts(PROMPTS)
    assert not any(seen)
    encoder.forward.packing = True
    encoder.encode_prompts(PROMPTS)
    assert any(seen)
    assert not threads_left()


def test_an_error_of_the_thread_is_raised_as_itself(encoder: E2RankEncoder):
    lengths = dataclasses.replace(encoder.spec.lengths, prompt=300)
    short = E2RankEncoder(
        dataclasses.replace(encoder.spec, lengths=lengths), encoder.network, encoder.tokens.tokenizer, ""
    )
    prompts = [ListwisePrompt("wing", tuple(TEXTS[:20]), "Rank")] * 20
    with pytest.raises(E2RankError, match=r"listwise prompt: the instruction and 200 empty documents already take \d+"):
        short.encode_prompts([*prompts, ListwisePrompt("wing", tuple(TEXTS[:200]), "Rank")])
    assert not threads_left()
    assert len(short.encode_prompts(prompts)) == 20


def test_an_interrupted_network_leaves_no_thread_and_what_is_remembered_is_not_encoded_again(
    encoder: E2RankEncoder, tmp_path: Path
):
    expected = encoder.encode_prompts(PROMPTS)
    passes: list[int] = []
    encoder.forward.memory = memory = Memory(tmp_path / "out", encoder)

    def interrupt(module: Any, given: Any) -> None:
        passes.append(len(given[0]))
        if len(passes) == 6:
            raise KeyboardInterrupt

    hook = encoder.network.embed_tokens.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        encoder.encode_prompts(PROMPTS)
    assert not threads_left()
    memory.leave()
    hook.remove()
    encoder.network.embed_tokens.register_forward_pre_hook(lambda _, given: passes.append(len(given[0])))
    encoder.forward.memory = memory = Memory(tmp_path / "out", encoder)
    np.testing.assert_array_equal(encoder.encode_prompts(PROMPTS), expected)
    memory.finish()
    encoder.forward.memory = None
    resumed = passes[5:]
    passes.clear()
    encoder.encode_prompts(PROMPTS)
    assert resumed == [passes[5], *passes[5:]]  # the one that was interrupted, and what came after


INTERRUPTED = """
import faulthandler, sys, time
from e2rank_pyserini.ahead import ahead
from e2rank_pyserini.aside import Aside

def job():
    assert list(ahead(iter(range(3)))) == [0, 1, 2]
    with Aside(2) as threads:
        for later in [threads.do(time.sleep, 0.001) for _ in range(3)]:
            later.result()

def interrupted_at(event):
    passed = 0
    def count(*_):
        nonlocal passed
        passed += 1
        if passed == event:
            sys.setprofile(None)
            raise KeyboardInterrupt
    try:
        sys.setprofile(count)
        job()
        sys.setprofile(None)
    except KeyboardInterrupt:
        return True
    return False

faulthandler.dump_traceback_later(60, exit=True)
event = 1
while interrupted_at(event):
    event += 1
print(event)
"""


def test_an_interrupt_at_any_moment_of_waiting_ends_the_job_as_an_interrupt():
    """With ThreadPoolExecutor some of these moments are a RuntimeError, and some leave the job waiting for ever."""
    ran = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 50


def test_seconds_hidden_behind_the_network_are_not_counted_twice(encoder: E2RankEncoder):
    begun, second = threading.Event(), threading.Event()

    def slow(calls: int) -> None:
        if calls == 2:
            begun.wait(30)
            time.sleep(0.3)
            second.set()

    def wait(*_: Any) -> None:
        begun.set()
        second.wait(30)

    encoder.tokens = Telling(encoder.tokens, slow)
    encoder.network.embed_tokens.register_forward_pre_hook(wait)
    with recording():
        encoder.encode_prompts(PROMPTS)
        seconds = so_far()
    assert seconds["encode"] >= 0.3  # the network waited for the thread, whose time is hidden in this
    assert 0 < seconds["tokenise"] + seconds["encode"] <= seconds["total"]
