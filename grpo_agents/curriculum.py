"""Which tasks a step takes: each in its turn, those that teach most, and none that is too difficult yet.

The rewards of a yes/no task that the policy passes with probability p have variance p(1 − p): what is always passed, or
never, teaches a group method nothing. ``pass_rate`` keeps a posterior p ~ Beta(a, b) of every task and draws tasks by
E[p(1 − p)]. The tasks of a step follow from the seed, the step and the counts, which are in the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from pydantic import Field, model_validator

from grpo_agents.rewards.component import RewardVector
from grpo_agents.section import Section
from grpo_agents.tasks import Tasks, index_of
from grpo_agents.trajectory import Group, Task

TRIES = 1000
"""How many generated tasks are looked at for one that is not too difficult."""


class CurriculumConfig(Section):
    """Which tasks a step takes."""

    sampler: Literal["uniform", "pass_rate"] = Field(
        default="uniform",
        description="uniform: each in its turn; pass_rate: rather those that are passed now and then, of a source with "
        "an end.",
    )
    component: str | None = Field(
        default=None, description="What says whether a task is passed; advantage.gate where not set, else 'outcome'."
    )
    at_least: float = Field(default=0.5, description="From which value of the component on a task is passed.")
    prior: tuple[float, float] = Field(
        default=(1.0, 1.0), description="a and b of the Beta distribution of a pass rate of which nothing is known."
    )
    explore: float = Field(
        default=0.02, ge=0, description="Added to E[p(1 − p)], which is 0.25 at most, so that no task is given up."
    )
    decay: float = Field(
        default=0.99, gt=0, le=1, description="What a step leaves of older evidence, as policies change; 1 keeps all."
    )
    difficulty: str | None = Field(
        default=None, description="The key of a task that holds a number; tasks over the present limit are not drawn."
    )
    limits: tuple[float, float] | None = Field(
        default=None, description="The limit of the difficulty in the first step, and the one that it rises to."
    )
    until: float = Field(default=0.5, ge=0, le=1, description="The share of the run in which the limit rises.")

    @model_validator(mode="after")
    def _fits_together(self) -> CurriculumConfig:
        if not all(0 < value < math.inf for value in self.prior):
            raise ValueError(
                f"curriculum.prior is {list(self.prior)}, and a and b of a Beta distribution are above 0: [1.0, 1.0] "
                "takes every pass rate to be as likely as any other"
            )
        if (self.difficulty is None) != (self.limits is None):
            raise ValueError(
                "curriculum.difficulty and curriculum.limits go together: the key of a task that holds a number, and "
                'the limits to begin and to end with, as difficulty = "level", limits = [1, 5]'
            )
        if self.limits is not None and not -math.inf < self.limits[0] <= self.limits[1] < math.inf:
            raise ValueError(
                f"curriculum.limits is {list(self.limits)}, and has to be two numbers of which the first is not larger"
            )
        return self

    @property
    def chooses(self) -> bool:
        """Whether anything but the plain order is asked for."""
        return self.sampler != "uniform" or self.difficulty is not None


@dataclass(slots=True)
class Draw:
    """What a step has drawn so far.

    Attributes:
        step: Which one.
        indices: Of its tasks, in order.
        takes: How often some were taken: once for the batch, and once whenever groups were replaced.
        order: What comes up next, of a curriculum that works it out ahead.
    """

    step: int
    indices: list[int] = field(default_factory=list)
    takes: int = 0
    order: list[int] = field(default_factory=list)


class Curriculum(Protocol):
    """Chooses tasks. Steps come in order; each draws before those that may run ahead of it, and is observed later."""

    def take(self, draw: Draw, count: int) -> list[Task]:
        """The next ``count`` tasks of a step."""
        ...

    def observe(self, draw: Draw, groups: Sequence[Group]) -> dict[str, float]:
        """Learns how a step's tasks went, one group each in the order drawn; returns figures about them."""
        ...

    @property
    def state(self) -> np.ndarray | None:
        """What a checkpoint has to hold; None where all follows from the seed and the step."""
        ...

    def restore(self, state: np.ndarray) -> None:
        """Goes on from the state of a checkpoint."""
        ...


class Schedule:
    """A limit of the difficulty that rises with the run.

    Args:
        key: Where a task holds its difficulty.
        limits: The first limit and the last.
        until: The share of the run in which it rises.
        steps: Of the run.
    """

    def __init__(self, key: str, limits: tuple[float, float], until: float, steps: int):
        self.key = key
        self.limits = limits
        self.rises = until * max(1, steps - 1)

    def limit(self, step: int) -> float:
        """The limit of a step, counted from 0."""
        low, high = self.limits
        return high if step >= self.rises else low + (high - low) * step / self.rises

    def difficulty(self, task: Task, index: int) -> float:
        """How difficult a task is.

        Raises:
            ValueError: It does not say, or not with a number.
        """
        what = f"curriculum.difficulty is {self.key!r}, and task {task.get('id', index)!r}"
        if self.key not in task:
            raise ValueError(f"{what} has no such key, only {', '.join(task)}. Name one that every task has")
        value = task[self.key]
        if isinstance(value, bool) or not isinstance(value, int | float | np.number) or math.isnan(value):
            raise ValueError(f"{what} holds {value!r} there, which is no number. Name a key that holds one")
        return float(value)


