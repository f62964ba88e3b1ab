"""What goes over the wire: plain JSON in OpenEnv's form, with what an :class:`AgentEnv` has beyond that.

A request is ``{"type": …, "data": {…}}``, and so is its answer. The types ``reset``, ``step``, ``state`` and ``close``,
and the answers ``observation``, ``state`` and ``error``, are OpenEnv's; other questions are answered by an ``answer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from grpo_agents.env import AgentEnv
from grpo_agents.rewards.preference import Choices, Preferences, Simplex
from grpo_agents.tools import Price, Tool
from grpo_agents.trajectory import Message, ToolRun

PROTOCOL = 1
"""Version of what the two sides expect of each other."""

MAX_BYTES = 16 * 2**20
"""The longest request or answer."""


class RemoteFailure(ConnectionError):
    """What lives elsewhere cannot be reached, or does not do what was promised: names where, what, and the way out."""


class SessionLost(RemoteFailure):
    """The session has ended, and its episode with it; a new one can be begun."""


class RemoteRaised(RuntimeError):
    """What an environment elsewhere raised; of a subclass with the name of the error there."""


def raised_there(kind: str, words: str, where: str) -> RemoteRaised:
    """The error of an environment elsewhere, which reads as it did there.

    >>> error = raised_there("KeyError", "'word'", "http://127.0.0.1:8000")
    >>> type(error).__name__, str(error), error.__notes__
    ('KeyError', "'word'", ['raised by the environment at http://127.0.0.1:8000'])
    """
    error = type(kind, (RemoteRaised,), {})(words)
    error.add_note(f"raised by the environment at {where}")
    return error


class Part(BaseModel):
    """A part of a message; what it has beyond is let be."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Offered(Part):
    """A tool, as far as a policy and a budget know it."""

    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    prices: dict[str, float] | None
    latency: float | None

    def tool(self) -> Tool:
        """The tool; it cannot be called from here."""

        def elsewhere(*_: Any, **__: Any) -> Any:
            raise TypeError(f"tool {self.name!r} runs where its environment lives: call it by env.step(…)")

        prices = None if self.prices is None else Price(**self.prices)
        return Tool(self.name, elsewhere, self.schema_, prices, self.latency, None)


def describe_tool(tool: Tool) -> dict[str, Any]:
    """A tool as plain data."""
    prices = None if tool.prices is None else asdict(tool.prices)
    return {"name": tool.name, "schema": tool.schema, "prices": prices, "latency": tool.latency}


class Description(Part):
    """What an environment exposes beside its episodes, asked once.

    Attributes:
        protocol: Of the server.
        version: Of its grpo-agents.
        env: What it was told to serve.
        about: The first line of its docstring.
        preferences: How preferences are drawn: of a known kind, with what it is made of; ``{}`` for any other kind.
        count: How many tasks there are; None where they are generated.
        varies: Whether it draws something of a task each time it is posed.
        expects: Whether it says what choices earn on average.
    """

    protocol: int
    version: str
    env: str
    about: str
    components: tuple[str, ...]
    hidden: tuple[str, ...]
    gold: tuple[str, ...]
    maxima: dict[str, float]
    budget: float | None
    token_price: dict[str, float] | None
    repeats: bool
    tools: tuple[Offered, ...]
    preferences: dict[str, Any] | None
    count: int | None
    varies: bool
    expects: bool


def describe(env: AgentEnv, name: str, version: str) -> dict[str, Any]:
    """What the :class:`Description` of an environment holds."""
    return {
        "protocol": PROTOCOL,
        "version": version,
        "env": name,
        "about": (type(env).__doc__ or "").strip().split("\n")[0],
        "components": list(env.components),
        "hidden": list(env.hidden),
        "gold": list(env.gold),
        "maxima": dict(env.maxima),
        "budget": env.budget,
        "token_price": None if env.token_price is None else asdict(env.token_price),
        "repeats": env.repeats,
        "tools": [describe_tool(tool) for tool in env.tools],
        "preferences": describe_preferences(env.preferences),
        "count": env.task_source.count,
        "varies": type(env).vary is not AgentEnv.vary,
        "expects": type(env).expected_rewards is not AgentEnv.expected_rewards,
    }


def describe_preferences(preferences: Preferences | None) -> dict[str, Any] | None:
    """A distribution over preferences as plain data; an empty one for a kind that only its owner can draw from."""
    if isinstance(preferences, Choices):
        return {"options": [dict(option) for option in preferences.options]}
    if isinstance(preferences, Simplex):
        return {
            "components": list(preferences.components), "floor": dict(preferences.floor), "steps": preferences.steps
        }  # fmt: skip
    return None if preferences is None else {}


def read_preferences(described: Mapping[str, Any]) -> Choices | Simplex:
    """The distribution of a description that is not empty."""
    return Choices(**described) if "options" in described else Simplex(**described)


class Begun(Part):
    """How an episode began: an answer's ``observation`` after a reset."""

    messages: tuple[Message, ...]
    info: dict[str, Any]
    offer: tuple[Offered, ...]
    allowance: float | None


class Run(Part):
    """A tool call of a step, as :class:`ToolRun`."""

    name: str
    dollars: float
    latency: float
    error: str | None
    called: str | None

    def tool_run(self) -> ToolRun:
        """As trajectories hold it."""
        return ToolRun(**self.model_dump())


class Stepped(Part):
    """What a step came to: an answer's ``observation``, with its reward."""

    messages: tuple[Message, ...]
    info: dict[str, Any]
    runs: tuple[Run, ...]
    spent: float
    terminated: bool
    truncated: bool


def describe_generator(rng: np.random.Generator) -> dict[str, Any]:
    """The state of a random generator as plain data.

    Raises:
        TypeError: It is not of the kind that ``numpy.random.default_rng`` makes.
    """
    if not isinstance(rng.bit_generator, np.random.PCG64):
        raise TypeError("an environment elsewhere draws with generators of numpy.random.default_rng only")
    return dict(rng.bit_generator.state)


def read_generator(state: Mapping[str, Any]) -> np.random.Generator:
    """The generator of such a state.

    Raises:
        ValueError: It is the state of none.
    """
    bits = np.random.PCG64()
    try:
        bits.state = dict(state)  # type: ignore[assignment]
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"no state of a generator: {error!r}") from None
    return np.random.Generator(bits)
