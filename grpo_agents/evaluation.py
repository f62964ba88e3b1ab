"""Numbers from trajectories, without a model: means with intervals, paired comparisons, pass@k, tool use and errors.

The rollouts of one task are not independent, so every interval is clustered by task. A value that is missing is counted
and shown, and never averaged in.

>>> interval = mean_interval([1.0, 2.0, 6.0, 3.0])
>>> interval.mean, round(interval.low, 2), round(interval.high, 2)
(3.0, -0.44, 6.44)
>>> round(pass_at_k(4, 1, 2), 3)
0.5
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text
from scipy.special import stdtr, stdtrit

from grpo_agents.advantage import equal, utility
from grpo_agents.rewards.component import Component
from grpo_agents.tools import UNREADABLE
from grpo_agents.trajectory import Task, Trajectory

UNKNOWN = "unknown"
"""What the calls of tools that were not on offer are counted as, whatever the policy made up."""

SHOWN = 5
"""How many errors and reasons a table shows; a dict has all of them."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and where it may lie; low and high are NaN where they cannot be said (fewer than two clusters).

    Attributes:
        mean: The mean of the values; NaN where there are none.
        low: Lower end.
        high: Upper end.
        count: How many values.
        clusters: How many clusters (tasks) they come from.
    """

    mean: float
    low: float
    high: float
    count: int
    clusters: int


def mean_interval(values: Iterable[float], clusters: Iterable[Hashable] | None = None, level: float = 0.95) -> Interval:
    """The mean and its t-interval, robust to any dependence within clusters.

    With residual sums u_g = Σ_{i in g} (y_i − ȳ): Var ȳ = G/(G−1) · Σ_g u_g² / n², with G − 1 degrees of freedom (Liang
    and Zeger 1986). Where all values are equal it is a point, which is no sign of certainty.

    Args:
        values: The values.
        clusters: The cluster of each value; where None each is its own, which gives the plain t-interval.
        level: The share of such intervals that hold the true mean.

    Raises:
        ValueError: A value that is no finite number, or not one cluster a value.
    """
    sample = np.fromiter(values, np.float64)
    if not np.isfinite(sample).all():
        raise ValueError("a mean of NaN or infinity was asked for: count missing values apart, and leave them out")
    labels = list(range(len(sample)) if clusters is None else clusters)
    if len(labels) != len(sample):
        raise ValueError(f"{len(sample)} values have {len(labels)} clusters: give one for each value")
    number = {label: place for place, label in enumerate(dict.fromkeys(labels))}
    count, groups = len(sample), len(number)
    mean = float(sample.mean()) if count else math.nan
    if groups < 2:
        return Interval(mean, math.nan, math.nan, count, groups)
    sums = np.bincount([number[label] for label in labels], sample - mean)  # (clusters,)
    error = math.sqrt(groups / (groups - 1) * float(sums @ sums)) / count
    half = float(stdtrit(groups - 1, 0.5 + level / 2)) * error
    return Interval(mean, mean - half, mean + half, count, groups)


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired comparison.

    Attributes:
        interval: Of the mean difference over the shared tasks.
        p_value: Of the two-sided paired t-test; NaN where all differences are equal or there is but one.
        unpaired: How many tasks only one side has; they do not take part.
    """

    interval: Interval
    p_value: float
    unpaired: int


def paired_difference(a: Mapping[Any, float], b: Mapping[Any, float], level: float = 0.95) -> Difference:
    """How much a is above b on the tasks that both have.

    Args:
        a: One value a task, as :func:`by_task` gives them.
        b: The same for the other side.
        level: Of the interval.

    Raises:
        ValueError: They share no task.
    """
    shared = [task for task in a if task in b]
    if not shared:
        raise ValueError("the two sides share no task: compare evaluations of the same tasks")
    differences = np.array([a[task] - b[task] for task in shared])  # (tasks,)
    interval = mean_interval(differences, level=level)
    p_value = math.nan
    if not equal(differences):
        error = differences.std(ddof=1) / math.sqrt(len(shared))
        p_value = 2 * float(stdtr(len(shared) - 1, -abs(interval.mean) / error))
    return Difference(interval, p_value, len(a.keys() ^ b.keys()))


