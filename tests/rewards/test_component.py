import asyncio
import math

import numpy as np
import pytest

from grpo_agents.rewards.component import FAILED, RewardVector, component, from_environment
from grpo_agents.trajectory import Group, Step, Trajectory


def group(count=2, **kwargs):
    return Group({}, {}, [Trajectory(index=index, **kwargs) for index in range(count)])


@component
def index(trajectory):
    """Which of the group's rollouts it is."""
    return trajectory.index


def test_a_decorated_function_is_a_component():
    @component(name="turns", direction="min", unit="messages", worst=9.0)
    def counted(trajectory):
        return len(trajectory.steps)

    assert (index.name, index.direction, index.worst, index.per) == ("index", "max", 0.0, "trajectory")
    assert (counted.name, counted.direction, counted.unit, counted.worst) == ("turns", "min", "messages", 9.0)
    assert counted(Trajectory(steps=[Step({})])) == 1


def test_a_vector_scores_in_its_order():
    @component
    async def doubled(trajectory):
        await asyncio.sleep(0)
        return 2 * trajectory.index

    @component(per="group")
    def share(group):
        return [trajectory.index / len(group.trajectories) for trajectory in group.trajectories]

    vector = RewardVector([index, doubled, share])
    groups = [group(2), group(3)]
    vector.score(groups)
    assert vector.names == ("index", "doubled", "share")
    for scored in groups:
        for trajectory in scored.trajectories:
            at = trajectory.index
            assert trajectory.rewards == {"index": at, "doubled": 2 * at, "share": at / len(scored.trajectories)}
            assert all(type(value) is float for value in trajectory.rewards.values())
            assert trajectory.missing == {}


def test_async_components_wait_together():
    waiting = most = 0

    @component
    async def judged(trajectory):
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        await asyncio.sleep(0.01)
        waiting -= 1
        return 1.0

    RewardVector([judged]).score([group(4), group(4)])
    assert most == 8


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "could not judge"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        ("much", "'much', which is no number"),
        (np.float64("nan"), "nan"),
    ],
)
@pytest.mark.parametrize("kind", ["sync", "async", "group"])
def test_a_value_that_is_no_number_is_missing_and_never_zero(value, reason, kind):
    def sync(trajectory):
        return value if trajectory.index == 0 else 1.0

    async def later(trajectory):
        return sync(trajectory)

    def together(group):
        return [sync(trajectory) for trajectory in group.trajectories]

    settings = {"name": "it", "per": "group" if kind == "group" else "trajectory"}
    made = component(**settings)({"sync": sync, "async": later, "group": together}[kind])
    scored = group(2)
    RewardVector([made, index]).score([scored])
    first, second = scored.trajectories
    assert first.rewards == {"it": None, "index": 0.0}
    assert reason in first.missing["it"]
    assert (second.rewards["it"], second.missing) == (1.0, {})


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_raising_component_is_missing_with_its_reason(kind):
    def sync(trajectory):
        if trajectory.index == 1:
            raise ConnectionError("the judge is down")
        return 1.0

    async def later(trajectory):
        return sync(trajectory)

    scored = group(3)
    RewardVector([component(name="judge")(sync if kind == "sync" else later)]).score([scored])
    assert [trajectory.rewards["judge"] for trajectory in scored.trajectories] == [1.0, None, 1.0]
    assert scored.trajectories[1].missing == {"judge": "ConnectionError: the judge is down"}


@pytest.mark.parametrize("given", [[1.0], [1.0, 2.0, 3.0], [], 4.0])
def test_a_group_function_gives_one_value_a_rollout(given):
    @component(per="group")
    def ranked(group):
        return given

    scored = group(2)
    RewardVector([ranked]).score([scored])
    for trajectory in scored.trajectories:
        assert trajectory.rewards["ranked"] is None
        assert "values for a group of 2" in trajectory.missing["ranked"]


