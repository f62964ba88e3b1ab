"""SAPO (arXiv 2511.20347): a soft gate instead of a hard clip."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.method import Tokens

if TYPE_CHECKING:
    import torch


class Sapo(Grpo):
    """(4/τ) σ(τ(ρ−1)) Â."""

    name: ClassVar[str] = "sapo"
    unused: ClassVar[tuple[str, ...]] = ("clip_low", "clip_high", "dual_clip")
    pushes: ClassVar[str] = "4 σ(1 − σ) ρ Â with σ(τ(ρ − 1))"

    tau_positive: float = Field(default=1.0, gt=0, description="τ where Â > 0.")
    tau_negative: float = Field(default=1.05, gt=0, description="τ elsewhere: larger falls off faster.")

    def surrogate(self, tokens: Tokens) -> torch.Tensor:
        """The gated advantage."""
        ratio = self.ratio(tokens)
        tau = ratio.new_full((), self.tau_positive).where(
            tokens.advantages > 0, ratio.new_full((), self.tau_negative)
        )  # (tokens,)
        return 4 / tau * (tau * (ratio - 1)).sigmoid() * tokens.advantages

    def is_clipped(self, tokens: Tokens) -> torch.Tensor:
        """Nowhere, (tokens,)."""
        import torch

        return torch.zeros_like(tokens.advantages, dtype=torch.bool)
