"""A learned reward: what ``[reward_model]`` of the config names says of each conversation."""

from __future__ import annotations

from typing import Any

from grpo_agents.rewards.component import component
from grpo_agents.trajectory import Group


@component(name="reward_model", per="group", worst=None)
def learned(group: Group, reward_model: Any) -> list[float | ValueError]:
    """Its score of every rollout of the group, computed together."""
    return reward_model.score(group.trajectories)