class Finite:
    """Tasks that can be counted, and which of them a step may draw.

    Args:
        tasks: The source.
        schedule: Limits their difficulty; None for no limit.

    Raises:
        ValueError: A task has no difficulty, or none is within the first limit.
    """

    def __init__(self, tasks: Tasks, schedule: Schedule | None):
        assert tasks.count is not None
        self.tasks = tasks
        self.schedule = schedule
        self.count = tasks.count
        if schedule is not None:
            self.difficulties = np.array([schedule.difficulty(tasks[index], index) for index in range(tasks.count)])
            if self.difficulties.min() > schedule.limits[0]:
                raise ValueError(
                    f"curriculum.limits begins at {schedule.limits[0]:g}, and the easiest task has {schedule.key!r} "
                    f"{self.difficulties.min():g}. Begin there, or add easier tasks"
                )

    def eligible(self, step: int) -> np.ndarray:
        """The indices of the tasks that a step may draw."""
        if self.schedule is None:
            return np.arange(self.count)
        return np.flatnonzero(self.difficulties <= self.schedule.limit(step))


class Uniform:
    """Each task in its turn: a finite source is gone through in a new random order each time, as far as the limit lets.

    Args:
        tasks: The source.
        seed: The run's.
        size: Tasks in a batch.
        resample: How often, at most, groups of a batch are replaced.
        steps: Of the run.
        schedule: Limits the difficulty; None for no limit.

    Raises:
        ValueError: Tasks do not say how difficult they are, or all are too difficult to begin with.
    """

    state = None

    def __init__(self, tasks: Tasks, *, seed: int, size: int, resample: int, steps: int, schedule: Schedule | None):
        self.tasks = tasks
        self.seed = seed
        self.size = size
        self.takes = 1 + resample
        self.numbers = steps * size * self.takes
        self.schedule = schedule
        self.finite = None if tasks.count is None else Finite(tasks, schedule)
        if self.finite is None:
            self._fitting(0, 0)  # a limit that nothing is within is said before the run begins

    def take(self, draw: Draw, count: int) -> list[Task]:
        """The next ``count`` tasks; how many are taken now does not change which come up later."""
        first = (draw.step * self.takes + draw.takes) * self.size
        draw.takes += 1
        chosen = [self._index(draw.step, number) for number in range(first, first + count)]
        draw.indices += chosen
        return [self.tasks[index] for index in chosen]

    def observe(self, draw: Draw, groups: Sequence[Group]) -> dict[str, float]:
        """Learns nothing; the limit of the difficulty, where there is one."""
        return {} if self.schedule is None else {"curriculum/limit": self.schedule.limit(draw.step)}

    def restore(self, state: np.ndarray) -> None:
        """Nothing: the order follows from the seed."""

    def _index(self, step: int, number: int) -> int:
        if self.finite is None:
            return self._fitting(step, number)
        eligible = self.finite.eligible(step)
        return int(eligible[index_of(len(eligible), number, self.seed)])

    def _fitting(self, step: int, number: int) -> int:
        """The first generated task of those that only this number of the run is given which is not too difficult."""
        if self.schedule is None:
            return number
        limit = self.schedule.limit(step)
        for index in range(number, number + TRIES * self.numbers, self.numbers):
            if self.schedule.difficulty(self.tasks[index], index) <= limit:
                return index
        raise ValueError(
            f"curriculum.limits: of {TRIES} tasks that were generated for step {step + 1}, none has "
            f"{self.schedule.key!r} at most {limit:g}. Begin with a higher limit, or generate easier tasks more often"
        )


