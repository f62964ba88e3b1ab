"""Episodes of the same tasks beside each other."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from grpo_agents.evaluation.comparison import compare
from grpo_agents.evaluation.episodes import Episodes
from grpo_agents.rewards import RewardVector, cost
from grpo_agents.trajectory import Step, ToolRun, Trajectory

VECTOR = RewardVector(["outcome", cost])


def played(task, outcome, dollars, index=0):
    steps = [Step({"role": "assistant", "content": "x"}, tools=[ToolRun("ask", dollars)])]
    rewards = {"outcome": outcome, "cost": dollars}
    return Trajectory(env="e", task={"id": task}, steps=steps, rewards=rewards, index=index, group=task)


def test_tasks_are_paired_and_their_rollouts_averaged():
    rng = np.random.default_rng(0)
    here, there = rng.random((12, 3)), rng.random((12, 2))
    spent = rng.uniform(0, 4, (2, 12))
    a = [played(task, value, spent[0, task], at) for task, row in enumerate(here) for at, value in enumerate(row)]
    b = [played(task, value, spent[1, task], at) for task, row in enumerate(there) for at, value in enumerate(row)]
    sides = Episodes.of([*a, played(98, 1.0, 0.0)]), Episodes.of(reversed(b))
    found = compare(*sides, VECTOR, {"cost": 4.0}, "outcome")
    assert (found.tasks, found.only_here, found.only_there) == (12, 1, 0)
    expected = scipy.stats.ttest_rel(here.mean(1), there.mean(1))
    outcome = found.measures["outcome"]
    assert outcome.difference.p_value == pytest.approx(expected.pvalue)
    assert outcome.here.mean == pytest.approx(here.mean())
    worth = [(rows * (rows + 1 - spent[side][:, None] / 4)).mean(1) for side, rows in enumerate((here, there))]
    reward = found.measures["reward"].difference
    assert reward.interval.mean == pytest.approx(np.mean(worth[0] - worth[1]))
    assert reward.p_value == pytest.approx(scipy.stats.ttest_rel(*worth).pvalue)
    assert found.measures["dollars"].difference.interval.mean == pytest.approx((spent[0] - spent[1]).mean())
    assert (found.measures["dollars"].direction, outcome.direction) == ("min", "max")
    assert "seconds" not in found.measures  # nobody took any
    text = found.as_markdown()
    assert "paired by 12 tasks, each counted once; 1 tasks only here and 0 only there take no part" in text
    assert "smallest that 80% would show" in text


def test_who_takes_nothing_is_compared_with_who_does():
    spending = [played(task, 1.0, 0.5) for task in range(3)]
    thrifty = [replace(one, steps=[Step({"role": "assistant", "content": "x"})]) for one in spending]
    found = compare(Episodes.of(thrifty), Episodes.of(spending), VECTOR, {"cost": 4.0}).measures
    assert [found[name].difference.interval.mean for name in ("calls", "dollars")] == [-1.0, -0.5]


def test_what_is_missing_on_one_side_takes_no_part():
    a = Episodes.of([played(0, 1.0, 0.0), played(1, None, 0.0), played(2, 0.0, 1.0)])
    b = Episodes.of([played(0, 0.0, 0.0), played(1, 1.0, 0.0), played(2, 0.0, 0.0)])
    outcome = compare(a, b).measures["outcome"]
    assert (outcome.here.count, outcome.here.mean, outcome.there.mean) == (2, 0.5, 0.0)
    assert outcome.difference.unpaired == 1
    assert "reward" not in compare(a, b).measures  # no vector says how


def test_tasks_that_are_not_shared():
    with pytest.raises(ValueError, match="share no task"):
        compare(Episodes.of([played(0, 1.0, 0.0)]), Episodes.of([played(1, 1.0, 0.0)]))
