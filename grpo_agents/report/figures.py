"""The numbers behind a report's charts, as plain data; drawing them is the page's and the pictures' business."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from numbers import Real
from typing import Any

import numpy as np

from grpo_agents.evaluation.fronts import front
from grpo_agents.evaluation.statistics import mean_interval
from grpo_agents.report.facts import REWARD, Facts
from grpo_agents.scoring import Scoring

POINTS = 1000
"""The most points of a curve; a longer one is shown by means over equal stretches."""

BINS = 24
"""Bars of a histogram whose values differ too much for a bar each."""

PREFERENCES = 80
"""The most preferences that have a point each; more are put together by weights rounded to quarters."""

ERRORS = 40
"""The most errors that are listed; the rarer ones are counted together."""

_EVAL = "eval/"
_UNITS = {
    "reward": "scalar reward",
    "entropy": "nats per token",
    "kl": "nats per token",
    "grad_norm": "L2, before clipping",
    "sampled_tokens": "tokens per episode",
    "turns": "turns per episode",
    "tokens": "tokens per step",
}
_TITLES = {
    "reward": "Reward",
    "entropy": "Entropy of the policy",
    "kl": "Divergence from the reference",
    "grad_norm": "Gradient norm",
    "sampled_tokens": "Length of an episode",
    "turns": "Turns of an episode",
    "mismatch/mean": "Engine beside learner: mean difference of log-probs",
}
_FIRST = ("reward", "entropy", "kl", "grad_norm", "sampled_tokens", "turns", "mismatch/mean")


_USED = {
    "cost": ("dollars", "dollars"),
    "latency": ("seconds", "latency"),
    "length": ("tokens", "tokens"),
    "turns": ("turns", "turns"),
}  # what an episode took: its name, its unit and where the facts have it


@dataclass(frozen=True, slots=True)
class Series:
    """A curve.

    Attributes:
        name: ``training`` or ``evaluation``.
        steps: The training steps.
        values: The value at each.
        low: Lower ends of the 95 % interval; empty where there are none.
        high: Upper ends.
        stretch: How many values each point is the mean of.
    """

    name: str
    steps: list[float]
    values: list[float]
    low: list[float | None]
    high: list[float | None]
    stretch: int = 1


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves that belong in one chart.

    Attributes:
        key: The metric.
        title: What is drawn.
        unit: Of its values.
        series: The curves.
        main: False for what is folded away at first.
    """

    key: str
    title: str
    unit: str
    series: list[Series]
    main: bool


def panels(rows: Iterable[Mapping[str, Any]]) -> list[Panel]:
    """The curves of a run: training and evaluation of one thing in one chart, the reward and its components first.

    Args:
        rows: The rows of ``metrics.jsonl``. What is missing or no finite number is left out.
    """
    ordered = sorted((row for row in rows if _finite(row.get("step"))), key=lambda row: row["step"])
    keys = dict.fromkeys(key for row in ordered for key, value in row.items() if key != "step" and _finite(value))
    ends = {key for key in keys if key.endswith(("_low", "_high")) and key.rpartition("_")[0] in keys}
    subjects = dict.fromkeys(_subject(key) for key in keys if key not in ends)
    components = [name for name in subjects if name.startswith("reward/")]
    main = [name for name in _FIRST[:1] if name in subjects] + components
    main += [name for name in _FIRST[1:] if name in subjects]
    found = []
    for name in [*main, *(name for name in subjects if name not in main)]:
        series = [_series("training", ordered, name)] if name in keys else []
        series += [_series("evaluation", ordered, key) for key in _evaluations(name) if key in keys]
        title = _TITLES.get(name, name.removeprefix("reward/") if name in components else name)
        unit = _UNITS.get(name, "mean of the batch" if name in components else "")
        found.append(Panel(name, title, unit, series, name in main))
    return found


def _subject(key: str) -> str:
    """What a metric is about: ``eval/cost`` is of the component ``reward/cost``, ``eval/reward`` of ``reward``."""
    name = key.removeprefix(_EVAL)
    return key if name == key else name if name == "reward" else f"reward/{name}"


def _evaluations(subject: str) -> list[str]:
    if subject == "reward":
        return [f"{_EVAL}reward"]
    return [_EVAL + subject.removeprefix("reward/")] if subject.startswith("reward/") else []


def _series(name: str, rows: Sequence[Mapping[str, Any]], key: str) -> Series:
    known = [row for row in rows if _finite(row.get(key))]
    stretch = math.ceil(len(known) / POINTS)
    steps = _means([row["step"] for row in known], stretch)
    values = _means([row[key] for row in known], stretch)
    low, high = f"{key}_low", f"{key}_high"
    if stretch > 1 or not any(_finite(row.get(low)) and _finite(row.get(high)) for row in known):
        return Series(name, steps, values, [], [], stretch)
    ends = [[_rounded(row[end]) if _finite(row.get(end)) else None for row in known] for end in (low, high)]
    return Series(name, steps, values, ends[0], ends[1], stretch)


