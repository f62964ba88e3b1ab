"""What a method is: a data source, and a loss over per-token log-probabilities."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from grpo_agents.section import Section

if TYPE_CHECKING:
    import torch


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
        batch_tokens: Trained tokens of the *global* batch.
        batch_trajectories: Trajectories of the *global* batch.
        progress: How far the run is, 0…1.
    """

    logprobs: torch.Tensor
    sampler: torch.Tensor
    old: torch.Tensor
    reference: torch.Tensor | None
    entropy: torch.Tensor
    advantages: torch.Tensor
    lengths: torch.Tensor
    turn_position: torch.Tensor
    batch_tokens: int
    batch_trajectories: int
    progress: float = 0.0


class Method(Section):
    """A method and its settings. Subclasses add fields, set the class attributes, and write :meth:`loss`.

    Attributes:
        name: What a config calls it.
        source: What it learns from: ``policy`` (groups sampled from the current policy) or ``demonstrations``.
    """

    name: ClassVar[str]
    source: ClassVar[Literal["policy", "demonstrations"]] = "policy"

    @property
    def needs_reference(self) -> bool:
        """Whether it reads log π_ref."""
        return False

    @property
    def normalises_by_group(self) -> bool:
        """Whether a group of one would carry no gradient."""
        return self.source == "policy"

    @property
    def corrects_sampler(self) -> bool:
        """Whether it weighs tokens by π_old/π_sampler, so that they may come from another policy than π_old."""
        return False

    def entropy_weight(self, progress: float) -> float:
        """How strongly entropy is rewarded at this point of the run.

        Its gradient is computed only where this is above 0.
        """
        return 0.0

    def gradient_only_from_advantages(self, progress: float) -> bool:
        """Whether a trajectory of advantage 0 has a gradient of exactly 0, and need not be computed."""
        return self.source == "policy" and not self.needs_reference and self.entropy_weight(progress) == 0

    def figures(self, tokens: Tokens) -> dict[str, torch.Tensor]:
        """What is worth reporting about each token, by name, (tokens,) each; called without gradients."""
        return {}

    @abstractmethod
    def loss(self, tokens: Tokens) -> torch.Tensor:
        """The part of the global batch's loss that these tokens make up; parts sum to the whole, however it is split.

        Returns:
            A scalar.
        """


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
