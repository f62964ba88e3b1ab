"""How far the engine's log-probabilities are from the learner's, where both mean the same weights."""

from __future__ import annotations

import numpy as np


def compare(own: np.ndarray, sampler: np.ndarray, staleness: np.ndarray) -> dict[str, float]:
    """Figures about a batch before its first update, where π of the learner is π_old.

    Args:
        own: log π as the learner computes it, (tokens,).
        sampler: log q as the engine returned it, (tokens,).
        staleness: By how many versions the weights that sampled it were older than the learner's, (tokens,).

    Returns:
        ``staleness/mean`` and ``staleness/max``; where some are older, also ``staleness/share_0``, ``_1`` …, the
        shares of tokens by staleness. Over the tokens that equal weights sampled, where there are any,
        ``mismatch/mean`` and ``mismatch/max``: how far log π is from log q; and two estimates of KL(q‖π):
        ``mismatch/kl``, the mean of log q − log π, and ``mismatch/k3``, that of π/q − log(π/q) − 1.
    """
    figures = {"staleness/mean": float(staleness.mean()), "staleness/max": float(staleness.max())}
    if staleness.any():
        figures |= {f"staleness/share_{age}": float((staleness == age).mean()) for age in np.unique(staleness)}
    equal = staleness == 0  # (tokens,)
    if equal.any():
        difference = own[equal].astype(np.float64) - sampler[equal]  # log(π/q), (tokens at equal weights,)
        figures |= {
            "mismatch/mean": float(np.abs(difference).mean()),
            "mismatch/max": float(np.abs(difference).max()),
            "mismatch/kl": float(-difference.mean()),
            "mismatch/k3": float((np.expm1(difference) - difference).mean()),
        }
    return figures


def check(figures: dict[str, float], limit: float) -> None:
    """Refuses a batch that was sampled from another policy than its weights' version says.

    Args:
        figures: What :func:`compare` gave.
        limit: The largest ``mismatch/mean``.

    Raises:
        ValueError: It is above; says by how much and what to do.
    """
    if figures.get("mismatch/mean", 0.0) > limit:
        raise ValueError(
            f"the engine's log-probabilities are off: on this batch they differ from the learner's by "
            f"{figures['mismatch/mean']:.3g} on average (by {figures['mismatch/max']:.3g} at most), and "
            f"engine.check.mismatch is {limit:g}. Nothing was learned from it: the weights are those before this "
            "batch. Likely causes: weights that did not arrive; an engine with another temperature, top-k or top-p, "
            "or whose log-probabilities are from before the temperature (vLLM: logprobs_mode 'processed_logprobs'); "
            "another dtype than the learner's; dropout (model.lora.dropout), unless learner.old_logprobs is "
            "'recompute'. Checkpoints are intact: mend it, then go on with `grpo-agents train --resume RUN`"
        )
