"""The policy.

Loading it by hub id or path, as full weights or with LoRA, and saving what transformers loads unchanged.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from grpo_agents.learner.ranks import put, whole
from grpo_agents.learner.settings import LoraSettings, ModelConfig

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def load_tokenizer(config: ModelConfig) -> Any:
    """Loads the tokenizer.

    Raises:
        ValueError: It cannot be loaded; names the path.
    """
    return load_part(AutoTokenizer, config)


def load_model(config: ModelConfig) -> PreTrainedModel:
    """Loads the model, in float32, onto its device; with LoRA its adapters are new.

    Raises:
        ValueError: It cannot be loaded; names the path.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    model = load_part(AutoModelForCausalLM, config, dtype=torch.float32)
    model.to(resolve_device(config.device))
    return model if config.lora is None else add_lora(model, config.lora)


def add_lora(model: PreTrainedModel, lora: LoraSettings) -> PreTrainedModel:
    """The model with new adapters, which alone are trained.

    Raises:
        ValueError: It has no module of those names.
    """
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft takes fractions too
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, settings)  # type: ignore[return-value]  # a PeftModel behaves as one
    except ValueError as error:
        raise ValueError(f"model.lora.targets is {lora.targets!r}: {error}") from error


def load_part(kind: Any, config: ModelConfig, **options: Any) -> Any:
    """Loads what ``from_pretrained`` of that kind gives.

    Raises:
        ValueError: It cannot be loaded; names the path.
    """
    path = os.path.expanduser(config.path)
    if (path.startswith((".", os.sep)) or path.count("/") > 1) and not os.path.isdir(path):  # a hub id has one slash
        raise ValueError(f"model.path: there is no folder {os.path.abspath(path)}")
    try:
        return kind.from_pretrained(path, trust_remote_code=config.trust_remote_code, **options)
    except (OSError, ValueError) as error:
        nowhere = "" if os.path.isdir(path) else f" (there is no folder {os.path.abspath(path)}, so the hub was asked)"
        raise ValueError(f"model.path {config.path!r} could not be loaded{nowhere}: {error}") from error


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


def adapter_config(model: PreTrainedModel) -> dict[str, Any] | None:
    """The LoRA config of the model as peft writes it beside the weights; None without LoRA."""
    if not hasattr(model, "peft_config"):
        return None
    settings = model.peft_config["default"].to_dict()  # type: ignore[operator,index]
    return json.loads(
        json.dumps(settings, default=lambda value: sorted(value) if isinstance(value, set) else value.value)
    )


def save_model(model: PreTrainedModel, folder: Path, *, writes: bool = True) -> None:
    """Saves weights (the adapter alone with LoRA) for ``from_pretrained``; each rank that holds shards must call it.

    Args:
        model: Whose weights.
        folder: Where they go.
        writes: Whether this rank writes them.
    """
    weights = whole_state(model)
    if writes:
        showing = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        model.save_pretrained(folder, state_dict=weights)
        if showing:
            logging.enable_progress_bar()


def whole_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All of a module's tensors by name, whole where ranks hold shards; tied ones stay one."""
    found: dict[int, torch.Tensor] = {}
    return {
        name: found.setdefault(id(value), whole(value.detach()))
        for name, value in module.state_dict(keep_vars=True).items()
    }


def load_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        ValueError: It is none.
    """
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(
            f"{file}: not a file of tensors ({error}). Something else wrote it, or it is damaged"
        ) from error


def restore_policy(model: PreTrainedModel, folder: Path) -> None:
    """Puts saved weights back into the model, bit for bit.

    Raises:
        ValueError: The folder's weights are not this model's.
    """
    saved = {
        name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_tensors(file).items()
    }
    own = model.state_dict(keep_vars=True)
    lora = hasattr(model, "peft_config")
    as_saved = {re.sub(r"\.default(?=\.|$)", "", name) if lora else name: name for name in own}
    placed: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # tied weights are stored under one name, or as equals
    differ = []
    for name, value in saved.items():
        tensor = own.get(as_saved.get(name, ""))
        if (
            tensor is None
            or tensor.shape != value.shape
            or not torch.equal(placed.setdefault(id(tensor), (tensor, value))[1], value)
        ):
            differ.append(name)
    differ += [name for name, value in own.items() if id(value) not in placed and ("lora_" in name or not lora)]
    if differ:
        raise ValueError(f"{folder}: its weights are of another model ({differ[0]!r} differs)")
    for tensor, value in placed.values():
        put(tensor, value)


def decoder_and_head(model: Any) -> tuple[Any, torch.nn.Linear]:
    """The transformer below the output layer, and that layer.

    Raises:
        ValueError: The output layer is no plain matrix, or there is no decoder below it.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    head = base.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise ValueError(
            f"the output layer of {type(base).__name__} is no plain matrix, but {type(head).__module__}."
            f"{type(head).__name__}. If model.lora.targets names it, leave it out there."
        )
    decoder = base.get_decoder()
    if decoder is base:
        raise ValueError(f"{type(base).__name__} is not supported: it has no decoder apart from its output layer")
    return decoder, head
