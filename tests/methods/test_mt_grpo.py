import numpy as np
import pytest
from ragged import advantages_on_tokens, assert_learns, episode, on_turns, spread

from grpo_agents.methods import make_method
from grpo_agents.methods.mt_grpo import MtGrpo
from grpo_agents.trajectory import Group

SHAPES = [
    [([1, 0, 2], "utt", 2), ([0.5], "u", 1), ([0, 0.3], "tu", 1)],  # rewards, who answers, turns to the first result
    [([2, 2], "uu", 2), ([1, 0], "ut", 2), ([3, 3, 3], "ttt", 1)],
    [([4, 1], "tu", 1)],
]
ROLES = {"u": "user", "t": "tool"}


def make_groups():
    rng = np.random.default_rng(0)
    return [
        Group({}, {}, [episode(rng, rewards, roles=[ROLES[who] for who in roles]) for rewards, roles, _ in group])
        for group in SHAPES
    ]


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_tokens_up_to_the_first_tool_result_answer_for_their_own_reward_too(weight):
    groups, expected = make_groups(), []
    for group, shapes in zip(groups, SHAPES, strict=True):
        outcome = spread([sum(rewards) for rewards, _, _ in shapes])
        turn = spread([sum(rewards[:first]) for rewards, _, first in shapes])
        for i, (rewards, _, first) in enumerate(shapes):
            values = [outcome[i] + weight * turn[i] * (number < first) for number in range(len(rewards))]
            expected.append(on_turns(group.trajectories[i], values))
    assert_learns(MtGrpo(turn_weight=weight), groups, expected)


def test_the_batchs_deviation_divides_turns_too():
    plain, by_batch = make_groups(), make_groups()
    advantages_on_tokens(MtGrpo(scale="none"), plain)
    advantages_on_tokens(MtGrpo(scale="batch"), by_batch)
    one, other = (
        np.array([group.trajectories[i].steps[0].advantage for group in groups for i in range(len(group.trajectories))])
        for groups in (plain, by_batch)
    )
    assert one / (one.std(ddof=1) + 1e-6) == pytest.approx(other, rel=1e-9)


def test_process_supervision_is_refused():
    """It would take the outcome's advantage away."""
    with pytest.raises(ValueError, match="method 'mt_grpo' does not use supervision: leave it out"):
        make_method({"name": "mt_grpo", "supervision": "process"})
