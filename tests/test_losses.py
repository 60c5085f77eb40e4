"""InfoNCE and RankNet against closed forms and slow loops."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from e2rank_pyserini.losses import info_nce, ranknet
from tests.reference import training as slow

TEMPERATURES = (0.01, 0.03, 1.0)


def unit(rows: int, dim: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=-1)


# --- InfoNCE ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7])
def test_infonce_of_equal_scores_is_the_log_of_the_candidates(count: int):
    documents = torch.eye(count + 1)[:count]
    query = torch.eye(count + 1)[count:]  # orthogonal to every document
    assert float(info_nce(query, documents, torch.tensor([0]), 0.03)) == pytest.approx(math.log(count), abs=1e-6)


@pytest.mark.parametrize("temperature", [0.03, 0.5])
def test_infonce_of_two_documents_by_hand(temperature: float):
    query = torch.tensor([[1.0, 0.0]])
    documents = torch.tensor([[0.6, 0.8], [0.8, 0.6]])
    expected = math.log1p(math.exp((0.8 - 0.6) / temperature))
    assert float(info_nce(query, documents, torch.tensor([0]), temperature)) == pytest.approx(expected, rel=1e-5)
    expected = math.log1p(math.exp((0.6 - 0.8) / temperature))
    assert float(info_nce(query, documents, torch.tensor([1]), temperature)) == pytest.approx(expected, rel=1e-3)


def test_infonce_of_one_hot_vectors_by_hand():
    expected = math.log(math.e ** (1 / 0.5) + 3) - 1 / 0.5  # cosine 1 with the positive, 0 with the other three
    assert float(info_nce(torch.eye(4), torch.eye(4), torch.arange(4), 0.5)) == pytest.approx(expected, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.sampled_from(TEMPERATURES), st.integers(0, 2**31), st.data())
def test_infonce_equals_the_loop(queries: int, documents: int, temperature: float, seed: int, data: st.DataObject):
    left, right = unit(queries, 6, seed), unit(documents, 6, seed + 1)
    positives = data.draw(st.lists(st.integers(0, documents - 1), min_size=queries, max_size=queries))
    masks = st.lists(st.booleans(), min_size=documents, max_size=documents)
    excluded = data.draw(st.none() | st.lists(masks, min_size=queries, max_size=queries))
    scores: list[list[float | None]] = (left.double() @ right.double().T).tolist()
    for row, positive, mask in zip(scores, positives, excluded or [], strict=False):
        for column in range(documents):
            if mask[column] and column != positive:  # the positive stays, whatever the mask says
                row[column] = None
    mask = None if excluded is None else torch.tensor(excluded)
    found = float(info_nce(left, right, torch.tensor(positives), temperature, mask))
    assert found == pytest.approx(slow.info_nce(scores, positives, temperature), rel=1e-4, abs=1e-4)


def test_an_excluded_document_has_no_say():
    queries, documents = unit(2, 5, 0), unit(4, 5, 1).requires_grad_()
    excluded = torch.tensor([[False, True, False, False], [False, True, False, False]])
    loss = info_nce(queries, documents, torch.tensor([0, 2]), 0.1, excluded)
    loss.backward()
    assert documents.grad is not None
    assert not documents.grad[1].any()
    assert documents.grad[[0, 2, 3]].abs().sum(dim=1).min() > 0
    kept = documents.detach()[[0, 2, 3]]
    assert float(loss.detach()) == pytest.approx(float(info_nce(queries, kept, torch.tensor([0, 1]), 0.1)), rel=1e-5)


def test_with_all_others_excluded_nothing_is_left_to_learn():
    loss = info_nce(unit(2, 5, 0), unit(3, 5, 1), torch.tensor([1, 2]), 0.03, torch.ones(2, 3, dtype=torch.bool))
    assert float(loss) == 0.0


def test_infonce_pulls_the_positive_and_pushes_the_rest():
    query, documents = unit(1, 5, 0), unit(4, 5, 1).requires_grad_()
    info_nce(query, documents, torch.tensor([2]), 0.1).backward()
    assert documents.grad is not None
    pull = (documents.grad @ query[0]).tolist()  # along the query
    assert [value < 0 for value in pull] == [False, False, True, False]


# --- RankNet ----------------------------------------------------------------------------------------------------------


def test_ranknet_of_equal_scores_is_log_2():
    assert float(ranknet(torch.full((3, 16), 0.7), torch.arange(16.0).repeat(3, 1))) == pytest.approx(math.log(2))


@pytest.mark.parametrize("gap", [-3.0, -0.1, 0.0, 2.5])
def test_ranknet_of_two_documents_by_hand(gap: float):
    scores, relevance = torch.tensor([[gap, 0.0]]), torch.tensor([[2.0, 1.0]])
    assert float(ranknet(scores, relevance)) == pytest.approx(math.log1p(math.exp(-gap)), rel=1e-6)
    assert float(ranknet(scores, relevance.flip(1))) == pytest.approx(math.log1p(math.exp(gap)), rel=1e-6)


def test_ranknet_of_one_relevant_document_by_hand():
    """One-hot: n - 1 pairs, each log(1 + exp(-5)); the others tie among themselves."""
    one = torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    assert float(ranknet(5 * one, one)) == pytest.approx(math.log1p(math.exp(-5)), rel=1e-5)


def test_ranknet_over_a_full_ranking_of_16_is_the_mean_over_all_ordered_pairs():
    cosines = np.random.default_rng(3).uniform(-1, 1, 16)
    ranks = np.random.default_rng(4).permutation(16) + 1  # the rank of each document, 1 is best
    expected = []
    for better, worse in itertools.permutations(range(16), 2):
        if ranks[better] < ranks[worse]:
            expected.append(-math.log(1 / (1 + math.exp(-10 * (cosines[better] - cosines[worse])))))
    assert len(expected) == 120
    scores, relevance = torch.tensor(10 * cosines[None]), torch.tensor(16.0 - ranks[None])
    assert float(ranknet(scores, relevance)) == pytest.approx(np.mean(expected), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(-20, 20, width=32), st.integers(-2, 3)), min_size=1, max_size=7),
        min_size=1,
        max_size=4,
    ),
    st.floats(-1e3, 1e3, width=32),
)
def test_ranknet_equals_the_loop_whatever_pads_a_shorter_list(lists: list[list[tuple[float, int]]], filler: float):
    longest = max(map(len, lists))
    scores, relevance = torch.full((len(lists), longest), filler), torch.full((len(lists), longest), filler)
    real = torch.zeros(len(lists), longest, dtype=torch.bool)
    for number, members in enumerate(lists):
        scores[number, : len(members)] = torch.tensor([score for score, _ in members])
        relevance[number, : len(members)] = torch.tensor([float(grade) for _, grade in members])
        real[number, : len(members)] = True
    expected = slow.ranknet([([score for score, _ in one], [grade for _, grade in one]) for one in lists])
    scores.requires_grad_()
    found = ranknet(scores, relevance, real)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    found.backward()
    assert scores.grad is not None
    assert not scores.grad[~real].any()
    assert torch.isfinite(scores.grad).all()


def test_lists_count_by_their_pairs():
    """The mean is over the pairs of all lists: a list of three has three pairs, one of two has one."""
    scores = torch.tensor([[3.0, 2.0, 0.0], [0.0, 4.0, 9.0]])
    relevance = torch.tensor([[3.0, 2.0, 1.0], [2.0, 1.0, 7.0]])
    real = torch.tensor([[True, True, True], [True, True, False]])
    expected = sum(math.log1p(math.exp(-gap)) for gap in (1, 3, 2, -4)) / 4
    assert float(ranknet(scores, relevance, real)) == pytest.approx(expected, rel=1e-6)


def test_a_list_of_ties_teaches_nothing():
    scores = torch.tensor([[1.0, -4.0, 2.0]], requires_grad=True)
    loss = ranknet(scores, torch.ones(1, 3))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert scores.grad is not None
    assert not scores.grad.any()


def test_tied_documents_are_no_pair():
    scores, relevance = torch.tensor([[1.0, 5.0, -2.0]]), torch.tensor([[2.0, 2.0, 1.0]])
    expected = (math.log1p(math.exp(-3)) + math.log1p(math.exp(-7))) / 2
    assert float(ranknet(scores, relevance)) == pytest.approx(expected, rel=1e-5)


def test_ranknet_lifts_the_best_and_sinks_the_worst():
    scores = torch.zeros(1, 5, requires_grad=True)
    ranknet(scores, torch.tensor([[1.0, 5.0, 3.0, 2.0, 4.0]])).backward()
    assert scores.grad is not None
    # each document is in 4 of the 10 pairs, each of slope 1/2: (worse than) - (better than)
    np.testing.assert_allclose(scores.grad[0], np.array([4, -4, 0, 2, -2]) / 20, atol=1e-7)


def test_far_apart_scores_stay_finite():
    scores = torch.tensor([[-1e6, 1e6]], requires_grad=True)
    loss = ranknet(scores, torch.tensor([[2.0, 1.0]]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(2e6)
    np.testing.assert_allclose(scores.grad, [[-1, 1]])
