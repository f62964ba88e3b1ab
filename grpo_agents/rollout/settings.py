"""How episodes are sampled, and what bounds them: ``[rollout]``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from grpo_agents.engines import Sampling
from grpo_agents.section import Section


class RolloutConfig(Section):
    """How episodes are sampled, and what bounds them."""

    group_size: int = Field(default=8, ge=1, description="G: rollouts of each task.")
    temperature: float = Field(default=1.0, ge=0, description="0 takes the likeliest token.")
    top_k: int = Field(
        default=0,
        ge=0,
        description="Only among the k likeliest tokens; 0 for all. They are kept with each token that is sampled, and "
        "the learner's distributions are cut in the same way.",
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Only among the likeliest tokens with this probability. Training needs top_k with it.",
    )
    stop: list[str] = Field(default=[], description="Texts that end a turn.")
    max_turns: int = Field(default=8, ge=1, description="Turns of the policy in one episode.")
    max_turn_tokens: int = Field(default=512, ge=1, description="Tokens the policy may write in one turn.")
    max_tokens: int = Field(default=4096, ge=1, description="Tokens the policy may write in one episode.")
    step_timeout: float = Field(default=60.0, gt=0, description="Seconds one step of an environment may take.")
    episode_timeout: float = Field(
        default=1800.0,
        gt=0,
        description="Seconds one episode may take; one that takes longer is left out of learning. And seconds that "
        "making an environment may take; where it takes longer, the run ends.",
    )
    threads: int = Field(default=32, ge=1, description="Environments stepped at once.")
    truncated: Literal["keep", "mask", "worst"] = Field(
        default="keep",
        description="Episodes cut short: keep what they scored, mask them out of learning, or score the worst value.",
    )

    def sampling(self, stop_ids: Iterable[int]) -> Sampling:
        """The engine's part of it."""
        return Sampling(self.temperature, self.top_k, self.top_p, tuple(stop_ids), tuple(self.stop))
