"""Attention over a tree of tokens: each to itself and its ancestors, to nothing else.

On a CPU every stretch without a fork is two calls of the flash kernel: to itself, causally, and from all of its
descendants, who lie behind it side by side, without a mask. Their outputs are joined by the logarithms of their
normalisers, as flash attention joins its blocks; so nothing is computed that is then masked out, and keys of a shared
prefix are read in place. Elsewhere it is one call with a mask.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from grpo_agents.learner.tree import Tree

NAME = "tree_attention"
"""Under which transformers knows it; without a tree it is plain scaled dot-product attention."""

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    tree: Tree | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in each layer.

    Args:
        module: The layer's.
        query: (batch, heads, nodes, size).
        key: (batch, key heads, nodes, size).
        value: (batch, key heads, nodes, size).
        attention_mask: Read where there is no tree.
        tree: Whose nodes they are; the batch is then of one.
        scaling: Of the products; 1/√size where it is None.
        dropout: Of the weights.
        sliding_window: How many tokens back a layer sees.
        settings: Others that plain attention takes.

    Returns:
        (batch, nodes, heads, size), and no weights.
    """
    if tree is None:
        settings |= {"scaling": scaling, "dropout": dropout, "sliding_window": sliding_window}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    window = sliding_window if sliding_window is not None and tree.depth.max() >= sliding_window else None
    scaling = scaling if scaling is not None else query.shape[-1] ** -0.5
    if torch.is_autocast_enabled(query.device.type):  # the kernels below are not among those that it casts for
        computed = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(computed), key.to(computed), value.to(computed)
    if query.device.type == "cpu" and not dropout and window is None and query.shape[-1] == value.shape[-1]:
        found: torch.Tensor = _Segments.apply(query, key, value, tree.segments, scaling)  # type: ignore[assignment]
    else:
        mask = torch.from_numpy(tree.ancestry(window)).to(query.device)
        found = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, mask, dropout, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
    return found.transpose(1, 2), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


class _Segments(torch.autograd.Function):
    """Attention by stretches without a fork."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        segments: list[tuple[int, int, int]],
        scaling: float,
    ) -> torch.Tensor:
        output = torch.empty_like(query)
        normaliser = query.new_empty(query.shape[:-1], dtype=torch.float32)  # log Σ exp, (batch, heads, nodes)
        share = query.shape[1] // key.shape[1]
        for start, stop, _ in segments:
            own = slice(start, stop)
            keys, values = (_repeated(tensor[:, :, own], share) for tensor in (key, value))
            output[:, :, own], normaliser[:, :, own] = _forward(
                query[:, :, own], keys, values, 0.0, True, scale=scaling
            )
        for start, stop, end in segments:  # ancestors in any order: each is joined to what is there
            if end > stop:
                own, below = slice(start, stop), slice(stop, end)
                part, sums = _forward(
                    _folded(query[:, :, below], share), key[:, :, own], value[:, :, own], 0.0, False, scale=scaling
                )
                part, sums = _unfolded(part, share), _unfolded(sums, share)
                before = normaliser[:, :, below]
                both = torch.logaddexp(before, sums)
                output[:, :, below] *= (before - both).exp()[..., None].to(output.dtype)
                output[:, :, below] += part * (sums - both).exp()[..., None].to(output.dtype)
                normaliser[:, :, below] = both
        ctx.save_for_backward(query, key, value, output, normaliser)
        ctx.segments, ctx.scaling = segments, scaling
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, output, normaliser = ctx.saved_tensors
        share = query.shape[1] // key.shape[1]
        gradient = gradients[0]
        of_query, of_key, of_value = (torch.zeros_like(tensor) for tensor in (query, key, value))
        for start, stop, end in ctx.segments:
            own, below = slice(start, stop), slice(stop, end)
            keys, values = (_repeated(tensor[:, :, own], share) for tensor in (key, value))
            found = _backward(
                gradient[:, :, own], query[:, :, own], keys, values, output[:, :, own], normaliser[:, :, own],
                0.0, True, scale=ctx.scaling,
            )  # fmt: skip
            of_query[:, :, own] += found[0]
            of_key[:, :, own] += found[1].unflatten(1, (-1, share)).sum(2)
            of_value[:, :, own] += found[2].unflatten(1, (-1, share)).sum(2)
            if end > stop:  # with the normaliser over all keys the kernel's probabilities are those over all keys
                asked, of, said, sums = (
                    _folded(tensor[:, :, below], share) for tensor in (query, gradient, output, normaliser)
                )
                found = _backward(
                    of, asked, key[:, :, own], value[:, :, own], said, sums, 0.0, False, scale=ctx.scaling
                )
                of_query[:, :, below] += _unfolded(found[0], share)
                of_key[:, :, own] += found[1]
                of_value[:, :, own] += found[2]
        return of_query, of_key, of_value, None, None


def _repeated(tensor: torch.Tensor, share: int) -> torch.Tensor:
    """Each key head as often as query heads share it: (batch, key heads, nodes, size) → (batch, heads, nodes, size)."""
    return tensor if share == 1 else tensor.repeat_interleave(share, 1)


def _folded(tensor: torch.Tensor, share: int) -> torch.Tensor:
    """Query heads that share a key head, one after the other.

    (batch, heads, nodes, …) → (batch, key heads, share · nodes, …)
    """
    return tensor.unflatten(1, (-1, share)).flatten(2, 3)


def _unfolded(tensor: torch.Tensor, share: int) -> torch.Tensor:
    """What :func:`_folded` was."""
    return tensor.unflatten(2, (share, -1)).flatten(1, 2)
