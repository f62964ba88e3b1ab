"""Pieces that objectives are made of: importance ratios, the clip, KL estimators, and sums over the global batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from grpo_agents.methods.method import Tokens

Aggregation = Literal["token", "sequence", "constant"]
"""token: Σ/Σ|o|; sequence: the mean over trajectories of Σ/|o|; constant: Σ/(trajectories · max_length)."""

Kl = Literal["k1", "k2", "k3", "unbiased"]
"""k1 = log(π/π_ref); k2 = ½ log²(π/π_ref); k3 = π_ref/π − log(π_ref/π) − 1; unbiased = ρ·k3, with the gradient of ρ."""


def clipped(
    ratio: torch.Tensor, advantages: torch.Tensor, low: float, high: float, dual: float | None = None
) -> torch.Tensor:
    """min(ρ Â, clip(ρ, 1−low, 1+high) Â); where Â < 0 at least dual · Â (dual-clip PPO, arXiv 1912.09729).

    Args:
        ratio: ρ, (tokens,).
        advantages: Â, (tokens,).
        low: ε below.
        high: ε above.
        dual: The largest ρ that a negative advantage counts; None for no such bound.

    Returns:
        What is to be maximised, (tokens,).
    """
    surrogate = (ratio * advantages).minimum(ratio.clamp(1 - low, 1 + high) * advantages)
    return surrogate if dual is None else surrogate.where(advantages >= 0, surrogate.maximum(dual * advantages))


def kl_estimate(estimator: Kl, logprobs: torch.Tensor, reference: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """An estimate of KL(π‖π_ref) at every token (Schulman's k1, k2, k3; DeepSeek-V3.2, arXiv 2512.02556).

    Args:
        estimator: Which.
        logprobs: log π, (tokens,).
        reference: log π_ref, (tokens,).
        old: log π_old, for ``unbiased``, (tokens,).

    Returns:
        (tokens,).
    """
    log_ratio = logprobs - reference
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio**2 / 2
    k3 = (-log_ratio).exp() + log_ratio - 1
    return (logprobs - old).exp() * k3 if estimator == "unbiased" else k3


def aggregate(per_token: torch.Tensor, tokens: Tokens, how: Aggregation, max_length: int | None = None) -> torch.Tensor:
    """The sum over these tokens, as their share of the global batch's; a scalar."""
    if how == "token":
        return per_token.sum() / tokens.batch_tokens
    if how == "sequence":
        return (per_token / tokens.lengths).sum() / tokens.batch_trajectories
    assert max_length is not None
    return per_token.sum() / (tokens.batch_trajectories * max_length)


def sum_by_unit(values: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """Sums of the values of each unit, (units,)."""
    return values.new_zeros(int(unit.max()) + 1 if len(unit) else 0).index_add(0, unit, values)
