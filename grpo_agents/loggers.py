"""Figures of a run elsewhere than in its folder: wandb and trackio, where installed and named by ``train.log``.

Whatever goes wrong with one of them is said once, and the run goes on without it: ``metrics.jsonl`` has every figure.
"""

from __future__ import annotations

import importlib.util
import math
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from grpo_agents.credentials import Credentials

LoggerName = Literal["wandb", "trackio"]

PROJECT = "grpo-agents"
"""Where runs go; ``WANDB_PROJECT`` and ``TRACKIO_PROJECT`` say another one."""

KEYS = ("WANDB_API_KEY", "HF_TOKEN")
"""Environment variables that they take keys from."""

ID_FILE = "logged_as.txt"
"""What a run is called there, kept in its folder: a run that goes on is the same one."""


class Logger(Protocol):
    """Something that takes figures."""

    def start(self, config: Mapping[str, Any], name: str, folder: Path, run_id: str) -> None:
        """Begins a run, or goes on with the one that has this id.

        Args:
            config: The run's, as plain data.
            name: What people call it.
            folder: The run's, for files.
            run_id: Of no other run.
        """
        ...

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Takes the figures of a step; a step may come more than once."""
        ...

    def close(self) -> None:
        """Ends the run."""
        ...


class Wandb:
    """Weights & Biases; what it keeps on disk is in the run folder."""

    def start(self, config: Mapping[str, Any], name: str, folder: Path, run_id: str) -> None:
        """Begins the run, or goes on with it."""
        wandb = importlib.import_module("wandb")
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self._run = wandb.init(
            project=project, name=name, id=run_id, dir=str(folder), config=dict(config), resume="allow"
        )
        # its own steps must rise, and after a resume some come again
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Takes the figures of a step."""
        self._run.log({"step": step, **figures})

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


class Trackio:
    """Trackio, which knows runs by their names: the id is part of it."""

    def start(self, config: Mapping[str, Any], name: str, folder: Path, run_id: str) -> None:
        """Begins the run, or goes on with it."""
        trackio = importlib.import_module("trackio")
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        self._run = trackio.init(project=project, name=f"{name}-{run_id}", config=dict(config), resume="allow")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Takes the figures of a step."""
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


_KINDS: dict[str, Callable[[], Logger]] = {"wandb": Wandb, "trackio": Trackio}
assert set(_KINDS) == set(get_args(LoggerName))


class Loggers:
    """Those that a run has, none of which can stop it.

    Args:
        names: Which.
        say: Told what went wrong with one.

    Raises:
        ImportError: One is not installed; names the extra.
    """

    def __init__(self, names: Iterable[LoggerName], say: Callable[[str], None]):
        for name in names:
            found = importlib.util.find_spec(name)
            if found is None or found.origin is None:  # a folder of that name, as wandb leaves, is no package
                raise ImportError(
                    f"train.log names {name!r}, which is not installed: pip install 'grpo-agents[{name}]', or leave it "
                    "out. TensorBoard and metrics.jsonl have all figures anyway"
                )
        self._say = say
        self._running = {name: _KINDS[name]() for name in names}

    def start(self, config: Mapping[str, Any], folder: Path, *, resume: bool) -> None:
        """Begins a run, or goes on with the one that the folder holds.

        Args:
            config: The run's, as plain data.
            folder: The run's.
            resume: Whether it goes on.
        """
        if not self._running:
            return
        file = folder / ID_FILE
        if not (resume and file.exists()):
            file.write_text(secrets.token_hex(4) + "\n", encoding="utf-8")
        run_id = file.read_text(encoding="utf-8").strip()
        self._each(lambda logger: logger.start(config, folder.resolve().name, folder, run_id))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Hands on the figures of a step, without those that are not finite."""
        finite = {name: value for name, value in figures.items() if math.isfinite(value)}
        self._each(lambda logger: logger.log(step, finite))

    def close(self) -> None:
        """Ends the run in each."""
        self._each(lambda logger: logger.close())
        self._running = {}

    def _each(self, do: Callable[[Logger], None]) -> None:
        for name, logger in list(self._running.items()):
            try:
                do(logger)
            except Exception as error:  # a figure that a service does not take is no reason to lose a run
                del self._running[name]
                reason = Credentials(*map(os.environ.get, KEYS)).hide(f"{type(error).__name__}: {error}")
                self._say(f"{name} failed, and the run goes on without it: {reason}. metrics.jsonl has every figure")
