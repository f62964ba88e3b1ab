"""The relatives that differ in what a return is measured against: RLOO, MaxRL, REINFORCE++, GDPO, and GRPO's scales."""

import numpy as np
import pytest
from ragged import advantages_on_tokens, assert_learns, episode, groups_of, on_turns, spread
from tiny import advantages_of, group_of, vector_of

from grpo_agents.advantage import AdvantageConfig, assign_advantages
from grpo_agents.methods import make_method
from grpo_agents.methods.dapo import Dapo
from grpo_agents.methods.dr_grpo import DrGrpo
from grpo_agents.methods.gdpo import Gdpo
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.maxrl import MaxRl
from grpo_agents.methods.reinforce_pp import ReinforcePlusPlus, ReinforcePlusPlusBaseline
from grpo_agents.methods.rloo import Rloo
from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.trajectory import Group

RETURNS = [[1, 0, 0, 0], [2, 0.5], [0.3, 2.0, 0.7], [0.1, 0.1, 0.1], [0, 0], [5.0], [0.5, 0.25, 3, 0.5, 1]]


def whitened(values):
    pooled = np.concatenate(values)
    return [(one - pooled.mean()) / (pooled.std(ddof=1) + 1e-6) for one in values]


def left_out(returns):
    """R less the mean of the others, one at a time."""
    if len(returns) == 1:
        return [0.0]
    return [reward - np.mean(returns[:i] + returns[i + 1 :]) for i, reward in enumerate(returns)]


def relative(returns):
    mean = np.mean(returns)
    return [(reward - mean) / mean if mean else 0.0 for reward in returns]


@pytest.mark.parametrize(
    ("method", "formula"),
    [
        (Grpo(), spread),
        (Dapo(), spread),
        (DrGrpo(max_length=9), lambda returns: np.subtract(returns, np.mean(returns))),
        (Rloo(), left_out),
        (MaxRl(), relative),
    ],
)
def test_advantages_of_a_group(method, formula):
    groups = groups_of(np.random.default_rng(0), *RETURNS)
    values = [value for returns in RETURNS for value in formula(returns)]
    episodes = [trajectory for group in groups for trajectory in group.trajectories]
    assert_learns(method, groups, [on_turns(one, [value]) for one, value in zip(episodes, values, strict=True)])


