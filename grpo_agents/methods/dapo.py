"""DAPO (arXiv 2503.14476): clip higher, count tokens, sample again where a group has nothing to say."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.surrogate import Aggregation


class Dapo(Grpo):
    """GRPO without KL, ε 0.2 below and 0.28 above, Σ loss/Σ|o|, and groups of equal returns replaced.

    Its overlong penalty is a reward: :func:`grpo_agents.rewards.overlong.overlong`.
    """

    name: ClassVar[str] = "dapo"

    clip_high: float = Field(default=0.28, ge=0, description="ε above: ρ is clipped at 1 + clip_high.")
    aggregation: Aggregation = Field(default="token", description="As in grpo.")
    resample: int = Field(default=3, ge=0, description="As in grpo.")
