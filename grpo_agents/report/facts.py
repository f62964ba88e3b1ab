"""What is counted of each trajectory, whether or not its conversation is on the page."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

from grpo_agents.evaluation.columns import task_key
from grpo_agents.scoring import Scoring
from grpo_agents.trajectory import Trajectory
from grpo_agents.utility import utility

REWARD = "reward (scalar)"
"""What the scalar reward is called among the values."""

LONG = 240
"""Letters of an error that are kept: many differ only in what follows."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the charts and the filter know of one trajectory.

    Attributes:
        phase: ``train``, ``eval`` or ``rollout``.
        step: The training step, or -1.
        task: What tells its task from others.
        preference: What its user weighs.
        values: The scalar :data:`REWARD` where it is known, and the components; None where one is missing.
        dollars: What its tools and its own tokens cost.
        latency: Their seconds.
        tokens: The policy's own tokens.
        turns: The policy's messages.
        stop_reason: How it ended.
        errors: What went wrong: its own error, and those of its tool calls as ``tool: error``.
        tools: The tools that it called, each once.
    """

    phase: str
    step: int
    task: Hashable
    preference: dict[str, float]
    values: dict[str, float | None]
    dollars: float
    latency: float
    tokens: int
    turns: int
    stop_reason: str
    errors: tuple[str, ...]
    tools: tuple[str, ...]


def facts_of(trajectory: Trajectory, phase: str, step: int, scoring: Scoring | None) -> Facts:
    """The facts of one trajectory.

    Args:
        trajectory: The trajectory.
        phase: Of its batch.
        step: Of its batch.
        scoring: How it was scored; without it there is no scalar reward.
    """
    usage = trajectory.usage
    values: dict[str, float | None] = {}
    if scoring is not None:
        values[REWARD] = utility(
            trajectory.rewards, trajectory.preference, scoring.vector, scoring.maxima, scoring.gate
        )
    values |= {
        name: value if value is not None and math.isfinite(value) else None
        for name, value in trajectory.rewards.items()
    }
    runs = [run for step_ in trajectory.steps for run in step_.tools]
    errors = [trajectory.error] if trajectory.error is not None else []
    errors += [f"{run.name}: {run.error}" for run in runs if run.error is not None]
    return Facts(
        phase=phase,
        step=step,
        task=task_key(trajectory.env, trajectory.task),
        preference=trajectory.preference,
        values=values,
        dollars=usage.dollars,
        latency=usage.latency,
        tokens=trajectory.sampled_tokens,
        turns=len(trajectory.steps),
        stop_reason=trajectory.stop_reason,
        errors=tuple(dict.fromkeys(error if len(error) <= LONG else f"{error[:LONG]}…" for error in errors)),
        tools=tuple(dict.fromkeys(run.name for run in runs)),
    )
