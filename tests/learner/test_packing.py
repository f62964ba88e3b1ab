"""Which rows are computed together, as a tree or padded, and that nothing but the work depends on it."""

import copy
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import forking, make_model, sampled
from transformers import MambaConfig, MambaForCausalLM
from updates import gradients, on_policy, reference_gradient

from grpo_agents.learner import forward
from grpo_agents.learner.batch import make_batch
from grpo_agents.learner.learner import Learner
from grpo_agents.learner.packing import as_tree, cut, deal, micro_batches
from grpo_agents.learner.settings import LearnerConfig, OptimizerConfig
from grpo_agents.learner.tree import Tree
from grpo_agents.methods.grpo import Grpo
from grpo_agents.support import Support
from grpo_agents.trajectory import Trajectory

VOCAB = 97


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# Padded rows


def rows_of(rng, lengths, groups=None):
    """A row of so many tokens for each trajectory, each in a group of its own where none are given."""
    groups = range(len(lengths)) if groups is None else groups
    trajectories = [sampled(rng, 90, length - 1, [(1, 0)], advantage=1.0, group=group)
                    for length, group in zip(lengths, groups, strict=True)]  # fmt: skip
    return make_batch(trajectories).rows


def lengths_of(parts):
    return [[len(row.ids) for row in part] for part in parts]


def test_padded_rows_keep_to_the_budget_and_lose_nothing(rng):
    rows = make_batch(
        [sampled(rng, 90, int(rng.integers(1, 9)), [(int(rng.integers(1, 9)), 0)], advantage=1.0) for _ in range(40)]
    ).rows
    for budget in (16, 17, 50, 10_000):
        parts = list(micro_batches(rows, budget, shares=False))
        assert sorted(id(row) for part in parts for row in part) == sorted(id(row) for row in rows)
        for part in parts:
            assert len(part) * max(len(row.ids) for row in part) <= budget
    assert len(list(micro_batches(rows, 10_000, shares=False))) == 1
    assert list(micro_batches([], 10, shares=False)) == []


def test_padded_rows_of_like_length_are_together_the_longest_first(rng):
    """18 tokens are two rows of 9, three of 5 and, if 5 is the longest, no four; what needs most memory comes first."""
    assert lengths_of(micro_batches(rows_of(rng, [3, 9, 2, 8, 4, 5]), 18, shares=False)) == [[9, 8], [5, 4, 3], [2]]


@pytest.mark.parametrize(
    ("unit", "ranks", "expected"),
    [
        ("token", 1, [[[9, 8], [5, 4, 3], [2]]]),
        ("token", 2, [[[9, 5], [3]], [[8, 4], [2]]]),
        ("token", 7, [[[9]], [[8]], [[5]], [[4]], [[3]], [[2]], []]),
        ("group", 2, [[[3, 9], [4, 5]], [[2, 8]]]),
        ("trajectory", 2, [[[9, 5], [3]], [[8, 4], [2]]]),
    ],
)
def test_padded_rows_are_dealt_as_cards_are(rng, unit, ranks, expected):
    """One to each rank in turn, the longest first, so that every rank has rows of every length; a group is one card."""
    shares = deal(rows_of(rng, [3, 9, 2, 8, 4, 5], [0, 0, 1, 1, 2, 2]), 18, unit, ranks, shares=False)
    assert [lengths_of(parts) for parts in shares] == expected


@pytest.mark.parametrize("unit", ["trajectory", "group"])
def test_padded_rows_that_belong_together_and_do_not_fit_are_named(rng, unit):
    first, second = sampled(rng, 90, 3, [(2, 0)]), sampled(rng, 90, 2, [(2, 0)])
    rows = make_batch([Trajectory(samples=[*first.samples, *second.samples], advantage=1.0)]).rows
    assert lengths_of(micro_batches(rows, 10, unit, shares=False)) == [[5, 4]]
    named = "" if unit == "group" else r"\.0"
    said = rf"^2 rows of {unit} 0{named}, which belong together, come to 10 tokens, more than learner\.max_tokens = 9\."
    with pytest.raises(ValueError, match=said):
        list(micro_batches(rows, 9, unit, shares=False))


def test_a_padded_row_longer_than_the_budget_is_named(rng):
    rows = make_batch([sampled(rng, 90, 7, [(5, 0)], advantage=1.0)]).rows
    assert len(list(micro_batches(rows, 12, shares=False))) == 1
    said = r"^trajectory 0\.0 comes to 12 tokens, more than learner\.max_tokens = 11\..*rollout\.max_tokens"
    with pytest.raises(ValueError, match=said):
        list(micro_batches(rows, 11, shares=False))


# Trees


def computed(part):
    """Tokens of a part that go through the layers: a row's last is a target only."""
    return len(Tree.of([row.ids[:-1] for row in part]).ids)


def prefixes(rows):
    """The different beginnings of rows that something is predicted from."""
    return {tuple(row.ids[:end]) for row in rows for end in range(1, len(row.ids))}


def shuffled(rng, **settings):
    rows = make_batch(forking(rng, VOCAB, **settings)).rows
    return [rows[index] for index in rng.permutation(len(rows))]


