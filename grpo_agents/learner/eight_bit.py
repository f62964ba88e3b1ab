"""AdamW with moments in 8 bits, through bitsandbytes: each 256 of them share a scale (arXiv 2110.02861)."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.tensor import DTensor

BLOCK = 256
"""So many moments share a scale."""

SMALL = 4096
"""A parameter of fewer weights keeps its moments in float32."""


def adamw8bit(groups: list[dict[str, Any]], **settings: Any) -> torch.optim.Optimizer:
    """The optimiser of bitsandbytes, which is imported here and nowhere else.

    Raises:
        ValueError: It is not installed, or ranks hold shards of a parameter.
    """
    if any(isinstance(parameter, DTensor) for group in groups for parameter in group["params"]):
        raise ValueError(
            f"learner.optimizer.name is 'adamw8bit', which works in one process alone: {BLOCK} moments share a scale, "
            "and the shards of several processes cut through them. Use 'adamw' or 'muon'."
        )
    try:
        from bitsandbytes.optim.adamw import AdamW8bit
    except ImportError as error:
        raise ValueError(
            "learner.optimizer.name is 'adamw8bit', and bitsandbytes is not installed: "
            "pip install 'grpo-agents[eightbit]'"
        ) from error
    return AdamW8bit(groups, **settings)


def adamw8bit_shapes(parameter: torch.Tensor) -> dict[str, torch.Size]:
    """The shape of everything that it keeps of a parameter: counter, moments, scales, what a code stands for."""
    found = {"step": torch.Size(), "state1": parameter.shape, "state2": parameter.shape}
    if parameter.numel() < SMALL:
        return found
    scales, codes = torch.Size([-(-parameter.numel() // BLOCK)]), torch.Size([256])
    return {**found, "absmax1": scales, "absmax2": scales, "qmap1": codes, "qmap2": codes}


def moment_bytes(size: int) -> int:
    """Bytes of both moments of a parameter of so many weights, with their scales.

    >>> moment_bytes(4096) / 4096
    2.03125
    """
    return 8 * size if size < SMALL else 2 * (size + 4 * -(-size // BLOCK))
