"""Log-probabilities and entropies of given tokens, without ever holding the logits of a whole batch."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

CHUNK_LOGITS = 1 << 25
"""Logits held at once: chunks of tokens × vocabulary of this size (128 MiB in float32)."""


def token_logprobs(
    hidden: torch.Tensor,
    head: torch.nn.Module,
    targets: torch.Tensor,
    temperature: float = 1.0,
    *,
    entropy_gradient: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log π of each target and the entropy of the distribution it is drawn from.

    Computed in chunks of tokens, each computed again for the backward pass, so memory does not grow with tokens ×
    vocabulary.

    Args:
        hidden: Last hidden state at the position before each target, (tokens, size).
        head: The output layer, size → vocabulary.
        targets: Token ids, (tokens,).
        temperature: What the logits are divided by.
        entropy_gradient: Whether the entropy carries a gradient.

    Returns:
        log π (tokens,) and entropy (tokens,), float32.
    """
    vocabulary = head.weight.shape[0]  # type: ignore[union-attr]
    size = max(1, CHUNK_LOGITS // int(vocabulary))  # type: ignore[arg-type]
    if len(targets) <= size or not torch.is_grad_enabled():
        parts = [
            _chunk(hidden[start : start + size], head, targets[start : start + size], temperature, entropy_gradient)
            for start in range(0, len(targets), size)
        ]
    else:
        parts = [
            checkpoint(
                _chunk,
                hidden[start : start + size],
                head,
                targets[start : start + size],
                temperature,
                entropy_gradient,
                use_reentrant=False,
            )
            for start in range(0, len(targets), size)
        ]
    if not parts:
        return hidden.new_zeros(0, dtype=torch.float32), hidden.new_zeros(0, dtype=torch.float32)
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])  # type: ignore[index]


def _chunk(
    hidden: torch.Tensor, head: torch.nn.Module, targets: torch.Tensor, temperature: float, entropy_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = head(hidden).float() / temperature  # (tokens, V)
    normaliser = logits.logsumexp(-1)  # (tokens,)
    logprobs = logits.gather(-1, targets[:, None])[:, 0] - normaliser
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        if not entropy_gradient:
            logits, normaliser = logits.detach(), normaliser.detach()
        probabilities = (logits - normaliser[:, None]).exp()
        entropy = normaliser - (probabilities * logits).sum(-1)
    return logprobs, entropy
