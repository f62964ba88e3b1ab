"""A penalty for answers that are nearly or really too long (DAPO, arXiv 2503.14476)."""

from __future__ import annotations

from grpo_agents.rewards.component import Component
from grpo_agents.trajectory import Trajectory


def overlong(limit: int = 20480, buffer: int = 4096) -> Component:
    """A component that is 0 up to ``limit − buffer`` sampled tokens, falls to −1 at ``limit``, and stays there.

    >>> from grpo_agents.rewards import RewardVector
    >>> vector = RewardVector(["outcome", overlong(limit=512, buffer=128)])

    Args:
        limit: L, in sampled tokens.
        buffer: c: over how many of them it falls.

    Raises:
        ValueError: A buffer that is not between 1 and the limit.
    """
    if not 0 < buffer <= limit:
        raise ValueError(f"overlong: buffer is {buffer}, and has to lie between 1 and the limit, {limit}")

    def penalty(trajectory: Trajectory) -> float:
        over = trajectory.sampled_tokens - (limit - buffer)
        return -min(1.0, max(0.0, over / buffer))

    return Component("overlong", penalty, unit="share of the buffer", worst=-1.0)
