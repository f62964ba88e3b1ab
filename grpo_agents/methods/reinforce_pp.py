"""REINFORCE++ (arXiv 2501.03262): advantages whitened over all tokens of the batch, with or without a group's mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from grpo_agents.advantage import Scores, same
from grpo_agents.methods.baselines import centred, whitened
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.method import Episode


class ReinforcePlusPlus(Grpo):
    """Â = R, less the KL to come where it is in the reward, whitened over the batch's tokens; no group is needed."""

    name: ClassVar[str] = "reinforce_pp"
    unused: ClassVar[tuple[str, ...]] = ("scale", "supervision")

    @property
    def normalises_by_group(self) -> bool:
        """False: a group of one will do."""
        return False

    def advantages(self, groups: Sequence[Scores]) -> list[np.ndarray]:
        """R itself."""
        return [group.returns for group in groups]

    def spread(self, groups: Sequence[Scores]) -> list[bool]:
        """Over the batch, of which all is compared with all."""
        return [not same(groups)] * len(groups)

    def credit(self, episodes: Sequence[Episode]) -> None:
        """KL in the reward, then whitening."""
        super().credit(episodes)
        for episode, advantages in zip(episodes, whitened([e.advantages for e in episodes]), strict=True):
            episode.advantages = advantages


class ReinforcePlusPlusBaseline(Grpo):
    """Â = R − the group's mean, whitened over the batch's tokens."""

    name: ClassVar[str] = "reinforce_pp_baseline"
    unused: ClassVar[tuple[str, ...]] = ReinforcePlusPlus.unused

    def advantages(self, groups: Sequence[Scores]) -> list[np.ndarray]:
        """R − mean R."""
        return [centred(group.returns, divide_by_std=False) for group in groups]

    def credit(self, episodes: Sequence[Episode]) -> None:
        """KL in the reward, then whitening; a tied group takes no part in the mean, and keeps its KL alone."""
        spread = {episode.group for episode in episodes if np.any(episode.advantages)}
        super().credit(episodes)
        values = [episode.advantages for episode in episodes]
        for episode, white, scaled in zip(episodes, whitened(values), whitened(values, centre=False), strict=True):
            episode.advantages = white if episode.group in spread else scaled
