"""What an episode cost: dollars, seconds, tool calls, tokens."""

from __future__ import annotations

from grpo_agents.rewards.component import component
from grpo_agents.trajectory import Trajectory


@component(direction="min", unit="dollars", worst=None)
def cost(trajectory: Trajectory) -> float:
    """The price of its tool calls, in dollars."""
    return trajectory.usage.dollars


@component(direction="min", unit="seconds", worst=None)
def latency(trajectory: Trajectory) -> float:
    """The seconds its tool calls took: declared where the tool declares them, measured elsewhere."""
    return trajectory.usage.latency


@component(direction="min", unit="calls", worst=None)
def tool_calls(trajectory: Trajectory) -> float:
    """How many tool calls were run."""
    return trajectory.usage.calls


@component(direction="min", unit="tokens", worst=None)
def length(trajectory: Trajectory) -> float:
    """How many tokens the policy wrote."""
    return trajectory.sampled_tokens
