"""The spaces of environments over messages: what may be said to a policy, and what it may say.

>>> Messages().contains(({"role": "user", "content": "How many?"},))
True
>>> Action().contains("Three.")
True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from grpo_agents.tools import Tool
from grpo_agents.trajectory import Message

ROLES = ("system", "user", "assistant", "tool")
_WORDS = ("the", "answer", "is", "seven", "tree", "42", "no", "perhaps", "why", "one", "blue", "{", "</s>", "é")


class Messages(gymnasium.Space[tuple[Message, ...]]):
    """The space of observations: tuples of chat messages (``gymnasium.spaces.Text`` refuses prose)."""

    def sample(self, mask: Any = None, probability: Any = None) -> tuple[Message, ...]:
        """A few words as one user message."""
        return ({"role": "user", "content": _prose(self.np_random)},)

    def contains(self, x: Any) -> bool:
        """True for a tuple of dicts, each with a known role and a content."""
        return isinstance(x, tuple) and all(
            isinstance(message, dict) and message.get("role") in ROLES and "content" in message for message in x
        )

    def __eq__(self, other: object) -> bool:
        """All are the same space; vector environments ask."""
        return isinstance(other, Messages)

    __hash__ = None  # type: ignore[assignment]  mutable, as every space


class Action(gymnasium.Space[Message]):
    """The space of actions: one assistant message, or plain text as a message without calls."""

    def __init__(self, tools: Sequence[Tool] = (), seed: int | np.random.Generator | None = None):
        super().__init__(seed=seed)
        self.schemas = [tool.schema["function"] for tool in tools]  # not the tools: a space is pickled and compared

    def sample(self, mask: Any = None, probability: Any = None) -> Message:
        """A few words, or as often a call of one of the tools with words for arguments."""
        message: Message = {"role": "assistant", "content": _prose(self.np_random)}
        if self.schemas and self.np_random.random() < 0.5:
            schema = self.schemas[self.np_random.integers(len(self.schemas))]
            arguments = {key: _prose(self.np_random) for key in schema["parameters"].get("properties", {})}
            message["tool_calls"] = [tool_call(schema["name"], arguments)]
        return message

    def contains(self, x: Any) -> bool:
        """True for text, and for an assistant message."""
        return isinstance(x, str) or (isinstance(x, dict) and x.get("role") == "assistant" and "content" in x)

    def __eq__(self, other: object) -> bool:
        """Equal where the tools are."""
        return isinstance(other, Action) and self.schemas == other.schemas

    __hash__ = None  # type: ignore[assignment]  mutable, as every space


def _prose(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(_WORDS, size=rng.integers(1, 6)).tolist())


def tool_call(name: str, arguments: Mapping[str, Any], index: int = 0) -> dict[str, Any]:
    """An OpenAI-style tool call, as an assistant message carries it in ``tool_calls``."""
    function = {"name": name, "arguments": dict(arguments)}
    return {"id": f"call{index:05d}", "type": "function", "function": function}
