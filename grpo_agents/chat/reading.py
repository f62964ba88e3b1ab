"""Sampled ids as an assistant message: thinking, content, calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grpo_agents.chat.probes import call_id
from grpo_agents.chat.template import Template
from grpo_agents.tool_formats import ToolFormat
from grpo_agents.trajectory import Message


def read(
    template: Template, ids: Sequence[int] | np.ndarray, finish_reason: str, first_call: int = 0
) -> tuple[Message, str]:
    """Reads what was sampled.

    Args:
        template: How the model writes.
        ids: What was sampled, with or without a stop token at the end.
        finish_reason: ``length`` marks a truncated message, which calls nothing.
        first_call: The number of its first call in the conversation.

    Returns:
        The message, as :meth:`grpo_agents.chat.Chat.parse` gives it, and the text of all its ids.
    """
    sampled = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    stop = template.stops.get(sampled[-1], "") if sampled else ""
    if stop:
        sampled.pop()
    text = template.encoding.decode(sampled)
    message: Message = {"role": "assistant", "content": text}
    thinking, closed, content = text.partition("</think>")
    if closed:
        message["content"] = content.lstrip("\n")
        message["reasoning_content"] = thinking.strip().removeprefix("<think>").strip("\n")
    if template.format is not None and finish_reason != "length":
        content, calls = template.format.parse(message["content"])
        if len(calls) > 1 and template.takes_one_call:
            calls[1:] = [_refused(call, template.format) for call in calls[1:]]
        if calls:
            message["content"] = content
            message["tool_calls"] = [{"id": call_id(number), **call} for number, call in enumerate(calls, first_call)]
    specials = template.encoding.specials
    if not specials.keys().isdisjoint(sampled):
        for special in specials.keys() & sampled:
            message["content"] = message["content"].replace(specials[special], "")
    return message, text + stop


def _refused(call: Mapping[str, Any], tool_format: ToolFormat) -> dict[str, Any]:
    """The call, marked as one too many."""
    if "invalid" in call:
        return dict(call)
    function = {"name": call["function"]["name"], "arguments": {}}
    reason = "this model's chat template takes one call a message"
    return {"type": "function", "function": function, "invalid": reason, "text": tool_format.format([call])}
