"""Messages as other tools log them, as the turns of a trajectory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from grpo_agents.tools import UNREADABLE
from grpo_agents.trajectory import Message, Step, ToolRun

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Who may say something."""


class BadRow(ValueError):
    """A line that cannot be imported; says why, and what to do."""


def read_messages(said: Any, role: str, name: str) -> list[Message]:
    """Messages in one form: a text is one of that role, and arguments of calls are no JSON text.

    Args:
        said: What the file has.
        role: Who says a plain text.
        name: What the file calls it.

    Raises:
        BadRow: No messages.
    """
    if isinstance(said, str):
        return [{"role": role, "content": said}]
    if not isinstance(said, Sequence):
        raise BadRow(f"{name!r} is {_kind(said)}, and a list of messages is wanted")
    return [_message(message, f"message {place} of {name!r}") for place, message in enumerate(said)]


def turns_of(prompt: Sequence[Message], said: Sequence[Message]) -> tuple[tuple[Message, ...], list[Step]]:
    """What was asked, and the assistant's turns with what each was answered.

    Args:
        prompt: What was asked.
        said: What followed; whatever comes before the first word of the assistant was asked as well.
    """
    asked, steps = [*prompt], []
    for message in said:
        if message["role"] == "assistant":
            runs = [_run(call) for call in message.get("tool_calls") or ()]
            steps.append(Step(message, tools=runs))
        elif steps:
            steps[-1].observation += (message,)
        else:
            asked.append(message)
    return tuple(asked), steps


def read_tools(tools: Any) -> list[dict[str, Any]]:
    """The schemas of tools, which some write without ``{"type": "function", "function": …}`` around them.

    Raises:
        BadRow: No list of them.
    """
    if tools is None:
        return []
    if not isinstance(tools, Sequence) or not all(isinstance(entry, Mapping) for entry in tools):
        raise BadRow(f"its tools are {_kind(tools)}, and a list of JSON schemas is wanted")
    wrapped = [
        {"type": "function", "function": dict(entry)} if "function" not in entry else dict(entry) for entry in tools
    ]
    if nameless := [entry for entry in wrapped if not isinstance(entry["function"].get("name"), str)]:
        raise BadRow(f"a tool has no name: {json.dumps(nameless[0])[:80]}")
    return wrapped


def read_number(value: Any, name: str) -> float | None:
    """A reward; None where there is none.

    Raises:
        BadRow: Something else.
    """
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise BadRow(f"{name!r} is {_kind(value)}, and a number is wanted")
    return float(value)


def _message(message: Any, name: str) -> Message:
    if not isinstance(message, Mapping):
        raise BadRow(f"{name} is {_kind(message)}, and an object with role and content is wanted")
    role = message.get("role")
    if role not in ROLES:
        raise BadRow(f"{name} has the role {role!r}: write {', '.join(ROLES[:-1])} or {ROLES[-1]}")
    read = {"role": role, "content": message.get("content")}
    read |= {key: value for key, value in message.items() if key not in read and value is not None}
    if calls := read.pop("tool_calls", None):
        if not isinstance(calls, Sequence) or isinstance(calls, str):
            raise BadRow(f"the tool_calls of {name} are {_kind(calls)}, and a list is wanted")
        read["tool_calls"] = [_call(call, name) for call in calls]
    return read


def _call(call: Any, name: str) -> dict[str, Any]:
    """A call in OpenAI's form: verifiers writes it as JSON text, and without ``function`` around name and arguments."""
    if isinstance(call, str):
        try:
            call = json.loads(call)
        except ValueError:
            raise BadRow(f"a tool call of {name} is a text that is no JSON") from None
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadRow(f"a tool call of {name} names no function")
    arguments, marks = function.get("arguments"), {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments else {}
        except ValueError as error:
            marks = {"invalid": f"its arguments are no JSON: {error}", "text": arguments}
    made = {"id": call.get("id"), "type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {**made, **marks}


def _run(call: Mapping[str, Any]) -> ToolRun:
    return ToolRun(call["function"]["name"] or UNREADABLE, error=call.get("invalid"))


def _kind(value: Any) -> str:
    """What a value is, for people."""
    names = {type(None): "nothing", bool: "a truth value", str: "a text", dict: "an object", list: "a list"}
    return names.get(type(value), "a number")
