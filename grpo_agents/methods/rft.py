"""Rejection sampling fine-tuning (RFT, arXiv 2308.01825), and its online form: imitate what was right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from grpo_agents.advantage import Scores
from grpo_agents.methods.method import SourceKind
from grpo_agents.methods.sft import Sft


class Rft(Sft):
    """Coefficient 1[correct] on what the initial policy sampled; what was wrong takes no part."""

    name: ClassVar[str] = "rft"
    sources: ClassVar[tuple[SourceKind, ...]] = ("frozen", "stored")
    reward: ClassVar[str] = "rule"

    correct: str = Field(default="outcome", description="The reward component that says whether a rollout is right.")
    at_least: float = Field(default=1.0, description="From which value of it on a rollout counts as right.")

    @property
    def formula(self) -> str:
        """1[correct]."""
        return "1[correct]; what is wrong is left out"

    def advantages(self, groups: Sequence[Scores]) -> list[np.ndarray]:
        """1 where right, NaN elsewhere."""
        return [np.where(right, 1.0, np.nan) for right in self.right(groups)]

    def right(self, groups: Sequence[Scores]) -> list[np.ndarray]:
        """Which rollouts are right, (G,) each.

        Raises:
            ValueError: There is no such component.
        """
        for group in groups:
            if self.correct not in group.values:
                raise ValueError(
                    f"method.correct is {self.correct!r}, which is not among the rewards: {', '.join(group.values)}"
                )
        return [group.values[self.correct] >= self.at_least for group in groups]


class OnlineRft(Rft):
    """Coefficient 1[correct] on what the current policy samples; what was wrong counts in the mean, with 0."""

    name: ClassVar[str] = "online_rft"
    sources: ClassVar[tuple[SourceKind, ...]] = ("policy",)

    @property
    def formula(self) -> str:
        """1[correct]."""
        return "1[correct]"

    def advantages(self, groups: Sequence[Scores]) -> list[np.ndarray]:
        """1 where right, 0 elsewhere."""
        return [right.astype(np.float64) for right in self.right(groups)]
