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
    def needs_rewards(self) -> tuple[str, ...]:
        """``correct``."""
        return (self.correct,)

    @property
    def formula(self) -> str:
        """1[correct]."""
        return "1[correct]; what is wrong is left out"

    def advantages(self, groups: Sequence[Scores]) -> list[np.ndarray]:
        """1 where right, NaN elsewhere."""
        return [np.where(group.values[self.correct] >= self.at_least, 1.0, np.nan) for group in groups]


class OnlineRft(Rft):
    """Coefficient 1[correct] on what the current policy samples; what was wrong counts in the mean, with 0."""

    name: ClassVar[str] = "online_rft"
    sources: ClassVar[tuple[SourceKind, ...]] = ("policy",)

    @property
    def formula(self) -> str:
        """1[correct]."""
        return "1[correct]"

    def advantages(self, groups: Sequence[Scores]) -> list[np.ndarray]:
        """1 where right, 0 where wrong, NaN where that is not known."""
        values = [group.values[self.correct] for group in groups]
        return [np.where(np.isnan(value), np.nan, value >= self.at_least) for value in values]
