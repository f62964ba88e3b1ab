"""GDPO (arXiv 2601.05242): every reward component is normalised by itself, so that none drowns another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from grpo_agents.advantage import Scores, equal
from grpo_agents.methods.baselines import whitened
from grpo_agents.methods.grpo import Grpo

EPSILON = 1e-4
"""Added to the standard deviations of the group's components and of the batch."""


class Gdpo(Grpo):
    """Â = Σ w_k (r_k − mean_group)/(std_group + ε), whitened over the batch."""

    name: ClassVar[str] = "gdpo"
    unused: ClassVar[tuple[str, ...]] = ("scale", "supervision")

    def advantages(self, groups: Sequence[Scores]) -> list[np.ndarray]:
        """Weighted z-scores of the components; a rollout whose gate is 0 counts as the group's worst in each."""
        scores = [component_scores(group) for group in groups]
        return [
            np.zeros(len(own)) if equal(own) else advantages
            for own, advantages in zip(scores, whitened(scores, epsilon=EPSILON), strict=True)
        ]


def component_scores(group: Scores) -> np.ndarray:
    """The weighted sum of each component's z-score within the group, (G,)."""
    total = np.zeros(len(group.returns))
    if len(total) < 2:
        return total
    values = group.gate[:, None] * group.components + (1 - group.gate[:, None]) * group.components.min(0)
    for column, weight in zip(values.T, group.weights, strict=True):
        if not equal(column):
            total += weight * (column - column.mean()) / (column.std(ddof=1) + EPSILON)
    return total
