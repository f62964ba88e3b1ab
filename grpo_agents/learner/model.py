"""The policy: loading it by hub id or path, as full weights or with LoRA, and saving what transformers loads unchanged."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from grpo_agents.learner.settings import ModelConfig

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def load_policy(config: ModelConfig) -> tuple[PreTrainedModel, Any]:
    """Loads model and tokenizer.

    Raises:
        ValueError: They cannot be loaded; names the path.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.path, trust_remote_code=config.trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(
            config.path, dtype=torch.float32, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"model.path {config.path!r} could not be loaded: {error}") from error
    model = model.to(resolve_device(config.device))
    if config.lora is not None:
        from peft import LoraConfig, get_peft_model

        lora = config.lora
        model = get_peft_model(
            model,
            LoraConfig(
                r=lora.rank,
                lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft takes fractions too
                lora_dropout=lora.dropout,
                target_modules=lora.targets,
                task_type="CAUSAL_LM",
            ),
        )
    return model, tokenizer  # type: ignore[return-value]  # a PeftModel behaves as one


def resolve_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is the GPU where there is one.

    Raises:
        ValueError: A GPU is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"model.device is {name!r}, and torch sees no GPU here. Use 'cpu' or 'auto'.")
    return torch.device(name)


def computing_in(dtype: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which forward passes run: autocast for anything but float32."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, getattr(torch, dtype))


def save_policy(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Saves weights (the adapter alone with LoRA) and tokenizer for ``from_pretrained``."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def restore_policy(model: PreTrainedModel, folder: Path) -> None:
    """Puts saved weights back into the model, bit for bit.

    Raises:
        ValueError: The folder's weights are not this model's.
    """
    weights = {
        name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()
    }
    if hasattr(model, "peft_config"):
        from peft import set_peft_model_state_dict

        result = set_peft_model_state_dict(model, weights)
        missing = [name for name in result.missing_keys if "lora_" in name]
    else:
        result = model.load_state_dict(weights, strict=False)
        tied = set(getattr(model, "_tied_weights_keys", None) or ())
        missing = [name for name in result.missing_keys if name not in tied]
    if missing or result.unexpected_keys:
        raise ValueError(
            f"{folder}: its weights are of another model ({(missing or result.unexpected_keys)[0]!r} differs)"
        )
