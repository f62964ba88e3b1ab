"""The forward pass: from rows of token ids to what the policy, and beside it the critic, says of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from grpo_agents.learner.batch import Row
from grpo_agents.learner.critic import Critic
from grpo_agents.learner.logprobs import token_logprobs
from grpo_agents.learner.model import computing_in, decoder_and_head
from grpo_agents.support import Support

PROBE_TOLERANCE = 1e-3
"""How far the chunked log-probabilities may be from the model's own forward pass."""


class Forward(NamedTuple):
    """What a forward pass gives of the trained tokens of some rows, side by side, (trained,) each."""

    logprobs: torch.Tensor
    entropy: torch.Tensor
    values: torch.Tensor | None


class ForwardPass(torch.nn.Module):
    """A model whose forward pass gives log-probabilities of trained tokens, not logits.

    One module with one forward pass, so that FSDP finds everything that a pass reads inside of it.

    Args:
        model: A causal language model.
        temperature: What the engine divides logits by, and so the learner.
        dtype: What is computed in.
        critic: What says the values, where there is one.
    """

    def __init__(self, model: PreTrainedModel, temperature: float, dtype: str, critic: Critic | None = None):
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.dtype = dtype
        self.critic = critic

    def forward(self, rows: Sequence[Row], *, entropy_gradient: bool = False, values: bool = True) -> Forward:
        """What is said of the rows' trained tokens; values only where there is a critic.

        Rows are padded on the right, where causal attention never looks, so no mask is needed.
        """
        width = max(len(row.ids) for row in rows)
        ids = np.zeros((len(rows), width), np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)] = row.ids
        places = np.concatenate([index * width + row.trained for index, row in enumerate(rows)])
        device = self.model.device
        tokens = torch.from_numpy(ids).to(device)  # (rows, width)
        at = torch.from_numpy(places).to(device)  # (trained,)
        with computing_in(self.dtype, device):
            decoder, head = decoder_and_head(self.model)
            states = decoder(input_ids=tokens, use_cache=False).last_hidden_state  # (rows, width, size)
            hidden = states.flatten(0, 1)[at - 1]  # (trained, size)
            support = Support.join([(row.support, len(row.trained)) for row in rows])
            logprobs, entropy = token_logprobs(
                hidden, head, tokens.flatten()[at], self.temperature, support, entropy_gradient=entropy_gradient
            )
            expected = self.critic(tokens, at - 1, hidden) if self.critic is not None and values else None
            return Forward(logprobs, entropy, expected)


def check_head(model: PreTrainedModel) -> None:
    """Compares the chunked log-probabilities with the model's own forward pass on a few tokens.

    Raises:
        ValueError: They differ: hidden states and output layer alone do not make this architecture's logits.
    """
    ids = np.arange(8) % int(model.config.get_text_config().vocab_size)
    none = np.zeros(7)
    probe = Row(ids, np.arange(1, 8), none, none, None, none, none, none, none, 7, 0, 0)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        ours = ForwardPass(model, 1.0, "float32")([probe]).logprobs
        tokens = torch.from_numpy(ids)[None].to(model.device)
        logits = model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
        theirs = logits.log_softmax(-1).gather(-1, tokens[0, 1:, None])[:, 0]
    model.train(was_training)
    if not torch.allclose(ours, theirs, atol=PROBE_TOLERANCE):
        off = float((ours - theirs).abs().max())
        raise ValueError(
            f"{type(model).__name__} is not supported: its logits are not its output layer applied to its last hidden "
            f"state (log-probabilities differ by {off:.3g})"
        )
