"""What a trajectory is worth: named components, each a function with a direction and a unit, and vectors of them.

>>> @component(direction="min", unit="messages")
... def turns(trajectory):
...     '''How many turns it took.'''
...     return len(trajectory.steps)
>>> vector = RewardVector([turns])
>>> from grpo_agents.trajectory import Group, Trajectory
>>> group = Group({}, {}, [Trajectory()])
>>> vector.score([group])
>>> group.trajectories[0].rewards
{'turns': 0.0}
"""

from __future__ import annotations

import asyncio
import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

from grpo_agents.trajectory import Group, Trajectory

Direction = Literal["max", "min"]

FAILED = ("error", "deadline")
"""How episodes stop that the policy did not spoil: its environment raised or hung, or the clock ran out on somebody.

The policy's own budgets are turns and tokens, which are the same on every machine.
"""


@dataclass(frozen=True, slots=True)
class Component:
    """One named entry of a reward vector.

    Attributes:
        name: Its name, also the preference's key for it.
        function: Of a :class:`Trajectory`, or of a whole :class:`Group` where ``per`` says so; sync or async. Further
            parameters are what it asks for by name. None: the environment gives this component itself.
        direction: ``max`` where more is better, ``min`` where less is.
        unit: What its numbers are, for people.
        worst: What a rollout scores that the policy itself spoiled; None where spoiling does not change the value (a
            cost).
        per: ``trajectory``, or ``group`` for a function that gives a list with one value a rollout.
    """

    name: str
    function: Callable[..., Any] | None
    direction: Direction = "max"
    unit: str = ""
    worst: float | None = 0.0
    per: Literal["trajectory", "group"] = "trajectory"

    def __call__(self, subject: Any, **resources: Any) -> Any:
        """The function itself, for people who call it from Python."""
        assert self.function is not None, f"the environment gives {self.name!r}"
        return self.function(subject, **resources)


@overload
def component(function: Callable[..., Any], /) -> Component: ...
@overload
def component(
    *,
    name: str | None = None,
    direction: Direction = "max",
    unit: str = "",
    worst: float | None = 0.0,
    per: Literal["trajectory", "group"] = "trajectory",
) -> Callable[[Callable[..., Any]], Component]: ...


def component(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    direction: Direction = "max",
    unit: str = "",
    worst: float | None = 0.0,
    per: Literal["trajectory", "group"] = "trajectory",
) -> Component | Callable[[Callable[..., Any]], Component]:
    """Makes a reward component of a function; see :class:`Component` for the settings.

    The function returns a number, or None where *we* could not judge (that trajectory then carries no gradient); an
    exception in its place, unraised, says why, and one that is raised says it of the whole group. What the policy did
    wrong scores ``worst``.
    """
    if function is not None:
        return Component(function.__name__, function)
    return lambda function: Component(name or function.__name__, function, direction, unit, worst, per)


def from_environment(name: str) -> Component:
    """The component that the environment itself gives under this name, summed over the steps."""
    return Component(name, None)


