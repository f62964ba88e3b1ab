"""Whether the policy kept to the form: readable tool calls, and an answer at the end."""

from __future__ import annotations

from grpo_agents.rewards.component import component
from grpo_agents.trajectory import Trajectory


@component
def format(trajectory: Trajectory) -> float:
    """Share of its turns without a tool call that could not be read, run or finished; 0 where it gave no answer."""
    if not trajectory.answered:
        return 0.0
    good = [
        step.finish_reason == "stop"
        and not any("invalid" in call for call in step.message.get("tool_calls") or ())
        and not any(run.error for run in step.tools)
        for step in trajectory.steps
    ]
    return sum(good) / len(good)
