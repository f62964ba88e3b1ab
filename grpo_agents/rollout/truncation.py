"""What becomes of episodes that were cut short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from grpo_agents.rewards.component import FAILED, Component
from grpo_agents.trajectory import Group


def apply_truncation(
    groups: Sequence[Group], vector: Sequence[Component], truncated: Literal["keep", "mask", "worst"]
) -> None:
    """Does with truncated rollouts, once they are scored, what ``rollout.truncated`` says."""
    for group in groups:
        for trajectory in group.trajectories:
            if not trajectory.truncated or trajectory.stop_reason in FAILED:
                continue
            if truncated == "mask":
                trajectory.masked = True
            elif truncated == "worst":
                for entry in vector:
                    if entry.worst is not None:
                        trajectory.rewards[entry.name] = entry.worst
                        trajectory.missing.pop(entry.name, None)
