"""Chat logs in the form of OpenAI's API.

A line is a list of messages, or an object with ``messages`` and where it has them ``tools``, ``model``, ``usage``,
``reward``, ``score`` or ``rewards``, ``id`` and ``metadata``; or a ``request`` with the ``response`` to it, each as it
is or within a ``body``, as batches have them (https://platform.openai.com/docs/guides/batch).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from grpo_agents.importers.dialogue import BadRow, read_messages, read_number, read_tools, turns_of
from grpo_agents.trajectory import Message, Step, Trajectory

NAME = "chat logs in OpenAI's form"


def fits(row: Any) -> bool:
    """Whether a line looks like one of these."""
    if isinstance(row, list):
        return bool(row) and all(isinstance(message, dict) and "role" in message for message in row)
    return isinstance(row, dict) and bool(row.keys() & {"messages", "request", "body"} or "response" in row)


def read(row: Any, _about: Mapping[str, Any]) -> Iterator[tuple[Trajectory, str | None]]:
    """The trajectories of a line, each with its id: as many as the answer has choices."""
    row = {"messages": row} if isinstance(row, list) else row
    if not isinstance(row, Mapping):
        raise BadRow("it is neither an object nor a list of messages: leave it out")
    request = _body(row, "request") or _body(row, "body") or row
    response = _body(row, "response")
    if "messages" not in request:
        alone = "it is an answer alone: put the line of its request beside it, as request and response"
        raise BadRow(f"it has no messages, only {', '.join(row)}: {alone if response else 'add them'}")
    said = read_messages(request["messages"], "user", "messages")
    identity = row.get("id", row.get("custom_id"))
    answers = _answers(response) if response else [(said, row.get("usage"))]
    for place, (messages, usage) in enumerate(answers):
        messages = [*said, *messages] if response else messages
        prompt, steps = turns_of((), messages)
        if not steps:
            raise BadRow("it has no message of the assistant, and nothing to evaluate: add what it said")
        _count(steps, usage)
        made = Trajectory(env=str(row.get("env") or "chat-logs"), prompt=prompt, steps=steps)
        made.tools = read_tools(request.get("tools"))
        made.rewards = _rewards(row)
        made.missing = {name: "the log has none" for name, value in made.rewards.items() if value is None}
        made.task = _task(row, request, response, prompt)
        if _cut(response, place):
            made.stop_reason = steps[-1].finish_reason = "length"
            made.stop_reason = "tokens"
        yield made, None if identity is None else f"{identity}/{place}"


def _body(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = row.get(name)
    if isinstance(found, Mapping) and isinstance(found.get("body"), Mapping):
        found = found["body"]
    return found if isinstance(found, Mapping) else {}


def _answers(response: Mapping[str, Any]) -> list[tuple[list[Message], Any]]:
    """What the model said, choice by choice, and what was counted; of several choices nobody says how much each has."""
    choices = response.get("choices")
    if not isinstance(choices, list) or not all(isinstance(choice, Mapping) for choice in choices) or not choices:
        raise BadRow("its response has no choices: the request failed, perhaps. Leave the line out")
    usage = response.get("usage") if len(choices) == 1 else None
    return [(read_messages([choice.get("message")], "assistant", "choices"), usage) for choice in choices]


def _cut(response: Mapping[str, Any], place: int) -> bool:
    return bool(response) and response["choices"][place].get("finish_reason") == "length"


def _count(steps: list[Step], usage: Any) -> None:
    """Gives the last turn the tokens that were counted: the log does not say of which turn they are."""
    counted = usage.get("completion_tokens", usage.get("output_tokens")) if isinstance(usage, Mapping) else None
    if isinstance(counted, int | float):
        steps[-1].tokens = int(counted)


def _rewards(row: Mapping[str, Any]) -> dict[str, float | None]:
    several = row.get("rewards") or {}
    if not isinstance(several, Mapping):
        raise BadRow("'rewards' is a list or a number, and an object of numbers by name is wanted: or call it reward")
    found = {name: read_number(row[name], name) for name in ("reward", "score") if name in row}
    return found | {str(name): read_number(value, name) for name, value in several.items()}


def _task(
    row: Mapping[str, Any], request: Mapping[str, Any], response: Mapping[str, Any], prompt: tuple[Message, ...]
) -> dict[str, Any]:
    """What was asked: lines with the same prompt are rollouts of the same task."""
    asked = json.dumps([prompt, request.get("tools")], sort_keys=True)
    task = {"id": row.get("task_id", hashlib.sha256(asked.encode()).hexdigest()[:12])}
    model = response.get("model") or request.get("model") or row.get("model")
    metadata = row.get("metadata")
    return {**(metadata if isinstance(metadata, dict) else {}), **({"model": model} if model else {}), **task}
