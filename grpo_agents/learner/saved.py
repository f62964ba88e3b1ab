"""What of a learner a checkpoint holds: each file is read and written by the first of the ranks, or by all together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file

from grpo_agents.learner.model import load_tensors, restore_policy, save_model, whole_state
from grpo_agents.learner.ranks import put

if TYPE_CHECKING:
    import torch

    from grpo_agents.learner.learner import Learner

MODEL_FOLDER = "model"
OPTIMIZER_FILE = "optimizer.safetensors"
CRITIC_FILE = "critic.safetensors"
REFERENCE_FILE = "reference.safetensors"


def save(learner: Learner, folder: Path) -> None:
    """Writes what moves of a learner: policy, optimiser, and where they move a critic and a reference."""
    writes = learner.ranks.rank == 0
    save_model(learner.model, folder / MODEL_FOLDER, writes=writes)
    state = learner.optimizer.state()
    if writes:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / OPTIMIZER_FILE)
    for file, module in _beside_the_policy(learner).items():
        weights = whole_state(module)
        if writes:
            save_file(_untied(weights), folder / file)


def restore(learner: Learner, folder: Path) -> None:
    """Puts what was saved back in its place.

    Raises:
        ValueError: It is of another model or optimiser.
    """
    restore_policy(learner.model, folder / MODEL_FOLDER)
    learner.optimizer.load(load_tensors(folder / OPTIMIZER_FILE))
    for file, module in _beside_the_policy(learner).items():
        restore_module(module, folder / file)


def restore_module(module: torch.nn.Module, file: Path) -> None:
    """Puts weights of a file back into a module, whose tied ones are there once."""
    own = module.state_dict(keep_vars=True)
    for name, value in load_tensors(file).items():
        put(own[name], value)


def _untied(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each tensor under the first of its names, as safetensors wants them."""
    names: dict[int, str] = {}
    return {name: value.contiguous() for name, value in weights.items() if names.setdefault(id(value), name) == name}


def _beside_the_policy(learner: Learner) -> dict[str, torch.nn.Module]:
    """What else of the learner moves, by its file."""
    moving = {}
    if learner.critic is not None:
        moving[CRITIC_FILE] = learner.critic
    if learner.reference is not None and learner.method.reference_period is not None:
        moving[REFERENCE_FILE] = learner.reference
    return moving
