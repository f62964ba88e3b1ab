"""What an evaluation found, and how it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from grpo_agents.evaluation.statistics import Interval
from grpo_agents.evaluation.tables import NOT_KNOWN, Shown, Table, between, number, with_interval

UNKNOWN = "unknown"
"""What the calls of tools that were not on offer are counted as, whatever the policy made up."""

SHOWN = 5
"""How many errors and reasons a table shows; a dict has all of them."""

PASSED = 0.5
"""From which value on of the component that says so an episode has passed."""

TAKEN = {"tokens": "sampled", "turns": "", "calls": "of tools", "dollars": "spent", "latency": "s of tools",
         "seconds": "measured"}  # fmt: skip
"""What an episode takes, and of what."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One component over all trajectories.

    Attributes:
        interval: Its mean, clustered by task, over the trajectories that have it.
        missing: How many have not.
        reasons: Why, with how many each.
        direction: ``max`` where more is better, ``min`` where less is, empty where nobody said.
        unit: Of its values.
    """

    interval: Interval
    missing: int
    reasons: dict[str, int]
    direction: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What k rollouts of a task come to; means over the tasks that have k.

    Attributes:
        any: pass@k, the chance that one is right.
        all: pass^k, the chance that all are.
        majority: majority@k, the chance that their commonest answer is.
    """

    any: Interval
    all: Interval
    majority: Interval


@dataclass(frozen=True, slots=True)
class Spread:
    """What episodes take of something.

    Attributes:
        interval: The mean.
        median: As much as half of them take at most.
        p90: As much as nine of ten do.
        p99: As much as 99 of 100 do.
        most: What one took.
    """

    interval: Interval
    median: float
    p90: float
    p99: float
    most: float


@dataclass(frozen=True, slots=True)
class Summary(Shown):
    """What an evaluation found.

    Attributes:
        trajectories: How many.
        tasks: Of how many tasks.
        turns: The policy's messages an episode.
        sampled_tokens: The policy's tokens an episode.
        untrainable: How many have no token ids: nothing can be trained on them.
        reward: The scalar reward; None where no vector says how to compute it.
        share_of_best: It as a share of the best that could be expected; None where that is not known.
        components: By name.
        passed_by: The component that says whether an episode passed, from :data:`PASSED` on; None without one.
        draws: By k, what k rollouts of a task come to.
        taken: What an episode takes, by :data:`TAKEN`.
        stop_reasons: How many episodes ended how.
        errors: How many episodes ended in which error.
        tool_calls: Calls an episode, by tool; 0 for one that was on offer and never called; see :data:`UNKNOWN`.
        tool_errors: The share of its calls that failed, by tool that was called.
        tool_calls_by_preference: Calls an episode by tool, of the episodes with each component as their heaviest.
    """

    trajectories: int
    tasks: int
    turns: float
    sampled_tokens: float
    untrainable: int
    reward: Measure | None
    share_of_best: Interval | None
    components: dict[str, Measure]
    passed_by: str | None
    draws: dict[int, Drawn]
    taken: dict[str, Spread]
    stop_reasons: dict[str, int]
    errors: dict[str, int]
    tool_calls: dict[str, float]
    tool_errors: dict[str, float]
    tool_calls_by_preference: dict[str, dict[str, float]]

    def tables(self) -> list[Table]:
        """What there is to say."""
        said = f"{number(self.turns)} turns and {number(self.sampled_tokens)} tokens an episode"
        if self.untrainable:
            said += f"; {self.untrainable} without token ids, not trainable"
        return [
            Table(
                f"{self.trajectories} episodes of {self.tasks} tasks, {said}",
                ["component", "unit", "mean", "95 % interval", "missing", "why missing"],
                self._measure_rows(),
            ),
            Table(
                f"k rollouts of a task: right where {self.passed_by} ≥ {PASSED:g}",
                ["", "one is right (pass@k)", "all are (pass^k)", "the commonest is (majority@k)", "tasks"],
                self._drawn_rows(),
            ),
            Table(
                "What an episode takes",
                ["", "mean", "95 % interval", "median", "90 %", "99 %", "most"],
                [_spread_row(name, spread) for name, spread in self.taken.items() if spread.most],
            ),
            Table(
                "How they ended",
                ["stop reason", "episodes", "share"],
                [[name, str(count), number(count / self.trajectories)] for name, count in self.stop_reasons.items()],
            ),
            Table(
                "Tool calls an episode",
                ["tool", "all", *(f"heaviest: {name}" for name in self.tool_calls_by_preference), "share failed"],
                self._tool_rows(),
            ),
            Table("Errors", ["error", "episodes"], self._error_rows()),
        ]

    def _measure_rows(self) -> list[list[str]]:
        rows = [] if self.reward is None else [_measure_row("reward (scalar)", self.reward)]
        if self.share_of_best is not None:
            interval = self.share_of_best
            rows.append(["share of the best", "", number(interval.mean), between(interval), "0", ""])
        return rows + [_measure_row(name, measure) for name, measure in self.components.items()]

    def _drawn_rows(self) -> list[list[str]]:
        if len(self.draws) < 2:  # of one rollout each it is the component's mean
            return []
        return [
            [f"k = {k}", with_interval(drawn.any), with_interval(drawn.all), with_interval(drawn.majority),
             str(drawn.any.count)]
            for k, drawn in self.draws.items()
        ]  # fmt: skip

    def _tool_rows(self) -> list[list[str]]:
        groups = self.tool_calls_by_preference.values()
        return [
            [name, number(often), *(number(group[name]) for group in groups),
             number(self.tool_errors.get(name, np.nan))]
            for name, often in self.tool_calls.items()
        ]  # fmt: skip

    def _error_rows(self) -> list[list[str]]:
        rows = [[error, str(count)] for error, count in self.errors.items()]
        if len(rows) > SHOWN:
            rows[SHOWN:] = [[f"{len(rows) - SHOWN} others", str(sum(int(count) for _, count in rows[SHOWN:]))]]
        return rows


def _measure_row(name: str, measure: Measure) -> list[str]:
    interval = measure.interval
    why = "; ".join(f"{reason} ({count})" for reason, count in list(measure.reasons.items())[:SHOWN])
    arrow = {"max": " ↑", "min": " ↓"}.get(measure.direction, "")
    return [name + arrow, measure.unit, number(interval.mean), between(interval), str(measure.missing), why]


def _spread_row(name: str, spread: Spread) -> list[str]:
    quantiles = (spread.median, spread.p90, spread.p99, spread.most)
    return [
        f"{name} {TAKEN[name]}".strip(), number(spread.interval.mean), between(spread.interval), *map(number, quantiles)
    ]  # fmt: skip


def parts_table(by: str, parts: Mapping[str, Summary]) -> Table:
    """The rewards of parts of the episodes beneath each other."""
    names = list(dict.fromkeys(name for summary in parts.values() for name in summary.components))
    shared = any(summary.share_of_best is not None for summary in parts.values())
    scalar = any(summary.reward is not None for summary in parts.values())
    head = [by, "episodes", "tasks", *["reward"] * scalar, *["share of the best"] * shared, *names]
    rows = []
    for label, summary in parts.items():
        rewards = [] if summary.reward is None else [with_interval(summary.reward.interval)]
        share = [NOT_KNOWN if summary.share_of_best is None else with_interval(summary.share_of_best)] * shared
        components = [
            with_interval(summary.components[name].interval) if name in summary.components else NOT_KNOWN
            for name in names
        ]
        rows.append([label, str(summary.trajectories), str(summary.tasks), *rewards, *share, *components])
    return Table(f"By {by}", head, rows)
