"""Numbers from trajectories, without a model: rewards with intervals, pass@k, what episodes take, tool use and errors.

Every interval is clustered by task. A value that is missing is counted and shown, and never averaged in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from grpo_agents.evaluation.columns import NONE, Coded
from grpo_agents.evaluation.episodes import Episodes
from grpo_agents.evaluation.statistics import (
    Interval,
    majority_at_k,
    mean_interval,
    pass_at_k,
    pass_hat_k,
    ratio_interval,
)
from grpo_agents.evaluation.summary import PASSED, TAKEN, UNKNOWN, Drawn, Measure, Spread, Summary
from grpo_agents.rewards.component import Component
from grpo_agents.rewards.cost import USES
from grpo_agents.tools import UNREADABLE
from grpo_agents.trajectory import Task, Trajectory
from grpo_agents.utility import utilities, utility, weight_of

Best = Callable[[Task, Mapping[str, float]], float | None]
"""The best scalar reward that can be expected of a task under a preference; None where it is not known."""

DRAWS = (1, 2, 4, 8, 16, 32, 64)
"""The k of pass@k, as far as there are rollouts."""


Expected = Callable[[Task], Mapping[str, Mapping[str, float]]]
"""What each choice earns on average, by component: :meth:`AgentEnv.expected_rewards`."""


def worths_of(
    expected: Expected, vector: Sequence[Component], maxima: Mapping[str, float], gate: str | None
) -> Callable[[Task, Mapping[str, float]], dict[str, float]]:
    """The scalar reward that can be expected of each choice at a task under a preference, as far as it is known.

    Right for a gate that is 0 or 1, and does not depend on the other rewards that a choice brings: where it costs the
    same every time.
    """

    def worth(rewards: Mapping[str, float], preference: Mapping[str, float]) -> float | None:
        if gate is None or gate not in rewards:
            return utility(rewards, preference, vector, maxima, gate)
        passed = utility({**rewards, gate: 1.0}, preference, vector, maxima, gate)
        return None if passed is None else rewards[gate] * passed

    def worths(task: Task, preference: Mapping[str, float]) -> dict[str, float]:
        found = {name: worth(rewards, preference) for name, rewards in expected(task).items()}
        return {name: known for name, known in found.items() if known is not None}

    return worths


def best_of(expected: Expected, vector: Sequence[Component], maxima: Mapping[str, float], gate: str | None) -> Best:
    """The best scalar reward that can be expected; see :func:`worths_of`.

    It is not known where using a tool earns something: using it again earns that again.
    """
    worths = worths_of(expected, vector, maxima, gate)

    def best(task: Task, preference: Mapping[str, float]) -> float | None:
        if any(weight and name.startswith(USES) for name, weight in preference.items()):
            return None
        return max(worths(task, preference).values(), default=None)

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
        what: The episodes, with their rewards: trajectories, or what :meth:`Episodes.read` reads without making any.
        vector: The components: what makes the scalar reward (:func:`grpo_agents.utility.utilities`), its directions
            and units. Where it is empty there is no scalar reward.
        maxima: The most an episode can cost, by component.
        gate: The component that the scalar reward is multiplied by. It says as well who passed; else ``outcome`` does,
            or ``gold_outcome`` where training saw no gold answers.
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
    judge = gate or ("outcome" if "outcome" in episodes.rewards else "gold_outcome")
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
    """Σ U / Σ best over the episodes of which both are known; None where a best is negative, or all are 0."""
    pairs, places = np.unique(np.stack([episodes.task.codes, episodes.preference.codes]), axis=1, return_inverse=True)
    found = [
        best(episodes.task_of(int(task)), dict(episodes.preference.values[preference])) for task, preference in pairs.T
    ]
    top = np.array([np.nan if value is None else value for value in found])[places.ravel()]
    known = ~np.isnan(top) & ~np.isnan(reward)
    if (top[known] < 0).any() or not top[known].any():
        return None
    return ratio_interval(reward[known], top[known], episodes.task.codes[known])


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
    """What each call is counted as: one value for each tool that was on offer, and for what was not.

    A tool counts under its own name; of one that was offered under another and never called, only that other is known.
    """
    offers = [episodes.offered.values[code] for code in np.unique(episodes.offered.codes)]
    aliases = episodes.called.counts()
    names = dict.fromkeys(name for offer in offers for name in offer if name not in aliases)
    book = {name: code for code, name in enumerate(names)}
    aliased = episodes.called.codes != NONE
    asked = np.stack([episodes.offered.codes[episodes.call_of], episodes.tool.codes, aliased])
    pairs, places = np.unique(asked, axis=1, return_inverse=True)
    codes = []
    for offer, tool, by_alias in pairs.T:
        name = episodes.tool.values[tool]
        known = by_alias or name == UNREADABLE or name in episodes.offered.values[offer]
        codes.append(book.setdefault(name if known else UNKNOWN, len(book)))
    return Coded(np.array(codes, np.int64)[places.ravel()], list(book))


def _heaviest(preference: Mapping[str, float]) -> str:
    """The component that weighs most; several, where they weigh the same."""
    top = max(preference.values(), default=0.0)
    return " = ".join(sorted(name for name, weight in preference.items() if weight == top)) or "no preference"
