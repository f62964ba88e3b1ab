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
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    logprobs, entropy = _TokenLogprobs.apply(hidden, head, targets, temperature, support, *trained)  # type: ignore[misc]
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
        head: torch.nn.Module,
        targets: torch.Tensor,
        temperature: float,
        support: Support | None,
        *trained: torch.Tensor,  # noqa: ARG004  # the head's, so that they get a gradient
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs, entropy = torch.empty(2, len(targets), dtype=torch.float32, device=hidden.device)
        for some, kept in _chunks(head, len(targets), support):
            every = _log_softmax(head(hidden[some]), targets[some], temperature, kept)  # (chunk, V)
            logprobs[some] = every.gather(-1, targets[some, None])[:, 0]
            entropy[some] = -every.exp().mul_(every).sum(-1)
        device = hidden.device.type
        ctx.save_for_backward(hidden, targets, entropy)
        ctx.head, ctx.temperature, ctx.support = head, temperature, support
        ctx.autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        hidden, targets, entropy = ctx.saved_tensors
        trained = [parameter for parameter in ctx.head.parameters() if parameter.requires_grad]
        of_logprobs = torch.zeros_like(entropy) if gradients[0] is None else gradients[0]  # (tokens,)
        of_entropy = gradients[1]
        of_hidden, of_trained = torch.empty_like(hidden), [torch.zeros_like(parameter) for parameter in trained]
        for some, kept in _chunks(ctx.head, len(targets), ctx.support):
            with torch.enable_grad(), torch.autocast(*ctx.autocast):
                own = hidden[some].detach().requires_grad_()
                logits = ctx.head(own)
            every = _log_softmax(logits.detach(), targets[some], ctx.temperature, kept)
            weights = -of_logprobs[some, None]
            if of_entropy is not None:
                weights = weights - of_entropy[some, None] * (every + entropy[some, None])
            of_logits = every.exp_().mul_(weights)
            of_logits.scatter_add_(-1, targets[some, None], of_logprobs[some, None])
            of_logits /= ctx.temperature
            found = torch.autograd.grad(logits, (own, *trained), of_logits.to(logits.dtype))
            of_hidden[some] = found[0]
            for total, part in zip(of_trained, found[1:], strict=True):
                total += part
        return of_hidden, None, None, None, None, *of_trained


def _chunks(head: torch.nn.Module, tokens: int, support: Support | None) -> Iterator[tuple[slice, Support | None]]:
    size = max(1, CHUNK_LOGITS // head.weight.shape[0])  # type: ignore[operator,union-attr]
    starts = range(0, tokens, size)
    supports = [None] * len(starts) if support is None else support.split(size)
    for start, kept in zip(starts, supports, strict=True):
        yield slice(start, start + size), kept


def _log_softmax(
    logits: torch.Tensor, targets: torch.Tensor, temperature: float, support: Support | None
) -> torch.Tensor:
    """Log π of every token after each of some, (tokens, V), float32, from their logits (tokens, V)."""
    logits = logits.float() if temperature == 1 else logits.float() / temperature
    if support is not None:
        ids = torch.from_numpy(support.padded()).to(logits.device, torch.int64)  # (tokens, largest count)
        ids = torch.where(ids < 0, targets[:, None], ids)
        cut = torch.ones_like(logits, dtype=torch.bool).scatter_(-1, ids, False)  # noqa: FBT003
        cut[torch.from_numpy(support.counts == 0)] = False
        logits = logits.masked_fill(cut, CUT)
    return logits.log_softmax(-1)
