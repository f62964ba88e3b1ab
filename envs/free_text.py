"""A prompt and a text that answers it; what the text is worth is left to rewards, as a rubric.

>>> env = FreeTextEnv([{"prompt": "Why is the sky blue?"}])
>>> observation, info = env.reset(seed=0)
>>> _, reward, terminated, _, info = env.step("Short waves are scattered most.")
>>> reward, terminated, info["rewards"]
(0.0, True, {})
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from grpo_agents.env import AgentEnv, Reply
from grpo_agents.trajectory import Message, Task

SUBJECTS = ("why the sky is blue", "how yeast raises bread", "what a prime number is", "why ice floats")
READERS = ("a child of six", "a nurse", "a person who is in a hurry")


def draw_task(rng: np.random.Generator) -> Task:
    """Draws something to be explained to somebody."""
    subject, reader = SUBJECTS[int(rng.integers(len(SUBJECTS)))], READERS[int(rng.integers(len(READERS)))]
    return {"prompt": f"Explain {subject} to {reader}."}


class FreeTextEnv(AgentEnv):
    """One prompt, one answer, no verdict. A task has a ``prompt``: a text, or the messages so far."""

    tasks = draw_task
    components: ClassVar[tuple[str, ...]] = ()

    def start(self, task: Task) -> Sequence[Message | str] | Message | str:
        """The prompt."""
        return task["prompt"]

    def respond(self, message: Message) -> Reply:
        """Takes the first message for the answer."""
        return Reply(terminated=True)
