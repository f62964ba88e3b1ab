import numpy as np
import pytest

from grpo_agents.support import Support, among_likeliest

KEPT = [[4, 7], [], [5], [6, 0, 9], [2]]


def support_of(kept):
    ids = [token for kept_ids in kept for token in kept_ids]
    return Support(np.array(ids, np.int32), np.array([len(kept_ids) for kept_ids in kept], np.int32))


def lists(support):
    return [part.ids.tolist() for part in support.split(1)]


def test_rows_that_are_filled_up():
    support = Support.of(np.array([[4, 7, -1], [-1, -1, -1], [-1, 5, -1], [6, 0, 9], [2, -1, -1]]))
    assert (lists(support), support.ids.dtype, support.counts.dtype) == (KEPT, np.int32, np.int32)
    assert support.padded().tolist() == [[4, 7, -1], [-1, -1, -1], [5, -1, -1], [6, 0, 9], [2, -1, -1]]
    assert support_of([]).padded().shape == (0, 0)


@pytest.mark.parametrize("places", [[0, 3], [1], [], [0, 1, 2, 3, 4]])
def test_some_of_the_tokens(places):
    chosen = support_of(KEPT).at(np.array(places, int))
    assert (chosen.ids.tolist(), chosen.counts.tolist()) == (
        [token for place in places for token in KEPT[place]],
        [len(KEPT[place]) for place in places],
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_in_parts_and_together_again(size):
    parts = support_of(KEPT).split(size)
    assert [lists(part) for part in parts] == [KEPT[start : start + size] for start in range(0, len(KEPT), size)]
    assert lists(Support.join([(part, len(part.counts)) for part in parts])) == KEPT
    assert support_of([]).split(size) == []


def test_what_was_not_cut_beside_what_was():
    joined = Support.join([(None, 2), (support_of(KEPT[:2]), 2), (None, 0), (support_of(KEPT[2:3]), 1), (None, 1)])
    assert joined.counts.tolist() == [0, 0, 2, 0, 1, 0]
    assert joined.ids.tolist() == [4, 7, 5]
    assert Support.join([(None, 3), (None, 1)]) is None


def test_whether_tokens_are_in_their_supports():
    assert support_of(KEPT).holds(np.array([7, 3, 5, 4, 2])).tolist() == [True, True, True, False, True]


def test_the_likeliest_tokens_hold_the_support():
    """k = 3: a whole support, one that top-p cut further, and one of whose ties for the third place one was sampled."""
    cut = -np.inf
    ids = np.array([[5, 8, 5, 3], [2, 2, 9, 4], [7, 1, 2, 6]])
    probabilities = np.array([[0.3, 0.5, 0.3, 0.2], [0.6, 0.6, 0.4, 0.0], [0.1, 0.5, 0.3, 0.1]])
    with np.errstate(divide="ignore"):
        support, logprobs = among_likeliest(ids, np.log(probabilities))
    assert [sorted(kept) for kept in lists(support)] == [[3, 5, 8], [2, 9], [1, 2, 6, 7]]
    assert np.exp(logprobs) == pytest.approx([0.3, 0.6, 0.1])
    tied = np.log([[0.25, 0.25, 0.25]])  # of four alike, two are known
    support, logprobs = among_likeliest(np.array([[3, 3, 1]]), tied)
    assert (sorted(support.ids), np.exp(logprobs)) == ([1, 3], pytest.approx(0.5))
    support, logprobs = among_likeliest(np.array([[3, 3, 1]]), np.array([[0.0, 0.0, cut]]))
    assert (support.ids.tolist(), logprobs.tolist()) == ([3], [0.0])
