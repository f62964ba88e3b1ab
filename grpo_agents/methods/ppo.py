"""Proximal policy optimisation (arXiv 1707.06347) in the form of RLHF: a critic, GAE, and the KL inside the reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from grpo_agents.advantage import Scores, same
from grpo_agents.methods.baselines import whitened
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.method import Episode, Tokens
from grpo_agents.methods.surrogate import Kl, aggregate
from grpo_agents.trajectory import Trajectory

if TYPE_CHECKING:
    import torch


class Ppo(Grpo):
    """The clipped surrogate with Â_t = Σ (γλ)^l δ_{t+l}, δ_t = r_t + γ V_{t+1} − V_t, and a clipped value loss.

    r_t is −β log(π/π_ref), and on the last token the return too (with process supervision: on the last token of each
    turn, that turn's reward). A trajectory's tokens are those that it sampled; what it was told lies between them.
    After the last one V is 0, also where a budget cut the episode short: budgets are a part of the task, an answer that
    never came scores the worst (or what ``rollout.truncated`` says), and γV on top would pay for what was not done.
    """

    name: ClassVar[str] = "ppo"
    unused: ClassVar[tuple[str, ...]] = ("scale",)
    reward: ClassVar[str] = "rule or model, less KL"
    pushes: ClassVar[str] = "ρ Â_t by GAE, 0 where the clip holds"

    value_model: Literal["head", "separate"] = Field(
        default="head", description="A layer on the policy's hidden states, or a model of its own beside it."
    )
    value_weight: float = Field(default=0.5, gt=0, description="Weight of the value loss.")
    value_clip: float = Field(default=0.2, gt=0, description="How far values may move on one batch and still count.")
    discount: float = Field(default=1.0, ge=0, le=1, description="γ, by tokens.")
    gae: float = Field(default=0.95, ge=0, le=1, description="λ: 1 takes whole returns, 0 one step and the critic.")
    whiten: bool = Field(default=False, description="Advantages are whitened over the batch's tokens.")
    kl: Kl = Field(default="k1", description="As in grpo.")
    kl_in: Literal["loss", "reward"] = Field(default="reward", description="As in grpo.")

    @property
    def critic(self) -> Literal["head", "model"]:
        """What ``value_model`` says."""
        return "head" if self.value_model == "head" else "model"

    @property
    def normalises_by_group(self) -> bool:
        """False: the critic is the baseline."""
        return False

    def advantages(self, groups: Sequence[Scores]) -> list[np.ndarray]:
        """The rewards: R, or 0 with process supervision."""
        process = self.supervision == "process"
        return [np.zeros(len(group.returns)) if process else group.returns for group in groups]

    def turn_advantages(self, groups: Sequence[Scores]) -> list[list[np.ndarray]] | None:
        """The rewards of turns, with process supervision; of one that is not learned from, on the turn before it."""
        if self.supervision == "outcome":
            return None
        return [list(map(_on_learned_turns, group.trajectories, group.turns)) for group in groups]

    def spread(self, groups: Sequence[Scores]) -> list[bool]:
        """Over the batch, as the critic is of no group."""
        return [not same(groups, by_turn=self.supervision == "process")] * len(groups)

    def credit(self, episodes: Sequence[Episode]) -> None:
        """Rewards become advantages by GAE, and returns for the critic."""
        for episode in episodes:
            assert episode.values is not None
            ends = np.append(np.diff(episode.turn) != 0, True)  # (tokens,): the last token of a turn
            if self.supervision == "outcome":
                ends[:-1] = False
            rewards = np.where(ends, episode.advantages, 0.0)
            if self.kl_weight and self.kl_in == "reward":
                rewards = rewards - self.kl_reward(episode)
            episode.advantages = generalised_advantages(rewards, episode.values, self.discount, self.gae)
            episode.returns = episode.advantages + episode.values
        if self.whiten:
            for episode, advantages in zip(episodes, whitened([e.advantages for e in episodes]), strict=True):
                episode.advantages = advantages

    def loss(self, tokens: Tokens) -> torch.Tensor:
        """The surrogate's and the critic's."""
        return super().loss(tokens) + self.value_weight * aggregate(
            self.value_errors(tokens), tokens, self.aggregation, self.max_length
        )

    def value_errors(self, tokens: Tokens) -> torch.Tensor:
        """½ max((V − R)², (clip(V, V_old ± value_clip) − R)²) of each token, (tokens,)."""
        assert tokens.values is not None
        assert tokens.old_values is not None
        assert tokens.returns is not None
        near = tokens.old_values + (tokens.values - tokens.old_values).clamp(-self.value_clip, self.value_clip)
        return ((tokens.values - tokens.returns) ** 2).maximum((near - tokens.returns) ** 2) / 2

    def figures(self, tokens: Tokens) -> dict[str, torch.Tensor]:
        """Those of grpo, and ``value`` and ``value_error``, what the critic says and how wrong it is."""
        assert tokens.values is not None
        return super().figures(tokens) | {"value": tokens.values, "value_error": self.value_errors(tokens)}


def _on_learned_turns(trajectory: Trajectory, rewards: np.ndarray) -> np.ndarray:
    """The rewards of turns, (turns,), each at the last turn up to its own that is learned from."""
    moved = np.zeros(len(rewards))
    last = None
    for turn, step in enumerate(trajectory.steps):
        last = last if step.advantage is None else turn
        if last is not None:
            moved[last] += rewards[turn]
    return moved


def generalised_advantages(rewards: np.ndarray, values: np.ndarray, discount: float, decay: float) -> np.ndarray:
    """GAE (arXiv 1506.02438) of one episode that ends with its last token.

    Args:
        rewards: r_t, (tokens,).
        values: V_t before each token, (tokens,).
        discount: γ.
        decay: λ.

    Returns:
        (tokens,).
    """
    errors = rewards + discount * np.append(values[1:], 0.0) - values  # δ, (tokens,)
    advantages = np.array(errors, np.float64)
    for t in range(len(errors) - 2, -1, -1):
        advantages[t] += discount * decay * advantages[t + 1]
    return advantages
