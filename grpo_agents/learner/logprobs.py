"""Log-probabilities and entropies of given tokens, without ever holding the logits of a whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from grpo_agents.support import Support

CHUNK_LOGITS = 1 << 24
"""Logits held at once: chunks of tokens × vocabulary of this size (64 MiB in float32)."""

CUT = -1e30
"""The logit of no token: as good as −∞, and its probability times it is 0, not NaN."""


def token_logprobs(
    hidden: torch.Tensor,
    head: torch.nn.Linear,
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
    logprobs, entropy = _TokenLogprobs.apply(hidden, head.weight, head.bias, targets, temperature, support)  # type: ignore[misc]
    return logprobs, entropy if entropy_gradient else entropy.detach()


class _TokenLogprobs(torch.autograd.Function):
    """Both by chunks; in the backward pass the gradient of a chunk's logits is written over its log-probabilities.

    With p the distribution, H its entropy, and g and e what comes down for log π of token y and for H:
    ∂/∂ logit_v = (g (1[v = y] − p_v) − e p_v (log p_v + H)) / temperature.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        support: Support | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device = hidden.device.type
        ctx.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        ctx.temperature, ctx.support = temperature, support
        logprobs, entropy = torch.empty(2, len(targets), dtype=torch.float32, device=hidden.device)
        for some, every in _chunks(ctx, hidden, weight, bias, targets):
            logprobs[some] = every.gather(-1, targets[some, None])[:, 0]
            entropy[some] = -every.exp().mul_(every).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, targets, entropy)
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets, entropy = ctx.saved_tensors
        of_logprobs = torch.zeros_like(entropy) if gradients[0] is None else gradients[0]  # (tokens,)
        of_entropy = gradients[1]
        of_hidden = torch.empty_like(hidden)
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        of_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        weight = weight.to(ctx.dtype)
        for some, every in _chunks(ctx, hidden, weight, bias, targets):
            shares = -of_logprobs[some, None]
            if of_entropy is not None:
                shares = shares - of_entropy[some, None] * (every + entropy[some, None])
            of_logits = every.exp_().mul_(shares)  # (chunk, V)
            of_logits.scatter_add_(-1, targets[some, None], of_logprobs[some, None])
            of_logits = of_logits.div_(ctx.temperature).to(ctx.dtype)
            of_hidden[some] = of_logits @ weight
            if of_weight is not None:
                of_weight += of_logits.T @ hidden[some].to(ctx.dtype)
            if of_bias is not None:
                of_bias += of_logits.sum(0)
        return of_hidden, of_weight, of_bias, None, None, None


def _chunks(
    ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Which tokens, and log π of every token after each of them, (chunk, V), float32."""
    size = max(1, CHUNK_LOGITS // len(weight))
    starts = range(0, len(targets), size)
    supports = [None] * len(starts) if ctx.support is None else ctx.support.split(size)
    weight, bias = weight.to(ctx.dtype), None if bias is None else bias.to(ctx.dtype)
    for start, support in zip(starts, supports, strict=True):
        some = slice(start, start + size)
        logits = torch.nn.functional.linear(hidden[some].to(ctx.dtype), weight, bias).float()
        if ctx.temperature != 1:
            logits /= ctx.temperature
        if support is not None:
            logits.masked_fill_(_cut(support, targets[some], len(weight)), CUT)
        yield some, logits.log_softmax(-1)


def _cut(support: Support, targets: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Which tokens the distribution of each target is not over, (tokens, V)."""
    ids = torch.from_numpy(support.padded()).to(targets.device, torch.int64)  # (tokens, largest count)
    cut = torch.ones(len(targets), vocabulary, dtype=torch.bool, device=targets.device)
    cut.scatter_(-1, torch.where(ids < 0, targets[:, None], ids), value=False)
    cut[torch.from_numpy(support.counts == 0)] = False  # not cut at all
    return cut
