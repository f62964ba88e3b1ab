"""GiGPO (arXiv 2505.10978): turns that started from the same observation are compared with each other."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from grpo_agents.advantage import Scores
from grpo_agents.methods.baselines import centred
from grpo_agents.methods.grpo import Grpo
from grpo_agents.trajectory import Trajectory


class GiGpo(Grpo):
    """Â = Â_episode + ω Â_step, Â_step normalising discounted returns among identical observations of the group."""

    name: ClassVar[str] = "gigpo"

    step_weight: float = Field(default=1.0, ge=0, description="ω of the turns' advantage.")
    discount: float = Field(default=0.95, ge=0, le=1, description="γ of a turn's return, by turns.")

    def turn_advantages(self, groups: Sequence[Scores]) -> list[list[np.ndarray]]:
        """ω Â_step of every turn; 0 where nobody else of the group saw the same."""
        found = []
        for group in groups:
            returns = [discounted(turns, self.discount) for turns in group.turns]
            met: dict[str, list[tuple[int, int]]] = defaultdict(list)
            for rollout, trajectory in enumerate(group.trajectories):
                for turn, state in enumerate(states(trajectory)):
                    met[state].append((rollout, turn))
            steps = [np.zeros(len(turns)) for turns in group.turns]
            for places in met.values():
                values = np.array([returns[rollout][turn] for rollout, turn in places])
                normal = self.step_weight * centred(values, divide_by_std=self.scale == "group")
                for (rollout, turn), value in zip(places, normal, strict=True):
                    steps[rollout][turn] = value
            found.append(steps)
        return found


def discounted(rewards: np.ndarray, discount: float) -> np.ndarray:
    """Σ_{s ≥ t} γ^{s−t} r_s of every turn, (turns,)."""
    returns = np.array(rewards, np.float64)
    for turn in range(len(returns) - 2, -1, -1):
        returns[turn] += discount * returns[turn + 1]
    return returns


def states(trajectory: Trajectory) -> list[str]:
    """What the policy was told last before each turn, as JSON text."""
    told = [trajectory.prompt, *(step.observation for step in trajectory.steps[:-1])]
    return [json.dumps(messages, sort_keys=True) for messages in told[: len(trajectory.steps)]]
