"""From reward vectors to advantages: scalarise by the preference, then normalise within the group.

Pure functions of small arrays; see ToolOrchestra (arXiv 2511.21689), GDPO (2601.05242), GRPO (2402.03300) and Dr. GRPO.

>>> import numpy as np
>>> centre(np.array([1.0, 0.0, 0.0, 0.0]), divide_by_std=True).round(3)
array([ 1.5, -0.5, -0.5, -0.5])
>>> centre(np.array([0.1, 0.1, 0.1]), divide_by_std=True)
array([0., 0., 0.])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.section import Section
from grpo_agents.trajectory import Group, Trajectory

EPSILON = 1e-6
"""Added to a group's standard deviation (GRPO)."""

GDPO_EPSILON = 1e-4
"""Added to the standard deviations of GDPO, of the group's components and of the batch."""

TIED = 1e-9
"""Values whose spread is below this share of their size are equal: [0.1] * 3 is no spread."""


class AdvantageConfig(Section):
    """How rewards become advantages."""

    normalise: Literal["weighted_sum", "minmax", "gdpo"] = Field(
        default="weighted_sum",
        description="weighted_sum: components on a fixed scale; minmax: each within its group (ToolOrchestra); "
        "gdpo: a z-score of each component within its group, then whitened over the batch.",
    )
    scale: Literal["group", "batch", "none"] = Field(
        default="group",
        description="What R − mean is divided by: the group's standard deviation, the batch's, or nothing.",
    )
    gate: str | None = Field(
        default=None,
        description="A component from 0 to 1, as 'outcome', that gates all others: a wrong answer earns nothing by "
        "being cheap.",
    )
    min_std: float = Field(
        default=0.0, ge=0, description="Groups whose scalar reward spreads less carry no gradient (ToolOrchestra: 0.1)."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> AdvantageConfig:
        if self.normalise == "gdpo" and (self.scale != "group" or self.min_std):
            raise ValueError("advantage.normalise = 'gdpo' has a scale of its own: leave out scale and min_std")
        return self


def equal(values: np.ndarray) -> bool:
    """True where values do not differ beyond rounding."""
    return len(values) == 0 or float(np.ptp(values)) <= TIED * max(1.0, float(np.abs(values).max()))


def centre(returns: np.ndarray, *, divide_by_std: bool) -> np.ndarray:
    """R − mean R, divided by the unbiased std R where asked. Equal returns, or a single one, give zeros.

    Args:
        returns: Shape (G,).
        divide_by_std: As GRPO does, and Dr. GRPO does not.

    Returns:
        Shape (G,).
    """
    if len(returns) < 2 or equal(returns):
        return np.zeros(len(returns))
    centred = returns - returns.mean()
    return centred / (returns.std(ddof=1) + EPSILON) if divide_by_std else centred


def minmax_returns(values: np.ndarray, weights: np.ndarray, gate: np.ndarray) -> np.ndarray:
    """ToolOrchestra's R(τ) = M̂·P where the outcome is right, else 0, with M̂ scaled to 0…1 within the group.

    Args:
        values: Components, each to be maximised (a cost enters as −cost), shape (G, K).
        weights: The preference P, shape (K,).
        gate: The outcome, 1 where it is right, shape (G,).

    Returns:
        R, shape (G,).
    """
    low, spread = values.min(0), np.ptp(values, 0)  # (K,)
    varies = np.array([not equal(column) for column in values.T])
    scaled = np.where(varies, (values - low) / np.where(varies, spread, 1.0), 0.0)
    return scaled @ weights * gate


def gdpo_scores(values: np.ndarray, weights: np.ndarray, gate: np.ndarray) -> np.ndarray:
    """GDPO's weighted sum of the z-scores of each component within the group, before whitening over the batch.

    Args:
        values: Components, each to be maximised, shape (G, K).
        weights: The preference, shape (K,).
        gate: Where 0, the rollout counts as the group's worst in every component it could win by being wrong; shape
            (G,).

    Returns:
        Shape (G,).
    """
    values = gate[:, None] * values + (1 - gate[:, None]) * values.min(0)
    total = np.zeros(len(values))
    if len(values) < 2:
        return total
    for column, weight in zip(values.T, weights, strict=True):
        if not equal(column):
            total += weight * (column - column.mean()) / (column.std(ddof=1) + GDPO_EPSILON)
    return total


def weighted_returns(values: np.ndarray, weights: np.ndarray, gate: np.ndarray) -> np.ndarray:
    """The weighted sum of components on a fixed scale, gated.

    Args:
        values: Components, each to be maximised, shape (G, K).
        weights: The preference, shape (K,).
        gate: What the sum is multiplied by, shape (G,).

    Returns:
        Shape (G,).
    """
    return values @ weights * gate


def on_fixed_scale(value: float, component: Component, maximum: float | None) -> float:
    """A component as something to be maximised: itself, −value for a cost, or the share saved of a declared maximum."""
    if component.direction == "max":
        return value
    return -value if maximum is None else max(0.0, 1.0 - value / maximum)


def weight_of(name: str, preference: Mapping[str, float]) -> float:
    """What a component weighs under a preference: 1 where there is none."""
    return preference.get(name, 0.0) if preference else 1.0


def values_that_count(
    rewards: Mapping[str, float | None], preference: Mapping[str, float], vector: Sequence[Component], gate: str | None
) -> dict[str, float] | None:
    """What a scalar reward is made of: the components that weigh something, and the gate; None where one is missing.

    What weighs nothing may be missing. Learning and evaluation both leave out what this function does.
    """
    names = [entry.name for entry in vector if entry.name == gate or weight_of(entry.name, preference)]
    values = {name: value for name in names if (value := rewards.get(name)) is not None}
    return values if len(values) == len(names) else None


def gate_value(values: Mapping[str, float], gate: str | None) -> float:
    """What the gate multiplies the other components by; 1 without a gate.

    Raises:
        ValueError: It is not between 0 and 1, but for rounding.
    """
    if gate is None:
        return 1.0
    value = values[gate]
    if not -EPSILON <= value <= 1 + EPSILON:
        raise ValueError(
            f"the gate {gate!r} is {value:g} in an episode, and has to lie between 0 (the rest earns nothing) and 1: "
            "scale it, or choose another gate"
        )
    return min(1.0, max(0.0, value))


def utility(
    rewards: Mapping[str, float | None],
    preference: Mapping[str, float],
    vector: Sequence[Component],
    maxima: Mapping[str, float],
    gate: str | None = None,
) -> float | None:
    """One trajectory's scalar reward under a preference, on a fixed scale: what an evaluation averages.

    Args:
        rewards: The components' values.
        preference: Weights by component; each 1 where it is empty.
        vector: The components.
        maxima: The most an episode can cost, by component.
        gate: The component whose value multiplies the sum.

    Returns:
        U = gate · Σ weight · value, with a cost as the share saved of its maximum; None where a component that counts
        is missing.

    Raises:
        ValueError: The gate is not between 0 and 1.
    """
    values = values_that_count(rewards, preference, vector, gate)
    if values is None:
        return None
    total = 0.0
    for entry in vector:
        if entry.name in values:
            fixed = on_fixed_scale(values[entry.name], entry, maxima.get(entry.name))
            total += weight_of(entry.name, preference) * fixed
    return total * gate_value(values, gate)


def check_gate(config: AdvantageConfig, vector: RewardVector) -> None:
    """Refuses a gate that is no component of the vector.

    Raises:
        ValueError: Names the components there are.
    """
    if config.gate is not None and config.gate not in vector.names:
        raise ValueError(
            f"advantage.gate is {config.gate!r}, which is not among the rewards: {', '.join(vector.names)}"
        )


def assign_advantages(
    groups: Sequence[Group], vector: RewardVector, config: AdvantageConfig, maxima: Mapping[str, float]
) -> dict[str, float]:
    """Writes the advantage of every trajectory: None for no gradient (a component that counts is missing, or masked).

    Args:
        groups: The batch, scored.
        vector: The components.
        config: How to normalise.
        maxima: The most an episode can cost, by component.

    Returns:
        Figures: ``groups_tied`` (share without any spread), ``left_out`` (trajectories without a gradient).

    Raises:
        ValueError: The gate is no component of the vector, or not between 0 and 1.
    """
    check_gate(config, vector)
    scored: list[tuple[list[Trajectory], np.ndarray]] = []
    left_out = 0
    for group in groups:
        kept: list[Trajectory] = []
        values: list[dict[str, float]] = []
        for trajectory in group.trajectories:
            trajectory.advantage = None
            counted = values_that_count(trajectory.rewards, group.preference, vector, config.gate)
            if counted is not None and not trajectory.masked:
                kept.append(trajectory)
                values.append(counted)
        left_out += len(group.trajectories) - len(kept)
        scored.append((kept, _group_scores(values, group.preference, vector, config, maxima)))
    if config.normalise == "gdpo" or config.scale == "batch":
        pooled = np.concatenate([scores for _, scores in scored]) if scored else np.zeros(0)
        deviation = float(pooled.std(ddof=1)) if len(pooled) > 1 else 0.0
        epsilon = GDPO_EPSILON if config.normalise == "gdpo" else EPSILON
        mean = float(pooled.mean()) if config.normalise == "gdpo" and len(pooled) else 0.0
        scored = [
            (kept, np.zeros(len(scores)) if equal(scores) else (scores - mean) / (deviation + epsilon))
            for kept, scores in scored
        ]
    for kept, advantages in scored:
        for trajectory, advantage in zip(kept, advantages, strict=True):
            trajectory.advantage = float(advantage)
    tied = sum(1 for _, advantages in scored if len(advantages) == 0 or not np.any(advantages))
    return {"groups_tied": tied / max(1, len(groups)), "left_out": float(left_out)}


def _group_scores(
    kept: Sequence[Mapping[str, float]],
    preference: Mapping[str, float],
    vector: RewardVector,
    config: AdvantageConfig,
    maxima: Mapping[str, float],
) -> np.ndarray:
    """One group's advantages, or for what is normalised over the batch its scores before that; shape (G,)."""
    if not kept:
        return np.zeros(0)
    weighed = [entry for entry in vector if weight_of(entry.name, preference)]
    weights = np.array([weight_of(entry.name, preference) for entry in weighed])  # (K,)
    gate = np.array([gate_value(values, config.gate) for values in kept])  # (G,)

    def matrix(value: Callable[[float, Component], float]) -> np.ndarray:
        rows = [[value(values[entry.name], entry) for entry in weighed] for values in kept]
        return np.array(rows, np.float64).reshape(len(kept), len(weighed))  # (G, K)

    if config.normalise == "weighted_sum":
        fixed = matrix(lambda value, entry: on_fixed_scale(value, entry, maxima.get(entry.name)))
        returns = weighted_returns(fixed, weights, gate)
    else:
        signed = matrix(lambda value, entry: value if entry.direction == "max" else -value)
        if config.normalise == "gdpo":
            return gdpo_scores(signed, weights, gate)
        returns = minmax_returns(signed, weights, gate)
    if len(returns) > 1 and returns.std(ddof=1) < config.min_std:
        return np.zeros(len(returns))
    return centre(returns, divide_by_std=config.scale == "group")
