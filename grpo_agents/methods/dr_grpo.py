"""Dr. GRPO (arXiv 2503.20783): neither the spread of rewards nor the length of answers changes how much one counts."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.surrogate import Aggregation


class DrGrpo(Grpo):
    """Â = R − mean R, and Σ loss / (trajectories · max_length). ``max_length`` is to be set: rollout.max_tokens."""

    name: ClassVar[str] = "dr_grpo"

    scale: Literal["group", "batch", "none"] = Field(default="none", description="As in grpo.")
    aggregation: Aggregation = Field(default="constant", description="As in grpo.")
