"""Group relative policy optimisation (DeepSeekMath, arXiv 2402.03300) with the settings of its close relatives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from grpo_agents.methods.importance import truncated
from grpo_agents.methods.method import Method, Tokens

if TYPE_CHECKING:
    import torch


class Grpo(Method):
    """The clipped surrogate with asymmetric ε, a KL term in the loss, and an entropy bonus.

    Per token: −w min(ρ Â, clip(ρ, 1−ε_low, 1+ε_high) Â) + β KL − bonus · H, with ρ = π/π_old, and w = 1 or, with
    ``tis``, min(π_old/π_sampler, tis); summed as ``aggregation`` says.
    """

    name: ClassVar[str] = "grpo"

    clip_low: float = Field(default=0.2, ge=0, lt=1, description="ε below: ρ is clipped at 1 − clip_low.")
    clip_high: float = Field(default=0.2, ge=0, description="ε above: ρ is clipped at 1 + clip_high (DAPO: 0.28).")
    tis: float | None = Field(
        default=None,
        gt=0,
        description="Weigh each token by π_old/π_sampler, at most this (2.0 is usual): truncated importance sampling, "
        "for an engine whose policy differs from the learner's. Needs learner.old_logprobs = 'recompute'.",
    )
    kl_weight: float = Field(
        default=0.0, ge=0, description="β of the KL term against the reference policy; 0 needs no reference."
    )
    kl: Literal["k3", "unbiased"] = Field(
        default="k3",
        description="k3 = π_ref/π − log(π_ref/π) − 1; unbiased = ρ·k3 with the gradient through ρ (DeepSeek-V3.2).",
    )
    aggregation: Literal["token", "sequence", "constant"] = Field(
        default="sequence",
        description="token: Σ/Σ|o| (DAPO); sequence: mean over trajectories of Σ/|o| (GRPO); "
        "constant: Σ/(trajectories · max_length) (Dr. GRPO). All over the global batch.",
    )
    max_length: int | None = Field(default=None, ge=1, description="L_max of aggregation 'constant'.")
    entropy_bonus: float = Field(default=0.0, ge=0, description="Reward for entropy, in the loss.")
    entropy_tokens: int | None = Field(
        default=None, ge=1, description="Only on the first tokens of each turn; all where not set."
    )
    entropy_until: float = Field(
        default=1.0, gt=0, le=1, description="The bonus falls linearly to 0 at this share of the run; 1 keeps it level."
    )

    @model_validator(mode="after")
    def _complete(self) -> Grpo:
        if (self.aggregation == "constant") != (self.max_length is not None):
            raise ValueError("aggregation = 'constant' and max_length go together: set both or neither")
        return self

    @property
    def needs_reference(self) -> bool:
        """True with a KL term."""
        return self.kl_weight > 0

    @property
    def corrects_sampler(self) -> bool:
        """True with ``tis``."""
        return self.tis is not None

    def entropy_weight(self, progress: float) -> float:
        """The bonus at this point of the run."""
        if self.entropy_until == 1:
            return self.entropy_bonus
        return self.entropy_bonus * max(0.0, 1 - progress / self.entropy_until)

    def loss(self, tokens: Tokens) -> torch.Tensor:
        """The loss of these tokens as their share of the global batch's."""
        ratio = (tokens.logprobs - tokens.old).exp()  # (tokens,)
        clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        per_token = -(ratio * tokens.advantages).minimum(clipped * tokens.advantages)
        if self.tis is not None:
            per_token = per_token * truncated(tokens.old, tokens.sampler, self.tis)
        if self.kl_weight:
            assert tokens.reference is not None
            per_token = per_token + self.kl_weight * self._kl(tokens, ratio)
        bonus = self.entropy_weight(tokens.progress)
        if bonus:
            entropy = tokens.entropy
            if self.entropy_tokens is not None:
                entropy = entropy * (tokens.turn_position < self.entropy_tokens)
            per_token = per_token - bonus * entropy
        return self._aggregate(per_token, tokens)

    def figures(self, tokens: Tokens) -> dict[str, torch.Tensor]:
        """``clipped``: 1 where the clip takes the gradient away. With ``tis``, its weight, and 1 where that is cut."""
        ratio = (tokens.logprobs - tokens.old).exp()
        above = (tokens.advantages > 0) & (ratio > 1 + self.clip_high)
        below = (tokens.advantages < 0) & (ratio < 1 - self.clip_low)
        figures = {"clipped": (above | below).float()}
        if self.tis is not None:
            figures["tis/weight"] = truncated(tokens.old, tokens.sampler, self.tis)
            figures["tis/cut"] = (tokens.old - tokens.sampler > math.log(self.tis)).float()
        return figures

    def _kl(self, tokens: Tokens, ratio: torch.Tensor) -> torch.Tensor:
        assert tokens.reference is not None
        log_ratio = tokens.reference - tokens.logprobs
        k3 = log_ratio.exp() - log_ratio - 1
        return ratio * k3 if self.kl == "unbiased" else k3

    def _aggregate(self, per_token: torch.Tensor, tokens: Tokens) -> torch.Tensor:
        if self.aggregation == "token":
            return per_token.sum() / tokens.batch_tokens
        if self.aggregation == "sequence":
            return (per_token / tokens.lengths).sum() / tokens.batch_trajectories
        assert self.max_length is not None
        return per_token.sum() / (tokens.batch_trajectories * self.max_length)
