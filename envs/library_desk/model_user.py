"""The member at the desk, played by a language model that is told what a scripted one would say."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np

from grpo_agents.background import in_background
from grpo_agents.envs.library_desk.user import Said
from grpo_agents.trajectory import Message, Task

if TYPE_CHECKING:
    from grpo_agents.engines.chat_model import ChatModel

STOP = "###STOP###"
"""What the model writes when its member leaves."""

GREETING = "Hello, how can I help you?"
"""What it is asked first."""

INSTRUCTIONS = """\
You play a member of a library who talks to the person at its desk. Write only what the member says, a sentence or two \
at a time, in the first person.

You are {name}. You say at the beginning, in your own words:
{told}

You say the following only when you are asked about it:
{details}
{later}
Make nothing up: asked for anything else, say that you do not know, or no. Do not agree to what is not written here. \
When the person at the desk has dealt with everything, or says that it cannot be done, write {stop} and nothing else."""


def instructions(task: Task) -> str:
    """What the model is told: all that its member knows, and when to say it."""
    wishes = task["wishes"]
    first = [task["user"], *(wish for wish in wishes if not wish["later"])]
    details = [
        text
        for part in [task["user"], *wishes]
        for text in [*part["details"].values(), *part["answers"].values()]
        if text not in part["says"]
    ]
    later = [wish["says"] for wish in wishes if wish["later"]]
    said_last = f"\nWhen all of that is done and you are asked for more, you say:\n{_listed(later)}\n" if later else ""
    return INSTRUCTIONS.format(
        name=task["user"]["name"],
        told=_listed([part["says"] for part in first]),
        details=_listed(details),
        later=said_last,
        stop=STOP,
    )


class ModelUser:
    """Plays the member of a task with a chat model. What the model cannot do is raised: it is not the policy's fault.

    Args:
        model: Any chat model.
        task: Its ``user`` and ``wishes`` are read.
        rng: Seeds the model's draws.
    """

    def __init__(self, model: ChatModel, task: Task, rng: np.random.Generator):
        self._model = model
        self._rng = rng
        self._dialogue: list[Message] = [
            {"role": "system", "content": instructions(task)},
            {"role": "user", "content": GREETING},
        ]

    def opening(self) -> str:
        """The first message.

        Raises:
            EngineFailure: The model cannot be asked any more.
            ValueError: It says nothing, or the dialogue does not fit its context.
        """
        return self._ask().text

    def reply(self, text: str) -> Said:
        """The answer to a message; the member leaves where the model writes :data:`STOP`. Raises as :meth:`opening`."""
        self._dialogue.append({"role": "user", "content": text or "(says nothing)"})
        return self._ask()

    def _ask(self) -> Said:
        seed = int(self._rng.integers(2**31))
        # in a thread of its own: an environment may be stepped where an event loop runs
        answer = in_background(lambda: asyncio.run(self._model.complete(self._dialogue, seed=seed))).result()
        said, stop, _ = answer.text.partition(STOP)
        if not said.strip() and not stop:
            raise ValueError(
                "the model that plays the user said nothing"
                + (": it ran out of tokens, allow it more" if answer.finish_reason == "length" else "")
            )
        self._dialogue.append({"role": "assistant", "content": answer.text})
        return Said(said.strip() or "Goodbye.", leaves=bool(stop))


def _listed(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) or "- nothing"
