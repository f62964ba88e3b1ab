"""Supervised fine-tuning: demonstrations, and coefficient 1 on each of their tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from grpo_agents.methods.method import Method, Tokens

if TYPE_CHECKING:
    import torch


class Sft(Method):
    """Maximises the log-probability of demonstrations, averaged over the tokens of the global batch."""

    name: ClassVar[str] = "sft"
    source: ClassVar[Literal["policy", "demonstrations"]] = "demonstrations"

    def loss(self, tokens: Tokens) -> torch.Tensor:
        """−Σ log π / (tokens of the batch)."""
        return -tokens.logprobs.sum() / tokens.batch_tokens
