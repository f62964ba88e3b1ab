"""MT-GRPO (arXiv 2505.11821): what leads up to the first tool result answers for a reward of its own, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from grpo_agents.advantage import Scores
from grpo_agents.methods.grpo import Grpo
from grpo_agents.trajectory import Trajectory


class MtGrpo(Grpo):
    """Tokens up to the first tool result get Â_outcome + λ Â_turn, later ones Â_outcome; each normalised in the group.

    The reward of a turn is what the environment says in :class:`~grpo_agents.env.Reply` at that turn, weighed by the
    preference.
    """

    name: ClassVar[str] = "mt_grpo"
    unused: ClassVar[tuple[str, ...]] = ("supervision",)

    turn_weight: float = Field(default=1.0, ge=0, description="λ of the turns' own advantage.")

    def turn_advantages(self, groups: Sequence[Scores]) -> list[list[np.ndarray]]:
        """λ Â_turn on the turns up to the first tool result, 0 on later ones."""
        firsts = [[turns_to_first_result(trajectory) for trajectory in group.trajectories] for group in groups]
        earned = [
            np.array([turns[:stop].sum() for turns, stop in zip(group.turns, stops, strict=True)])
            for group, stops in zip(groups, firsts, strict=True)
        ]
        return [
            [
                np.where(np.arange(len(turns)) < stop, self.turn_weight * value, 0.0)
                for turns, stop, value in zip(group.turns, stops, values, strict=True)
            ]
            for group, stops, values in zip(groups, firsts, self.normalised(earned), strict=True)
        ]


def turns_to_first_result(trajectory: Trajectory) -> int:
    """How many turns there are up to the first that a tool answered, that one included; all where none was."""
    for number, step in enumerate(trajectory.steps, 1):
        if any(message["role"] == "tool" for message in step.observation):
            return number
    return len(trajectory.steps)
