"""The run folder: everything a run leaves behind, and from which a killed one goes on."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grpo_agents.config import Config, save_config
from grpo_agents.writing import NotWritten, naming, write_whole


class RunFolder:
    """``config.toml``, ``metrics.jsonl``, ``tensorboard/``, ``trajectories/``, ``checkpoints/`` and pictures.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "config.toml"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.trajectories = self.path / "trajectories"
        self.tensorboard = self.path / "tensorboard"
        self.lens = self.path / "lens"
        self.model = self.path / "model"
        self.reward_model = self.path / "reward_model"
        self.curves = self.path / "curves.png"
        self.tool_use = self.path / "tool_use.png"
        self.report = self.path / "report.html"

    @property
    def holds_run(self) -> bool:
        """Whether a run was begun in it: what a config.toml alone does not say."""
        return self.metrics.exists() or self.checkpoints.exists()

    def create(self, config: Config, *, overwrite: bool = False) -> None:
        """Begins a new run; of one that was there before, what it wrote is removed, and nothing else.

        Raises:
            FileExistsError: See :meth:`check`.
            NotWritten: The disk is full, the folder is read-only …
        """
        self.check(overwrite=overwrite)
        with naming(self.path):
            if self.holds_run:
                self._remove()
            self.trajectories.mkdir(parents=True, exist_ok=True)
            save_config(config, self.config)
            self.metrics.touch()

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """Says how to go on, where something of a run cannot be written.

        Raises:
            NotWritten: The disk is full …
        """
        try:
            yield
        except NotWritten as error:
            saved = any(self.checkpoints.glob("step-*"))
            stand = "The checkpoints before it stand" if saved else "There is no checkpoint yet"
            advice = f"{stand}: make room, then go on with `grpo-agents train --resume {self.path}`"
            raise NotWritten(error.errno, f"{error.strerror}. {advice}", error.filename) from error

    def check(self, *, overwrite: bool = False) -> None:
        """Does nothing where a new run may be written.

        Raises:
            FileExistsError: The folder holds a run that is not to be overwritten, or somebody else's config.toml; says
                what to do.
        """
        if self.holds_run and not overwrite:
            raise FileExistsError(
                f"{self.path} holds a run already. Go on with `grpo-agents train --resume {self.path}`, start anew "
                "with --overwrite, or choose another folder: --set run=…"
            )
        if self.config.exists() and not self.holds_run:
            raise FileExistsError(
                f"{self.config} is no run's, and a run writes its own there. Give it another name, or choose another "
                "folder: --set run=…"
            )

    def _remove(self) -> None:
        written = (self.tensorboard, self.trajectories, self.lens, self.model, self.reward_model, self.checkpoints)
        for folder in written:
            if folder.exists():
                shutil.rmtree(folder)
        for file in (self.config, self.curves, self.tool_use, self.report, self.metrics):
            file.unlink(missing_ok=True)

    def rewind(self, step: int) -> None:
        """Drops the metrics of every step that was not finished by a checkpoint: they are made again."""
        kept = [row for row in self.read_metrics() if row["step"] < step]
        write_whole(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))
        for left in (*self.path.glob(".*.unfinished"), *self.trajectories.glob(".*.unfinished")):  # by a kill
            left.unlink(missing_ok=True)

    def log(self, row: Mapping[str, float]) -> None:
        """Appends one row of figures; one that is not finite becomes null, for readers of strict JSON."""
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        with naming(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every row of figures; a last line that a kill cut short is left out."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def trajectory_file(self, phase: str, step: int) -> Path:
        """Where the trajectories of a step are: ``train`` or ``eval``."""
        return self.trajectories / f"{phase}-{step:06d}.parquet"
