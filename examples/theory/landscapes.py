"""One task under seven rewards: what each makes of the same choices, and where GRPO ends (docs/theory.md, section 4).

Two turns. In the first the policy answers at once, which is right one time in ten, or calls a tool. After a call it
answers from the result, right eight times in ten, or calls once more, and then its turns are up and there is no answer.
With two probabilities, of calling and then of answering, the expected reward is a surface that can be drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from table_policy import TablePolicy, draw, episode

from grpo_agents.advantage import AdvantageConfig
from grpo_agents.methods import make_method
from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.trajectory import Group
from grpo_agents.utility import utility

FIRST, AFTER_A_CALL = 0, 1
"""The states."""
ANSWER, CALL = 0, 1
"""The actions in both."""
RIGHT_AT_ONCE, RIGHT_WITH_RESULT = 0.1, 0.8
START_CALLS, START_ANSWERS = 0.1, 0.2
"""The policy at the start: it rarely calls, and rarely knows what to do with a result."""
ROLLOUTS, GROUPS, STEPS = 8, 4, 300
EVERY = 10
"""The path is kept at every so many steps."""
MAXIMA = {"calls": 2.0}

VECTOR = RewardVector(
    [
        Component("outcome", None),
        Component("called", None, unit="0 or 1"),
        Component("calls", None, "min", unit="calls"),
        Component("tool_use", None, unit="calls"),
    ]
)


@dataclass(frozen=True)
class Reward:
    """What an episode is worth: a preference over the components, and how they become one number."""

    preference: dict[str, float]
    config: AdvantageConfig = field(default_factory=AdvantageConfig)


_CHEAP = {"outcome": 0.3, "calls": 0.7}
REWARDS = {
    "sparse: outcome": Reward({"outcome": 1.0}),
    "shaped: outcome + ½ for a call": Reward({"outcome": 1.0, "called": 0.5}),
    "sum: 0.5 outcome + 0.5 saved": Reward({"outcome": 0.5, "calls": 0.5}),
    "sum: 0.3 outcome + 0.7 saved": Reward(_CHEAP),
    "gate: outcome × (0.3 + 0.7 saved)": Reward(_CHEAP, AdvantageConfig(gate="outcome")),
    "gate, each scaled in its group": Reward(_CHEAP, AdvantageConfig(gate="outcome", normalise="minmax")),
    "gameable: outcome + number of calls": Reward({"outcome": 1.0, "tool_use": 1.0}),
}


def values(calls: int, right: float) -> dict[str, float]:
    """The components of an episode."""
    return {"outcome": right, "called": float(calls > 0), "calls": float(calls), "tool_use": float(calls)}


def corners(reward: Reward) -> tuple[float, float, float]:
    """E[R] of answering at once, of calling and answering, and of calling twice, on the fixed scale."""

    def worth(calls: int, right: float) -> float:
        found = utility(values(calls, right), reward.preference, VECTOR, MAXIMA, reward.config.gate)
        assert found is not None
        return found

    def expected(calls: int, chance: float) -> float:
        return chance * worth(calls, 1.0) + (1 - chance) * worth(calls, 0.0)

    return expected(0, RIGHT_AT_ONCE), expected(1, RIGHT_WITH_RESULT), worth(2, 0.0)


def surface(reward: Reward, calls: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """E[R] of a policy that calls, and then answers, with these probabilities; arrays of one shape."""
    at_once, answered, called_twice = corners(reward)
    return (1 - calls) * at_once + calls * (answers * answered + (1 - answers) * called_twice)


def success(calls: float, answers: float) -> float:
    """The probability of a right answer."""
    return (1 - calls) * RIGHT_AT_ONCE + calls * answers * RIGHT_WITH_RESULT


def sample_group(table: np.ndarray, reward: Reward, rng: np.random.Generator) -> Group:
    """Rollouts of the task."""
    found = []
    for _ in range(ROLLOUTS):
        first, second = draw(rng, table)
        chance = RIGHT_AT_ONCE if first == ANSWER else RIGHT_WITH_RESULT if second == ANSWER else 0.0
        calls = 0 if first == ANSWER else 1 + int(second == CALL)
        states, actions = ([FIRST], [first]) if first == ANSWER else ([FIRST, AFTER_A_CALL], [first, second])
        found.append(episode(table, states, actions, values(calls, float(rng.random() < chance))))
    return Group({}, reward.preference, found)


def run(seed: int) -> dict[str, Any]:
    """Where GRPO goes under each reward."""
    return {"seed": seed, "arms": {name: learn(seed, reward) for name, reward in REWARDS.items()}}


def learn(seed: int, reward: Reward) -> dict[str, Any]:
    """The path of the two probabilities under one reward, and what the end is worth."""
    rng, method = np.random.default_rng(seed), make_method({"name": "grpo"})
    start = np.log([[1 - START_CALLS, START_CALLS], [START_ANSWERS, 1 - START_ANSWERS]])
    policy, path = TablePolicy(start, lr=0.03), []
    for _ in range(STEPS):
        table = policy.table()
        path.append((float(table[FIRST, CALL]), float(table[AFTER_A_CALL, ANSWER])))
        groups = [sample_group(table, reward, rng) for _ in range(GROUPS)]
        policy.learn(groups, method, VECTOR, reward.config, maxima=MAXIMA)
    table = policy.table()
    calls, answers = float(table[FIRST, CALL]), float(table[AFTER_A_CALL, ANSWER])
    return {
        "path": [[round(value, 3) for value in place] for place in [*path[::EVERY], (calls, answers)]],
        "calls": calls,
        "answers": answers,
        "success": success(calls, answers),
    }
