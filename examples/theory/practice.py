"""Which tasks to practise: the pass-rate curriculum beside each task in its turn (docs/theory.md, section 6).

100 yes/no tasks of ten skills. A task of difficulty d is passed with probability σ(θ − d), where θ is the skill that it
needs: practice raises θ, and with it every task of that skill. Difficulties are spread so widely that at first most
tasks are passed nearly always, or nearly never. Every sampler sees the same number of episodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from table_policy import TablePolicy, draw, episode

from grpo_agents.advantage import AdvantageConfig
from grpo_agents.curriculum import CurriculumConfig, Draw, make_curriculum
from grpo_agents.methods import make_method
from grpo_agents.rewards.component import RewardVector
from grpo_agents.tasks import as_tasks
from grpo_agents.trajectory import Group

SKILLS, A_SKILL, BATCH, ROLLOUTS, STEPS = 10, 10, 8, 8, 200
EASIEST, HARDEST = -16.0, 8.0
RIGHT = 0
"""The action that is right."""
VECTOR = RewardVector(["outcome"])

SAMPLERS = {
    "uniform": CurriculumConfig(),
    "pass_rate": CurriculumConfig(sampler="pass_rate"),
    "pass_rate, explore = 0": CurriculumConfig(sampler="pass_rate", explore=0.0),
    "pass_rate, explore = 0.25": CurriculumConfig(sampler="pass_rate", explore=0.25),
}


def run(seed: int) -> dict[str, Any]:
    """What each sampler comes to."""
    return {"seed": seed, "arms": {name: learn(seed, config) for name, config in SAMPLERS.items()}}


def learn(seed: int, config: CurriculumConfig) -> dict[str, Any]:
    """Mean success over all tasks by step, and which groups were worth sampling."""
    rng, method = np.random.default_rng(seed), make_method({"name": "grpo"})
    difficulty = np.random.default_rng([seed, 1]).uniform(EASIEST, HARDEST, SKILLS * A_SKILL)
    skill = np.repeat(np.arange(SKILLS), A_SKILL)
    offset = np.stack([-difficulty, np.zeros(len(skill))], -1)  # (tasks, actions)
    policy = TablePolicy(np.zeros((SKILLS, 2)), row_of=skill, offset=offset)
    tasks = as_tasks([{"id": str(number), "number": number} for number in range(len(skill))])
    curriculum = make_curriculum(
        config, tasks, VECTOR, gate=None, seed=seed, size=BATCH, resample=0, steps=STEPS
    )  # fmt: skip
    curve, informative, drawn = [], [], set()
    for step in range(STEPS):
        table = policy.table()
        curve.append(round(float(table[:, RIGHT].mean()), 4))
        chosen = Draw(step)
        groups = [sample_group(table, task["number"], rng) for task in curriculum.take(chosen, BATCH)]
        curriculum.observe(chosen, groups)
        drawn |= {*chosen.indices}
        informative.append(1 - policy.learn(groups, method, VECTOR, AdvantageConfig()))
    final = float(policy.table()[:, RIGHT].mean())
    return {
        "curve": [*curve, round(final, 4)],
        "final": final,
        "informative": float(np.mean(informative)),
        "drawn": len(drawn) / len(skill),
    }


def sample_group(table: np.ndarray, task: int, rng: np.random.Generator) -> Group:
    """Rollouts of a task: one token each."""
    actions = draw(rng, np.repeat(table[task : task + 1], ROLLOUTS, 0))
    rollouts = [episode(table, [task], [action], {"outcome": float(action == RIGHT)}) for action in actions]
    return Group({"id": str(task)}, {}, rollouts)
