"""Learning from what the first policy sampled, and from what the present one does (docs/theory.md, section 3).

Twelve skills, four ways to exercise each, one of them right. Task k = 1 … 12 asks for skills 1 to k in a row, and only
all of them right count: it is passed with probability Π π(right | skill), which is known exactly. Skills are shared by
tasks, so that who learns the short ones makes the long ones possible. Every method samples the same number of episodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from table_policy import TablePolicy, draw, episode

from grpo_agents.advantage import AdvantageConfig
from grpo_agents.methods import Tokens, importance, make_method
from grpo_agents.rewards.component import RewardVector
from grpo_agents.trajectory import Group

SKILLS, WAYS, ROLLOUTS, STEPS = 12, 4, 8, 150
VECTOR = RewardVector(["outcome"])
RIGHT = 0
"""The action that is right."""

ARMS: dict[str, tuple[dict[str, Any], int, int]] = {
    "RFT, frozen": ({"name": "rft"}, STEPS, 1),
    "RFT, frozen, 5 passes": ({"name": "rft"}, STEPS, 5),
    "RFT, sampled anew 5 times": ({"name": "rft"}, STEPS // 5, 1),
    "GRPO, frozen": ({"name": "grpo"}, STEPS, 1),
    "GRPO, frozen, no clip": ({"name": "grpo", "clip_low": 0.99, "clip_high": 1000.0}, STEPS, 1),
    "Online RFT": ({"name": "online_rft"}, 1, 1),
    "GRPO": ({"name": "grpo"}, 1, 1),
}
"""What each learns, for how many steps the sampler stays as it is, and how often a sample is learned from."""


def success(policy: TablePolicy) -> np.ndarray:
    """The exact probability of passing each task, (tasks,)."""
    return np.cumprod(policy.table()[:, RIGHT])


def sample_group(table: np.ndarray, task: int, rng: np.random.Generator) -> Group:
    """Rollouts of a task that asks for skills 0 to ``task``."""
    found = []
    for _ in range(ROLLOUTS):
        actions = draw(rng, table[: task + 1])
        found.append(episode(table, range(task + 1), actions, {"outcome": float(np.all(actions == RIGHT))}))
    return Group({"id": str(task)}, {}, found)


def run(seed: int) -> dict[str, Any]:
    """What each arm comes to: J by step, and the success on every task at the end."""
    return {"seed": seed, "arms": {name: learn(seed, *arm) for name, arm in ARMS.items()}}


def learn(seed: int, settings: dict[str, Any], period: int, passes: int) -> dict[str, Any]:
    """One arm: the sampler says all that it says in a period, and then it is learned from."""
    rng, method = np.random.default_rng(seed), make_method(settings)
    policy = TablePolicy(np.zeros((SKILLS, WAYS)))
    curve, longest = [float(success(policy).mean())], 0
    for _ in range(STEPS // period):
        table = policy.table()
        batches = [[sample_group(table, task, rng) for task in range(SKILLS)] for _ in range(period)]
        for groups in batches * passes:
            policy.learn(groups, method, VECTOR, AdvantageConfig())
            curve.append(float(success(policy).mean()))
        passed = [
            len(t.samples[0].ids)
            for groups in batches
            for group in groups
            for t in group.trajectories
            if t.rewards["outcome"]
        ]
        longest = max([longest, *passed])
    return {
        "curve": [round(value, 4) for value in curve[::passes]],
        "final": curve[-1],
        "longest": longest,
        "right": policy.table()[:, RIGHT].round(4).tolist(),
    }


LENGTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHIFTS = (0.1, 0.3, 0.5)
"""How far the logit of one of two actions is moved."""
DRAWS = 4000


def effective_samples(seed: int) -> dict[str, Any]:
    """What importance weights leave of a sample, by length: (Σw)²/(N Σw²), whole sequences and single tokens.

    The sampler is a fair coin at every token, and the policy another one; weights are those of
    :mod:`grpo_agents.methods.importance`.
    """
    rng, found = np.random.default_rng([seed, 1]), []
    for shift in SHIFTS:
        logits = np.array([shift, 0.0])
        log_policy = logits - np.log(np.exp(logits).sum())
        for length in LENGTHS:
            actions = rng.integers(0, 2, DRAWS * length)
            tokens = coin_tokens(log_policy[actions], length)
            shares = {}
            for level in ("sequence", "token"):
                weights = importance.weights(tokens, level)[:: length if level == "sequence" else 1]
                shares[level] = float(weights.sum() ** 2 / (len(weights) * (weights**2).sum()))
            found.append({"shift": shift, "length": length, **shares})
    return {"seed": seed, "shares": found}


def coin_tokens(log_policy: np.ndarray, length: int) -> Tokens:
    """Sequences that a fair coin sampled and of which the policy thinks ``log_policy``, (tokens,)."""
    count = len(log_policy)
    old, nothing = torch.from_numpy(log_policy), torch.zeros(count)
    trajectory = torch.arange(count) // length
    sampler = torch.full((count,), -np.log(2.0), dtype=torch.float64)
    return Tokens(
        old, sampler, old, None, nothing, nothing, nothing + length, nothing, trajectory, trajectory, count, len(old)
    )


def second_moment(shift: float) -> float:
    """E[w²] of one token, exactly."""
    policy = np.exp([shift, 0.0]) / np.exp([shift, 0.0]).sum()
    return float((policy**2 / 0.5).sum())
