"""Weights that reach a server through a folder which both see."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file

if TYPE_CHECKING:
    import torch


def write_weights(folder: Path, weights: Mapping[str, torch.Tensor], version: int) -> Path:
    """Writes one version as a checkpoint, the whole of it or none, and removes the versions before.

    Args:
        folder: For the versions of one run.
        weights: Named as in the model's checkpoint.
        version: Theirs.

    Returns:
        Its folder, which holds ``model.safetensors``.
    """
    whole = folder / f"weights-{version}"
    unfinished = folder / f".{whole.name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    tensors = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    save_file(tensors, unfinished / "model.safetensors", metadata={"format": "pt"})
    for before in folder.glob("weights-*"):
        shutil.rmtree(before)
    unfinished.rename(whole)
    return whole
