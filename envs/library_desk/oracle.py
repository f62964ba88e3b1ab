"""An agent that knows the task: it asks what it has to, looks up what it needs, and does what is right.

What it says is a demonstration to imitate, and shows that a task can be solved in the dialogue.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from grpo_agents.spaces import tool_call
from grpo_agents.trajectory import Message, Task

QUESTIONS = {
    "born": "Could you tell me your date of birth?",
    "format": "In which format would you like it?",
    "email": "What is your new e-mail address?",
    "pay": "Your fines are too high for that. Would you like to pay all of them now?",
    "hold": "No copy is free. Shall I put a hold on it for you?",
}
"""How it asks for what is said only on request."""


def oracle(task: Task) -> Iterator[Message]:
    """The messages that lead to the right end state, in order; the last one ends the episode."""
    user, wishes = task["user"], task["wishes"]
    if "card" not in user["answers"]:
        yield _calls("find_members", name=user["name"])
    for topic in user["details"]:
        yield _says(QUESTIONS[topic])
    yield _calls("show_member", card=task["card"])
    for wish in wishes:
        if wish["later"]:
            yield _says("That is done. Is there anything else?")
        if wish["title"]:
            yield _calls("search_books", words=wish["title"].strip('"'))
        for topic in wish["details"]:
            yield _says(QUESTIONS[topic])
        for call in wish["calls"]:
            yield _calls(call["name"], **call["arguments"])
    refused = [wish["says"] for wish in wishes if wish["forbidden"]]
    sorry = "".join(f"You said: {says} I am sorry, our rules do not allow it. " for says in refused)
    yield _says(f"{sorry}Everything else is done. Goodbye." if sorry else "Everything is done. Goodbye.")


def _says(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _calls(tool: str, /, **arguments: Any) -> Message:
    return {"role": "assistant", "content": "", "tool_calls": [tool_call(tool, arguments)]}
