"""Episodes of the same tasks beside each other: is it better, is it cheaper, and could these have shown it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grpo_agents.evaluation import scalar_rewards
from grpo_agents.evaluation.episodes import Episodes
from grpo_agents.evaluation.statistics import POWER, Difference, Interval, mean_interval, paired_difference
from grpo_agents.evaluation.summary import TAKEN
from grpo_agents.evaluation.tables import NOT_KNOWN, Shown, Table, number, with_interval
from grpo_agents.rewards.component import Component


@dataclass(frozen=True, slots=True)
class Compared:
    """One measure on either side.

    Attributes:
        here: Its mean over the tasks that both have.
        there: The same of the other side.
        difference: Here less there, paired by task.
        direction: ``max`` where more is better, ``min`` where less is, empty where nobody said.
    """

    here: Interval
    there: Interval
    difference: Difference
    direction: str = ""


@dataclass(frozen=True, slots=True)
class Comparison(Shown):
    """What a comparison found.

    Attributes:
        tasks: How many tasks both have.
        only_here: How many only this side has; they take no part.
        only_there: How many only the other has.
        measures: By name: ``reward`` is the scalar one; of components, and of what episodes take.
    """

    tasks: int
    only_here: int
    only_there: int
    measures: dict[str, Compared]

    def tables(self) -> list[Table]:
        """What there is to say."""
        alone = f"; {self.only_here} tasks only here and {self.only_there} only there take no part"
        said = f"paired by {self.tasks} tasks, each counted once{alone if self.only_here or self.only_there else ''}"
        head = ["measure", "here", "there", "difference (95 %)", "p", f"smallest that {POWER:.0%} would show"]
        return [Table(f"Against the other, {said}", head, [_row(*entry) for entry in self.measures.items()])]


def _row(name: str, compared: Compared) -> list[str]:
    difference = compared.difference
    arrow = {"max": " ↑", "min": " ↓"}.get(compared.direction, "")
    small = difference.p_value < 0.001
    return [
        name + arrow,
        number(compared.here.mean),
        number(compared.there.mean),
        with_interval(difference.interval),
        "< 0.001" if small else NOT_KNOWN if np.isnan(difference.p_value) else f"{difference.p_value:.3f}",
        number(difference.detectable),
    ]


def compare(
    here: Episodes,
    there: Episodes,
    vector: Sequence[Component] = (),
    maxima: Mapping[str, float] | None = None,
    gate: str | None = None,
) -> Comparison:
    """Compares what both sides have, on the tasks that both have; a task counts once, however often it was played.

    Args:
        here: The episodes.
        there: Those that they are compared with.
        vector: The components: what makes the scalar reward of either side. Where it is empty there is none.
        maxima: The most an episode can cost, by component.
        gate: The component that the scalar reward is multiplied by.

    Raises:
        ValueError: They share no task.
    """
    directions = {entry.name: entry.direction for entry in vector}
    taken = [name for name in TAKEN if getattr(here, name).any() or getattr(there, name).any()]
    sides = [_measures(side, taken, vector, maxima or {}, gate) for side in (here, there)]
    tasks = [{side.task.values[code] for code in np.unique(side.task.codes)} for side in (here, there)]
    if not tasks[0] & tasks[1]:
        raise ValueError("the two sides share no task: compare evaluations of the same tasks")
    found = {}
    for name, values in sides[0].items():
        if name not in sides[1]:
            continue
        mine, theirs = _by_task(here, values), _by_task(there, sides[1][name])
        if shared := [task for task in mine if task in theirs]:
            found[name] = Compared(
                mean_interval(mine[task] for task in shared),
                mean_interval(theirs[task] for task in shared),
                paired_difference(mine, theirs),
                "min" if name in TAKEN else directions.get(name, "max" if name == "reward" else ""),
            )
    return Comparison(len(tasks[0] & tasks[1]), len(tasks[0] - tasks[1]), len(tasks[1] - tasks[0]), found)


def _measures(
    episodes: Episodes,
    taken: Sequence[str],
    vector: Sequence[Component],
    maxima: Mapping[str, float],
    gate: str | None,
) -> dict[str, np.ndarray]:
    """What is compared, (episodes,) each, NaN where it is missing."""
    scalar = {"reward": scalar_rewards(episodes, vector, maxima, gate)} if vector else {}
    return {**scalar, **episodes.rewards, **{name: getattr(episodes, name) for name in taken}}


def _by_task(episodes: Episodes, values: np.ndarray) -> dict[tuple[str, str], float]:
    """The mean of each task, without what is missing."""
    known = ~np.isnan(values)
    codes = episodes.task.codes[known]
    count = np.bincount(codes, minlength=len(episodes.task.values))
    total = np.bincount(codes, values[known], minlength=len(episodes.task.values))
    return {episodes.task.values[code]: float(total[code] / count[code]) for code in np.flatnonzero(count)}
