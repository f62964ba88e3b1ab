"""Why an update is not made: something is not finite, the policy left π_old too far behind, or nothing has a gradient.

What is skipped leaves weights and moments untouched, at every rank alike: it is decided from what all of them know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from grpo_agents.learner.batch import Row
from grpo_agents.methods import Tokens

Skip = Literal["non_finite", "ratio", "no_gradient", "loss_scale"]
"""What an update was skipped for; loss_scale: a float16 gradient overflowed by its scale, and a smaller one is next."""


class NonFinite(FloatingPointError):
    """An update would be computed from something that is not finite; says what, and of which trajectory."""


def finite(values: np.ndarray, what: str, row: Row) -> np.ndarray:
    """The values of a row's tokens, if they are finite.

    Raises:
        NonFinite: One is not.
    """
    if not np.isfinite(values).all():
        raise NonFinite(f"trajectory {row.name}: {what} is not finite")
    return values


def check_sampled(rows: Sequence[Row]) -> None:
    """Refuses log-probabilities that the engine gave and are not finite.

    Raises:
        NonFinite: There is one.
    """
    for row in rows:
        finite(row.sampler, "log π as the engine gave it", row)


def check_credit(rows: Sequence[Row]) -> None:
    """Refuses advantages, and what a critic should have expected, that are not finite.

    Raises:
        NonFinite: There is one.
    """
    for row in rows:
        finite(row.advantages, "its advantage", row)
        if row.returns is not None:
            finite(row.returns, "its return", row)


def culprits(rows: Sequence[Row], tokens: Tokens) -> list[str]:
    """Where a loss that is not finite comes from: the trajectories of which something it reads is not finite.

    Args:
        rows: Of a micro-batch.
        tokens: The same as a method's loss reads them.

    Returns:
        What is not finite, of each such trajectory; where all of it is, the micro-batch, by its first trajectory.
    """
    read = {"log π": tokens.logprobs, "its entropy": tokens.entropy, "π/π_old": (tokens.logprobs - tokens.old).exp()}
    if tokens.reference is not None:
        read["π_ref/π"] = (tokens.reference - tokens.logprobs).exp()
    if tokens.values is not None:
        read["a value of the critic"] = tokens.values
    counts = [len(row.trained) for row in rows]
    found: dict[str, str] = {}
    for what, values in read.items():
        for row, own in zip(rows, torch.split(values.detach(), counts), strict=True):
            if not own.isfinite().all():
                found.setdefault(row.name, f"trajectory {row.name}: {what} is not finite")
    count = len({row.name for row in rows})
    return list(found.values()) or [
        f"the loss of a micro-batch of {count} trajectories, {rows[0].name} among them, is not finite"
    ]


def in_words(found: Sequence[str]) -> str:
    """The first of what was found, and how many more there are; where the loss is finite, that the gradient is not."""
    if not found:
        return "the loss is finite, and its gradient is not"
    return found[0] + (f"; {len(found) - 1} more in this batch" if len(found) > 1 else "")
