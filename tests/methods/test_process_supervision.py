import numpy as np
import pytest
from ragged import advantages_on_tokens, assert_learns, episode, on_turns, spread

from grpo_agents.methods.grpo import Grpo
from grpo_agents.trajectory import Group

REWARDS = [[[1, 0, 2], [0.5], [0, 0.3]], [[2, 2], [2, 2]], [[1, 0, 3]], [[0, 1, 0, 1], [1, 1, 0]]]


def make_groups(rewards=REWARDS):
    rng = np.random.default_rng(0)
    return [Group({}, {}, [episode(rng, turns) for turns in group]) for group in rewards]


def test_a_turn_gets_its_own_normalised_reward_and_those_of_all_later_ones():
    """Normalised over all turns of the group; equal ones, and a group of one, say nothing."""
    groups, expected = make_groups(), []
    for group, rewards in zip(groups, REWARDS, strict=True):
        normal = iter(spread(np.concatenate(rewards)) * (len(rewards) > 1))
        for trajectory in group.trajectories:
            own = [next(normal) for _ in trajectory.steps]
            expected.append(on_turns(trajectory, [sum(own[turn:]) for turn in range(len(own))]))
    assert_learns(Grpo(supervision="process"), groups, expected)


def test_by_hand():
    """Rewards 1, 0 and 0, 1 have mean 1/2 and deviation 1/√3."""
    found = []
    groups = make_groups([[[1, 0], [0, 1]]])
    advantages_on_tokens(Grpo(supervision="process"), groups)
    for trajectory in groups[0].trajectories:
        assert trajectory.advantage == 0
        found.append([step.advantage for step in trajectory.steps])
    z = np.sqrt(3) / 2
    assert np.array(found) == pytest.approx(np.array([[0, -z], [0, z]]), abs=1e-5)


def test_without_a_deviation_it_only_centres():
    groups = make_groups([[[1, 0, 2], [5]]])
    advantages_on_tokens(Grpo(supervision="process", scale="none"), groups)
    first, second = groups[0].trajectories
    assert [step.advantage for step in first.steps] == pytest.approx([-3, -2, 0])
    assert second.steps[0].advantage == pytest.approx(3)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_group_of_one_and_equal_rewards_say_nothing(scale):
    groups = make_groups([[[1, 0, 3]], [[0.1] * 2, [0.1]], [[1, 0], [0, 0]]])
    tokens = advantages_on_tokens(Grpo(supervision="process", scale=scale), groups)
    assert (tokens.advantages[tokens.group < 2] == 0).all()
    assert (tokens.advantages[tokens.group == 2] != 0).any()
