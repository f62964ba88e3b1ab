"""The figures of a run under way: what they are now, how they went, and two small curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from grpo_agents.terminal.text_pictures import Series, binned, dots, limits, sparkline

ROWS = (
    "reward",
    "reward/",
    "loss",
    "entropy",
    "kl",
    "groups_tied",
    "stopped/",
    "skipped/",
    "grad_norm",
    "missing/",
    "left_out",
)
"""Figures of a step in the order in which they are shown; all that begin so, where a slash is last."""

QUIET = ("groups_tied", "stopped/", "skipped/", "left_out")
"""They are left out as long as they are 0."""

LAST = 10
"""A mean is of so many steps."""

LABEL, SPARK = 20, 48
"""Columns that a figure's name and its curve take at the most."""

HEIGHT = 5
"""Lines of a curve."""

WIDE = 72
"""From so many columns on, two curves are side by side."""

NARROW = 40
"""With fewer columns, nothing is shown."""


class LiveFigures:
    """Takes figures from the run, and draws them whenever a terminal asks, in whichever thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._series: dict[str, Series] = {}
        self._latest: Mapping[str, Any] = {}
        self._evaluations: list[tuple[float, float, float, float]] = []
        self._steps = self._played = self._failed = 0
        self._drawn: tuple[tuple[int, int], _Still] | None = None

    def add(self, step: int, figures: Mapping[str, Any]) -> None:
        """Takes the figures of a step, or of an evaluation; None is one that is not finite."""
        known = {name: math.nan if value is None else float(value) for name, value in figures.items()}
        with self._lock:
            self._drawn = None
            if "eval/reward" in known:
                ends = (known.get(f"eval/reward{end}", math.nan) for end in ("", "_low", "_high"))
                self._evaluations.append((float(step), *ends))  # type: ignore[arg-type]
            if "seconds/step" in known:
                self._latest = known
                for name in {**self._series, **known}:
                    if _rank(name) < len(ROWS):
                        if name not in self._series:
                            self._series[name] = Series(self._steps * [_absent(name)])
                        self._series[name].add(known.get(name, _absent(name)))
                self._steps += 1

    def count(self, played: int, failed: int) -> None:
        """Takes how many episodes were played, and with how many something went wrong."""
        with self._lock:
            self._played, self._failed, self._drawn = self._played + played, self._failed + failed, None

    def picture(self, width: int, height: int) -> RenderableType:
        """What there is to see, in so many columns and no more lines than that; drawn anew only where it changed."""
        with self._lock:
            if self._drawn is None or self._drawn[0] != (width, height):
                self._drawn = (width, height), _Still(self._draw(width, height))
            return self._drawn[1]

    def _draw(self, width: int, height: int) -> RenderableType:
        if width < NARROW or height < 2 or not (self._series or self._evaluations):
            return Group()
        lines: list[RenderableType] = []
        if self._latest:
            lines.append(self._speed())
        shown = [name for name, series in self._series.items() if any(series.points) or not _is_quiet(name)]
        names = sorted(shown, key=_rank)
        curves = len(lines) + len(names) + 1 + HEIGHT + 1 <= height
        room = height - len(lines) - (HEIGHT + 1 if curves else 0) - 1
        if names and room > 0:
            lines.append(self._table(names[:room], width))
        if curves and (drawn := self._curves(width)) is not None:
            lines.append(drawn)
        return Group(*lines)

    def _speed(self) -> Text:
        """How fast it is, what takes the time, and what went wrong."""
        latest, whole = self._latest, self._latest["seconds/step"]
        said = [f"{latest['tokens'] / whole:,.0f} tokens a second"] if "tokens" in latest and whole > 0 else []
        said.append(f"{whole:,.3g} s a step")
        for word, key in {"sampling": "seconds/rollout", "learning": "seconds/learn"}.items():
            if key in latest and whole > 0:
                said.append(f"{100 * latest[key] / whole:.0f} % {word}")
        text = Text(style="dim", no_wrap=True, overflow="ellipsis")
        if self._failed:
            text.append(f"{self._failed:,} of {self._played:,} episodes failed", "red not dim").append(" · ")
        return text.append(" · ".join(said))

    def _table(self, names: Sequence[str], width: int) -> Text:
        """A row for each figure: now, the mean of the last steps, and how it went since the first.

        Of plain lines: they are drawn often, and a table takes several times as long.
        """
        label = min(LABEL, max(len(_shown(name)) for name in names))
        text = Text(no_wrap=True, overflow="crop")
        text.append(f"{'':{label}}{'now':>10}{f'last {LAST}':>10}  since the first step", "dim")
        for name in names:
            series = self._series[name]
            known = [value for value in series.last if math.isfinite(value)]
            mean = _number(sum(known) / len(known)) if known else "n/a"
            text.append(f"\n{_shown(name)[:label]:{label}}").append(f"{_number(series.last[-1]):>10}", "bold")
            text.append(f"{mean:>10}  ").append(sparkline(series.points, min(SPARK, width - label - 22)), "cyan")
        return text

    def _curves(self, width: int) -> Table | None:
        """Reward in training and in evaluation, side by side where there is room, else what is more."""
        drawn: list[tuple[str, list[tuple[float, float, float, float]]]] = []
        if (reward := self._series.get("reward")) is not None:
            means = binned(reward.points, width // 4)
            points = [(float(place), value, math.nan, math.nan) for place, value in enumerate(means)]
            drawn.append((f"reward of {self._steps:,} steps", points))
        if self._evaluations:
            step, mean, low, high = self._evaluations[-1]
            between = "" if math.isnan(low) else f" ({low:.3f} … {high:.3f})"
            drawn.append((f"evaluation at {step:.0f}: {mean:.3f}{between}", self._evaluations))
        if width < WIDE:
            drawn = drawn[-1:]
        if not drawn:
            return None
        grid = Table.grid(padding=(0, 2, 0, 0))
        each = width // len(drawn) - 2
        grid.add_row(*(_curve(title, points, each) for title, points in drawn))
        return grid


class _Still:
    """A picture that is rendered once, and given again as often as it is asked for."""

    def __init__(self, picture: RenderableType):
        self._picture = picture
        self._rendered: list[Segment] | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> list[Segment]:
        if self._rendered is None:
            self._rendered = list(console.render(self._picture, options))
        return self._rendered


def _curve(title: str, points: Sequence[tuple[float, float, float, float]], width: int) -> Text:
    """A title, and beneath it a curve with its limits at the left."""
    _, (low, high) = limits(points)
    labels = [_number(high), *[""] * (HEIGHT - 2), _number(low)]
    margin = max(map(len, labels))
    picture = dots(points, max(1, width - margin - 2), HEIGHT)
    text = Text(title, style="bold", no_wrap=True, overflow="ellipsis")
    for label, line in zip(labels, picture, strict=True):
        text.append(f"\n{label:>{margin}} ", "dim not bold").append("▕", "dim not bold").append(line, "cyan not bold")
    return text


def _rank(name: str) -> int:
    """Where a figure is shown; beyond the last place, one that is not."""
    return next((place for place, entry in enumerate(ROWS) if _among(name, entry)), len(ROWS))


def _among(name: str, entry: str) -> bool:
    """Whether an entry of a list means a figure."""
    return name == entry or (entry.endswith("/") and name.startswith(entry))


def _is_quiet(name: str) -> bool:
    return any(_among(name, entry) for entry in QUIET)


def _absent(name: str) -> float:
    """What a figure is in a step that does not have it: nothing of some is not told."""
    return 0.0 if name.startswith(("stopped/", "skipped/", "missing/")) else math.nan


def _shown(name: str) -> str:
    return name.removeprefix("reward/").replace("/", " ").replace("_", " ")


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "n/a"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
