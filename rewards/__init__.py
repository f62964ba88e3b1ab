"""Rewards.

Named components of a trajectory or of a group, the vectors made of them, and the preferences that weigh them.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from grpo_agents.rewards.component import Component, RewardVector, component, from_environment
from grpo_agents.rewards.cost import cost, latency, length, tool_calls
from grpo_agents.rewards.format import format
from grpo_agents.rewards.math_answer import math_answer
from grpo_agents.tasks import load_object

__all__ = ["BUILT_IN", "Component", "RewardVector", "component", "named"]

BUILT_IN = {entry.name: entry for entry in (cost, latency, tool_calls, length, format, math_answer)}
"""Components that come with the package, by name."""


def named(name: str, given: Sequence[str] = ()) -> Component:
    """The component of a name: the environment's own, a built-in one, or ``module:component``.

    Args:
        name: Its name.
        given: What the environment gives.

    Raises:
        ValueError: No such component; names the nearest.
    """
    if name in given:
        return from_environment(name)
    if name in BUILT_IN:
        return BUILT_IN[name]
    if ":" in name:
        found = load_object(name)
        if not isinstance(found, Component):
            raise ValueError(f"{name!r} is a {type(found).__name__}; write @component above the function")
        return found
    known = [*given, *BUILT_IN]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}, and module:component."
    raise ValueError(f"unknown reward {name!r}. {hint}")
