import numpy as np
import pytest
from ragged import advantages_on_tokens, assert_learns, episode, on_turns, spread

from grpo_agents.methods import make_method
from grpo_agents.methods.gigpo import GiGpo, discounted
from grpo_agents.trajectory import Group


def wanderers(seed, sizes=(4, 3, 1), places="abc"):
    """Walks between few places, which several rollouts of a group therefore meet, and some meet twice."""
    rng = np.random.default_rng(seed)
    groups = []
    for size in sizes:
        walks = []
        for _ in range(size):
            turns = int(rng.integers(1, 6))
            sees = ["start", *(str(place) for place in rng.choice(list(places), turns))]
            walks.append(episode(rng, rng.integers(0, 3, turns).tolist(), sees=sees, roles=["user"] * turns))
        groups.append(Group({}, {}, walks))
    return groups


def seen(trajectory):
    return [trajectory.prompt[0]["content"], *(step.observation[0]["content"] for step in trajectory.steps)]


def expected_advantages(groups, weight, discount):
    """Turn by turn, against every turn of the group that began with the same observation."""
    expected = []
    for group in groups:
        outcome = spread([trajectory.rewards["outcome"] for trajectory in group.trajectories])
        table = []  # (rollout, turn, what was seen, discounted return)
        for i, trajectory in enumerate(group.trajectories):
            rewards = [step.rewards["outcome"] for step in trajectory.steps]
            for turn in range(len(rewards)):
                worth = sum(discount**later * reward for later, reward in enumerate(rewards[turn:]))
                table.append((i, turn, seen(trajectory)[turn], worth))
        for i, trajectory in enumerate(group.trajectories):
            values = []
            for turn in range(len(trajectory.steps)):
                place = seen(trajectory)[turn]
                alike = [row for row in table if row[2] == place]
                mine = next(k for k, row in enumerate(alike) if row[:2] == (i, turn))
                step = spread([row[3] for row in alike])[mine] if len(group.trajectories) > 1 else 0.0
                values.append(outcome[i] + weight * step)
            expected.append(on_turns(trajectory, values))
    return expected


@pytest.mark.parametrize(("weight", "discount"), [(1.0, 0.95), (0.4, 0.5), (1.0, 1.0), (0.0, 0.9)])
@pytest.mark.parametrize("seed", range(3))
def test_turns_from_the_same_observation_are_compared(weight, discount, seed):
    groups = wanderers(seed)
    expected = expected_advantages(groups, weight, discount)
    assert_learns(GiGpo(step_weight=weight, discount=discount), groups, expected)


def test_an_observation_that_nobody_else_met_says_nothing():
    rng = np.random.default_rng(0)
    walks = [episode(rng, [0, reward], sees=["start", own, "end"]) for reward, own in ((1, "left"), (0, "right"))]
    advantages_on_tokens(GiGpo(discount=0.5), [Group({}, {}, walks)])
    first, second = ([step.advantage for step in walk.steps] for walk in walks)
    half = 1 / np.sqrt(2)
    assert first == pytest.approx([half, 0], abs=1e-5)
    assert second == pytest.approx([-half, 0], abs=1e-5)


def test_a_room_is_the_same_after_any_number_of_calls():
    """A tool's message names the call that it answers by a number that counts through the conversation."""
    rng = np.random.default_rng(0)
    walks = [
        episode(rng, [0, 1], sees=["start", "room", "end"]),
        episode(rng, [0, 0, 0], sees=["start", "hall", "room", "end"]),
    ]
    for walk in walks:
        for number, step in enumerate(walk.steps):
            step.observation = ({**step.observation[0], "tool_call_id": f"call{number:05d}"},)
    advantages_on_tokens(GiGpo(), [Group({}, {}, walks)])
    assert walks[0].steps[1].advantage == pytest.approx(1 / np.sqrt(2), abs=1e-5)
    assert walks[1].steps[2].advantage == pytest.approx(-1 / np.sqrt(2), abs=1e-5)
    assert walks[1].steps[1].advantage == 0


def test_observations_of_other_groups_are_others():
    rng = np.random.default_rng(0)
    walks = [episode(rng, [reward], sees=["start", "end"]) for reward in (1, 0, 5, 5)]
    groups = [Group({}, {}, walks[:2]), Group({}, {}, walks[2:])]
    advantages_on_tokens(GiGpo(), groups)
    assert [walk.steps[0].advantage for walk in walks[2:]] == [0, 0]


def test_a_group_of_one_that_comes_back_is_not_compared_with_itself():
    rng = np.random.default_rng(0)
    walk = episode(rng, [0, 0, 1], sees=["a", "a", "a", "b"])
    tokens = advantages_on_tokens(GiGpo(), [Group({}, {}, [walk])])
    assert (tokens.advantages == 0).all()


def test_discounted_returns_by_hand():
    assert discounted(np.array([1.0, 2.0, 4.0]), 0.5).tolist() == [3.0, 4.0, 4.0]


def test_the_batchs_deviation_divides_turns_too():
    plain, by_batch = wanderers(0), wanderers(0)
    advantages_on_tokens(GiGpo(scale="none"), plain)
    advantages_on_tokens(GiGpo(scale="batch"), by_batch)
    one, other = (
        np.array([step.advantage for group in groups for walk in group.trajectories for step in walk.steps])
        for groups in (plain, by_batch)
    )
    factors = one[one != 0] / other[one != 0]
    assert factors == pytest.approx(np.full(len(factors), factors[0]))
    assert abs(factors[0] - 1) > 1e-3


def test_process_supervision_is_refused():
    """It would take the episode's advantage away."""
    with pytest.raises(ValueError, match="method 'gigpo' does not use supervision: leave it out"):
        make_method({"name": "gigpo", "supervision": "process"})