class PassRate:
    """Tasks drawn by how much their rewards are expected to vary, none twice in a batch unless it has to be.

    They are drawn one after the other, each with probability proportional to E[p(1 − p)] + explore among those left.

    Args:
        tasks: A source with an end.
        config: Prior, floor, decay, and what passes.
        component: The reward that says so.
        seed: The run's.
        schedule: Limits the difficulty; None for no limit.

    Raises:
        ValueError: Tasks do not say how difficult they are, or all are too difficult to begin with.
    """

    def __init__(self, tasks: Tasks, config: CurriculumConfig, component: str, *, seed: int, schedule: Schedule | None):
        self.finite = Finite(tasks, schedule)
        self.config = config
        self.component = component
        self.seed = seed
        self.passed, self.failed, self.drawn = np.zeros((3, self.finite.count))

    @property
    def rates(self) -> np.ndarray:
        """The expected pass rate E[p] = a/(a + b) of every task, (tasks,)."""
        a, b = self._posterior()
        return a / (a + b)

    @property
    def weights(self) -> np.ndarray:
        """E[p(1 − p)] = ab/((a + b)(a + b + 1)) of every task, and the floor, (tasks,)."""
        a, b = self._posterior()
        return a * b / ((a + b) * (a + b + 1)) + self.config.explore

    def take(self, draw: Draw, count: int) -> list[Task]:
        """The next ``count`` tasks; once a batch has had all that it may draw, they come up again in another order."""
        eligible = self.finite.eligible(draw.step)
        while len(draw.order) < len(draw.indices) + count:
            draw.order += self._order(eligible, draw.step, len(draw.order) // len(eligible))
        chosen = draw.order[len(draw.indices) : len(draw.indices) + count]
        draw.takes += 1
        draw.indices += chosen
        return [self.finite.tasks[index] for index in chosen]

    def observe(self, draw: Draw, groups: Sequence[Group]) -> dict[str, float]:
        """Counts who passed; a rollout of which the component is missing says nothing.

        Args:
            draw: The step's.
            groups: One a task, in the order drawn.

        Returns:
            Figures: what was thought of the drawn tasks' pass rate before, the share of tasks that were ever drawn, and
            the limit of the difficulty, where there is one.
        """
        figures = {"curriculum/pass_rate": float(self.rates[draw.indices].mean())}
        self.passed *= self.config.decay
        self.failed *= self.config.decay
        for index, group in zip(draw.indices, groups, strict=True):
            self.drawn[index] += 1
            for trajectory in group.trajectories:
                value = trajectory.rewards.get(self.component)
                if value is not None:
                    (self.passed if value >= self.config.at_least else self.failed)[index] += 1
        figures["curriculum/drawn"] = float((self.drawn > 0).mean())
        if self.finite.schedule is not None:
            figures["curriculum/limit"] = self.finite.schedule.limit(draw.step)
        return figures

    @property
    def state(self) -> np.ndarray:
        """How often every task was passed and failed, faded, and drawn, (3, tasks)."""
        return np.stack([self.passed, self.failed, self.drawn])

    def restore(self, state: np.ndarray) -> None:
        """Goes on from these counts.

        Raises:
            ValueError: They are of another number of tasks.
        """
        if state.shape != (3, self.finite.count):
            raise ValueError(
                f"curriculum: the checkpoint counts the passes of {state.shape[-1]} tasks, and there are "
                f"{self.finite.count} now. Go on with the tasks that the run began with (tasks.source), or begin "
                "another run"
            )
        self.passed, self.failed, self.drawn = state.copy()

    def _posterior(self) -> tuple[np.ndarray, np.ndarray]:
        return self.config.prior[0] + self.passed, self.config.prior[1] + self.failed

    def _order(self, eligible: np.ndarray, step: int, round_: int) -> list[int]:
        """A random order, each next one by the weights of those left: that of log w + Gumbel noise (Yellott 1977)."""
        rng = np.random.default_rng([self.seed, 6, step, round_])
        keys = np.log(self.weights[eligible]) + rng.gumbel(size=len(eligible))
        return eligible[np.argsort(-keys, kind="stable")].tolist()


def make_curriculum(
    config: CurriculumConfig,
    tasks: Tasks,
    vector: RewardVector,
    *,
    gate: str | None,
    seed: int,
    size: int,
    resample: int,
    steps: int,
) -> Curriculum:
    """The curriculum of a run.

    Args:
        config: The section.
        tasks: What it chooses among.
        vector: The rewards there are.
        gate: The one that says whether a task is passed, where the section names none.
        seed: The run's.
        size: Tasks in a batch.
        resample: How often, at most, groups of a batch are replaced.
        steps: Of the run.

    Raises:
        ValueError: It does not fit the tasks or the rewards; says which key to change.
    """
    schedule = None
    if config.difficulty is not None and config.limits is not None:
        schedule = Schedule(config.difficulty, config.limits, config.until, steps)
    if config.sampler == "uniform":
        return Uniform(tasks, seed=seed, size=size, resample=resample, steps=steps, schedule=schedule)
    if tasks.count is None:
        raise ValueError(
            "curriculum.sampler is 'pass_rate', and these tasks are generated without end: none comes up twice, so "
            "that its pass rate cannot be known beforehand. Name a file or a list of tasks in tasks.source, or use "
            "'uniform', with curriculum.difficulty if need be"
        )
    component = config.component or gate or "outcome"
    entry = next((entry for entry in vector if entry.name == component), None)
    if entry is None or entry.direction != "max":
        why = "is not among the rewards" if entry is None else "is better the lower it is"
        useful = ", ".join(entry.name for entry in vector if entry.direction == "max") or "none; see rewards.vector"
        raise ValueError(
            f"curriculum.component is {component!r}, which {why}. Set it to one that says what was done right: {useful}"
        )
    return PassRate(tasks, config, component, seed=seed, schedule=schedule)
