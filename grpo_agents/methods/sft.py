"""Supervised fine-tuning: demonstrations, and coefficient 1 on each of their tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from grpo_agents.methods.method import Method, SourceKind, Tokens
from grpo_agents.methods.surrogate import aggregate

if TYPE_CHECKING:
    import torch


class Sft(Method):
    """Maximises Â log π, with Â = 1 on everything that is imitated."""

    name: ClassVar[str] = "sft"
    sources: ClassVar[tuple[SourceKind, ...]] = ("demonstrations",)
    reward: ClassVar[str] = "none"

    aggregation: Literal["sequence", "token"] = Field(
        default="sequence", description="sequence: the mean over dialogues of Σ/|o|; token: Σ/Σ|o|, over the batch."
    )

    @property
    def normalises_by_group(self) -> bool:
        """False: what is imitated is compared with nothing."""
        return False

    @property
    def formula(self) -> str:
        """1."""
        return "1"

    def gradient_only_from_advantages(self, progress: float) -> bool:
        """True: Â multiplies all there is."""
        return True

    def loss(self, tokens: Tokens) -> torch.Tensor:
        """−Â log π, summed as ``aggregation`` says."""
        return aggregate(-tokens.advantages * tokens.logprobs, tokens, self.aggregation)