@pytest.mark.parametrize("unit", ["token", "trajectory", "group"])
@pytest.mark.parametrize("budget", [50, 51, 130, 10_000])
def test_trees_keep_to_the_budget_and_lose_nothing(rng, unit, budget):
    rows = shuffled(rng, groups=9)
    parts = list(micro_batches(rows, budget, unit))
    assert sorted(id(row) for part in parts for row in part) == sorted(map(id, rows))
    for part in parts:
        assert computed(part) <= budget
    assert (len(parts) == 1) == (budget == 10_000)
    assert sum(map(computed, parts)) == len(prefixes(rows))  # every group fits: none is cut
    assert list(micro_batches([], budget, unit)) == []


def test_rows_that_begin_alike_are_together(rng):
    """However they come, and where a group is larger than the budget."""
    rows = shuffled(rng, groups=9)
    parts = list(micro_batches(rows, 30))
    whose = [row.group for part in parts for row in part]
    assert sum(one != other for one, other in pairwise(whose)) == 8
    (alone,) = micro_batches(rows, 10_000)
    shared = sum(map(computed, parts))
    assert computed(alone) < shared < 1.2 * computed(alone) < sum(len(row.ids) - 1 for row in rows)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=1, max_size=8),
    st.integers(7, 20),
)
def test_a_line_is_cut_where_least_is_computed_twice(bundles, budget):
    """As found among all ways to cut it; of equals one with the fewest parts."""
    new = [own for _, own in bundles]
    alone = [shared + own for shared, own in bundles]
    alone[0] = new[0]  # nothing comes before the first

    def tokens(start, stop):
        return alone[start] + sum(new[start + 1 : stop])

    ways = []
    for count in range(len(new)):
        for inner in combinations(range(1, len(new)), count):
            parts = list(pairwise([0, *inner, len(new)]))
            if all(tokens(*part) <= budget or part[1] - part[0] == 1 for part in parts):
                ways.append((sum(tokens(*part) for part in parts), len(parts)))
    found = cut(alone, new, budget)
    assert (sum(tokens(*part) for part in found), len(found)) == min(ways)
    assert [start for start, _ in found] == [0, *(stop for _, stop in found[:-1])]
    assert found[-1][1] == len(new)


@pytest.mark.parametrize("unit", ["trajectory", "group"])
def test_units_of_trees_stay_together(rng, unit):
    trajectories = forking(rng, VOCAB, groups=8)
    twice = [Trajectory(samples=[*first.samples, *second.samples], advantage=1.0, group=first.group)
             for first, second in zip(trajectories[::2], trajectories[1::2], strict=True)]  # fmt: skip
    parts = list(micro_batches(make_batch(twice).rows, 50, unit))
    whose = [{getattr(row, unit) for row in part} for part in parts]
    assert len(parts) > 1
    assert sum(map(len, whose)) == len(set().union(*whose)) == (16 if unit == "trajectory" else 8)


@pytest.mark.parametrize("unit", ["trajectory", "group"])
def test_a_tree_that_does_not_fit_is_named_with_its_size(rng, unit):
    """What its rows share counts once, and last tokens do not."""
    samples = [sampled(rng, 90, 3, [(4, 0)]).samples[0] for _ in range(2)]
    samples[1].ids[:5] = samples[0].ids[:5]
    rows = make_batch([Trajectory(samples=samples, advantage=1.0)]).rows
    assert len(list(micro_batches(rows, 7, unit))) == 1
    named = "" if unit == "group" else r"\.0"
    said = rf"^2 rows of {unit} 0{named}, which belong together, come to 7 tokens, more than learner\.max_tokens = 6\."
    with pytest.raises(ValueError, match=said):
        list(micro_batches(rows, 6, unit))


def test_one_row_that_does_not_fit_is_named(rng):
    rows = make_batch([sampled(rng, 90, 7, [(5, 0)], advantage=1.0)]).rows
    assert len(list(micro_batches(rows, 11))) == 1
    with pytest.raises(ValueError, match=r"^trajectory 0\.0 comes to 11 tokens, more than learner\.max_tokens = 10\."):
        list(micro_batches(rows, 10))


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("unit", ["token", "group"])
def test_every_rank_computes_about_as_much(rng, ranks, unit):
    """Also where some groups share nearly all they have, and others nearly nothing."""
    rows = shuffled(rng, groups=30)
    for group in range(30):
        long = rng.integers(0, VOCAB, 40).astype(np.int32)
        for row in rows:
            if row.group == group and group % 3:
                row.ids, row.trained = np.concatenate([long, row.ids]), row.trained + 40
    shares = deal(rows, 10_000, unit, ranks)
    assert sorted(id(row) for parts in shares for part in parts for row in part) == sorted(map(id, rows))
    sizes = [sum(map(computed, parts)) for parts in shares]
    assert max(sizes) - min(sizes) < 0.2 * len(prefixes(rows)) / ranks


def test_more_ranks_than_rows_lose_nothing(rng):
    rows = shuffled(rng, groups=1, size=2)
    shares = deal(rows, 1000, "token", 4)
    assert sorted(id(row) for parts in shares for part in parts for row in part) == sorted(map(id, rows))