def _means(values: Sequence[float], stretch: int) -> list[float]:
    parts = (values[start : start + stretch] for start in range(0, len(values), stretch or 1))
    return [_rounded(sum(part) / len(part)) for part in parts]


def _finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _rounded(value: float) -> float:
    """Six digits, which is what a screen can show."""
    return float(f"{value:.6g}")


@dataclass(frozen=True, slots=True)
class Histogram:
    """How values are distributed, of one or several sets of trajectories.

    Attributes:
        name: Whose values.
        unit: Of them.
        edges: The ends of the bars, one more than there are bars; empty where each value has a bar of its own.
        labels: Those values; empty where there are edges.
        shares: The share of the trajectories in each bar, by set.
        means: The mean of each set, where it has values.
        missing: How many trajectories have no value, by set.
    """

    name: str
    unit: str
    edges: list[float]
    labels: list[float]
    shares: dict[str, list[float]]
    means: dict[str, float]
    missing: dict[str, int]


def histograms(sets: Mapping[str, Sequence[Facts]], scoring: Scoring | None) -> list[Histogram]:
    """The distributions of reward, components, price, latency, length and turns.

    What is the same number throughout, as the price of tools that nobody has, is left out, but for rewards.

    Args:
        sets: Trajectories by what they are called, as ``step 0`` and ``step 100``.
        scoring: Whose units are shown.
    """
    units = {entry.name: entry.unit for entry in scoring.vector} if scoring else {}
    names = dict.fromkeys(name for facts in sets.values() for entry in facts for name in entry.values)
    found = [
        _histogram(
            name, units.get(name, ""), {label: [e.values.get(name) for e in facts] for label, facts in sets.items()}
        )
        for name in names
    ]
    for name, (unit, field) in _USED.items():
        values = {label: [float(getattr(entry, field)) for entry in facts] for label, facts in sets.items()}
        if name not in names and len({value for some in values.values() for value in some}) > 1:
            found.append(_histogram(name, unit, values))
    return found


def _histogram(name: str, unit: str, sets: Mapping[str, Sequence[float | None]]) -> Histogram:
    known = {label: np.array([value for value in values if value is not None]) for label, values in sets.items()}
    everything = np.unique(np.concatenate(list(known.values()))) if known else np.array([])
    edges = np.array([])
    if len(everything) > BINS // 2:
        edges = _edges(everything)
        counts = {label: np.histogram(values, edges)[0] for label, values in known.items()}
    else:
        counts = {label: (values[:, None] == everything).sum(0) for label, values in known.items()}
    return Histogram(
        name=name,
        unit=unit,
        edges=[_rounded(edge) for edge in edges],
        labels=[] if len(edges) else [_rounded(value) for value in everything],
        shares={label: [_rounded(count / max(1, len(sets[label]))) for count in counts[label]] for label in sets},
        means={label: _rounded(float(values.mean())) for label, values in known.items() if len(values)},
        missing={label: len(values) - len(known[label]) for label, values in sets.items()},
    )


def _edges(values: np.ndarray) -> np.ndarray:
    """The ends of bars of one width, (bars + 1,); whole numbers are in the middle of theirs, equally many in each."""
    if (values == np.rint(values)).all():
        width = math.ceil((values.max() - values.min() + 1) / BINS)
        return np.arange(values.min() - 0.5, values.max() + width, width)
    return np.histogram_bin_edges(values, BINS)


@dataclass(frozen=True, slots=True)
class ParetoPoint:
    """What the policy did for one preference.

    Attributes:
        label: The preference.
        episodes: How many of them.
        values: The mean of each axis.
        low: Lower end of its 95 % interval, clustered by task; None where there is but one task.
        high: Upper end.
        on_front: By pair of axes, as ``outcome|cost``, and for all axes under an empty key.
    """

    label: str
    episodes: int
    values: dict[str, float]
    low: dict[str, float | None]
    high: dict[str, float | None]
    on_front: dict[str, bool]


@dataclass(frozen=True, slots=True)
class Pareto:
    """Accuracy against cost against latency.

    Attributes:
        accuracy: The axis to be maximised.
        costs: The axes to be minimised.
        units: By axis.
        points: One a preference, or a rounded one.
        rounded: Whether preferences were put together.
        why_not: Why there is nothing to be drawn; else empty.
    """

    accuracy: str
    costs: list[str]
    units: dict[str, str]
    points: list[ParetoPoint]
    rounded: bool = False
    why_not: str = ""


