"""RLOO (arXiv 2402.14740): each rollout is measured against the others of its group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from grpo_agents.advantage import Scores
from grpo_agents.methods.baselines import left_out
from grpo_agents.methods.grpo import Grpo


class Rloo(Grpo):
    """Â = G/(G−1) · (R − mean R)."""

    name: ClassVar[str] = "rloo"
    unused: ClassVar[tuple[str, ...]] = ("scale", "supervision")

    def advantages(self, groups: Sequence[Scores]) -> list[np.ndarray]:
        """R less the mean of the others."""
        return [left_out(group.returns) for group in groups]
