"""How large a model is, read off its config: parameters are counted on the meta device, and no weight is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from grpo_agents.cost import Shape, Weights
from grpo_agents.learner.eight_bit import moment_bytes
from grpo_agents.learner.model import add_lora, decoder_and_head, load_part
from grpo_agents.learner.optimizer import is_inner_matrix
from grpo_agents.learner.settings import ModelConfig, RewardModelConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_shape(config: ModelConfig) -> Shape:
    """The shape of a config's model, with its LoRA adapters where there are any.

    Raises:
        ValueError: There is no such model, or no causal language model's config in it; names the key.
    """
    found = load_part(AutoConfig, config)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(found, trust_remote_code=config.trust_remote_code)
    except ValueError as error:  # a config of something else
        raise ValueError(f"model.path {config.path!r} is no causal language model: {error!s:.200}") from error
    return shape_of(model if config.lora is None else add_lora(model, config.lora))


def load_judge(config: RewardModelConfig) -> Shape:
    """The shape of a config's reward model: its output layer is one row, and computes once a conversation.

    Raises:
        ValueError: There is no such model, or none that can be a sequence classifier; names the key.
    """
    try:
        found = AutoConfig.from_pretrained(config.path, num_labels=1, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(found, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"reward_model.path {config.path!r} could not be loaded: {error!s:.200}") from error
    return _shape(model, getattr(model, model.base_model_prefix), model.score)


def shape_of(model: PreTrainedModel) -> Shape:
    """The shape of a model, wherever its weights are.

    Of a mixture of experts, a token is multiplied by ``num_experts_per_tok`` of them. Every layer is taken to attend to
    its whole context.
    """
    return _shape(model, *decoder_and_head(model))


def _shape(model: PreTrainedModel, decoder: torch.nn.Module, head: torch.nn.Module) -> Shape:
    text = model.config.get_text_config()
    tables = {id(module.weight) for module in decoder.modules() if isinstance(module, torch.nn.Embedding)}
    matrices = adapters = last = 0.0
    for name, parameter in decoder.named_parameters():
        if "lora_" in name:
            adapters += parameter.numel()
        elif parameter.ndim == 3:  # (experts, rows, columns)
            matrices += parameter.numel() * _active_experts(text, parameter) / parameter.shape[0]
        elif parameter.ndim == 2 and id(parameter) not in tables:
            matrices += parameter.numel()
            last += parameter.numel() if name.endswith("down_proj.weight") else 0
    heads = int(text.num_attention_heads)
    head_dim = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    vocabulary, hidden = head.weight.shape  # type: ignore[misc]
    return Shape(
        policy=_weights(model.named_parameters()),
        decoder=_weights(decoder.named_parameters()),
        matrices=matrices,
        adapters=adapters,
        last=last,
        vocabulary=int(vocabulary),
        hidden=int(hidden),
        layers=int(text.num_hidden_layers),
        width=heads * head_dim,
        cached=int(getattr(text, "num_key_value_heads", None) or heads) * head_dim,
        context=int(getattr(text, "max_position_embeddings", 1 << 20)),
    )


def _active_experts(text: Any, parameter: torch.Tensor) -> int:
    return int(getattr(text, "num_experts_per_tok", None) or parameter.shape[0])


def _weights(named: Iterable[tuple[str, torch.nn.Parameter]]) -> Weights:
    """Counts them."""
    count = adapters = trained = muon = eight_bit = 0
    for name, parameter in named:
        count += parameter.numel()
        adapters += parameter.numel() if "lora_" in name else 0
        if parameter.requires_grad:
            trained += parameter.numel()
            muon += parameter.numel() if is_inner_matrix(name, parameter) else 0
            eight_bit += moment_bytes(parameter.numel())
    return Weights(count, adapters, trained, muon, eight_bit)