def pareto(facts: Sequence[Facts], scoring: Scoring | None) -> Pareto:
    """A point a preference, with the front of each pair of axes and of all of them.

    Accuracy is ``outcome``, or else the gate, or else the first component of which more is better. Cost and latency are
    the components of these names, or else what the tools cost.
    """
    accuracy = _accuracy(facts, scoring)
    if not facts or accuracy is None:
        return Pareto("", [], {}, [], why_not="no component says how often it was right (outcome, or a gate)")
    units = {"cost": "dollars", "latency": "seconds"}
    units |= {entry.name: entry.unit for entry in scoring.vector if entry.unit} if scoring else {}
    several = len({label(entry.preference) for entry in facts}) > PREFERENCES
    groups: dict[str, list[tuple[Facts, dict[str, float]]]] = defaultdict(list)
    for entry in facts:
        own = {"cost": entry.dollars, "latency": entry.latency}
        given = {name: entry.values.get(name, own.get(name)) for name in (accuracy, "cost", "latency")}
        if (values := {name: value for name, value in given.items() if value is not None}) and len(values) == 3:
            groups[label(entry.preference, 4 if several else 0)].append((entry, values))
    everything = [values for group in groups.values() for _, values in group]
    costs = [name for name in ("cost", "latency") if any(values[name] for values in everything)]
    if not costs:
        return Pareto(accuracy, [], {}, [], why_not="no episode cost anything, nor took a tool's time")
    axes = {accuracy: "max", **dict.fromkeys(costs, "min")}
    points = [_point(label, group, list(axes)) for label, group in sorted(groups.items())]
    for subset in ([accuracy, costs[0]], [accuracy, costs[-1]], list(axes)):
        key = "|".join(subset) if len(subset) == 2 else ""
        for point, on_front in zip(
            points, front([point.values for point in points], {name: axes[name] for name in subset}), strict=True
        ):
            point.on_front[key] = on_front
    return Pareto(accuracy, costs, {name: units.get(name, "") for name in axes}, points, several)


def _accuracy(facts: Sequence[Facts], scoring: Scoring | None) -> str | None:
    names = dict.fromkeys(name for entry in facts for name in entry.values if name != REWARD)
    wanted = ["outcome"]
    if scoring is not None:
        wanted += [scoring.gate] if scoring.gate else []
        wanted += [entry.name for entry in scoring.vector if entry.direction == "max"]
    return next((name for name in wanted if name in names), None)


def label(preference: Mapping[str, float], parts: int = 0) -> str:
    """A preference in words; its weights as shares rounded to so many parts of the whole, where a number is given."""
    total = sum(preference.values())
    if parts and total:
        preference = {name: round(parts * weight / total) / parts for name, weight in preference.items()}
    return " · ".join(f"{name} {weight:g}" for name, weight in preference.items()) or "no preference"


def _point(label: str, group: Sequence[tuple[Facts, dict[str, float]]], axes: Sequence[str]) -> ParetoPoint:
    tasks = [entry.task for entry, _ in group]
    intervals = {name: mean_interval([values[name] for _, values in group], tasks) for name in axes}
    ends = [
        {name: None if math.isnan(end := getattr(found, which)) else _rounded(end) for name, found in intervals.items()}
        for which in ("low", "high")
    ]
    means = {name: _rounded(found.mean) for name, found in intervals.items()}
    return ParetoPoint(label, len(group), means, ends[0], ends[1], {})


@dataclass(frozen=True, slots=True)
class Ends:
    """How episodes ended, and what went wrong.

    Attributes:
        batches: What each row of counts is of, as ``eval 100``.
        reasons: The columns.
        counts: Episodes by batch and reason.
        errors: Each error with how many episodes had it, the most frequent first.
        others: How many episodes had errors that are not listed.
    """

    batches: list[str]
    reasons: list[str]
    counts: list[list[int]]
    errors: list[tuple[str, int]]
    others: int


def ends(facts: Iterable[Facts]) -> Ends:
    """Counts stop reasons by batch, and errors over all."""
    counts: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    errors: Counter[str] = Counter()
    for entry in facts:
        counts[entry.phase, entry.step][entry.stop_reason] += 1
        errors.update(entry.errors)
    total = sum(counts.values(), Counter())
    reasons = [reason for reason, _ in total.most_common()]
    batches = sorted(counts, key=lambda batch: (batch[0] != "eval", *batch))
    return Ends(
        [batch_label(*batch) for batch in batches],
        reasons,
        [[counts[batch][reason] for reason in reasons] for batch in batches],
        errors.most_common(ERRORS),
        sum(count for _, count in errors.most_common()[ERRORS:]),
    )


def batch_label(phase: str, step: int) -> str:
    """What a batch is called: its phase and step, or without a step its phase."""
    return phase if step < 0 else f"{phase} {step}"


def as_data(figure: Any) -> Any:
    """A figure as plain data for JSON; what maps names to values becomes pairs, since a page trusts no names as keys.

    >>> as_data({"__proto__": ("a", 1)})
    [['__proto__', ['a', 1]]]
    """
    if is_dataclass(figure):
        return {field.name: as_data(getattr(figure, field.name)) for field in fields(figure)}
    if isinstance(figure, Mapping):
        return [[name, as_data(value)] for name, value in figure.items()]
    return [as_data(entry) for entry in figure] if isinstance(figure, list | tuple) else figure
