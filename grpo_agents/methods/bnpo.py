"""BNPO: GRPO with Σ loss/Σ|o| over the batch (here over the global one, never over a micro-batch)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.surrogate import Aggregation


class Bnpo(Grpo):
    """Every token of the batch counts the same, however long its trajectory."""

    name: ClassVar[str] = "bnpo"

    aggregation: Aggregation = Field(default="token", description="As in grpo.")
