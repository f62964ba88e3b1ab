"""MT-GRPO (arXiv 2505.11821): what leads up to the first tool result answers for a reward of its own, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from grpo_agents.advantage import Scores
from grpo_agents.methods.baselines import centred
from grpo_agents.methods.grpo import Grpo
from grpo_agents.trajectory import Trajectory


class MtGrpo(Grpo):
    """Tokens up to the first tool result get Â_outcome + λ Â_turn, later ones Â_outcome; each normalised in the group.

    The reward of a turn is what the environment says in :class:`~grpo_agents.env.Reply` at that turn, weighed by the
    preference.
    """

    name: ClassVar[str] = "mt_grpo"

    turn_weight: float = Field(default=1.0, ge=0, description="λ of the turns' own advantage.")

    def turn_advantages(self, groups: Sequence[Scores]) -> list[list[np.ndarray]]:
        """λ Â_turn on the turns up to the first tool result, 0 on later ones."""
        found = []
        for group in groups:
            firsts = [turns_to_first_result(trajectory) for trajectory in group.trajectories]
            earned = np.array([turns[:first].sum() for turns, first in zip(group.turns, firsts, strict=True)])
            normal = self.turn_weight * centred(earned, divide_by_std=self.scale == "group")
            found.append(
                [
                    np.where(np.arange(len(turns)) < first, value, 0.0)
                    for turns, first, value in zip(group.turns, firsts, normal, strict=True)
                ]
            )
        return found


def turns_to_first_result(trajectory: Trajectory) -> int:
    """How many turns there are up to the first that a tool answered, that one included; all where none was."""
    for number, step in enumerate(trajectory.steps, 1):
        if any(message["role"] == "tool" for message in step.observation):
            return number
    return len(trajectory.steps)
