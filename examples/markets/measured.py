"""What a policy made of its tasks, beside the best that could be expected and beside rules that need no learning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from setting import make

from grpo_agents.evaluation import worths_of
from grpo_agents.evaluation.statistics import ratio_interval
from grpo_agents.rewards import RewardVector, cost, latency
from grpo_agents.trajectory import Trajectory
from grpo_agents.utility import utilities_of

VECTOR = RewardVector(["outcome", cost, latency])
USERS = VECTOR.names
"""A user is called after what weighs most."""

Ways = Mapping[str, Mapping[str, float]]
"""What each choice that a task leaves can be expected to earn, by component."""

RULES: dict[str, Callable[[Ways, np.random.Generator], str]] = {
    "cheapest": lambda ways, rng: min(_asking(ways), key=lambda name: ways[name]["cost"]),
    "quickest": lambda ways, rng: min(_asking(ways), key=lambda name: ways[name]["latency"]),
    "most capable": lambda ways, rng: max(_asking(ways), key=lambda name: ways[name]["outcome"]),
    "random": lambda ways, rng: str(rng.choice(list(ways))),
}
"""Ways to choose without a look at the preference; the first three always ask."""


def _asking(ways: Ways) -> list[str]:
    return [name for name in ways if name != "direct"]


HINDSIGHT = "best by kind"
"""A rule that knows how right everybody is, and takes for each kind of question whom it pays to take on the whole: the
best of those that look at neither today's prices nor the user."""


def by_kind(kinds: Sequence[str], expected: Sequence[Mapping[str, float]]) -> list[str]:
    """The choices of that rule: of what a task leaves, the one with the largest mean worth over tasks of its kind."""
    worth: dict[tuple[str, str], list[float]] = {}
    for kind, entry in zip(kinds, expected, strict=True):
        for name, value in entry.items():
            worth.setdefault((kind, name), []).append(value)
    means = {key: float(np.mean(values)) for key, values in worth.items()}
    return [max(entry, key=lambda name: means[kind, name]) for kind, entry in zip(kinds, expected, strict=True)]


def figures(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """The figures of the policy that played, one episode a task, and of every rule on the same tasks."""
    env = make("test")
    worths = worths_of(env.expected_rewards, VECTOR, env.maxima, "outcome")
    expected = [worths(entry.task, entry.preference) for entry in trajectories]
    ways = [env.expected_rewards(entry.task) for entry in trajectories]
    best = np.array([max(entry.values()) for entry in expected])
    users = np.array([max(entry.preference, key=lambda name: entry.preference[name]) for entry in trajectories])
    earned = utilities_of(trajectories, VECTOR, env.maxima, "outcome")
    rewards = {name: np.array([entry.rewards[name] for entry in trajectories], float) for name in VECTOR.names}
    found: dict[str, Any] = {"policy": summary(earned, best, rewards, users)}
    rng = np.random.default_rng(0)
    choices = {rule: [choose(entry, rng) for entry in ways] for rule, choose in RULES.items()}
    choices[HINDSIGHT] = by_kind([entry.task["kind"] for entry in trajectories], expected)
    for rule, chosen in choices.items():
        worth = np.array([entry[name] for entry, name in zip(expected, chosen, strict=True)])
        took = {name: np.array([way[c][name] for way, c in zip(ways, chosen, strict=True)]) for name in VECTOR.names}
        found[rule] = summary(worth, best, took, users)
    return found | {"calculator": calculator(trajectories, expected)}


def summary(
    earned: np.ndarray, best: np.ndarray, rewards: Mapping[str, np.ndarray], users: np.ndarray
) -> dict[str, Any]:
    """The share of the best achievable reward with its 95 % interval over tasks, and means by user."""
    share = ratio_interval(earned, best, np.arange(len(best)))
    return {
        "share_of_best": {"mean": share.mean, "low": share.low, "high": share.high},
        "by_user": {
            user: {
                "share_of_best": float(earned[users == user].sum() / best[users == user].sum()),
                **{name: float(values[users == user].mean()) for name, values in rewards.items()},
            }
            for user in USERS
            if np.any(users == user)
        },
    }


def calculator(trajectories: Sequence[Trajectory], expected: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """How often the calculator is asked about hard arithmetic, by whether it or a model is the best choice there."""
    asked: dict[str, list[bool]] = {"when_best": [], "when_a_model_is_better": []}
    for trajectory, worth in zip(trajectories, expected, strict=True):
        if trajectory.task["kind"] == "hard" and "calculator" in worth:
            when = "when_best" if max(worth, key=lambda name: worth[name]) == "calculator" else "when_a_model_is_better"
            first = next((run.name for step in trajectory.steps for run in step.tools), None)
            asked[when].append(first == "calculator")
    return {when: float(np.mean(calls)) for when, calls in asked.items()}