def test_a_target_after_a_prefix_is_computed_once(rng):
    """But for those whose distributions may have been cut in different places."""
    trajectories = forking(rng, VOCAB)
    rows = make_batch(trajectories).rows
    pack = as_tree(rows, torch.device("cpu"))
    said = np.concatenate([row.ids[row.trained] for row in rows])
    pairs = {(*row.ids[:place], row.ids[place]) for row in rows for place in row.trained}
    assert pack.targets[pack.order].tolist() == said.tolist()
    assert len(pack.targets) == len(pack.places) == len(pairs) < len(said)
    assert pack.tokens == len(prefixes(rows))
    for trajectory in trajectories:
        (sample,) = trajectory.samples
        sample.support = Support(sample.ids[sample.mask], sample.mask.astype(np.int32))
    pack = as_tree(make_batch(trajectories).rows, torch.device("cpu"))
    assert pack.targets.tolist() == said.tolist()
    assert pack.order.tolist() == list(range(len(said)))


# Gradients


def make_learner(model, **settings):
    config = LearnerConfig(optimizer=OptimizerConfig(lr=1e-3, clip=1e6), **settings)
    return Learner(model, config, Grpo(aggregation="token"), steps=10)


def distance(found, expected):
    """How far a gradient is from another, as a share of it."""
    assert found.keys() == expected.keys()
    apart = sum(float((found[name].double() - value).square().sum()) for name, value in expected.items())
    return (apart / sum(float(value.square().sum()) for value in expected.values())) ** 0.5


def of_whole_logits(model, trajectories):
    """The gradient of one sequence after the other, in float64."""
    return reference_gradient(model, Grpo(aggregation="token"), trajectories, 1.0)


@pytest.mark.parametrize(
    "kind", ["qwen2", "qwen3", "llama", "mistral", "gemma", "gemma3_text", "phi3", "olmo2", "smollm3", "glm4"]
)
def test_the_gradient_of_trees_is_that_of_one_sequence_after_the_other(kind, rng):
    """Also with budgets that split a group."""
    model = make_model(kind)
    trajectories = on_policy(model, forking(rng, VOCAB))
    batch, expected = make_batch(trajectories), of_whole_logits(model, trajectories)
    for budget in (max(len(row.ids) for row in batch.rows), 45, 4000):
        learner = make_learner(copy.deepcopy(model), max_tokens=budget)
        assert learner.shares_prefixes
        assert distance(gradients(learner, batch), expected) < 1e-5


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text"])
@pytest.mark.parametrize("budget", [45, 4000])
def test_a_sliding_window_sees_the_same_in_a_tree(rng, kind, budget):
    model = make_model(kind, sliding_window=4)
    trajectories = on_policy(model, forking(rng, VOCAB))
    batch, expected = make_batch(trajectories), of_whole_logits(model, trajectories)
    assert np.median([len(row.ids) for row in batch.rows]) > 8
    learner = make_learner(model, max_tokens=budget)
    assert learner.shares_prefixes
    assert distance(gradients(learner, batch), expected) < 1e-5
    wide = make_model(kind, sliding_window=100)
    assert distance(of_whole_logits(wide, trajectories), expected) > 1e-2  # so the window matters


@pytest.mark.parametrize("budget", [60, 4000])
def test_an_architecture_whose_tokens_cannot_share_a_prefix_is_padded(rng, budget):
    """A state-space model's layers know only what stands right before a token."""
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=4,
                                         initializer_range=0.15, bos_token_id=None, eos_token_id=None,
                                         pad_token_id=None)).eval()  # fmt: skip
    trajectories = on_policy(model, forking(rng, VOCAB))
    batch, expected = make_batch(trajectories), of_whole_logits(model, trajectories)
    learner = make_learner(model, max_tokens=budget)
    assert not learner.shares_prefixes
    assert learner.why_padded.startswith("MambaForCausalLM does not take its attention from transformers")
    assert distance(gradients(learner, batch), expected) < 1e-5


def test_chunks_of_attention_are_named_and_padded():
    """They are longer than what a model is probed with, so that its config decides."""
    model = make_model("qwen3", layer_types=["full_attention", "chunked_attention"])
    assert forward._takes_no_trees(model) == "Qwen3ForCausalLM has layers of chunked_attention"


@pytest.mark.parametrize("budget", [45, 4000])
def test_as_many_tokens_go_through_the_model_as_there_are_prefixes(rng, budget):
    model = make_model()
    batch = make_batch(forking(rng, VOCAB))
    learner = make_learner(model, max_tokens=budget)
    seen = []
    model.get_input_embeddings().register_forward_hook(lambda _, given, __: seen.append(given[0].numel()))
    gradients(learner, batch)
    parts = list(micro_batches(batch.rows, budget))
    assert seen == [len(prefixes(part)) for part in parts]
    assert sum(seen) == len(prefixes(batch.rows))
    assert len(parts) == (4 if budget == 45 else 1)
    assert 2 * sum(seen) < len(batch.rows) * max(len(row.ids) for row in batch.rows)  # half of what padding would be
