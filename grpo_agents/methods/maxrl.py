"""MaxRL (arXiv 2602.02710): the gradient of log p(success) instead of p."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from grpo_agents.advantage import Scores
from grpo_agents.methods.baselines import relative_to_mean
from grpo_agents.methods.grpo import Grpo


class MaxRl(Grpo):
    """Â = (R − mean R)/mean R, 0 where the mean is 0: rare successes count more."""

    name: ClassVar[str] = "maxrl"
    unused: ClassVar[tuple[str, ...]] = ("scale", "supervision")

    def advantages(self, groups: Sequence[Scores]) -> list[np.ndarray]:
        """Relative to the mean."""
        return [relative_to_mean(group.returns) for group in groups]