def test_rloo_is_g_over_g_minus_one_times_what_dr_grpo_has():
    rng = np.random.default_rng(1)
    for size in (2, 3, 8):
        returns = rng.normal(size=size).tolist()
        found = advantages_on_tokens(Rloo(), groups_of(np.random.default_rng(0), returns)).advantages
        plain = advantages_on_tokens(Grpo(scale="none"), groups_of(np.random.default_rng(0), returns)).advantages
        assert found.numpy() == pytest.approx(size / (size - 1) * plain.numpy(), rel=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_reinforce_pp_whitens_over_tokens_and_needs_no_group(beta):
    """A longer episode counts more in the mean; a return of 0 is as good as any other."""
    groups = groups_of(np.random.default_rng(0), [1.0], [0.0], [0.0, 3.0], [0.5])
    method = ReinforcePlusPlus(kl_weight=beta, kl="k1", kl_in="reward")
    tokens = advantages_on_tokens(method, groups)
    episodes = [trajectory for group in groups for trajectory in group.trajectories]
    plain = [on_turns(one, [one.rewards["outcome"]]) for one in episodes]
    costs = np.split((tokens.old - tokens.reference).numpy(), np.cumsum([len(one) for one in plain])[:-1])
    earned = [
        returns - beta * np.array([cost[t:].sum() for t in range(len(cost))])
        for returns, cost in zip(plain, costs, strict=True)
    ]
    assert_learns(method, groups, whitened(earned))
    assert not method.normalises_by_group
    assert tokens.advantages.mean().item() == pytest.approx(0, abs=1e-12)


def test_its_baseline_variant_subtracts_the_groups_mean_first():
    groups = groups_of(np.random.default_rng(0), [1, 0, 0, 0], [9.0, 8.0, 8.6], [2.0, 1.0, 0.0])
    plain = [
        on_turns(one, [one.rewards["outcome"] - np.mean([other.rewards["outcome"] for other in group.trajectories])])
        for group in groups
        for one in group.trajectories
    ]
    assert_learns(ReinforcePlusPlusBaseline(), groups, whitened(plain))
    middle = advantages_on_tokens(ReinforcePlusPlusBaseline(), groups).advantages.numpy()[-len(plain[-2]) :]
    assert np.abs(middle).min() > 1e-3  # R = the group's mean, and yet the mean over tokens is another


def test_its_baseline_variant_leaves_groups_without_spread_alone():
    """Whatever the mean over tokens is, which is subtracted from the others."""
    groups = groups_of(np.random.default_rng(0), [0.1, 0.1, 0.1], [1, 0, 0, 0], [7.0])
    tokens = advantages_on_tokens(ReinforcePlusPlusBaseline(), groups)
    silent = tokens.group != 1
    assert (tokens.advantages[silent] == 0).all()
    assert (tokens.advantages[~silent] != 0).all()


def test_its_baseline_variant_pushes_tied_groups_by_their_kl_alone():
    groups = groups_of(np.random.default_rng(0), [1.0, 0.0], [0.7, 0.7])
    method = ReinforcePlusPlusBaseline(kl_weight=0.01, kl="k1", kl_in="reward")
    tokens = advantages_on_tokens(method, groups)
    lengths = np.bincount(tokens.trajectory.numpy())
    costs = np.split((tokens.old - tokens.reference).numpy(), np.cumsum(lengths)[:-1])
    left = [-0.01 * np.array([cost[t:].sum() for t in range(len(cost))]) for cost in costs]
    pooled = np.concatenate([left[0] + 0.5, left[1] - 0.5, left[2], left[3]])
    expected = [(np.concatenate([left[0] + 0.5, left[1] - 0.5]) - pooled.mean()), *left[2:]]
    assert tokens.advantages.numpy() == pytest.approx(np.concatenate(expected) / pooled.std(ddof=1), rel=1e-4)


@pytest.mark.parametrize(("returns", "baseline", "plain"), [
    ([[1, 0], [1, 1]], [True, False], [True, True]),
    ([[1, 1], [0, 0]], [False, False], [True, True]),
    ([[1, 1], [1, 1]], [False, False], [False, False]),
    ([[0, 0], [0, 0]], [False, False], [False, False]),
])  # fmt: skip
def test_a_group_is_tied_where_nothing_in_it_is_better_than_what_it_is_compared_with(returns, baseline, plain):
    """With REINFORCE++ that is the whole batch, whatever the returns are."""
    for method, expected in ((ReinforcePlusPlusBaseline(), baseline), (ReinforcePlusPlus(), plain), (Grpo(), baseline)):
        figures = assign_advantages(
            [group_of(row) for row in returns], vector_of(outcome="max"), AdvantageConfig(), {}, method
        )
        assert figures["groups_tied"] == 1 - np.mean(expected)


@pytest.mark.parametrize("kl_weight", [0.0, 0.5])
def test_reinforce_pp_of_equal_returns_pushes_by_the_kl_alone(kl_weight):
    method = ReinforcePlusPlus(kl_weight=kl_weight, kl="k2", kl_in="reward")
    tokens = advantages_on_tokens(method, groups_of(np.random.default_rng(0), [0.1] * 3, [0.1] * 2))
    assert bool(tokens.advantages.abs().max() > 0) == bool(kl_weight)


def test_maxrl_refuses_negative_returns():
    with pytest.raises(ValueError, match=r"a return is -1, and method 'maxrl' divides by the mean of returns ≥ 0"):
        assign_advantages(
            [group_of([1.0, -1.0])], RewardVector([Component("outcome", None)]), AdvantageConfig(), {}, MaxRl()
        )


def test_maxrl_of_a_group_that_never_succeeds_is_zero():
    assert (advantages_on_tokens(MaxRl(), groups_of(np.random.default_rng(0), [0, 0, 0])).advantages == 0).all()


def test_the_batchs_deviation_is_taken_over_all_rollouts():
    groups = groups_of(np.random.default_rng(0), *RETURNS)
    plain = [np.subtract(returns, np.mean(returns)) for returns in RETURNS]
    deviation = np.concatenate(plain).std(ddof=1) + 1e-6
    values = np.concatenate(plain) / deviation
    episodes = [trajectory for group in groups for trajectory in group.trajectories]
    expected = [on_turns(one, [value]) for one, value in zip(episodes, values, strict=True)]
    assert_learns(Grpo(scale="batch"), groups, expected)


def test_gdpo_of_one_component_is_grpo_whitened_over_the_batch():
    groups = groups_of(np.random.default_rng(0), *RETURNS)
    scores = [spread(returns, 1e-4) for returns in RETURNS]
    pooled = np.concatenate(scores)
    values = np.concatenate([np.any(one) * (one - pooled.mean()) / (pooled.std(ddof=1) + 1e-4) for one in scores])
    episodes = [trajectory for group in groups for trajectory in group.trajectories]
    assert_learns(Gdpo(), groups, [on_turns(one, [value]) for one, value in zip(episodes, values, strict=True)])


def test_gdpo_hears_every_component():
    """Σ w_k z_k, whitened over the batch: the second component is a thousand times larger."""
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(4, 2)) * [1, 1000], rng.normal(size=(3, 2)) * [1, 1000]]
    vector, weights = RewardVector([Component("outcome", None), Component("style", None)]), [0.7, 0.3]
    scores = [sum(w * spread(table[:, k], 1e-4) for k, w in enumerate(weights)) for table in tables]
    expected = [(one - np.concatenate(scores).mean()) / (np.concatenate(scores).std(ddof=1) + 1e-4) for one in scores]
    groups = [
        group_of(table, preference=dict(zip(vector.names, weights, strict=True)), names=vector.names)
        for table in tables
    ]
    assign_advantages(groups, vector, AdvantageConfig(), {}, Gdpo())
    for group, values in zip(groups, expected, strict=True):
        assert advantages_of(group) == pytest.approx(values, abs=1e-9)


@pytest.mark.parametrize("name", ["rloo", "maxrl", "gdpo", "reinforce_pp", "reinforce_pp_baseline"])
@pytest.mark.parametrize("setting", [{"scale": "none"}, {"supervision": "process"}])
def test_settings_that_a_baseline_does_not_read_are_refused(name, setting):
    with pytest.raises(ValueError, match=f"method '{name}' does not use {next(iter(setting))}: leave it out"):
        make_method({"name": name, **setting})


@pytest.mark.parametrize("rewards", [[1.0, 0.0], [0.0, 0.0]])
def test_who_takes_no_part_has_no_tokens(rewards):
    rng = np.random.default_rng(0)
    group = Group({}, {}, [episode(rng, [reward]) for reward in rewards])
    group.trajectories[0].masked = True
    tokens = advantages_on_tokens(Grpo(), [group])
    assert len(tokens.old) == group.trajectories[1].sampled_tokens
