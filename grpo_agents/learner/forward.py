"""The forward pass: from rows of token ids to what the policy, and beside it the critic, says of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from grpo_agents.learner import attention
from grpo_agents.learner.batch import Row
from grpo_agents.learner.critic import Critic
from grpo_agents.learner.logprobs import token_logprobs
from grpo_agents.learner.model import computing_in, decoder_and_head
from grpo_agents.learner.packing import as_tree, padded

ATTENTION = {"full_attention", "sliding_attention"}
"""Kinds of layers that go over a tree, as configs name them."""

PROBE_TOLERANCE = 1e-3
"""How far log-probabilities may be from those of the model's own forward pass."""


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
        shares: Whether rows are computed as a tree, each different prefix once; else padded.
        critic: What says the values, where there is one.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        temperature: float,
        dtype: str,
        *,
        shares: bool,
        critic: Critic | None = None,
    ):
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.dtype = dtype
        self.shares = shares
        self.critic = critic

    def forward(self, rows: Sequence[Row], *, entropy_gradient: bool = False, values: bool = True) -> Forward:
        """What is said of the rows' trained tokens; values only where there is a critic."""
        pack = (as_tree if self.shares else padded)(rows, self.model.device)
        with computing_in(self.dtype, self.model.device):
            decoder, head = decoder_and_head(self.model)
            states = decoder(**pack.arguments, use_cache=False).last_hidden_state  # (batch, width, size)
            hidden = states.flatten(0, 1)[pack.places]  # (targets, size)
            logprobs, entropy = token_logprobs(
                hidden, head, pack.targets, self.temperature, pack.support, entropy_gradient=entropy_gradient
            )
            expected = self.critic(pack, hidden) if self.critic is not None and values else None
        return Forward(logprobs[pack.order], entropy[pack.order], None if expected is None else expected[pack.order])


def prepare(model: PreTrainedModel) -> str:
    """Teaches a model to attend over trees, if its architecture can; says why not, or nothing.

    Raises:
        ValueError: Not even one row after the other is computed as the model itself does: hidden states and output
            layer alone do not make this architecture's logits. Or its own logits are not finite.
    """
    if (more := _after_head(model)) is not None:
        raise ValueError(
            f"{_architecture(model)} is not supported: its logits are not its output layer applied to its last hidden "
            f"state (its config has {more})"
        )
    vocabulary = int(model.config.get_text_config().vocab_size)
    probes = [_probe(ids % vocabulary) for ids in (np.arange(8), np.array([0, 1, 2, 3, 8, 9]), np.array([0, 5, 6]))]
    was_training, plain = model.training, str(model.config._attn_implementation)
    model.eval()
    try:
        theirs = torch.cat([_own_logprobs(model, row) for row in probes])
        if not theirs.isfinite().all():
            raise ValueError(
                f"{_architecture(model)} gives log-probabilities that are not finite: its weights are broken"
            )
        why_padded = _takes_no_trees(model)
        for shares in (True, False):
            if shares and why_padded:
                continue
            model.set_attn_implementation(attention.NAME if shares else plain)
            with torch.no_grad():
                ours = ForwardPass(model, 1.0, "float32", shares=shares)(probes).logprobs
            off = float((ours - theirs).abs().max())
            if off <= PROBE_TOLERANCE:
                return why_padded
            why_padded = (
                f"in {_architecture(model)} something else than attention goes from token to token (over a tree, its "
                f"log-probabilities differ by {off:.3g})"
            )
    finally:
        model.train(was_training)
    raise ValueError(
        f"{_architecture(model)} is not supported: its logits are not its output layer applied to its last hidden "
        f"state (log-probabilities differ by {off:.3g})"
    )


def _takes_no_trees(model: PreTrainedModel) -> str:
    """Why its layers do not ask transformers for their attention, or for another than over all or a window."""
    if not model._supports_attention_backend:
        return f"{_architecture(model)} does not take its attention from transformers, or has layers without any"
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - ATTENTION
    if kinds:  # a probe is too short to show the chunks of some
        return f"{_architecture(model)} has layers of {', '.join(sorted(kinds))}"
    plain = model.config._attn_implementation
    return "" if plain in ("sdpa", attention.NAME) else f"{_architecture(model)} attends by {plain!r}, not 'sdpa'"


def _architecture(model: Any) -> str:
    """Its class; with LoRA, that of the model below."""
    return type(model.get_base_model() if hasattr(model, "peft_config") else model).__name__


def _after_head(model: PreTrainedModel) -> str | None:
    """What a config says is done to logits after the output layer; a probe of small logits may not show it."""
    config = model.config.get_text_config()
    for name, nothing in (
        ("final_logit_softcapping", None),
        ("logits_scaling", 1),
        ("logit_scale", 1),
        ("lm_head_multiplier", 1),
    ):
        value = getattr(config, name, nothing)
        if value is not None and value != nothing:
            return f"{name} = {value:g}"
    return None


def _probe(ids: np.ndarray) -> Row:
    none = np.zeros(len(ids) - 1)
    return Row(ids, np.arange(1, len(ids)), none, none, None, none, none, none, none, len(none), 0, 0, 0)


def _own_logprobs(model: PreTrainedModel, row: Row) -> torch.Tensor:
    """Those that the model's own logits give, (trained,)."""
    tokens = torch.from_numpy(row.ids)[None].to(model.device)
    with torch.no_grad():
        logits = model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(-1, tokens[0, 1:, None])[:, 0]
