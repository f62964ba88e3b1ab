"""Messages with which a template is tried out."""

from __future__ import annotations

from collections.abc import Sequence

from grpo_agents.trajectory import Message

Shape = tuple[str, str | None, str | None]
"""Role, ``tool_call_id`` and ``name`` of a message: all but its content."""

PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "probe",
        "description": "Probes.",
        "parameters": {"type": "object", "properties": {"text": {"type": "string", "description": "A text."}}},
    },
}


def call_id(number: int) -> str:
    """The id of a conversation's call of that number: nine letters and digits, as Mistral wants them."""
    return f"call{number:05d}"


def user(content: str) -> Message:
    """What a user says."""
    return {"role": "user", "content": content}


def shaped(shape: Shape, content: str) -> Message:
    """A message of that shape."""
    message = {"role": shape[0], "tool_call_id": shape[1], "name": shape[2], "content": content}
    return {key: value for key, value in message.items() if value is not None}


def assistant(calls: Sequence[tuple[str, str]] = (), *, thinks: bool = False) -> Message:
    """A message that makes calls of these ids and names, or says something."""
    message: Message = {"role": "assistant", "content": "" if calls else "x"}
    if thinks:
        message["reasoning_content"] = "y"
    if calls:
        message["tool_calls"] = [
            {"id": number, "type": "function", "function": {"name": name, "arguments": {"text": "z"}}}
            for number, name in calls
        ]
    return message


def calls_of_probe(count: int) -> tuple[tuple[str, str], ...]:
    """Ids and names of that many calls."""
    return tuple([(call_id(number), "probe") for number in range(count)])
