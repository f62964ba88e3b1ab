"""GiGPO (arXiv 2505.10978): turns that started from the same observation are compared with each other."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from grpo_agents.advantage import Scores
from grpo_agents.methods.grpo import Grpo
from grpo_agents.trajectory import Trajectory


class GiGpo(Grpo):
    """Â = Â_episode + ω Â_step, Â_step normalising discounted returns among identical observations of the group."""

    name: ClassVar[str] = "gigpo"
    unused: ClassVar[tuple[str, ...]] = ("supervision",)

    step_weight: float = Field(default=1.0, ge=0, description="ω of the turns' advantage.")
    discount: float = Field(default=0.95, ge=0, le=1, description="γ of a turn's return, by turns.")

    def turn_advantages(self, groups: Sequence[Scores]) -> list[list[np.ndarray]]:
        """ω Â_step of every turn; 0 where nothing else in the group began so, and in a group of one."""
        met: dict[tuple[int, str], list[tuple[int, int, int]]] = defaultdict(list)
        for number, group in enumerate(groups):
            for rollout, trajectory in enumerate(group.trajectories if len(group.returns) > 1 else ()):
                for turn, state in enumerate(states(trajectory)):
                    met[number, state].append((number, rollout, turn))
        returns = [[discounted(turns, self.discount) for turns in group.turns] for group in groups]
        found = [[np.zeros(len(turns)) for turns in group.turns] for group in groups]
        alike = [np.array([returns[group][rollout][turn] for group, rollout, turn in met[key]]) for key in met]
        for places, values in zip(met.values(), self.normalised(alike), strict=True):
            for (group, rollout, turn), value in zip(places, values, strict=True):
                found[group][rollout][turn] = self.step_weight * value
        return found


def discounted(rewards: np.ndarray, discount: float) -> np.ndarray:
    """Σ_{s ≥ t} γ^{s−t} r_s of every turn, (turns,)."""
    returns = np.array(rewards, np.float64)
    for turn in range(len(returns) - 2, -1, -1):
        returns[turn] += discount * returns[turn + 1]
    return returns


def states(trajectory: Trajectory) -> list[str]:
    """What the policy was told last before each turn, as JSON text without the numbers that calls have."""
    told = [trajectory.prompt, *(step.observation for step in trajectory.steps[:-1])]
    return [
        json.dumps([{**message, "tool_call_id": None} for message in messages], sort_keys=True)
        for messages in told[: len(trajectory.steps)]
    ]
