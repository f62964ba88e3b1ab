"""Log-probabilities and entropies of given tokens, without ever holding the logits of a whole batch."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from grpo_agents.support import Support

CHUNK_LOGITS = 1 << 25
"""Logits held at once: chunks of tokens × vocabulary of this size (128 MiB in float32)."""

CUT = -1e30
"""The logit of no token: as good as −∞, and its probability times it is 0, not NaN."""


def token_logprobs(
    hidden: torch.Tensor,
    head: torch.nn.Module,
    targets: torch.Tensor,
    temperature: float = 1.0,
    support: Support | None = None,
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
        support: Which tokens the distribution of each is over, (tokens,); None is all, for every one.
        entropy_gradient: Whether the entropy carries a gradient.

    Returns:
        log π (tokens,) and entropy (tokens,), float32.
    """
    if support is not None and not support.counts.all():
        return _some_whole(hidden, head, targets, temperature, support, entropy_gradient)
    vocabulary = head.weight.shape[0]  # type: ignore[union-attr]
    size = max(1, CHUNK_LOGITS // int(vocabulary))  # type: ignore[arg-type]
    starts = range(0, len(targets), size)
    supports = [None] * len(starts) if support is None else support.split(size)
    parts = []
    for start, kept in zip(starts, supports, strict=True):
        some = slice(start, start + size)
        arguments = (hidden[some], head, targets[some], temperature, kept, entropy_gradient)
        if len(targets) <= size or not torch.is_grad_enabled():
            parts.append(_chunk(*arguments))
        else:
            parts.append(checkpoint(_chunk, *arguments, use_reentrant=False))
    if not parts:
        return hidden.new_zeros(0, dtype=torch.float32), hidden.new_zeros(0, dtype=torch.float32)
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])  # type: ignore[index]


def _some_whole(
    hidden: torch.Tensor,
    head: torch.nn.Module,
    targets: torch.Tensor,
    temperature: float,
    support: Support,
    entropy_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, where the distributions of some tokens are cut and others are whole: one kind, then the other."""
    whole, cut = np.flatnonzero(support.counts == 0), np.flatnonzero(support.counts)
    parts = [
        token_logprobs(hidden[places], head, targets[places], temperature, kept, entropy_gradient=entropy_gradient)
        for places, kept in ((whole, None), (cut, support.at(cut)))
    ]
    order = np.argsort(np.concatenate([whole, cut]))
    logprobs, entropies = (torch.cat(found)[order] for found in zip(*parts, strict=True))
    return logprobs, entropies


def _chunk(
    hidden: torch.Tensor,
    head: torch.nn.Module,
    targets: torch.Tensor,
    temperature: float,
    support: Support | None,
    entropy_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = head(hidden).float() / temperature  # (tokens, V)
    own = logits.gather(-1, targets[:, None])[:, 0]  # (tokens,)
    if support is not None:
        logits = _kept(logits, support)  # (tokens, largest count)
    normaliser = logits.logsumexp(-1)  # (tokens,)
    logprobs = own - normaliser
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        if not entropy_gradient:
            logits, normaliser = logits.detach(), normaliser.detach()
        probabilities = (logits - normaliser[:, None]).exp()
        entropy = normaliser - (probabilities * logits).sum(-1)
    return logprobs, entropy


def _kept(logits: torch.Tensor, support: Support) -> torch.Tensor:
    """Those of the logits (tokens, V) that are in the support of each token, (tokens, largest count)."""
    ids = torch.from_numpy(support.padded()).to(logits.device, torch.int64)
    return logits.gather(-1, ids.clamp_min(0)).masked_fill(ids < 0, CUT)