def by_task(
    trajectories: Iterable[Trajectory], value: Callable[[Trajectory], float | None]
) -> dict[tuple[str, str], float]:
    """The mean value of each task, without the trajectories where it is None.

    Args:
        trajectories: Any number for each task.
        value: What is averaged, as ``lambda trajectory: trajectory.rewards["outcome"]``.
    """
    values = defaultdict(list)
    for trajectory in trajectories:
        if (number := value(trajectory)) is not None:
            values[task_key(trajectory.env, trajectory.task)].append(number)
    return {task: float(np.mean(numbers)) for task, numbers in values.items()}


def task_key(env: str, task: Task) -> tuple[str, str]:
    """What tells a task from others: its environment and its ``id``, or where it has none all of it as JSON text."""
    name = task.get("id")
    return env, json.dumps(task if name is None else name, sort_keys=True)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased chance that one of k rollouts is right: 1 − C(n−c, k) / C(n, k) (Chen et al. 2021, eq. 1).

    Args:
        n: Rollouts of the task.
        c: How many of them were right.
        k: At most n.

    Raises:
        ValueError: Not 1 ≤ k ≤ n, or not 0 ≤ c ≤ n.
    """
    if not (1 <= k <= n and 0 <= c <= n):
        raise ValueError(f"pass@{k} of {n} rollouts with {c} right: sample at least k rollouts a task, k at least 1")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


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
class Summary:
    """What an evaluation found.

    Attributes:
        trajectories: How many.
        tasks: Of how many tasks.
        turns: The policy's messages an episode.
        sampled_tokens: The policy's tokens an episode.
        untrainable: How many have no token ids: nothing can be trained on them.
        reward: The scalar reward; None where no vector says how to compute it.
        components: By name.
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
    components: dict[str, Measure]
    stop_reasons: dict[str, int]
    errors: dict[str, int]
    tool_calls: dict[str, float]
    tool_errors: dict[str, float]
    tool_calls_by_preference: dict[str, dict[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: plain values, None for what cannot be said."""
        return _without_nan(asdict(self))

    def as_table(self) -> Lines:
        """For the terminal, to be printed by a ``rich.console.Console``."""
        tables = []
        for title, head, rows in self._tables():
            table = Table(title=title, title_justify="left")
            for place, name in enumerate(head):
                table.add_column(name, justify="right" if place else "left")
            for row in rows:
                table.add_row(*map(Text, row))  # Text, since an error's brackets would be taken for markup
            tables.append(table)
        return Lines(*tables)

    def _tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Title, head and rows of each table that has something to say."""
        measures = {**({"reward (scalar)": self.reward} if self.reward else {}), **self.components}
        groups = self.tool_calls_by_preference.values()
        calls = [
            [
                name,
                _number(often),
                *(_number(group[name]) for group in groups),
                _number(self.tool_errors.get(name, math.nan)),
            ]
            for name, often in self.tool_calls.items()
        ]
        ends = [[name, str(count), _number(count / self.trajectories)] for name, count in self.stop_reasons.items()]
        errors = [[error, str(count)] for error, count in self.errors.items()]
        if len(errors) > SHOWN:
            errors[SHOWN:] = [[f"{len(errors) - SHOWN} others", str(sum(int(count) for _, count in errors[SHOWN:]))]]
        heaviest = [f"heaviest: {group}" for group in self.tool_calls_by_preference]
        said = f"{_number(self.turns)} turns and {_number(self.sampled_tokens)} tokens an episode"
        if self.untrainable:
            said += f"; {self.untrainable} without token ids, not trainable"
        tables = [
            (
                f"{self.trajectories} episodes of {self.tasks} tasks, {said}",
                ["component", "unit", "mean", "95 % interval", "missing", "why missing"],
                [_measure_row(name, measure) for name, measure in measures.items()],
            ),
            ("How they ended", ["stop reason", "episodes", "share"], ends),
            ("Tool calls an episode", ["tool", "all", *heaviest, "share failed"], calls),
            ("Errors", ["error", "episodes"], errors),
        ]
        return [table for table in tables if table[2]]


def _measure_row(name: str, measure: Measure) -> list[str]:
    interval = measure.interval
    between = "n/a" if math.isnan(interval.low) else f"{_number(interval.low)} … {_number(interval.high)}"
    why = "; ".join(f"{reason} ({count})" for reason, count in list(measure.reasons.items())[:SHOWN])
    arrow = {"max": " ↑", "min": " ↓"}.get(measure.direction, "")
    return [name + arrow, measure.unit, _number(interval.mean), between, str(measure.missing), why]


@dataclass(slots=True)
class _Values:
    """What was seen of one component."""

    values: list[float] = field(default_factory=list)
    tasks: list[Hashable] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, task: Hashable, value: float | None, reason: str) -> None:
        if value is None:
            self.reasons[reason] += 1
        else:
            self.values.append(value)
            self.tasks.append(task)


def evaluate(
    trajectories: Iterable[Trajectory],
    vector: Sequence[Component] = (),
    maxima: Mapping[str, float] | None = None,
    gate: str | None = None,
) -> Summary:
    """Sums up trajectories, in one pass (:func:`grpo_agents.store.iterate` will do).

    Args:
        trajectories: The episodes, with their rewards.
        vector: The components: what makes the scalar reward (:func:`grpo_agents.advantage.utility`), its directions and
            units. Where it is empty there is no scalar reward.
        maxima: The most an episode can cost, by component.
        gate: The component that the scalar reward is multiplied by.

    Raises:
        ValueError: No trajectories, a gate that is no component, or a reward that is no finite number.
    """
    known = {entry.name: entry for entry in vector}
    if gate is not None and gate not in known:
        raise ValueError(f"the gate {gate!r} is not among the components: {', '.join(known) or 'none were given'}")
    reward = _Values()
    seen: dict[str, _Values] = defaultdict(_Values)
    tasks: set[Hashable] = set()
    stop_reasons: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    calls: dict[str, Counter[str]] = defaultdict(Counter)
    episodes: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    offered: dict[str, None] = {}
    count = turns = tokens = untrainable = 0
    for trajectory in trajectories:
        count += 1
        task = task_key(trajectory.env, trajectory.task)
        tasks.add(task)
        turns += len(trajectory.steps)
        tokens += trajectory.sampled_tokens
        untrainable += not trajectory.trainable
        for name, value in trajectory.rewards.items():
            seen[name].add(task, value, trajectory.missing.get(name, "no reason given"))
        if vector:
            value = utility(trajectory.rewards, trajectory.preference, vector, maxima or {}, gate)
            reward.add(task, value, "a component is missing")
        stop_reasons[trajectory.stop_reason] += 1
        if trajectory.error is not None:
            errors[trajectory.error] += 1
        heaviest = _heaviest(trajectory.preference)
        episodes[heaviest] += 1
        on_offer = dict.fromkeys(schema["function"]["name"] for schema in trajectory.tools)
        offered |= on_offer
        for run in (run for step in trajectory.steps for run in step.tools):
            name = run.name if run.name in on_offer or run.name == UNREADABLE else UNKNOWN
            offered[name] = None
            calls[heaviest][name] += 1
            failed[name] += run.error is not None
    if not count:
        raise ValueError("there are no trajectories to evaluate: name files or a folder that hold some")
    total = sum(calls.values(), Counter())
    return Summary(
        trajectories=count,
        tasks=len(tasks),
        turns=turns / count,
        sampled_tokens=tokens / count,
        untrainable=untrainable,
        reward=_measure(reward, count, None) if vector else None,
        components={name: _measure(values, count, known.get(name)) for name, values in seen.items()},
        stop_reasons=dict(stop_reasons.most_common()),
        errors=dict(errors.most_common()),
        tool_calls={name: total[name] / count for name in offered},
        tool_errors={name: failed[name] / total[name] for name in offered if total[name]},
        tool_calls_by_preference={
            group: {name: calls[group][name] / often for name in offered} for group, often in sorted(episodes.items())
        },
    )


def _measure(seen: _Values, count: int, component: Component | None) -> Measure:
    missing = count - len(seen.values)
    if absent := missing - seen.reasons.total():
        seen.reasons["not computed"] += absent
    direction, unit = (component.direction, component.unit) if component else ("", "")
    return Measure(mean_interval(seen.values, seen.tasks), missing, dict(seen.reasons.most_common()), direction, unit)


def _heaviest(preference: Mapping[str, float]) -> str:
    """The component that weighs most; several, where they weigh the same."""
    top = max(preference.values(), default=0.0)
    return " = ".join(sorted(name for name, weight in preference.items() if weight == top)) or "no preference"


def _number(value: float) -> str:
    if math.isnan(value):
        return "n/a"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(entry) for name, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
