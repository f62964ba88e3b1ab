"""Points of a sweep, their front and hypervolume."""

import pytest

from grpo_agents.evaluation import evaluate
from grpo_agents.evaluation.pareto import sweep
from grpo_agents.rewards import RewardVector, cost
from grpo_agents.trajectory import Trajectory

VECTOR = RewardVector(["outcome", cost])


def point(outcome, dollars, **more):
    rewards = {"outcome": outcome, "cost": dollars}
    return evaluate([Trajectory(env="e", task={"id": task}, rewards=rewards) for task in range(3)], VECTOR, **more)


def test_the_front_by_hand():
    """Of a box of 1 by 4 $: 0.9 at 2 $ covers 0.9 · 0.5, and 0.4 at 1 $ another 0.4 · 0.25."""
    parts = {"dear": point(0.9, 2.0), "beaten": point(0.8, 3.0), "cheap": point(0.4, 1.0)}
    found = sweep("user", parts, ["outcome", "cost"], VECTOR, {"cost": 4.0})
    assert {label: entry.on_front for label, entry in found.points.items()} == {
        "dear": True, "beaten": False, "cheap": True
    }  # fmt: skip
    assert found.hypervolume == pytest.approx(0.9 * 0.5 + 0.4 * 0.25)
    assert found.directions == {"outcome": "max", "cost": "min"}
    text = found.as_markdown()
    assert "2 of 3 on the Pareto front, hypervolume 0.550" in text
    assert "| beaten | 3 | 0.8 (0.8 … 0.8) | 3 (3 … 3) |  | n/a |" in text
    undeclared = sweep("user", parts, ["outcome", "cost"], VECTOR, {})  # the most of any point is the end of the scale
    assert undeclared.hypervolume == pytest.approx(0.9 / 3 + 0.4 / 3)


def test_points_without_a_component_are_named():
    parts = {"whole": point(0.9, 2.0), "half": point(0.9, None)}
    found = sweep("user", parts, ["outcome", "cost"], VECTOR, {})
    assert found.left_out == ["half"]
    assert "without half, which lack a component" in found.as_markdown()
    with pytest.raises(ValueError, match="no episodes have all of outcome, cost"):
        sweep("user", {"half": point(0.9, None)}, ["outcome", "cost"], VECTOR, {})
    with pytest.raises(ValueError, match="'costs' is no reward component; there are: outcome, cost"):
        sweep("user", parts, ["outcome", "costs"], VECTOR, {})
