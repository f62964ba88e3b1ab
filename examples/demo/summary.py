"""What the demo learned, computed from the trajectories that it stored and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grpo_agents import store
from grpo_agents.envs.orchestra import OrchestraEnv
from grpo_agents.evaluation import evaluate, worths_of
from grpo_agents.evaluation.columns import task_key
from grpo_agents.evaluation.statistics import mean_interval, paired_difference
from grpo_agents.rewards import RewardVector, cost, latency
from grpo_agents.trajectory import Trajectory
from grpo_agents.utility import utilities_of

VECTOR = RewardVector(["outcome", cost, latency])
KINDS = ("easy", "hard", "word")
ENV = OrchestraEnv()
WORTHS = worths_of(ENV.expected_rewards, VECTOR, ENV.maxima, "outcome")


def summarise(grpo: Path) -> dict[str, Any]:
    """Sums up a finished GRPO run: the held-out evaluations before its first and after its last step.

    Args:
        grpo: The run folder.
    """
    files = sorted((grpo / "trajectories").glob("eval-*.parquet"))
    before, after = store.read(files[0]), store.read(files[-1])
    reward = utilities(after)
    served = {user: components_of(after, user) for user in ("cost", "latency")}
    return {
        "episodes": len(after),
        "tasks": len({task_key(trajectory.env, trajectory.task) for trajectory in after}),
        "before": figures(before),
        "after": figures(after),
        "share_of_best_blind": float(blind(after).sum() / best(after).sum()),
        "above_blind": paired(after, reward, blind(after)),
        "users_who_weigh_cost_pay": served["cost"]["cost"],
        "users_who_weigh_latency_pay": served["latency"]["cost"],
        "users_who_weigh_latency_wait": served["latency"]["latency"],
        "users_who_weigh_cost_wait": served["cost"]["latency"],
        "tool_use": evaluate(after, VECTOR, ENV.maxima, gate="outcome").tool_calls_by_preference,
    }


def figures(trajectories: Sequence[Trajectory]) -> dict[str, dict[str, float]]:
    """Mean and 95 % interval, clustered by task, of each measure."""
    reward = utilities(trajectories)
    measures = {"reward": reward}
    for name in VECTOR.names:
        measures[name] = np.array([value(trajectory, name) for trajectory in trajectories])
    found = {name: interval(trajectories, values) for name, values in measures.items()}
    top = best(trajectories)
    share = reward.sum() / top.sum()
    off = interval(trajectories, (reward - share * top) / top.mean())  # linearised ratio: its error, with mean 0
    found["share_of_best"] = {
        "mean": float(share),
        "low": float(share + off["low"]),
        "high": float(share + off["high"]),
    }
    return found


def utilities(trajectories: Sequence[Trajectory]) -> np.ndarray:
    """U of each trajectory, (trajectories,)."""
    found = utilities_of(trajectories, VECTOR, ENV.maxima, "outcome")
    if np.isnan(found).any():
        raise ValueError("a trajectory of the evaluation lacks a reward; see its `missing`")
    return found


def best(trajectories: Sequence[Trajectory]) -> np.ndarray:
    """The best expected U among the declared choices, task by task, (trajectories,)."""
    return np.array([max(expected(trajectory).values()) for trajectory in trajectories])


def blind(trajectories: Sequence[Trajectory]) -> np.ndarray:
    """Expected U of the best policy that sees the kind of task and not the preference, (trajectories,)."""
    found = np.zeros(len(trajectories))
    for kind in KINDS:
        mine = [index for index, trajectory in enumerate(trajectories) if trajectory.task["kind"] == kind]
        if mine:
            worth = {
                name: np.array([expected(trajectories[index])[name] for index in mine]) for name in ENV.choices({})
            }
            found[mine] = max(worth.values(), key=lambda values: values.mean())
    return found


def expected(trajectory: Trajectory) -> dict[str, float]:
    """Expected U of each declared choice at a trajectory's task and preference."""
    return WORTHS(trajectory.task, trajectory.preference)


def components_of(trajectories: Sequence[Trajectory], user: str) -> dict[str, dict[str, float]]:
    """Cost and latency of the episodes whose user weighs one component most."""
    mine = [entry for entry in trajectories if max(entry.preference, key=lambda name: entry.preference[name]) == user]
    return {name: interval(mine, np.array([value(entry, name) for entry in mine])) for name in ("cost", "latency")}


def value(trajectory: Trajectory, name: str) -> float:
    """A component of a trajectory, which here is never missing."""
    found = trajectory.rewards[name]
    if found is None:
        raise ValueError(f"{name} of trajectory {trajectory.id} is missing: {trajectory.missing.get(name)}")
    return found


def interval(trajectories: Sequence[Trajectory], values: np.ndarray) -> dict[str, float]:
    """Mean and 95 % interval, clustered by task."""
    found = mean_interval(values.tolist(), [task_key(entry.env, entry.task) for entry in trajectories])
    return {"mean": found.mean, "low": found.low, "high": found.high}


def paired(trajectories: Sequence[Trajectory], ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """The difference of two measures, paired by task, with interval and p-value."""

    def by_task(values: np.ndarray) -> dict[tuple[str, str], float]:
        collected: dict[tuple[str, str], list[float]] = {}
        for trajectory, number in zip(trajectories, values, strict=True):
            collected.setdefault(task_key(trajectory.env, trajectory.task), []).append(float(number))
        return {key: float(np.mean(numbers)) for key, numbers in collected.items()}

    found = paired_difference(by_task(ours), by_task(theirs))
    return {
        "mean": found.interval.mean,
        "low": found.interval.low,
        "high": found.interval.high,
        "p_value": found.p_value,
    }
