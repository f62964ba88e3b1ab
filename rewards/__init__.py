"""Rewards.

Named components of a trajectory or of a group, the vectors made of them, and the preferences that weigh them.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from grpo_agents.rewards.component import Component, RewardVector, component, from_environment
from grpo_agents.rewards.consensus import first, majority, perplexity, self_judged
from grpo_agents.rewards.cost import USES, cost, latency, length, tool_calls, uses
from grpo_agents.rewards.format import format
from grpo_agents.rewards.math_answer import math_answer
from grpo_agents.rewards.reference import reference
from grpo_agents.rewards.reward_model import learned
from grpo_agents.rewards.rubric import rubric
from grpo_agents.tasks import load_object

__all__ = ["BUILT_IN", "USES", "Component", "RewardVector", "as_vector", "component", "named", "uses"]

_TEACHERS = (reference(), rubric(), majority(), perplexity(), self_judged(), first())
_BUILT_IN = (cost, latency, tool_calls, length, format, math_answer, learned, *_TEACHERS)
BUILT_IN = {entry.name: entry for entry in _BUILT_IN}
"""Components that come with the package, by name."""


def as_vector(found: Any, given: Mapping[str, Component], name: str) -> RewardVector:
    """The vector that an object stands for: a vector, one component, or a list of components and names.

    Args:
        found: The object. A component without a function counts as its name, unless it says its own direction or unit.
        given: What needs no function, since the environment gives it or it is stored.
        name: What a person calls the object.

    Raises:
        ValueError: It is something else, or names what does not exist.
    """
    entries = [found] if isinstance(found, Component) else found
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise ValueError(_no_component(name, found))
    return RewardVector([_component(entry, given, name) for entry in entries])


def _component(entry: Any, given: Mapping[str, Component], name: str) -> Component:
    if isinstance(entry, str):
        return named(entry, given)
    if not isinstance(entry, Component):
        raise ValueError(_no_component(name, entry))
    if entry.function is None and (entry.name not in given or entry == from_environment(entry.name)):
        return named(entry.name, given)
    return entry


def named(name: str, given: Mapping[str, Component]) -> Component:
    """The component of a name: one that is given, a built-in one, ``uses.TOOL`` or ``module:component``.

    Args:
        name: Its name.
        given: What needs no function, since the environment gives it or it is stored.

    Raises:
        ValueError: No such component; names the nearest.
    """
    known = {**BUILT_IN, **given}
    if name in known:
        return known[name]
    if name.startswith(USES) and name != USES:
        return uses(name.removeprefix(USES))
    if ":" in name:
        found = load_object(name)
        if not isinstance(found, Component):
            raise ValueError(_no_component(name, found))
        return found
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}, uses.TOOL, and module:component."
    raise ValueError(f"unknown reward {name!r}. {hint}")


def _no_component(name: str, found: Any) -> str:
    hint = ": write @component above it" if inspect.isfunction(found) else ""
    return f"{name}: a RewardVector, a component or a list of them is wanted, not a {type(found).__name__}{hint}"
