"""Checkpoints: written whole or not at all, checked when read, and no pickle in them.

A checkpoint is a folder ``step-000050`` with the policy (as transformers saves it), the optimiser's state, and a
manifest with a checksum of every file. The manifest is written last and the folder takes its name only then.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_agents.writing import naming

MANIFEST = "manifest.json"

LOADED = (".safetensors", ".parquet", ".npy")
"""What is read of a checkpoint, whichever files of these kinds are there: all have to be of the manifest."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        folder: Where it is.
        step: How many steps had been done.
        state: What the trainer noted, plain JSON.
    """

    folder: Path
    step: int
    state: dict[str, Any]


def write(root: Path, step: int, state: dict[str, Any], fill: Callable[[Path], None], keep: int) -> Path:
    """Writes a checkpoint and removes all but the newest ``keep``.

    Args:
        root: The folder of checkpoints.
        step: How many steps have been done.
        state: What to note, plain JSON.
        fill: Writes the files into the folder that it is given.
        keep: How many checkpoints to keep.

    Raises:
        NotWritten: It could not be written (disk full …); the earlier ones are untouched.
    """
    with naming(root, f"checkpoint of step {step} not written"):
        return _write(root, step, state, fill, keep)


def _write(root: Path, step: int, state: dict[str, Any], fill: Callable[[Path], None], keep: int) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"step-{step:06d}"
    partial = root / f".partial-{step:06d}"
    for left in root.glob(".partial-*"):  # by a kill
        shutil.rmtree(left, ignore_errors=True)
    try:
        partial.mkdir()
        fill(partial)
        files = {
            str(file.relative_to(partial)): _checksum(file) for file in sorted(partial.rglob("*")) if file.is_file()
        }
        manifest = {"step": step, "state": state, "sha256": files}
        manifest["itself"] = _checksum_of(manifest)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for file in [*(partial / name for name in files), partial / MANIFEST, *_folders(partial)]:
            _sync(file)
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    _sync(root)
    for old in sorted(root.glob("step-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest(root: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are named and passed over.

    Args:
        root: The folder of checkpoints.
        say: Told of every damaged one.
    """
    for folder in sorted(root.glob("step-*"), reverse=True):
        problem = _damage(folder)
        if problem is None:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            return Checkpoint(folder, manifest["step"], manifest["state"])
        say(f"checkpoint {folder} is damaged ({problem}); trying the one before it")
    return None


def _damage(folder: Path) -> str | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files, intact = manifest["sha256"], manifest.pop("itself") == _checksum_of(manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST}: {error}"
    if not intact:
        return f"{MANIFEST} is not what was written"
    loaded = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.suffix in LOADED}
    if added := sorted(loaded - files.keys()):
        return f"{added[0]} was not written with it"
    for name, checksum in files.items():
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            return f"{MANIFEST} names {name!r}, which is outside"
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _checksum(folder / name) != checksum:
            return f"{name} is not what was written"
    return None


def _checksum_of(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _checksum(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _folders(root: Path) -> list[Path]:
    return [root, *(entry for entry in root.rglob("*") if entry.is_dir())]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
