"""What a person sees while a run is under way: a bar, the few figures that matter, and every message once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SHOWN = ("reward", "reward/outcome", "loss", "entropy", "kl", "groups_tied", "grad_norm")
"""Figures of a step beside the bar, where the run has them."""

LINES = 20
"""Where nobody watches a terminal, so many lines a run."""


class Display:
    """A run's progress, in the terminal or as plain lines.

    Args:
        steps: How many there are.
    """

    def __init__(self, steps: int):
        self.steps = steps
        self.console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            disable=not sys.stderr.isatty(),
        )
        self._steps = self._progress.add_task("step", total=steps, figures="")
        self._episodes = self._progress.add_task("episodes", total=None, figures="", visible=False)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.update(self._episodes, visible=False)
        self._progress.stop()

    def say(self, text: str) -> None:
        """A message of its own line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)  # paths stay whole, to be copied

    def show(self, step: int, figures: dict[str, float]) -> None:
        """The figures of a step, or of an evaluation before it."""
        if "eval/reward" in figures:
            low, high = figures["eval/reward_low"], figures["eval/reward_high"]
            self.say(
                f"step {step}: held-out reward {figures['eval/reward']:.3f} (95 % interval {low:.3f} to {high:.3f})"
            )
            return
        line = "  ".join(f"{name.removeprefix('reward/')} {figures[name]:.3g}" for name in SHOWN if name in figures)
        self._progress.update(self._steps, completed=step + 1, figures=line)
        self._progress.reset(self._episodes)
        if self._progress.disable and (step + 1) % max(1, self.steps // LINES) == 0:
            self.say(f"step {step + 1}/{self.steps}  {line}")

    def episodes(self, ended: int) -> None:
        """So many episodes of the batch under way have ended."""
        self._progress.update(self._episodes, advance=ended, visible=True)

    @contextmanager
    def evaluating(self, total: int) -> Iterator[Callable[[int], None]]:
        """A bar of its own for an evaluation; gives what is to be told of episodes that ended."""
        task = self._progress.add_task("evaluating", total=total, figures="")
        try:
            yield lambda ended: self._progress.update(task, advance=ended)
        finally:
            self._progress.remove_task(task)
