"""Importance weights between the policy that the learner has and the one that the engine sampled from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from grpo_agents.methods.surrogate import sum_by_unit

if TYPE_CHECKING:
    import torch

    from grpo_agents.methods.method import Tokens

Level = Literal["token", "sequence"]


def weights(tokens: Tokens, level: Level) -> torch.Tensor:
    """Weights w = π_old/π_sampler of each token or, at level ``sequence``, of its whole trajectory; without gradient.

    Returns:
        (tokens,).
    """
    log_weights = (tokens.old - tokens.sampler).detach()  # (tokens,)
    if level == "sequence":
        log_weights = sum_by_unit(log_weights, tokens.trajectory)[tokens.trajectory]
    return log_weights.exp()


def truncated(weights: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """clip(w, low, high): truncated importance sampling (TIS).

    Unbiased where nothing is cut; the bounds trade bias for a bounded variance (Yao et al. 2025, "Your efficient RL
    framework secretly brings you off-policy RL training").
    """
    return weights.clamp(low, high)


def masked(weights: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """The weights w · 1[low ≤ w ≤ high]: masked importance sampling (MIS); what is too far off has no gradient."""
    return weights.where((weights >= low) & (weights <= high), 0.0)


def on_policy_mask(tokens: Tokens, largest: float) -> torch.Tensor:
    """0 on tokens with Â < 0 of trajectories that the sampler liked much better than π does, 1 elsewhere.

    M_{i,t} of DeepSeek-V3.2 (arXiv 2512.02556): the drift (1/|o|) Σ log(π_sampler/π) > ``largest`` is the whole
    trajectory's, the sign of Â the token's own. Where turns differ in sign, what was good in such a trajectory is
    learned all the same: what does the harm is pushing down what π would hardly say by now.

    Returns:
        (tokens,).
    """
    drift = (tokens.sampler - tokens.logprobs.detach()) / tokens.lengths
    mean = sum_by_unit(drift, tokens.trajectory)[tokens.trajectory]  # (tokens,)
    return ((tokens.advantages >= 0) | (mean <= largest)).to(mean.dtype)
