"""From reward vectors to advantages: what a rollout earned under its preference, and what a method makes of that.

Pure functions of small arrays; see ToolOrchestra (arXiv 2511.21689) and :mod:`grpo_agents.methods.baselines`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from pydantic import Field

from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.section import Section
from grpo_agents.trajectory import Group, Step, Trajectory
from grpo_agents.utility import gate_value, on_fixed_scale, values_that_count, weight_of

TIED = 1e-9
"""Values whose spread is below this share of their size are equal: [0.1] * 3 is no spread."""


class AdvantageConfig(Section):
    """How a reward vector becomes the return that a method normalises."""

    normalise: Literal["weighted_sum", "minmax"] = Field(
        default="weighted_sum",
        description="weighted_sum: components on a fixed scale; minmax: each within its group (ToolOrchestra).",
    )
    gate: str | None = Field(
        default=None,
        description="A component from 0 to 1, as 'outcome', that gates all others: a wrong answer earns nothing by "
        "being cheap.",
    )
    min_std: float = Field(
        default=0.0, ge=0, description="Groups whose scalar reward spreads less take no part (ToolOrchestra: 0.1)."
    )
    drop: list[Literal["unreadable", "unanswered"]] = Field(
        default=[],
        description="unreadable: turns with a tool call that cannot be read are not learned from. unanswered: rollouts "
        "without an answer take no part (ToolOrchestra drops both).",
    )


@dataclass(slots=True)
class Scores:
    """A group as a method sees it: the rollouts of which everything that counts is known.

    Attributes:
        returns: R of each, (G,).
        components: Its components that weigh something, each to be maximised (a cost as −cost), (G, K).
        weights: What they weigh under the preference, (K,).
        gate: What the rest is multiplied by, (G,).
        values: Every reward of each by name, as it is; NaN where it is missing, (G,) each.
        turns: What the environment said that each turn is worth, weighed by the preference: of each rollout, (turns,).
        trajectories: The rollouts themselves.
    """

    returns: np.ndarray
    components: np.ndarray
    weights: np.ndarray
    gate: np.ndarray
    values: dict[str, np.ndarray]
    turns: list[np.ndarray]
    trajectories: Sequence[Trajectory]


class Estimator(Protocol):
    """What turns scores into advantages; a :class:`~grpo_agents.methods.Method` is one."""

    name: ClassVar[str]

    @property
    def needs_rewards(self) -> tuple[str, ...]:
        """Components that it reads by name."""
        ...

    def advantages(self, groups: Sequence[Scores]) -> list[np.ndarray]:
        """Of every rollout, (G,) a group; NaN where one takes no part."""
        ...

    def turn_advantages(self, groups: Sequence[Scores]) -> list[list[np.ndarray]] | None:
        """What is added on the tokens of each turn: of every rollout of every group, (turns,)."""
        ...

    def spread(self, groups: Sequence[Scores]) -> list[bool]:
        """Of every group, whether anything in it did better than what it is compared with."""
        ...


def same(groups: Sequence[Scores], *, by_turn: bool = False) -> bool:
    """True where all rollouts of all groups earned the same: one return, or the same at every turn."""
    rollouts = [earned for group in groups for earned in (group.turns if by_turn else group.returns[:, None])]
    return len(set(map(len, rollouts))) <= 1 and all(equal(column) for column in np.array(rollouts).T)


def equal(values: np.ndarray) -> bool:
    """True where values do not differ beyond rounding."""
    return len(values) == 0 or float(np.ptp(values)) <= TIED * max(1.0, float(np.abs(values).max()))


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


def check_gate(config: AdvantageConfig, vector: RewardVector) -> None:
    """Refuses a gate that is no component of the vector.

    Raises:
        ValueError: Names the components there are.
    """
    if config.gate is not None and config.gate not in vector.names:
        raise ValueError(
            f"advantage.gate is {config.gate!r}, which is not among the rewards: {', '.join(vector.names)}"
        )


def check_needed(method: Estimator, vector: RewardVector) -> None:
    """Refuses a method that reads a component which the vector lacks.

    Raises:
        ValueError: Names the components there are.
    """
    for name in method.needs_rewards:
        if name not in vector.names:
            raise ValueError(
                f"method {method.name!r} reads the reward {name!r}, which is not among the components: "
                f"{', '.join(vector.names)}. Add it to rewards.vector, or name one of them"
            )


def assign_advantages(
    groups: Sequence[Group],
    vector: RewardVector,
    config: AdvantageConfig,
    maxima: Mapping[str, float],
    method: Estimator,
) -> dict[str, float]:
    """Writes the advantage of every trajectory and of its turns.

    None is for no part in learning: a component that counts is missing, it is masked, its group spreads too little,
    the method leaves it out, or ``config.drop`` does.

    Args:
        groups: The batch, scored.
        vector: The components.
        config: How rewards become returns.
        maxima: The most an episode can cost, by component.
        method: What becomes of returns.

    Returns:
        Figures: ``groups_tied`` (share in which nothing is better than anything else), ``left_out`` (trajectories that
        take no part).

    Raises:
        ValueError: The gate is no component of the vector, or not between 0 and 1; or the method reads another.
    """
    check_gate(config, vector)
    check_needed(method, vector)
    known: list[list[Trajectory]] = []
    scores: list[Scores] = []
    for group in groups:
        kept = []
        for trajectory in group.trajectories:
            trajectory.advantage = None
            for step in trajectory.steps:
                step.advantage = None if "unreadable" in config.drop and _unreadable(step) else 0.0
            if takes_part(trajectory, group.preference, vector, config):
                kept.append(trajectory)
        if not kept:
            continue
        scored = score_group(kept, group.preference, vector, config, maxima)
        if _far_enough(scored, config):
            known.append(kept)
            scores.append(scored)
    turns = method.turn_advantages(scores)
    part = 0
    for index, (kept, advantages) in enumerate(zip(known, method.advantages(scores), strict=True)):
        for rollout, (trajectory, advantage) in enumerate(zip(kept, advantages, strict=True)):
            if not np.isnan(advantage):
                part += 1
                trajectory.advantage = float(advantage)
                if turns is not None:
                    for step, value in zip(trajectory.steps, turns[index][rollout], strict=True):
                        step.advantage = None if step.advantage is None else float(value)
    tied = len(groups) - sum(method.spread(scores))
    everyone = sum(len(group.trajectories) for group in groups)
    return {"groups_tied": tied / max(1, len(groups)), "left_out": float(everyone - part)}


def takes_part(
    trajectory: Trajectory, preference: Mapping[str, float], vector: RewardVector, config: AdvantageConfig
) -> bool:
    """Whether all that counts of a trajectory is known, and nothing keeps it out of learning."""
    known = values_that_count(trajectory.rewards, preference, vector, config.gate) is not None
    return known and not trajectory.masked and (trajectory.answered or "unanswered" not in config.drop)


def _unreadable(step: Step) -> bool:
    return any("invalid" in call for call in step.message.get("tool_calls") or ())


def score_group(
    trajectories: Sequence[Trajectory],
    preference: Mapping[str, float],
    vector: RewardVector,
    config: AdvantageConfig,
    maxima: Mapping[str, float],
) -> Scores:
    """What the rollouts of a group earned; every one has all that counts."""
    weighed = [entry for entry in vector if weight_of(entry.name, preference)]
    weights = np.array([weight_of(entry.name, preference) for entry in weighed])  # (K,)
    known = [values_that_count(trajectory.rewards, preference, vector, config.gate) for trajectory in trajectories]
    counted = [values for values in known if values is not None]
    gate = np.array([gate_value(values, config.gate) for values in counted])  # (G,)

    def matrix(value: Callable[[float, Component], float]) -> np.ndarray:
        rows = [[value(values[entry.name], entry) for entry in weighed] for values in counted]
        return np.array(rows, np.float64).reshape(len(counted), len(weighed))  # (G, K)

    signed = matrix(lambda value, entry: value if entry.direction == "max" else -value)
    if config.normalise == "weighted_sum":
        fixed = matrix(lambda value, entry: on_fixed_scale(value, entry, maxima.get(entry.name)))
        returns = weighted_returns(fixed, weights, gate)
    else:
        returns = minmax_returns(signed, weights, gate)
    return Scores(
        returns,
        signed,
        weights,
        gate,
        {name: np.array([_or_nan(entry.rewards.get(name)) for entry in trajectories]) for name in vector.names},
        [turn_rewards(trajectory, preference, vector, maxima) for trajectory in trajectories],
        trajectories,
    )


def turn_rewards(
    trajectory: Trajectory, preference: Mapping[str, float], vector: RewardVector, maxima: Mapping[str, float]
) -> np.ndarray:
    """Σ weight · value of what the environment gave at each turn, (turns,); a cost as −its share of the maximum."""

    def earned(step: Step) -> float:
        total = 0.0
        for entry in vector:
            value, weight = step.rewards.get(entry.name, 0.0), weight_of(entry.name, preference)
            if entry.direction == "min":
                value = -value / maxima.get(entry.name, 1.0)
            total += weight * value if weight else 0.0  # what weighs nothing may be missing
        return total

    return np.array([earned(step) for step in trajectory.steps])


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def has_spread(
    group: Group, vector: RewardVector, config: AdvantageConfig, maxima: Mapping[str, float], method: Estimator
) -> bool:
    """Whether something is to be learned from a group, compared with itself alone."""
    known = [entry for entry in group.trajectories if takes_part(entry, group.preference, vector, config)]
    if not known:
        return False
    scored = score_group(known, group.preference, vector, config, maxima)
    return _far_enough(scored, config) and method.spread([scored])[0]


def _far_enough(scored: Scores, config: AdvantageConfig) -> bool:
    """Whether the returns of a group lie so far apart that it takes part."""
    return len(scored.returns) < 2 or scored.returns.std(ddof=1) >= config.min_std
