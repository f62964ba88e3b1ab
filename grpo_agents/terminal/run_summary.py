"""What came of a run, for the person who comes back to it: read off its folder, whoever trained it and how often."""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from grpo_agents import store
from grpo_agents.evaluation.columns import task_key
from grpo_agents.evaluation.statistics import mean_interval
from grpo_agents.run_folder import RunFolder
from grpo_agents.terminal.display import problems_of
from grpo_agents.utility import utility

if TYPE_CHECKING:
    from grpo_agents.scoring import Scoring
    from grpo_agents.trajectory import Trajectory

    Value = Callable[[Trajectory], float | None]

PROBLEMS = 5
"""So many different problems are shown."""

_BATCH = ("reward", "reward/", "loss", "entropy", "kl", "groups_tied")
_ARROWS = {"max": " ↑", "min": " ↓"}


class RunSummary:
    """What is known of a run.

    Args:
        folder: The run's.
    """

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self.config: dict[str, Any] = tomllib.loads(folder.config.read_text(encoding="utf-8"))
        rows = folder.read_metrics()
        self.steps = [row for row in rows if "seconds/step" in row]
        self._rows = rows
        files = sorted(folder.trajectories.glob("eval-*.parquet"))
        self.evaluations = [files[0], files[-1]] if len(files) > 1 else files

    def print(self, console: Console) -> None:
        """Shows all of it."""
        console.print()
        console.print(self._headline(), soft_wrap=True)
        for table in (self._evaluated(), self._batches()):
            if table is not None:
                console.print(table)
        for line in self._problems():
            console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def _headline(self) -> Text:
        """What was trained, and for how long."""
        config, done = self.config, len(self.steps)
        seconds = sum(row["seconds/step"] or 0.0 for row in self.steps)
        text = Text(f"{config['method']['name']} on {config['env']['id']}", style="bold")
        text.append(f": {done:,} of {config['train']['steps']:,} steps in {duration(seconds)}", "not bold")
        if done:
            text.append(f", {seconds / done:.3g} s each", "not bold")
        if tokens := sum(row.get("tokens") or 0.0 for row in self.steps):
            text.append(f"; {tokens:,.0f} tokens learned from", "not bold")
        return text

    def _evaluated(self) -> Table | None:
        """Means of the first and the last evaluation, and their difference paired by task."""
        if not self.evaluations:
            return None
        sides = [store.read(file) for file in self.evaluations]
        scoring = store.read_scoring(self.evaluations[-1])
        steps = [int(file.stem.rpartition("-")[2]) for file in self.evaluations]
        said = f"Evaluation of {len(sides[-1]):,} episodes: mean ± 95 % interval, clustered by task"
        table = Table(title=said, title_justify="left", title_style="bold")
        table.add_column("", no_wrap=True)
        for step in steps:
            table.add_column(f"after {step:,} steps", justify="right")
        if len(sides) > 1:
            table.add_column("difference (paired)", justify="right")
        for section in (_rewards(scoring), _tool_calls(sides)):
            for name, value in section.items():
                table.add_row(name, *_compared(sides, value))
            table.add_section()
        return table

    def _batches(self) -> Table | None:
        """Figures of the batches: the mean of the first tenth of all steps, and of the last."""
        few = max(1, len(self.steps) // 10)
        names = [
            name
            for shown in _BATCH
            for name in dict.fromkeys(name for row in self.steps for name in row)
            if name == shown or (shown.endswith("/") and name.startswith(shown))
        ]
        if not names:
            return None
        table = Table(title="Batches, means", title_justify="left", title_style="bold")
        table.add_column("", no_wrap=True)
        table.add_column("first step" if few == 1 else f"first {few:,} steps", justify="right")
        both = len(self.steps) > 1
        if both:
            table.add_column("last step" if few == 1 else f"last {few:,} steps", justify="right")
        for name in names:
            sides = (self.steps[:few], self.steps[-few:])[: 1 + both]
            table.add_row(
                name.removeprefix("reward/").replace("_", " "), *(_number(_mean(side, name)) for side in sides)
            )
        return table

    def _problems(self) -> list[str]:
        """What went wrong, counted."""
        counted = {
            "episodes left out of learning": "left_out",
            "updates not made, as something was not finite": "skipped/non_finite",
            "updates not made, as π/π_old exploded": "skipped/ratio",
            "updates not made, as nothing had a gradient": "skipped/no_gradient",
        }
        lines = [
            f"{words}: {count:,.0f}"
            for words, key in counted.items()
            if (count := sum(row.get(key) or 0.0 for row in self.steps))
        ]
        missing: Counter[str] = Counter()
        for row in self._rows:
            for name, value in row.items():
                if "missing/" in name and name != "eval/missing/reward":
                    missing[name.replace("missing/", "").replace("eval/", "(in evaluation) ")] += int(value or 0)
        lines += [f"episodes without {name}: {count:,}" for name, count in missing.items() if count]
        if self.evaluations:
            last = Counter(problem for entry in store.iterate(self.evaluations[-1]) for problem in problems_of(entry))
            lines += [
                f"episodes of the last evaluation with {problem}: {count:,}"
                for problem, count in last.most_common(PROBLEMS)
            ]
        return lines


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(7.25), duration(75), duration(3 * 3600 + 120)
    ('7.2 s', '1 min 15 s', '3 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def _rewards(scoring: Scoring | None) -> dict[str, Value]:
    """What an episode is worth: all in all, and by component."""
    if scoring is None:
        return {}

    def whole(trajectory: Trajectory) -> float | None:
        return utility(trajectory.rewards, trajectory.preference, scoring.vector, scoring.maxima, scoring.gate)

    return {"reward": whole} | {
        f"{entry.name}{_ARROWS[entry.direction]}": lambda trajectory, name=entry.name: trajectory.rewards.get(name)
        for entry in scoring.vector
    }


def _tool_calls(sides: Sequence[Sequence[Trajectory]]) -> dict[str, Value]:
    """How often an episode calls each tool that was on offer."""
    offered = dict.fromkeys(
        schema["function"]["name"] for side in sides for trajectory in side for schema in trajectory.tools
    )

    def calls(trajectory: Trajectory, name: str) -> float:
        return float(sum(run.name == name for step in trajectory.steps for run in step.tools))

    return {f"calls of {name}": lambda trajectory, name=name: calls(trajectory, name) for name in offered}


def _compared(sides: Sequence[Sequence[Trajectory]], value: Value) -> list[str]:
    """The mean of a value on each side and, of two, how much the second is above the first.

    The evaluations of a run have the same tasks, preferences and seeds, so that their episodes are pairs.
    """
    known = [
        {(key, entry.id): number for entry, key in _with_tasks(side) if (number := value(entry)) is not None}
        for side in sides
    ]
    cells = [_interval(numbers) for numbers in known]
    if len(known) > 1:
        first, last = known
        cells.append(_interval({key: last[key] - number for key, number in first.items() if key in last}, "+"))
    return cells


def _with_tasks(side: Sequence[Trajectory]) -> Iterator[tuple[Trajectory, tuple[str, str]]]:
    return ((entry, task_key(entry.env, entry.task)) for entry in side)


def _interval(numbers: Mapping[tuple[Any, str], float], sign: str = "") -> str:
    """The mean of numbers by task and episode, and half of its interval."""
    if not numbers:
        return "n/a"
    interval = mean_interval(numbers.values(), [task for task, _ in numbers])
    return f"{interval.mean:{sign}.3f}" + (
        "" if math.isnan(interval.low) else f" ± {interval.high - interval.mean:.3f}"
    )


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    known = [value for row in rows if (value := row.get(name)) is not None]
    return sum(known) / len(known) if known else math.nan


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.3g}"
