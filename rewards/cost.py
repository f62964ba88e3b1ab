"""What an episode cost: dollars, seconds, tool calls, tokens; and how often it used a tool."""

from __future__ import annotations

from grpo_agents.rewards.component import Component, component
from grpo_agents.trajectory import Trajectory


@component(direction="min", unit="dollars", worst=None)
def cost(trajectory: Trajectory) -> float:
    """The price of its tool calls, and of its own tokens where its environment names one, in dollars."""
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


USES = "uses."
"""What the names of :func:`uses` begin with."""


def uses(tool: str) -> Component:
    """How many calls of a tool gave a result: what a user weighs who wants it used.

    M(τ) of ToolOrchestra's preference vector (arXiv 2511.21689). A call that was refused or failed counts nothing, so
    that it cannot be had for free. The tool goes by its own name, whatever the policy calls it.

    >>> from grpo_agents.trajectory import Step, ToolRun, Trajectory
    >>> runs = [ToolRun("search"), ToolRun("search", error="no answer"), ToolRun("ask")]
    >>> component = uses("search")
    >>> component.name, component(Trajectory(steps=[Step({}, tools=runs)]))
    ('uses.search', 1)
    """

    def count(trajectory: Trajectory) -> int:
        return sum(run.name == tool and run.error is None for step in trajectory.steps for run in step.tools)

    return Component(f"{USES}{tool}", count, direction="max", unit="calls", worst=None)
