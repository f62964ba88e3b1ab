"""CISPO (arXiv 2506.13585): the clip bounds a token's weight and never takes its gradient away."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.method import Tokens
from grpo_agents.methods.surrogate import Aggregation

if TYPE_CHECKING:
    import torch


class Cispo(Grpo):
    """stop_grad(min(ρ, cap)) · Â · log π."""

    name: ClassVar[str] = "cispo"
    unused: ClassVar[tuple[str, ...]] = ("clip_low", "clip_high", "dual_clip")
    pushes: ClassVar[str] = "min(ρ, cap) Â"

    cap: float = Field(default=5.0, gt=0, description="Largest weight of a token, absolute (ScaleRL: 5.0).")
    aggregation: Aggregation = Field(default="token", description="As in grpo.")

    def surrogate(self, tokens: Tokens) -> torch.Tensor:
        """The weighed log-probability."""
        return self.ratio(tokens).detach().clamp_max(self.cap) * tokens.advantages * tokens.logprobs

    def is_clipped(self, tokens: Tokens) -> torch.Tensor:
        """Where the cap holds, (tokens,)."""
        return self.ratio(tokens) > self.cap
