r"""Mathematics in one turn: a question, and an answer in ``\boxed{}``.

>>> env = MathEnv([{"question": "What is 6 times 7?", "answer": "42"}])
>>> observation, info = env.reset(seed=0)
>>> _, reward, terminated, _, _ = env.step(r"Six sevens are \boxed{42}.")
>>> reward, terminated
(1.0, True)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from grpo_agents.env import AgentEnv, Reply
from grpo_agents.rewards.math_answer import extract, score_answer
from grpo_agents.trajectory import Message, Task

NAMES = ("Ada", "Ben", "Chen", "Dalia", "Emil", "Fatma")
GOODS = ("apples", "books", "pencils", "stamps", "marbles", "tickets")


def draw_task(rng: np.random.Generator) -> Task:
    """Draws a question of level 1 (two numbers), 2 (a short story) or 3 (a linear equation), with its exact answer."""
    level = int(rng.integers(1, 4))
    a, b, c = (int(number) for number in rng.integers(2, 20, size=3))
    if level == 1:
        sign, answer = (("+", a + b), ("-", a - b), ("*", a * b))[int(rng.integers(3))]
        question = f"What is {a} {sign} {b}?"
    elif level == 2:
        name, good = NAMES[int(rng.integers(len(NAMES)))], GOODS[int(rng.integers(len(GOODS)))]
        answer = a * b + c
        question = f"{name} buys {a} boxes of {b} {good} and already has {c}. How many {good} are there in all?"
    else:
        answer = c
        question = f"Solve for x: {a}x + {b} = {a * c + b}."
    return {"question": question, "answer": str(answer), "level": level}


class MathEnv(AgentEnv):
    """One question and one message that answers it. A task has a ``question`` and an ``answer``.

    Args:
        tasks: A task source; simple questions are generated where there is none.
        marker: What the answer stands behind in the task's ``answer`` (GSM8K's ``####``); also taken from the policy.
        render_mode: See :class:`AgentEnv`.
    """

    tasks = draw_task

    def __init__(self, tasks: Any = None, *, marker: str | None = None, render_mode: str | None = None):
        super().__init__(tasks, render_mode=render_mode)
        self.marker = marker

    def start(self, task: Task) -> str:
        """The question, and how to answer it."""
        return f"{task['question']}\nThink step by step, and write the final answer in \\boxed{{}}."

    def respond(self, message: Message) -> Reply:
        """Takes the first message for the answer, whatever else it holds."""
        return Reply(rewards=self.finish(self.task, message), terminated=True)

    def finish(self, task: Task, message: Message) -> Mapping[str, float]:
        """1 for the right answer, else 0.

        Raises:
            ValueError: The task's own answer cannot be read.
        """
        gold = str(task["answer"])
        if self.marker and self.marker in gold:
            gold = extract(gold, self.marker) or ""
        return {"outcome": score_answer(gold, extract(str(message.get("content") or ""), self.marker))}