def test_scoring_again_clears_the_reason():
    broken = True

    @component
    def judge(trajectory):
        return None if broken else 0.5

    scored = group(1)
    vector = RewardVector([judge])
    vector.score([scored])
    broken = False
    vector.score([scored])
    assert (scored.trajectories[0].rewards, scored.trajectories[0].missing) == ({"judge": 0.5}, {})


def test_resources_are_handed_by_name():
    @component
    def scaled(trajectory, scale, offset=1.0):
        return scale * trajectory.index + offset

    scored = group(2)
    RewardVector([scaled]).score([scored], {"scale": 3.0, "unused": None})
    assert [trajectory.rewards["scaled"] for trajectory in scored.trajectories] == [1.0, 4.0]
    RewardVector([scaled]).score([scored], {"scale": 3.0, "offset": 0.0})
    assert [trajectory.rewards["scaled"] for trajectory in scored.trajectories] == [0.0, 3.0]
    with pytest.raises(ValueError, match="reward 'scaled' asks for 'scale'; there is judge to hand it"):
        RewardVector([scaled]).score([scored], {"judge": None})


def test_the_environments_component_is_summed_over_the_steps():
    steps = [Step({}, rewards={"outcome": 0.25}), Step({}), Step({}, rewards={"outcome": 0.5})]
    scored = Group({}, {}, [Trajectory(steps=steps)])
    RewardVector(["outcome"]).score([scored])
    assert scored.trajectories[0].rewards == {"outcome": 0.75}


def test_no_answer_is_the_worst():
    scored = group(1, stop_reason="turns")
    RewardVector(["outcome"]).score([scored])
    assert (scored.trajectories[0].rewards, scored.trajectories[0].missing) == ({"outcome": 0.0}, {})


def test_what_the_environment_owes_at_the_end_of_an_episode_is_missing():
    """As nobody can say whether it forgot or the answer was bad; a misspelt component would else be 0 for ever."""
    scored = Group({}, {}, [Trajectory(steps=[Step({}, rewards={"outcome": 1.0})])])
    RewardVector(["outcome", "style"]).score([scored])
    (trajectory,) = scored.trajectories
    assert trajectory.rewards == {"outcome": 1.0, "style": None}
    assert trajectory.missing == {"style": "the environment ended the episode and gave no 'style'"}


@pytest.mark.parametrize("how", FAILED)
def test_of_an_episode_that_failed_nothing_is_said(how):
    """Not what its environment gave before, nor what a component would make of it."""

    @component(per="group")
    def crowd(group):
        group.notes["seen"] = len(group.trajectories)
        return [float(len(group.trajectories))] * len(group.trajectories)

    given = [Step({}, rewards={"outcome": 0.25})]
    failed, whole = Trajectory(steps=given, stop_reason=how, error="it fell over"), Trajectory(steps=given)
    scored, lost = Group({}, {}, [failed, whole]), group(2, stop_reason=how, error="it fell over")
    RewardVector(["outcome", index, crowd]).score([scored, lost])
    assert whole.rewards == {"outcome": 0.25, "index": 0.0, "crowd": 1.0}
    assert (scored.notes, lost.notes) == ({"seen": 1}, {})
    for trajectory in (failed, *lost.trajectories):
        assert trajectory.rewards == {"outcome": None, "index": None, "crowd": None}
        assert set(trajectory.missing.values()) == {"the episode failed: it fell over"}


def test_vectors_are_checked():
    with pytest.raises(ValueError, match="at least one"):
        RewardVector([])
    with pytest.raises(ValueError, match="names index twice"):
        RewardVector([index, from_environment("index")])
    vector = RewardVector([index, "outcome"])
    assert (len(vector), vector[0]) == (2, index)
    vector.check_preference({"outcome": 1.0})
    with pytest.raises(ValueError, match=r"weighs 'outcom', which is no reward component\. Did you mean 'outcome'\?"):
        vector.check_preference({"outcom": 1.0})
