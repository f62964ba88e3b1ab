"""Importance weights between the policy that the learner has and the one that the engine sampled from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def truncated(old: torch.Tensor, sampler: torch.Tensor, cap: float) -> torch.Tensor:
    """min(π_old/π_sampler, cap) of each token, without a gradient: truncated importance sampling.

    Unbiased where nothing is cut; the cap trades bias for a bounded variance (Yao et al. 2025, "Your efficient RL
    framework secretly brings you off-policy RL training").

    Args:
        old: log π_old, computed by the learner at the start of the batch, (tokens,).
        sampler: log π under the distribution that the engine sampled from, (tokens,).
        cap: The largest weight.

    Returns:
        The weights, (tokens,).
    """
    return (old - sampler).detach().exp().clamp_max(cap)  # (tokens,)
