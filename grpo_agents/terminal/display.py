"""What a person sees while a run is under way: bars, the few figures that matter, and every message once.

In a terminal figures are a table under the bars, with curves as far as there is room; elsewhere they are plain lines.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from grpo_agents.rewards.component import FAILED
from grpo_agents.terminal.live_figures import LiveFigures
from grpo_agents.trajectory import Trajectory

SHOWN = ("reward", "reward/outcome", "loss", "entropy", "kl", "groups_tied", "grad_norm")
"""Figures of a step in its plain line, where the run has them."""

ADVICE = {
    "diversity/unanimous": (
        0.9,
        "in nine of ten groups all rollouts come to one answer. What agrees with them is rewarded now, right or wrong: "
        "look at the references on the report page, stop at the checkpoint before, or raise method.kl_weight",
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

REFRESHES = 1
"""So often a second a terminal is drawn anew."""

SPEED_SECONDS = 3600.0
"""The time left is estimated by the speed of so long, as a step may take minutes."""

SPARE = 2
"""Lines of a terminal that are left to what is said above the bars, and to the cursor."""

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
        self._figures = LiveFigures()
        self._progress = _Bars(self._figures, self.console, disable=not sys.stderr.isatty())
        self._steps = self._progress.add_task("step", total=steps)
        self._episodes = self._progress.add_task("episodes", total=None, visible=False)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.update(self._episodes, visible=False)
        self._progress.stop()

    def begin(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Goes on with a run.

        Args:
            step: How many steps have been done.
            rows: Their figures, as the run folder has them.
        """
        self._progress.reset(self._steps, completed=step)  # and with it the speed: these steps took no time now
        for row in rows:
            self._figures.add(row["step"], row)

    def say(self, text: str) -> None:
        """A message of its own line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)  # paths stay whole, to be copied

    def problems(self, where: str, trajectories: Sequence[Trajectory]) -> None:
        """Says what went wrong with episodes: each problem once in a run, and how many of these episodes have it.

        Args:
            where: Which episodes they are.
            trajectories: All of them.
        """
        of_each = [list(problems_of(trajectory)) for trajectory in trajectories]
        self._figures.count(len(of_each), sum(bool(problems) for problems in of_each))
        found = Counter(problem for problems in of_each for problem in problems)
        for problem, count in found.most_common():
            if problem in self._problems or len(self._problems) == PROBLEMS:
                continue
            self._problems.add(problem)
            self.say(f"{where}: {problem} ({count} of {len(trajectories)} episodes)")
            if len(self._problems) == PROBLEMS:
                self.say("further problems are not said, but stored: `grpo-agents evaluate` counts them all")

    def evaluation(self, step: int, figures: dict[str, float], watched: Sequence[str] = ()) -> None:
        """The figures of an evaluation before a step; of the components that are watched, too."""
        self._figures.add(step, figures)
        missing = figures.get("eval/missing/reward", 0)
        without = f"; {missing:.0f} episodes have none" if missing else ""
        known = [_with_interval(name, figures) for name in ("reward", *watched) if f"eval/{name}" in figures]
        lacks = "" if "eval/reward" in figures else f"no evaluation reward{without}"
        said = f"evaluation {', '.join(known)}{'' if lacks else without}" if known else ""
        self.say(f"step {step}: {'; '.join(part for part in (lacks, said) if part)}")

    def step(self, step: int, figures: dict[str, float]) -> None:
        """The figures of a step; and what they mean, where that is not plain."""
        self._figures.add(step, figures)
        for name, (least, advice) in ADVICE.items():
            if figures.get(name, 0.0) >= least and name not in self._advised:
                self._advised.add(name)
                self.say(f"step {step + 1}: {advice}")
        self._progress.update(self._steps, completed=step + 1)
        self._progress.reset(self._episodes)
        if self._progress.disable and (step + 1) % max(1, self.steps // LINES) == 0:
            lost = [name for name in figures if name.startswith("missing/") or (name == "left_out" and figures[name])]
            shown = [name for name in (*SHOWN, *lost) if name in figures]
            line = "  ".join(f"{name.removeprefix('reward/').replace('/', ' ')} {figures[name]:.3g}" for name in shown)
            self.say(f"step {step + 1}/{self.steps}  {line}")

    def episodes(self, ended: int) -> None:
        """So many episodes of the batch under way have ended."""
        self._progress.update(self._episodes, advance=ended, visible=True)

    @contextmanager
    def evaluating(self, total: int) -> Iterator[Callable[[int], None]]:
        """A bar of its own for an evaluation; gives what is to be told of episodes that ended."""
        task = self._progress.add_task("evaluating", total=total)
        try:
            yield lambda ended: self._progress.update(task, advance=ended)
        finally:
            self._progress.remove_task(task)


def _with_interval(name: str, figures: Mapping[str, float]) -> str:
    low, high = figures[f"eval/{name}_low"], figures[f"eval/{name}_high"]
    interval = "n/a" if math.isnan(low) else f"{low:.3f} to {high:.3f}"
    return f"{name} {figures[f'eval/{name}']:.3f} (95 % interval {interval})"


class _Bars(Progress):
    """Bars, with figures beneath them."""

    def __init__(self, figures: LiveFigures, console: Console, *, disable: bool):
        self._beneath, self._screen = figures, console  # first, as all of it is drawn once when it is made
        super().__init__(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=REFRESHES,
            speed_estimate_period=SPEED_SECONDS,
            disable=disable,
        )

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bars and, as far as the terminal is high enough, the figures."""
        yield self.make_tasks_table(self.tasks)
        bars = sum(task.visible for task in self.tasks)
        if (room := self._screen.height - bars - SPARE) > 0:
            yield self._beneath.picture(self._screen.width, room)


def problems_of(trajectory: Trajectory) -> Iterator[str]:
    """What went wrong with an episode: its error, or why it lacks a reward."""
    if trajectory.error is not None:
        yield f"{trajectory.stop_reason}: {trajectory.error}"
    if trajectory.stop_reason not in FAILED:  # else rewards are missing because of it
        yield from (f"no {name}: {reason}" for name, reason in trajectory.missing.items())
