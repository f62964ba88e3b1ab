"""The critic: what the rest of an episode is expected to earn, before every token."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal

import torch

from grpo_agents.learner.model import decoder_and_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grpo_agents.learner.packing import Pack


class Critic(torch.nn.Module):
    """A layer from hidden states to one number, which begins at 0.

    Args:
        policy: Whose hidden states it reads, or whose decoder it begins with.
        kind: ``head`` reads the policy's own, and its loss moves them; ``model`` has a decoder of its own.
    """

    def __init__(self, policy: PreTrainedModel, kind: Literal["head", "model"]):
        super().__init__()
        self.decoder = copy.deepcopy(decoder_and_head(policy)[0]) if kind == "model" else None
        self.head = torch.nn.Linear(policy.config.get_text_config().hidden_size, 1, device=policy.device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, pack: Pack, hidden: torch.Tensor) -> torch.Tensor:
        """Values before a pack's targets.

        Args:
            pack: What the policy's decoder took.
            hidden: The policy's hidden states before the targets, (targets, size).

        Returns:
            (targets,), float32.
        """
        if self.decoder is not None:
            hidden = self.decoder(**pack.arguments, use_cache=False).last_hidden_state.flatten(0, 1)[pack.places]
        return self.head(hidden)[:, 0].float()
