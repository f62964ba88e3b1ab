"""What the lens looks at: a stored trajectory with its group, and the policies that it is looked at with."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedModel

from grpo_agents import checkpoint, store
from grpo_agents.config import Config
from grpo_agents.learner.batch import Row, make_batch
from grpo_agents.learner.forward import ForwardPass
from grpo_agents.learner.learner import Learner
from grpo_agents.learner.model import load_model, load_tensors, restore_policy
from grpo_agents.learner.saved import CRITIC_FILE, REFERENCE_FILE, restore_module
from grpo_agents.methods import Method, Tokens
from grpo_agents.run_folder import RunFolder
from grpo_agents.trajectory import Group, Trajectory


def find(
    folder: RunFolder, trajectory: str, *, step: int | None = None, file: str | Path | None = None
) -> tuple[Path, dict[str, Any], Group]:
    """The file that holds a trajectory, its place there (see :func:`store.read_places`), and its group.

    Raises:
        FileNotFoundError: There are no such files.
        ValueError: None of them holds the trajectory; names those there are.
    """
    files = _files(folder, step, file)
    places: list[dict[str, Any]] = []
    for path in reversed(files):
        places = store.read_places(path)
        found = [place for place in places if f"{place['group']}.{place['index']}" == trajectory]
        if len(found) > 1:
            raise ValueError(f"{path} holds {len(found)} trajectories {trajectory}: name a file of one step")
        if found:
            groups = store.read_groups(path)
            return path, found[0], next(g for g in groups if g.trajectories[0].group == found[0]["group"])
    known = [f"{place['group']}.{place['index']}" for place in places]  # of the first file
    near = difflib.get_close_matches(trajectory, known, n=1)
    where = files[0] if len(files) == 1 else f"any of {len(files)} files"
    shown = ", ".join(known[:12]) + (f" … {known[-1]}" if len(known) > 12 else "")
    raise ValueError(
        f"there is no trajectory {trajectory} in {where}"
        + (f". Did you mean {near[0]}?" if near else ".")
        + f" An id is GROUP.INDEX; {files[0]} holds {shown}"
    )


def _files(folder: RunFolder, step: int | None, file: str | Path | None) -> list[Path]:
    """Where to look, the last one first to be read last."""
    if file is not None:
        if step is not None:
            raise ValueError("name a step or a file, not both")
        return [Path(file)]
    files = sorted(folder.trajectories.glob("frozen-*.parquet")) + sorted(folder.trajectories.glob("train-*.parquet"))
    if not files:
        others = sorted(folder.trajectories.glob("*.parquet"))
        hint = f", such as --file {others[-1]}" if others else ""
        raise FileNotFoundError(
            f"{folder.trajectories} has no trajectories of training: it learned from what others wrote, or with "
            f"train.store = false. Name a file of trajectories{hint}"
        )
    if step is None:
        return files
    if (path := folder.trajectory_file("train", step)) not in files:
        raise FileNotFoundError(f"there is no {path}; the files are {files[0].name} … {files[-1].name}")
    return [path]


# The policies


def find_weights(folder: RunFolder, weights: str | Path | None) -> tuple[Path, Path | None]:
    """The folder of π's weights, and that of the checkpoint which they are of, where it is known.

    Raises:
        FileNotFoundError: There are none.
    """
    if weights is None:
        found = checkpoint.latest(folder.checkpoints, _ignore)
        if found is not None:
            return found.folder / "model", found.folder
        if folder.model.is_dir():
            return folder.model, None
        raise FileNotFoundError(f"{folder.path} has no checkpoint: name a folder of weights with --weights")
    path = Path(os.path.expanduser(weights))
    if (path / "model").is_dir():
        return path / "model", path
    if not any(path.glob("*.safetensors")):
        raise FileNotFoundError(f"{path} is no folder of weights (*.safetensors), and no checkpoint")
    return path, path.parent


def find_old(config: Config, folder: RunFolder, place: dict[str, Any]) -> tuple[Path | None, str]:
    """The weights that a trajectory was learned with first, π_old, and what is to be said of π_old.

    Only a run that computes log π_old again has other values than the engine's, and it stores none of them.

    Args:
        config: The run's.
        folder: The run's.
        place: Where the trajectory belongs.

    Returns:
        A folder of weights or the model's own path, or None where π_old is the engine's or has to be taken to be that;
        a text, empty where there is nothing to say.
    """
    if config.learner.old_logprobs != "recompute":
        return None, ""
    if place["phase"] != "train" or config.source_kind != "policy":
        return None, "π_old is taken to be what the engine returned: at which weights this was learned is not stored"
    step = place["run_step"]
    if step == 0:
        return Path(config.model.path), f"π_old: {config.model.path}"
    weights = folder.checkpoints / f"step-{step:06d}" / "model"
    if weights.is_dir():
        return weights, f"π_old: {weights}"
    return None, (
        "π_old is taken to be what the engine returned: the run computed it again with the weights of step "
        f"{step}, and {weights} is not there"
    )


def _ignore(_: str) -> None:
    """A damaged checkpoint is passed over."""


class _Everything(Method):
    """Asks the learner for all that any method reads."""

    name = "lens"
    value_model: Literal["head", "model"] | None = None

    @property
    def needs_reference(self) -> bool:
        return True

    @property
    def critic(self) -> Literal["head", "model"] | None:
        return self.value_model

    def loss(self, tokens: Tokens) -> torch.Tensor:
        return tokens.logprobs.sum()


def make_learner(
    config: Config, policy: Path, beside: Path | None, temperature: float
) -> tuple[Learner, str, list[str]]:
    """A learner with π, π_ref and, where it is kept beside π, the critic; where π_ref is from; and what to say."""
    values = {}
    if beside is not None and (beside / CRITIC_FILE).is_file():
        values = load_tensors(beside / CRITIC_FILE)
    kind = None if not values else "model" if any(name.startswith("decoder.") for name in values) else "head"
    notes = []
    model = load_model(config.model)  # what the run began with: the learner copies it as reference
    learner = Learner(
        model,
        config.learner.model_copy(update={"old_logprobs": "engine", "gradient_checkpointing": False}),
        _Everything(value_model=kind),
        steps=1,
        temperature=temperature,
        dtype=config.model.dtype,
    )
    start = Path(os.path.expanduser(config.model.path))
    if not (start.is_dir() and start.samefile(policy)):
        restore_policy(model, policy)
    if learner.critic is not None:
        learner.critic.load_state_dict(values)
    reference = config.model.path
    if beside is not None and learner.reference is not None and (beside / REFERENCE_FILE).is_file():
        reference = str(beside / REFERENCE_FILE)
        restore_module(learner.reference, Path(reference))
        notes.append(f"π_ref is the reference that the run had moved to: {reference}")
    if config.chosen_method.entropy_weight(0.0):
        notes.append("the entropy bonus acts on whole distributions, and is in no token's coefficient")
    return learner, reference, notes


def load_old(config: Config, weights: Path) -> PreTrainedModel:
    """π_old; before the first step LoRA's adapters are new ones, which change nothing."""
    model = load_model(config.model)
    if weights != Path(config.model.path):
        restore_policy(model, weights)
    return model


@dataclass(frozen=True, slots=True)
class Scored:
    """A sample's row, and log π of its trained tokens, (trained,)."""

    row: Row
    logprobs: np.ndarray


def score(learner: Learner, trajectories: Sequence[Trajectory], old: PreTrainedModel | None) -> list[list[Scored]]:
    """The rows of each trajectory with log π, log π_old, log π_ref and values; each trajectory has sampled tokens.

    Args:
        learner: It holds π, π_ref and the critic.
        trajectories: The group.
        old: π_old; None where it is the engine's.
    """
    for trajectory in trajectories:
        trajectory.advantage = 0.0
        for step in trajectory.steps:
            step.advantage = 0.0
    batch = make_batch(trajectories)
    learner.prepare(batch)
    if old is not None:
        forward = ForwardPass(old.eval(), learner.temperature, learner.dtype, shares=False)
        for row in batch.rows:
            with torch.no_grad():
                row.old = forward([row]).logprobs.cpu().numpy()
    logprobs = {id(row): found for row, found in learner.score(batch.rows)}
    rows: list[list[Scored]] = [[] for _ in trajectories]
    for row in batch.rows:
        rows[row.trajectory].append(Scored(row, logprobs[id(row)]))
    return rows
