"""What a rollout's return is measured against. Pure functions of a group's returns, (G,) to (G,).

>>> centred(np.array([1.0, 0.0, 0.0, 0.0]), divide_by_std=True).round(3)
array([ 1.5, -0.5, -0.5, -0.5])
>>> centred(np.array([0.1, 0.1, 0.1]), divide_by_std=True)
array([0., 0., 0.])
>>> left_out(np.array([1.0, 0.0, 0.0, 0.0])).round(3)
array([ 1.   , -0.333, -0.333, -0.333])
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grpo_agents.advantage import equal

EPSILON = 1e-6
"""Added to a standard deviation (GRPO)."""


def centred(returns: np.ndarray, *, divide_by_std: bool) -> np.ndarray:
    """R − mean R, divided by the unbiased std R where asked (GRPO does, Dr. GRPO does not).

    Equal returns, or a single one, give zeros.
    """
    if len(returns) < 2 or equal(returns):
        return np.zeros(len(returns))
    difference = returns - returns.mean()
    return difference / (returns.std(ddof=1) + EPSILON) if divide_by_std else difference


def left_out(returns: np.ndarray) -> np.ndarray:
    """R minus the mean of the other rollouts' R, which is G/(G−1) · (R − mean R) (RLOO, arXiv 2402.14740)."""
    return centred(returns, divide_by_std=False) * len(returns) / max(1, len(returns) - 1)


def relative_to_mean(returns: np.ndarray) -> np.ndarray:
    """(R − mean R)/mean R, and 0 where the mean is 0 (MaxRL, arXiv 2602.02710); returns are at least 0.

    Raises:
        ValueError: A negative return, with which the mean says nothing about success.
    """
    if len(returns) and returns.min() < 0:
        raise ValueError(f"a return is {returns.min():g}, and method 'maxrl' divides by the mean of returns ≥ 0")
    mean = returns.mean() if len(returns) else 0.0
    return centred(returns, divide_by_std=False) / mean if mean > 0 else np.zeros(len(returns))


def whitened(values: Sequence[np.ndarray], *, epsilon: float = EPSILON, centre: bool = True) -> list[np.ndarray]:
    """(x − mean)/std over all arrays together, the mean left in where not asked; equal values give zeros."""
    pooled = np.concatenate(values) if values else np.zeros(0)
    if len(pooled) < 2 or equal(pooled):
        return [np.zeros(len(array)) for array in values]
    mean = pooled.mean() if centre else 0.0
    return [(array - mean) / (pooled.std(ddof=1) + epsilon) for array in values]
