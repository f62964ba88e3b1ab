r"""Arithmetic over several turns with a calculator.

>>> from grpo_agents.spaces import tool_call
>>> env = ToolMathEnv([{"question": "What is 47 * 83?", "answer": "3901"}])
>>> observation, info = env.reset(seed=0)
>>> calls = [tool_call("calculator", {"expression": "47 * 83"})]
>>> observation, *_ = env.step({"role": "assistant", "content": "", "tool_calls": calls})
>>> observation[0]["content"]
'3901'
>>> env.step(r"\boxed{3901}")[1]
1.0
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from grpo_agents.env import AgentEnv
from grpo_agents.envs.calculator import calculator
from grpo_agents.rewards.math_answer import extract, score_answer
from grpo_agents.trajectory import Message, Task


def draw_task(rng: np.random.Generator) -> Task:
    """Draws whole-number arithmetic of level 1 to 3: as many operations, on numbers of up to level + 1 digits."""
    level = int(rng.integers(1, 4))
    numbers = [int(number) for number in rng.integers(11, 10 ** (level + 1), size=level + 1)]
    if level == 1:
        a, b = numbers
        expression, answer = f"{a} * {b}", a * b
    elif level == 2:
        a, b, c = numbers
        expression, answer = f"{a} * {b} - {c}", a * b - c
    else:
        a, b, c, d = numbers
        expression, answer = f"({a} + {b}) * ({c} - {d})", (a + b) * (c - d)
    return {"question": f"What is {expression}?", "answer": str(answer), "level": level}


class ToolMathEnv(AgentEnv):
    r"""Arithmetic that is better left to the ``calculator``. A task has a ``question`` and an ``answer``.

    The answer is in ``\boxed{}``, or is the whole of the last message.
    """

    tasks = draw_task
    tools = (calculator,)

    def start(self, task: Task) -> str:
        """The question, and how to answer it."""
        return f"{task['question']}\nUse the calculator, and write the final answer in \\boxed{{}}."

    def finish(self, task: Task, message: Message) -> Mapping[str, float]:
        """1 for the right answer, else 0.

        Raises:
            ValueError: The task's own answer cannot be read.
        """
        content = str(message.get("content") or "")
        return {"outcome": score_answer(str(task["answer"]), extract(content) or content.strip())}
