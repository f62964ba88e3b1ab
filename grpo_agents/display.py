"""What a person sees while a run is under way: a bar, the few figures that matter, and every message once."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from grpo_agents.rewards.component import FAILED
from grpo_agents.trajectory import Trajectory

SHOWN = ("reward", "reward/outcome", "loss", "entropy", "kl", "groups_tied", "grad_norm")
"""Figures of a step beside the bar, where the run has them."""

ADVICE = {
    "groups_tied": (
        1.0,
        "in every group all episodes earned the same, so nothing was learned. Tasks that are neither too easy nor too "
        "hard, a finer reward or a larger rollout.group_size make them differ",
    ),
    "stopped/tokens": (
        0.5,
        "most episodes were cut short by rollout.max_turn_tokens or rollout.max_tokens. Raise them, or show the model "
        "in its prompt how to answer briefly",
    ),
}
"""Figures of a step that are put into words, once in a run: from which value on, and the words."""

LINES = 20
"""Where nobody watches a terminal, so many lines a run."""

PROBLEMS = 20
"""So many different problems of episodes are said in a run."""


class Display:
    """A run's progress, in the terminal or as plain lines.

    Args:
        steps: How many there are.
    """

    def __init__(self, steps: int):
        self.steps = steps
        self.console = Console(stderr=True, emoji=False)
        self._problems: set[str] = set()
        self._advised: set[str] = set()
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

    def problems(self, where: str, trajectories: Sequence[Trajectory]) -> None:
        """Says what went wrong with episodes: each problem once in a run, and how many of these episodes have it.

        Args:
            where: Which episodes they are.
            trajectories: All of them.
        """
        found = Counter(problem for trajectory in trajectories for problem in problems_of(trajectory))
        for problem, count in found.most_common():
            if problem in self._problems or len(self._problems) == PROBLEMS:
                continue
            self._problems.add(problem)
            self.say(f"{where}: {problem} ({count} of {len(trajectories)} episodes)")
            if len(self._problems) == PROBLEMS:
                self.say("further problems are not said, but stored: `grpo-agents evaluate` counts them all")

    def evaluation(self, step: int, figures: dict[str, float]) -> None:
        """The figures of an evaluation before a step."""
        missing = figures.get("eval/missing/reward", 0)
        without = f"; {missing:.0f} episodes have none" if missing else ""
        if "eval/reward" not in figures:
            self.say(f"step {step}: no evaluation reward{without}")
            return
        low, high = figures["eval/reward_low"], figures["eval/reward_high"]
        interval = "n/a" if math.isnan(low) else f"{low:.3f} to {high:.3f}"
        self.say(f"step {step}: evaluation reward {figures['eval/reward']:.3f} (95 % interval {interval}){without}")

    def step(self, step: int, figures: dict[str, float]) -> None:
        """The figures of a step; and what they mean, where that is not plain."""
        for name, (least, advice) in ADVICE.items():
            if figures.get(name, 0.0) >= least and name not in self._advised:
                self._advised.add(name)
                self.say(f"step {step + 1}: {advice}")
        lost = [name for name in figures if name.startswith("missing/") or (name == "left_out" and figures[name])]
        shown = [*SHOWN, *lost]
        line = "  ".join(
            f"{name.removeprefix('reward/').replace('/', ' ')} {figures[name]:.3g}" for name in shown if name in figures
        )
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


def problems_of(trajectory: Trajectory) -> Iterator[str]:
    """What went wrong with an episode: its error, or why it lacks a reward."""
    if trajectory.error is not None:
        yield f"{trajectory.stop_reason}: {trajectory.error}"
    if trajectory.stop_reason not in FAILED:  # else rewards are missing because of it
        yield from (f"no {name}: {reason}" for name, reason in trajectory.missing.items())
