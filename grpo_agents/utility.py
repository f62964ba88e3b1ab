"""What a trajectory is worth under a preference: its reward vector as one number, on a scale that no group moves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grpo_agents.rewards.component import Component
from grpo_agents.trajectory import Trajectory

EPSILON = 1e-6
"""How far beyond 0…1 rounding may bring a gate."""


def on_fixed_scale(value: Any, component: Component, maximum: float | None) -> Any:
    """A component as something to be maximised: itself, −value for a cost, or the share saved of a declared maximum.

    Args:
        value: A number, or an array of them.
        component: What it is.
        maximum: The most an episode can cost.
    """
    if component.direction == "max":
        return value
    return -value if maximum is None else np.maximum(0.0, 1.0 - value / maximum)


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
    check_gates(value, gate)
    return min(1.0, max(0.0, value))


def check_gates(values: Any, gate: str) -> None:
    """Refuses values of a gate, of which NaN is missing, that are not between 0 and 1, but for rounding.

    Raises:
        ValueError: One is not.
    """
    beyond = np.atleast_1d(values)[np.atleast_1d((values < -EPSILON) | (values > 1 + EPSILON))]
    if len(beyond):
        raise ValueError(
            f"the gate {gate!r} is {beyond[0]:g} in an episode, and has to lie between 0 (the rest earns nothing) and "
            "1: scale it, or choose another gate"
        )


def utility(
    rewards: Mapping[str, float | None],
    preference: Mapping[str, float],
    vector: Sequence[Component],
    maxima: Mapping[str, float],
    gate: str | None = None,
) -> float | None:
    """One trajectory's scalar reward under a preference; see :func:`utilities`.

    Args:
        rewards: The components' values.
        preference: Weights by component; each 1 where it is empty.
        vector: The components.
        maxima: The most an episode can cost, by component.
        gate: The component whose value multiplies the sum.

    Returns:
        U; None where a component that counts is missing.

    Raises:
        ValueError: The gate is not between 0 and 1.
    """
    columns = {name: np.array([np.nan if value is None else value]) for name, value in rewards.items()}
    weights = np.array([[weight_of(entry.name, preference) for entry in vector]])
    found = float(utilities(columns, weights, vector, maxima, gate)[0])
    return None if math.isnan(found) else found


def utilities_of(
    trajectories: Sequence[Trajectory],
    vector: Sequence[Component],
    maxima: Mapping[str, float],
    gate: str | None = None,
) -> np.ndarray:
    """The scalar rewards of trajectories, each under its own preference; see :func:`utilities`."""
    values = [[entry.rewards.get(name) for entry in trajectories] for name in (component.name for component in vector)]
    columns = {entry.name: np.array(column, np.float64) for entry, column in zip(vector, values, strict=True)}
    weights = [[weight_of(entry.name, trajectory.preference) for entry in vector] for trajectory in trajectories]
    return utilities(columns, np.array(weights).reshape(len(trajectories), len(vector)), vector, maxima, gate)


def utilities(
    rewards: Mapping[str, np.ndarray],
    weights: np.ndarray,
    vector: Sequence[Component],
    maxima: Mapping[str, float],
    gate: str | None = None,
) -> np.ndarray:
    """The scalar rewards of trajectories, on a fixed scale: what an evaluation averages.

    Args:
        rewards: Of each component the values, (trajectories,), NaN where one is missing.
        weights: What the components weigh, (trajectories, components).
        vector: The components.
        maxima: The most an episode can cost, by component.
        gate: The component whose value multiplies the sum.

    Returns:
        U = gate · Σ weight · value, with a cost as the share saved of its maximum, (trajectories,); NaN where the gate
        is missing, or a component that weighs something.

    Raises:
        ValueError: A gate is not between 0 and 1.
    """
    none = np.full(len(weights), np.nan)
    total = np.zeros(len(weights))
    for entry, weight in zip(vector, weights.T, strict=True):
        fixed = on_fixed_scale(rewards.get(entry.name, none), entry, maxima.get(entry.name))
        total += np.where(weight != 0, weight * fixed, 0.0)
    if gate is None:
        return total
    given = rewards.get(gate, none)
    check_gates(given, gate)
    return total * np.clip(given, 0.0, 1.0)
