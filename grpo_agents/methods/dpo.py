"""Direct preference optimisation (arXiv 2305.18290), and the length-normalised form of DeepSeekMath (2402.03300)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from grpo_agents.advantage import Scores, equal
from grpo_agents.methods.method import Method, SourceKind, Tokens
from grpo_agents.methods.surrogate import sum_by_unit

if TYPE_CHECKING:
    import torch


class Dpo(Method):
    """Pairs of a better and a worse trajectory, Â = 1 and −1: in a group, the best and the worst by their return.

    textbook: −log σ(β (Σ log π/π_ref of the better − that of the worse)), the mean over pairs.
    length_normalised: with means over tokens for the sums, and divided by β, which gives the coefficient of
    DeepSeekMath's table: ±σ(β · (worse − better))/|o|.
    """

    name: ClassVar[str] = "dpo"
    sources: ClassVar[tuple[SourceKind, ...]] = ("pairs", "frozen", "stored", "policy")
    reward: ClassVar[str] = "preference"

    beta: float = Field(default=0.1, gt=0, description="β: how far from the reference a pair may push.")
    form: Literal["textbook", "length_normalised"] = Field(
        default="textbook", description="Sums of log-ratios over a trajectory, or their means over its tokens."
    )

    @property
    def formula(self) -> str:
        """±σ(β (worse − better)), and what the textbook form multiplies it by."""
        factor = "β|o| " if self.form == "textbook" else ""
        return f"±{factor}σ(β(worse − better)) of their log π/π_ref; + on the better"

    @property
    def unit(self) -> Literal["token", "trajectory", "group"]:
        """Pairs, each in a group of its own."""
        return "group"

    @property
    def needs_reference(self) -> bool:
        """True."""
        return True

    def advantages(self, groups: Sequence[Scores]) -> list[np.ndarray]:
        """1 for the best, −1 for the worst of those with tokens to learn from, NaN for others; equals are no pair."""
        found = []
        for group in groups:
            signs = np.full(len(group.returns), np.nan)
            said = np.flatnonzero([trajectory.learned_tokens > 0 for trajectory in group.trajectories])
            returns = group.returns[said]
            if not equal(returns):
                signs[said[returns.argmax()]], signs[said[returns.argmin()]] = 1.0, -1.0
            found.append(signs)
        return found

    def loss(self, tokens: Tokens) -> torch.Tensor:
        """The pairs' share of the global batch's mean."""
        from torch.nn.functional import logsigmoid

        pairs = tokens.batch_trajectories / 2
        scale = 1.0 if self.form == "textbook" else self.beta
        return -logsigmoid(self.margins(tokens)).sum() / (scale * pairs)

    def margins(self, tokens: Tokens) -> torch.Tensor:
        """β times the difference of log-ratios of each pair, better less worse, (pairs,)."""
        assert tokens.reference is not None
        log_ratio = tokens.advantages * (tokens.logprobs - tokens.reference)
        if self.form == "length_normalised":
            log_ratio = log_ratio / tokens.lengths
        return self.beta * sum_by_unit(log_ratio, tokens.group)

    def figures(self, tokens: Tokens) -> dict[str, torch.Tensor]:
        """``margin`` of each token's pair, and ``pair_right``: 1 where the better one is the likelier by π/π_ref."""
        margin = self.margins(tokens)[tokens.group]
        return {"margin": margin, "pair_right": (margin > 0).float()}