class RewardVector(Sequence[Component]):
    """An ordered list of components.

    Args:
        components: The components; a name stands for the environment's own component, and where a run finds that its
            environment has none of that name, for a built-in one.

    Raises:
        ValueError: Two of one name, or none at all.
    """

    def __init__(self, components: Iterable[Component | str]):
        self._components = tuple(from_environment(entry) if isinstance(entry, str) else entry for entry in components)
        names = self.names
        if not names:
            raise ValueError("a reward vector needs at least one component")
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"the reward vector names {', '.join(sorted(twice))} twice")

    @property
    def names(self) -> tuple[str, ...]:
        """The components' names, in order."""
        return tuple(entry.name for entry in self._components)

    def __getitem__(self, index: Any) -> Any:
        return self._components[index]

    def __len__(self) -> int:
        return len(self._components)

    def check_preference(self, preference: Mapping[str, float]) -> None:
        """Refuses a preference that weighs what this vector lacks.

        Raises:
            ValueError: Names the component and the nearest that exist.
        """
        for name in preference:
            if name not in self.names:
                near = difflib.get_close_matches(name, self.names, n=1)
                hint = f"Did you mean {near[0]!r}? " if near else ""
                raise ValueError(
                    f"the preference weighs {name!r}, which is no reward component. {hint}Add it to the reward vector, "
                    f"or weigh what is there: {', '.join(self.names)}"
                )

    def score(self, groups: Sequence[Group], resources: Mapping[str, Any] | None = None) -> None:
        """Computes every component: its value goes to ``rewards``, or None and the reason to ``missing``.

        A function that raises, or returns NaN or infinity, has failed: its value is None, never a number. Of an
        episode that failed (:data:`FAILED`) nothing can be said: every component is None, and no function sees it.

        Args:
            groups: Whose trajectories to score.
            resources: What components may ask for by name (an engine, a judge …).

        Raises:
            ValueError: A component asks for something that is not among the resources.
        """
        resources = resources or {}
        groups = [self._without_failed(group) for group in groups]
        waiting: list[tuple[Component, Group, list[Trajectory], Any]] = []
        for entry in self._components:
            wanted = _wanted(entry, resources)
            for group in groups:
                if entry.function is None:
                    for trajectory in group.trajectories:
                        _from_steps(entry, trajectory)
                    continue
                together = [group.trajectories] if group.trajectories else []
                for whom in together if entry.per == "group" else [[trajectory] for trajectory in group.trajectories]:
                    subject: Any = whom[0] if entry.per == "trajectory" else group
                    try:
                        value = entry.function(subject, **wanted)
                    except Exception as error:  # recorded with its reason: a reward that failed is missing, not 0
                        _fail(entry, whom, error)
                        continue
                    if not isinstance(value, float | int) and inspect.isawaitable(value):
                        waiting.append((entry, group, whom, value))
                    else:
                        _write(entry, whom, value)
        if waiting:
            asyncio.run(_await_all(waiting))

    def _without_failed(self, group: Group) -> Group:
        """The episodes of a group that can be judged; of the others every component is set to missing."""
        failed = [trajectory for trajectory in group.trajectories if trajectory.stop_reason in FAILED]
        if not failed:
            return group
        for entry in self._components:
            for trajectory in failed:
                _fail(entry, [trajectory], f"the episode failed: {trajectory.error}")
        return replace(group, trajectories=[entry for entry in group.trajectories if entry.stop_reason not in FAILED])


def asked_by(entry: Component) -> list[inspect.Parameter]:
    """What a component asks for: its parameters beyond the first."""
    return [] if entry.function is None else list(inspect.signature(entry.function).parameters.values())[1:]


def _wanted(entry: Component, resources: Mapping[str, Any]) -> dict[str, Any]:
    """The resources that a component asks for."""
    wanted = {}
    for parameter in asked_by(entry):
        if parameter.name in resources:
            wanted[parameter.name] = resources[parameter.name]
        elif parameter.default is parameter.empty:
            held = ", ".join(resources) or "nothing"
            raise ValueError(f"reward {entry.name!r} asks for {parameter.name!r}; there is {held} to hand it")
    return wanted


async def _await_all(waiting: Sequence[tuple[Component, Group, list[Trajectory], Any]]) -> None:
    values = await asyncio.gather(*(value for *_, value in waiting), return_exceptions=True)
    for (entry, _, whom, _), value in zip(waiting, values, strict=True):
        if isinstance(value, BaseException):
            _fail(entry, whom, value)
        else:
            _write(entry, whom, value)


def _from_steps(entry: Component, trajectory: Trajectory) -> None:
    given = [step.rewards[entry.name] for step in trajectory.steps if entry.name in step.rewards]
    if given:
        _write(entry, [trajectory], sum(given))
    elif not trajectory.truncated:
        _fail(entry, [trajectory], f"the environment ended the episode and gave no {entry.name!r}")
    else:  # the policy never came to an answer
        _write(entry, [trajectory], entry.worst)


def _write(entry: Component, whom: Sequence[Trajectory], value: Any) -> None:
    if entry.per == "trajectory":
        _write_one(entry, whom[0], value)
        return
    values = list(value) if isinstance(value, Iterable) else []
    if len(values) != len(whom):
        _fail(entry, whom, f"it gave {len(values)} values for a group of {len(whom)}")
        return
    for trajectory, number in zip(whom, values, strict=True):
        _write_one(entry, trajectory, number)


def _write_one(entry: Component, trajectory: Trajectory, number: Any) -> None:
    if isinstance(number, Exception):
        _fail(entry, [trajectory], number)
        return
    if number is None:
        _fail(entry, [trajectory], "it returned None: it could not judge")
        return
    try:
        number = float(number)
    except (TypeError, ValueError):
        _fail(entry, [trajectory], f"it returned {number!r:.80}, which is no number")
        return
    if math.isfinite(number):
        trajectory.rewards[entry.name] = number
        trajectory.missing.pop(entry.name, None)
    else:
        _fail(entry, [trajectory], f"it returned {number}")


def _fail(entry: Component, whom: Sequence[Trajectory], reason: Any) -> None:
    said = f"{type(reason).__name__}: {reason}" if isinstance(reason, BaseException) else str(reason)
    for trajectory in whom:
        trajectory.rewards[entry.name] = None
        trajectory.missing[entry.name] = said
