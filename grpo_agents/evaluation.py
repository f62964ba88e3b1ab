"""Numbers from trajectories, without a model: rewards with intervals, pass@k, what episodes take, tool use and errors.

Every interval is clustered by task. A value that is missing is counted and shown, and never averaged in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from rich.console import Group as Lines

from grpo_agents.advantage import utilities, utility, weight_of
from grpo_agents.episode_columns import Coded, task_key
from grpo_agents.episodes import Episodes
from grpo_agents.rewards.component import Component
from grpo_agents.statistics import (
    Interval,
    majority_at_k,
    mean_interval,
    pass_at_k,
    pass_hat_k,
    ratio_interval,
)
from grpo_agents.tables import NOT_KNOWN, Table, as_markdown, between, drawn, number, plain, with_interval
from grpo_agents.tools import UNREADABLE
from grpo_agents.trajectory import Task, Trajectory

Best = Callable[[Task, Mapping[str, float]], float | None]
"""The best scalar reward that can be expected of a task under a preference; None where it is not known."""

UNKNOWN = "unknown"
"""What the calls of tools that were not on offer are counted as, whatever the policy made up."""

SHOWN = 5
"""How many errors and reasons a table shows; a dict has all of them."""

PASSED = 0.5
"""From which value on of the component that says so an episode has passed."""

DRAWS = (1, 2, 4, 8, 16, 32, 64)
"""The k of pass@k, as far as there are rollouts."""

TAKEN = {"tokens": "sampled", "turns": "", "calls": "of tools", "dollars": "of tools", "latency": "s of tools",
         "seconds": "measured"}  # fmt: skip
"""What an episode takes, and of what."""


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
        if (found := value(trajectory)) is not None:
            values[task_key(trajectory.env, trajectory.task)].append(found)
    return {task: float(np.mean(numbers)) for task, numbers in values.items()}


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
class Summary:
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

    def as_dict(self) -> dict[str, Any]:
        """For JSON: plain values, None for what cannot be said."""
        return plain(self)

    def as_table(self) -> Lines:
        """For the terminal, to be printed by a ``rich.console.Console``."""
        return drawn(self.tables())

    def as_markdown(self) -> str:
        """As Markdown."""
        return as_markdown(self.tables())

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


def best_of(
    expected: Callable[[Task], Mapping[str, Mapping[str, float]]],
    vector: Sequence[Component],
    maxima: Mapping[str, float],
    gate: str | None,
) -> Best:
    """The best scalar reward that can be expected, of what :meth:`AgentEnv.expected_rewards` says of each choice.

    Right for a gate that is 0 or 1, and does not depend on the other rewards that a choice brings: where it costs the
    same every time.
    """

    def worth(rewards: Mapping[str, float], preference: Mapping[str, float]) -> float | None:
        if gate is None or gate not in rewards:
            return utility(rewards, preference, vector, maxima, gate)
        passed = utility({**rewards, gate: 1.0}, preference, vector, maxima, gate)
        return None if passed is None else rewards[gate] * passed

    def best(task: Task, preference: Mapping[str, float]) -> float | None:
        worths = [worth(rewards, preference) for rewards in expected(task).values()]
        return max((known for known in worths if known is not None), default=None)

    return best


def evaluate(
    what: Iterable[Trajectory] | Episodes,
    vector: Sequence[Component] = (),
    maxima: Mapping[str, float] | None = None,
    gate: str | None = None,
    best: Best | None = None,
) -> Summary:
    """Sums up trajectories.

    Args:
        what: The episodes, with their rewards: trajectories, or what :meth:`grpo_agents.episodes.Episodes.read` reads
            without making any.
        vector: The components: what makes the scalar reward (:func:`grpo_agents.advantage.utilities`), its directions
            and units. Where it is empty there is no scalar reward.
        maxima: The most an episode can cost, by component.
        gate: The component that the scalar reward is multiplied by. It says as well who passed; else ``outcome`` does.
        best: What the scalar reward can come to, for the share of it.

    Raises:
        ValueError: No trajectories, or a gate that is no component.
    """
    episodes = what if isinstance(what, Episodes) else Episodes.of(what)
    known = {entry.name: entry for entry in vector}
    if gate is not None and gate not in known:
        raise ValueError(f"the gate {gate!r} is not among the components: {', '.join(known) or 'none were given'}")
    if not len(episodes):
        raise ValueError("there are no trajectories to evaluate: name files or a folder that hold some")
    reward = scalar_rewards(episodes, vector, maxima or {}, gate) if vector else None
    judge = gate or "outcome"
    return Summary(
        trajectories=len(episodes),
        tasks=len(np.unique(episodes.task.codes)),
        turns=float(episodes.turns.mean()),
        sampled_tokens=float(episodes.tokens.mean()),
        untrainable=int((~episodes.trainable).sum()),
        reward=None if reward is None else _measure(episodes, reward, None, None),
        share_of_best=None if reward is None or best is None else _share_of_best(episodes, reward, best),
        components={
            name: _measure(episodes, values, episodes.missing[name], known.get(name))
            for name, values in episodes.rewards.items()
        },
        passed_by=judge if judge in episodes.rewards else None,
        draws=_draws(episodes, episodes.rewards[judge]) if judge in episodes.rewards else {},
        taken={name: _spread(episodes, getattr(episodes, name)) for name in TAKEN},
        stop_reasons=episodes.stop_reason.counts(),
        errors=episodes.error.counts(),
        **_tool_use(episodes),
    )


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


def scalar_rewards(
    episodes: Episodes, vector: Sequence[Component], maxima: Mapping[str, float], gate: str | None
) -> np.ndarray:
    """The scalar reward of each episode under its preference, (episodes,); NaN where it has none."""
    preferences = [dict(pairs) for pairs in episodes.preference.values]
    weights = np.array([[weight_of(entry.name, weighs) for entry in vector] for weighs in preferences])
    return utilities(episodes.rewards, weights[episodes.preference.codes], vector, maxima, gate)


def _measure(episodes: Episodes, values: np.ndarray, reasons: Coded | None, component: Component | None) -> Measure:
    absent = np.isnan(values)
    why = {"a component is missing": int(absent.sum())} if reasons is None else reasons[absent].counts()
    if silent := int(absent.sum()) - sum(why.values()):
        why["not computed"] = silent
    why = {reason: count for reason, count in why.items() if count}
    direction, unit = (component.direction, component.unit) if component else ("", "")
    interval = mean_interval(values[~absent], episodes.task.codes[~absent])
    return Measure(
        interval, int(absent.sum()), {reason: count for reason, count in why.items() if count}, direction, unit
    )


def _share_of_best(episodes: Episodes, reward: np.ndarray, best: Best) -> Interval | None:
    """Σ U / Σ best over the episodes of which both are known."""
    pairs, places = np.unique(np.stack([episodes.task.codes, episodes.preference.codes]), axis=1, return_inverse=True)
    found = [
        best(episodes.task_of(int(task)), dict(episodes.preference.values[preference])) for task, preference in pairs.T
    ]
    top = np.array([np.nan if value is None else value for value in found])[places.ravel()]
    known = ~np.isnan(top) & ~np.isnan(reward)
    return ratio_interval(reward[known], top[known], episodes.task.codes[known]) if known.any() else None


def _draws(episodes: Episodes, values: np.ndarray) -> dict[int, Drawn]:
    known = ~np.isnan(values)
    if not known.any():
        return {}
    right = values[known] >= PASSED
    names, task = np.unique(episodes.task.codes[known], return_inverse=True)
    counts, passed = np.bincount(task), np.bincount(task, right)  # (tasks,)
    pairs, place = np.unique(np.stack([task, episodes.answer[known]]), axis=1, return_inverse=True)
    votes, votes_right = np.bincount(place.ravel()), np.bincount(place.ravel(), right)  # (answers,)
    ends = np.searchsorted(pairs[0], np.arange(len(names) + 1))
    voted = list(zip(votes.tolist(), votes_right.astype(int).tolist(), strict=True))
    answers = [tuple(sorted(voted[start:stop])) for start, stop in pairwise(ends)]
    found = {}
    for k in sorted({*DRAWS, min(int(counts.max()), DRAWS[-1])}):
        enough = np.flatnonzero(counts >= k)
        if not len(enough):
            break
        rollouts = [(int(counts[at]), int(passed[at])) for at in enough]
        found[k] = Drawn(
            mean_interval([pass_at_k(n, c, k) for n, c in rollouts]),
            mean_interval([pass_hat_k(n, c, k) for n, c in rollouts]),
            mean_interval([majority_at_k(answers[at], k) for at in enough]),
        )
    return found


def _spread(episodes: Episodes, values: np.ndarray) -> Spread:
    median, p90, p99, most = np.quantile(values, [0.5, 0.9, 0.99, 1.0]).tolist()
    return Spread(mean_interval(values.astype(np.float64), episodes.task.codes), median, p90, p99, most)


def _tool_use(episodes: Episodes) -> dict[str, dict[str, Any]]:
    """Calls an episode and the share that failed, by tool; and calls by the component that weighs most."""
    names = _tool_names(episodes)  # (calls,)
    count = len(names.values)
    total = np.bincount(names.codes, minlength=count)
    failed = np.bincount(names.codes, episodes.failed, minlength=count)
    heaviest = [_heaviest(dict(pairs)) for pairs in episodes.preference.values]
    groups = sorted({heaviest[code] for code in np.unique(episodes.preference.codes)})
    group = np.array([groups.index(name) if name in groups else -1 for name in heaviest])[episodes.preference.codes]
    table = np.zeros((len(groups), count))
    np.add.at(table, (group[episodes.call_of], names.codes), 1)
    table /= np.bincount(group, minlength=len(groups))[:, None]
    return {
        "tool_calls": dict(zip(names.values, (total / len(episodes)).tolist(), strict=True)),
        "tool_errors": {name: float(failed[at] / total[at]) for at, name in enumerate(names.values) if total[at]},
        "tool_calls_by_preference": {
            name: dict(zip(names.values, row, strict=True)) for name, row in zip(groups, table.tolist(), strict=True)
        },
    }


def _tool_names(episodes: Episodes) -> Coded:
    """What each call is counted as: one value for each tool that was on offer, and for what was not."""
    offers = [episodes.offered.values[code] for code in np.unique(episodes.offered.codes)]
    book = {name: code for code, name in enumerate(dict.fromkeys(name for offer in offers for name in offer))}
    asked = np.stack([episodes.offered.codes[episodes.call_of], episodes.tool.codes])
    pairs, places = np.unique(asked, axis=1, return_inverse=True)
    codes = []
    for offer, tool in pairs.T:
        name = episodes.tool.values[tool]
        known = name == UNREADABLE or name in episodes.offered.values[offer]
        codes.append(book.setdefault(name if known else UNKNOWN, len(book)))
    return Coded(np.array(codes, np.int64)[places.ravel()], list(book))


def _heaviest(preference: Mapping[str, float]) -> str:
    """The component that weighs most; several, where they weigh the same."""
    top = max(preference.values(), default=0.0)
    return " = ".join(sorted(name for name, weight in preference.items() if weight == top)) or "no preference"
