"""Trees of tokens: what they hold, and attention over them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_agents.learner import attention
from grpo_agents.learner.tree import Tree

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=8)


def of(sequences):
    return Tree.of([np.array(sequence) for sequence in sequences])


def ancestry_of(tree):
    return attention.Ancestry(tree, torch.device("cpu"))


@given(SEQUENCES)
def test_there_is_one_node_for_each_different_prefix(sequences):
    tree = of(sequences)
    prefixes = {tuple(sequence[: end + 1]) for sequence in sequences for end in range(len(sequence))}
    assert len(tree.ids) == len(prefixes)
    for sequence, path in zip(sequences, tree.paths, strict=True):
        assert tree.ids[path].tolist() == sequence
        assert tree.depth[path].tolist() == list(range(len(sequence)))
        assert tree.parent[path].tolist() == [-1, *path[:-1].tolist()]


@given(SEQUENCES)
def test_a_node_attends_to_its_path_and_nothing_else(sequences):
    tree = of(sequences)
    seen = tree.ancestry()
    for node in range(len(tree.ids)):
        path, at = set(), node
        while at >= 0:
            path.add(at)
            at = int(tree.parent[at])
        assert set(np.flatnonzero(seen[node])) == path
    near = tree.ancestry(window=2)
    assert (near == (seen & (tree.depth[:, None] - tree.depth[None] < 2))).all()


@settings(deadline=None, max_examples=40)
@given(SEQUENCES)
def test_segments_are_stretches_without_a_fork_as_long_as_can_be(sequences):
    tree = of(sequences)
    children = [sum(tree.parent == node) for node in range(len(tree.ids))]
    assert [start for start, *_ in tree.segments] == [0, *(stop for _, stop, _ in tree.segments[:-1])]
    for start, stop, end in tree.segments:
        assert all(tree.parent[node] == node - 1 and children[node - 1] == 1 for node in range(start + 1, stop))
        assert stop == len(tree.ids) or children[stop - 1] != 1  # it could not be longer
        below = [node for node in range(len(tree.ids)) if tree.ancestry()[node, start]]
        assert below == list(range(start, end))
    assert (tree.ends - np.arange(len(tree.ids)) == tree.ancestry().sum(0)).all()


@settings(deadline=None, max_examples=40)
@given(SEQUENCES, st.sampled_from([(2, 2), (4, 2), (3, 1)]))
def test_attention_and_its_gradient_are_those_of_a_masked_softmax_in_float64(sequences, heads):
    tree = of(sequences)
    generator = torch.Generator().manual_seed(len(tree.ids))
    shapes = [(1, count, len(tree.ids), 8) for count in (heads[0], heads[1], heads[1], heads[0])]
    query, key, value, weights = (torch.randn(shape, generator=generator) for shape in shapes)
    mask = torch.from_numpy(tree.ancestry())

    def plain(query, key, value):
        key, value = (tensor.repeat_interleave(heads[0] // heads[1], 1) for tensor in (key, value))
        products = (query @ key.mT * 0.3).masked_fill(~mask, -torch.inf)
        return products.softmax(-1) @ value

    def ours(query, key, value):
        return attention.attend(None, query, key, value, None, ancestry=ancestry_of(tree), scaling=0.3)[0].transpose(
            1, 2
        )

    found = []
    for function, dtype in ((plain, torch.float64), (ours, torch.float32)):
        inputs = [tensor.to(dtype).requires_grad_() for tensor in (query, key, value)]
        output = function(*inputs)
        found.append([output.detach(), *torch.autograd.grad((output * weights.to(dtype)).sum(), inputs)])
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("kind", [attention.by_mask, attention.by_blocks])
def test_a_mask_and_blocks_say_the_same(window, kind):
    tree = of([[1, 2, 3, 4, 5], [1, 2, 3, 0], [1, 7, 7, 7, 7, 7], [4]])
    query, key, value = (torch.randn(1, heads, len(tree.ids), 8) for heads in (4, 2, 2))
    mask = torch.from_numpy(tree.ancestry(window))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)
    torch.testing.assert_close(kind(query, key, value, ancestry_of(tree), window, 8**-0.5), expected)
    if window is not None:  # which the kernel by segments cannot
        found, _ = attention.attend(None, query, key, value, None, ancestry=ancestry_of(tree), sliding_window=window)
        torch.testing.assert_close(found.transpose(1, 2), expected)
