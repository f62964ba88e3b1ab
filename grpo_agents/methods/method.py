"""What a method is: a data source, what its rewards come to, and a loss over per-token log-probabilities."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import model_validator

from grpo_agents.advantage import Scores
from grpo_agents.methods.baselines import centred
from grpo_agents.section import Section

if TYPE_CHECKING:
    import torch

SourceKind = Literal["policy", "frozen", "stored", "pairs", "demonstrations"]
"""Where trajectories come from: see :mod:`grpo_agents.sources`."""


@dataclass
class Tokens:
    """Trained tokens of a batch or of a part of it, side by side.

    Attributes:
        logprobs: log π of each under the policy being trained, with a gradient, (tokens,).
        sampler: log π under the distribution that the engine sampled from, (tokens,).
        old: log π_old, the policy at the start of this batch, (tokens,).
        reference: log π_ref, (tokens,); None where the method does not ask for it.
        entropy: Entropy of the policy's distribution at each token, with a gradient where the method pays for it,
            (tokens,).
        advantages: Â of each token, (tokens,).
        lengths: |o|, sampled tokens of the token's whole trajectory, (tokens,).
        turn_position: How many trained tokens of the same turn come before it, (tokens,).
        trajectory: Which of the part's trajectories it is of, counted from 0, (tokens,).
        group: Which of the part's groups it is of, counted from 0, (tokens,).
        batch_tokens: Trained tokens of the *global* batch.
        batch_trajectories: Trajectories of the *global* batch.
        progress: How far the run is, 0…1.
        values: What the critic expects before each, with a gradient, (tokens,); None without a critic.
        old_values: The same at the start of this batch, (tokens,).
        returns: What it should have expected, (tokens,).
    """

    logprobs: torch.Tensor
    sampler: torch.Tensor
    old: torch.Tensor
    reference: torch.Tensor | None
    entropy: torch.Tensor
    advantages: torch.Tensor
    lengths: torch.Tensor
    turn_position: torch.Tensor
    trajectory: torch.Tensor
    group: torch.Tensor
    batch_tokens: int
    batch_trajectories: int
    progress: float = 0.0
    values: torch.Tensor | None = None
    old_values: torch.Tensor | None = None
    returns: torch.Tensor | None = None


@dataclass(slots=True)
class Episode:
    """The trained tokens of one trajectory in the order in which they were sampled, before the updates on its batch.

    Attributes:
        advantages: Â of each as rewards alone give it, (tokens,); what a method makes of it.
        turn: Which turn each is of, (tokens,).
        old: log π_old, (tokens,).
        reference: log π_ref, (tokens,); None without.
        values: What the critic expects before each, (tokens,); None without.
        returns: What it should have expected, (tokens,), where a method says so.
        group: Which of the batch's groups it is of.
    """

    advantages: np.ndarray
    turn: np.ndarray
    old: np.ndarray
    reference: np.ndarray | None = None
    values: np.ndarray | None = None
    returns: np.ndarray | None = None
    group: int = 0


class Method(Section):
    """A method and its settings. Subclasses add fields, set the class attributes, and write :meth:`loss`.

    Attributes:
        name: What a config calls it.
        sources: What it can learn from, the usual one first.
        unused: Settings that it inherits and does not read; setting one is refused.
        reward: What it takes of the rewards, in words.
    """

    name: ClassVar[str]
    sources: ClassVar[tuple[SourceKind, ...]] = ("policy", "stored", "frozen")
    unused: ClassVar[tuple[str, ...]] = ()
    reward: ClassVar[str] = "rule or model"

    @model_validator(mode="after")
    def _only_what_is_read(self) -> Method:
        if idle := sorted(self.model_fields_set & set(self.unused)):
            raise ValueError(f"method {self.name!r} does not use {', '.join(idle)}: leave it out")
        return self

    def settings(self) -> dict[str, Any]:
        """Every setting that it reads, as plain JSON."""
        return self.model_dump(mode="json", exclude=set(self.unused))

    @property
    def formula(self) -> str:
        """The coefficient on a token in words, on the scale of DeepSeekMath's table; empty leaves it to the class."""
        return ""

    # What it asks for

    @property
    def unit(self) -> Literal["token", "trajectory", "group"]:
        """What its loss is a sum over: what is of one such unit is computed together."""
        return "token"

    @property
    def needs_reference(self) -> bool:
        """Whether it reads log π_ref."""
        return False

    @property
    def most_resamples(self) -> int:
        """How often, at most, groups without any spread give way to newly sampled ones."""
        return 0

    @property
    def reference_period(self) -> int | None:
        """Every how many steps the policy becomes the reference; None keeps the first one."""
        return None

    @property
    def critic(self) -> Literal["head", "model"] | None:
        """Whether it reads values, and what of: a head on the policy's hidden states, or a model of its own."""
        return None

    @property
    def normalises_by_group(self) -> bool:
        """Whether a group of one would carry no gradient."""
        return True

    @property
    def corrects_sampler(self) -> bool:
        """Whether it weighs tokens by π_old/π_sampler, so that they may come from another policy than π_old."""
        return False

    @property
    def weighs_by_ratio(self) -> bool:
        """Whether its loss weighs tokens by π/π_old, so that it is spoiled where that ratio explodes."""
        return False

    @property
    def needs_rewards(self) -> tuple[str, ...]:
        """The components of the reward vector that it reads by name."""
        return ()

    def entropy_weight(self, progress: float) -> float:
        """How strongly entropy is rewarded at this point of the run.

        Its gradient is computed only where this is above 0.
        """
        return 0.0

    def gradient_only_from_advantages(self, progress: float) -> bool:
        """Whether a trajectory of advantage 0 has a gradient of exactly 0, and need not be computed.

        False is right for any loss; True saves the computing.
        """
        return False

    # From rewards to advantages

    def advantages(self, groups: Sequence[Scores]) -> list[np.ndarray]:
        """Â of every rollout of a batch of groups, (G,) each; NaN where one takes no part."""
        return [centred(group.returns, divide_by_std=True) for group in groups]

    def turn_advantages(self, groups: Sequence[Scores]) -> list[list[np.ndarray]] | None:
        """What is added to Â on the tokens of each turn, None for nothing: of each rollout of each group, (turns,)."""
        return None

    def spread(self, groups: Sequence[Scores]) -> list[bool]:
        """Of each group, whether anything in it did better than what it is compared with: here, any Â that is not 0."""
        turns = self.turn_advantages(groups) or [[] for _ in groups]
        return [
            bool(np.nan_to_num(whole).any() or any(each.any() for each in single))
            for whole, single in zip(self.advantages(groups), turns, strict=True)
        ]

    def credit(self, episodes: Sequence[Episode]) -> None:
        """Changes Â of single tokens, once π_old, π_ref and values are known; all episodes of a batch at once."""

    # The objective

    @abstractmethod
    def loss(self, tokens: Tokens) -> torch.Tensor:
        """The part of the global batch's loss that these tokens make up; parts sum to the whole, however it is split.

        Returns:
            A scalar.
        """

    def figures(self, tokens: Tokens) -> dict[str, torch.Tensor]:
        """What is worth reporting about each token, by name, (tokens,) each; called without gradients."""
        return {}


def coefficients(method: Method, tokens: Tokens) -> torch.Tensor:
    """The gradient coefficient of every token: −∂loss/∂log π, by differentiation, (tokens,).

    Args:
        method: Whose loss.
        tokens: At which log-probabilities; they need no gradient.
    """
    import torch

    logprobs = tokens.logprobs.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(method.loss(replace(tokens, logprobs=logprobs)), logprobs)
    return -gradient
