import numpy as np
import pytest

from grpo_agents.rewards.component import RewardVector
from grpo_agents.rewards.cost import cost, latency, length, tool_calls
from grpo_agents.rewards.format import format
from grpo_agents.trajectory import Group, Sample, Step, ToolRun, Trajectory


def sample(mask):
    count = len(mask)
    return Sample(np.arange(count, dtype=np.int32), np.array(mask, dtype=bool), np.zeros(count, dtype=np.float32))


def test_costs_are_summed_over_all_calls():
    steps = [
        Step({}, tools=[ToolRun("a", 0.5, 2.0), ToolRun("b", 0.25, 1.0, "it failed")]),
        Step({}, tools=[ToolRun("a", 1.0, 0.5)]),
        Step({}),
    ]
    trajectory = Trajectory(steps=steps, samples=[sample([0, 1, 1]), sample([0, 0, 0, 1])])
    RewardVector([cost, latency, tool_calls, length]).score([Group({}, {}, [trajectory])])
    assert trajectory.rewards == {"cost": 1.75, "latency": 3.5, "tool_calls": 3.0, "length": 3.0}


def test_less_is_better_and_an_empty_episode_costs_nothing():
    for entry in (cost, latency, tool_calls, length):
        assert (entry.direction, entry.worst) == ("min", None)
        assert entry(Trajectory()) == 0
    assert (cost.unit, latency.unit, tool_calls.unit, length.unit) == ("dollars", "seconds", "calls", "tokens")


GOOD = Step({"role": "assistant", "content": "7"})
UNREADABLE = Step({"content": "", "tool_calls": [{"function": {}, "invalid": "no brace"}]})
FAILED = Step({"content": "", "tool_calls": [{"function": {}}]}, tools=[ToolRun("a", error="wrong arguments")])
CUT = Step({"content": "7"}, finish_reason="length")


@pytest.mark.parametrize(
    ("steps", "value"),
    [
        ([GOOD], 1.0),
        ([UNREADABLE, GOOD], 1 / 2),
        ([FAILED, GOOD, GOOD, GOOD], 3 / 4),
        ([CUT], 0.0),
        ([Step({"content": "", "tool_calls": None}), GOOD], 1.0),
        ([], 0.0),
        ([Step({"content": " "})], 0.0),
        ([Step({"content": "", "reasoning_content": "7, I think"})], 0.0),
        ([GOOD, Step({"content": "", "tool_calls": [{"function": {"name": "finish"}}]})], 1.0),
    ],
)
def test_format_is_the_share_of_turns_in_good_form(steps, value):
    assert format(Trajectory(steps=steps)) == value


@pytest.mark.parametrize("reason", ["turns", "tokens", "context", "truncated", "deadline"])
def test_no_answer_is_no_form(reason):
    assert format(Trajectory(steps=[GOOD], stop_reason=reason)) == 0.0


def test_the_last_message_of_a_budget_is_an_answer():
    assert format(Trajectory(steps=[FAILED, GOOD], stop_reason="budget")) == 1 / 2
    assert format(Trajectory(steps=[GOOD, FAILED], stop_reason="budget")) == 0.0
