"""Attention over a tree of tokens: each to itself and its ancestors, to nothing else.

On a CPU every stretch without a fork is two calls of the flash kernel: to itself, causally, and from all of its
descendants, who lie behind it side by side, without a mask. Their outputs are joined by the logarithms of their
normalisers, as flash attention joins its blocks; so nothing is computed that is then masked out, and keys of a shared
prefix are read in place. On a GPU it is one call of FlexAttention, which leaves out whole blocks. Where neither can, it
is one call with a mask.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from grpo_agents.learner.tree import Tree

NAME = "tree_attention"
"""Under which transformers knows it; without a tree it is plain scaled dot-product attention."""

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Ancestry:
    """Who attends to whom in a tree, as kernels take it; made once, and read by every layer.

    Args:
        tree: The tree.
        device: Where attention is computed.
    """

    def __init__(self, tree: Tree, device: torch.device):
        self.tree = tree
        self.device = device
        self._masks: dict[int | None, torch.Tensor] = {}
        self._blocks: dict[int | None, BlockMask] = {}

    def mask(self, window: int | None) -> torch.Tensor:
        """Which node (row) attends to which (column), (nodes, nodes); a ``window`` counts the node itself."""
        if window not in self._masks:
            self._masks[window] = torch.from_numpy(self.tree.ancestry(window)).to(self.device)
        return self._masks[window]

    def blocks(self, window: int | None) -> BlockMask:
        """The same for FlexAttention."""
        if window not in self._blocks:
            ends, depth = (torch.from_numpy(array).to(self.device) for array in (self.tree.ends, self.tree.depth))

            def attends(batch: Any, head: Any, asks: Any, key: Any) -> Any:  # noqa: ARG001  # what FlexAttention hands over
                below = (key <= asks) & (asks < ends[key])
                return below if window is None else below & (depth[asks] - depth[key] < window)

            nodes = len(self.tree.ids)
            self._blocks[window] = create_block_mask(attends, None, None, nodes, nodes, self.device)
        return self._blocks[window]


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    ancestry: Ancestry | None = None,
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
        ancestry: Of the tree whose nodes they are; the batch is then of one.
        scaling: Of the products; 1/√size where it is None.
        dropout: Of the weights.
        sliding_window: How many tokens back a layer sees.
        settings: Others that plain attention takes.

    Returns:
        (batch, nodes, heads, size), and no weights.
    """
    if ancestry is None:
        settings |= {"scaling": scaling, "dropout": dropout, "sliding_window": sliding_window}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    window = sliding_window if sliding_window is not None and ancestry.tree.depth.max() >= sliding_window else None
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if torch.is_autocast_enabled(query.device.type):  # the kernels below are not among those that it casts for
        computed = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(computed), key.to(computed), value.to(computed)
    if query.is_cuda and not dropout and query.shape[-1] >= 16:  # less is below a GPU's smallest product
        found = by_blocks(query, key, value, ancestry, window, scale)
    elif not query.is_cuda and not dropout and window is None and query.shape[-1] == value.shape[-1]:
        found = by_segments(query, key, value, ancestry.tree, scale)
    else:
        found = by_mask(query, key, value, ancestry, window, scale, dropout)
    return found.transpose(1, 2), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def by_mask(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ancestry: Ancestry,
    window: int | None,
    scaling: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """With a mask: every product is computed. Shapes as in :func:`attend`; gives (batch, heads, nodes, size)."""
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, ancestry.mask(window), dropout, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )


def by_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    ancestry: Ancestry,
    window: int | None,
    scaling: float,
) -> torch.Tensor:
    """By FlexAttention: blocks of 128 × 128 in which nobody attends are left out. As :func:`by_mask` otherwise."""
    kernel = _compiled() if query.is_cuda else flex_attention
    gqa = query.shape[1] != key.shape[1]
    return kernel(query, key, value, block_mask=ancestry.blocks(window), scale=scaling, enable_gqa=gqa)


@functools.cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=True)


def by_segments(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tree: Tree, scaling: float
) -> torch.Tensor:
    """By stretches without a fork, on a CPU. As :func:`by_mask` otherwise."""
    return _Segments.apply(query, key, value, tree.segments, scaling)  # type: ignore[return-value]


class _Segments(torch.autograd.Function):
    """The key heads are the kernel's batch, and the query heads that share one its heads: keys are not repeated."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        segments: list[tuple[int, int, int]],
        scaling: float,
    ) -> torch.Tensor:
        share = query.shape[1] // key.shape[1]
        query = query[0].unflatten(0, (-1, share))  # (key heads, share, nodes, size)
        key, value = (tensor[0][:, None].expand(-1, share, -1, -1) for tensor in (key, value))
        output = torch.empty_like(query)
        normaliser = query.new_empty(query.shape[:-1], dtype=torch.float32)  # log Σ exp, (key heads, share, nodes)
        for start, stop, _ in segments:
            own = slice(start, stop)
            output[:, :, own], normaliser[:, :, own] = _forward(
                query[:, :, own], key[:, :, own], value[:, :, own], 0.0, True, scale=scaling
            )
        for start, stop, end in segments:  # ancestors in any order: each is joined to what is there
            if end > stop:
                own, below = slice(start, stop), slice(stop, end)
                part, sums = _forward(query[:, :, below], key[:, :, own], value[:, :, own], 0.0, False, scale=scaling)
                before = normaliser[:, :, below]
                output[:, :, below].lerp_(part, torch.sigmoid(sums - before)[..., None].to(part.dtype))
                normaliser[:, :, below] = torch.logaddexp(before, sums)
        ctx.save_for_backward(query, key, value, output, normaliser)
        ctx.segments, ctx.scaling = segments, scaling
        return output.flatten(0, 1)[None]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, output, normaliser = ctx.saved_tensors
        gradient = gradients[0][0].unflatten(0, query.shape[:2])
        of_query = torch.empty_like(query)
        of_key, of_value = torch.empty_like(key[:, 0]), torch.empty_like(value[:, 0])  # (key heads, nodes, size)

        def through(asked: slice, read: slice, *, causal: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            """With the normaliser over all keys the kernel's probabilities are those over all keys."""
            queries, keys, values = _backward(
                gradient[:, :, asked], query[:, :, asked], key[:, :, read], value[:, :, read],
                output[:, :, asked], normaliser[:, :, asked], 0.0, causal, scale=ctx.scaling,
            )  # fmt: skip
            return queries, keys.sum(1), values.sum(1)

        for start, stop, _ in ctx.segments:
            own = slice(start, stop)
            of_query[:, :, own], of_key[:, own], of_value[:, own] = through(own, own, causal=True)
        for start, stop, end in ctx.segments:
            if end > stop:
                own, below = slice(start, stop), slice(stop, end)
                queries, keys, values = through(below, own, causal=False)
                of_query[:, :, below] += queries
                of_key[:, own] += keys
                of_value[:, own] += values
        return of_query.flatten(0, 1)[None], of_key[None], of_value[None], None, None
