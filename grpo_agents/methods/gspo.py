"""GSPO (arXiv 2507.18071): one importance ratio for a whole trajectory, as one reward is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.importance import Level
from grpo_agents.methods.method import Tokens
from grpo_agents.methods.surrogate import sum_by_unit

if TYPE_CHECKING:
    import torch


class Gspo(Grpo):
    """min(s Â, clip(s) Â) with s = (π(o)/π_old(o))^{1/|o|}, clipped much closer to 1 than single tokens are."""

    name: ClassVar[str] = "gspo"
    unused: ClassVar[tuple[str, ...]] = ("supervision",)
    pushes: ClassVar[str] = "s Â, 0 where the clip holds"

    clip_low: float = Field(default=3e-4, ge=0, lt=1, description="ε below: s is clipped at 1 − clip_low.")
    clip_high: float = Field(default=4e-4, ge=0, description="ε above: s is clipped at 1 + clip_high.")
    importance_level: Level = Field(default="sequence", description="'sequence', as the ratio is the trajectory's.")

    @model_validator(mode="after")
    def _weighs_whole_trajectories(self) -> Gspo:
        if self.corrects_sampler and self.importance_level == "token":
            raise ValueError(
                "importance_level = 'token' bounds the weights of single tokens, and 'gspo' has one ratio for a whole "
                "trajectory: leave it at 'sequence'"
            )
        return self

    @property
    def unit(self) -> Literal["token", "trajectory", "group"]:
        """Trajectories."""
        return "trajectory"

    def ratio(self, tokens: Tokens) -> torch.Tensor:
        """The ratio s of each token's trajectory, (tokens,)."""
        mean = sum_by_unit((tokens.logprobs - tokens.old) / tokens.lengths, tokens.trajectory)
        return mean.exp()[tokens.trajectory]
