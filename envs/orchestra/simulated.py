"""Language models that are not there: right as often as declared, so that the best a policy can do is known.

Who is asked again in an episode says the same again: there is nothing to be won by asking twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from grpo_agents.tools import Tool, tool
from grpo_agents.trajectory import Task


def simulated_model(name: str, description: str, *, price: float, latency: float) -> Tool:
    """A tool that answers the task's question as a model would that is right as often as its environment declares.

    Args:
        name: Its name, also its key in :attr:`OrchestraEnv.accuracy`.
        description: What the policy reads of it.
        price: Dollars a call.
        latency: Seconds a call.
    """

    def ask(self: Any) -> str:
        task = self.task
        if task.get("kind") not in self.accuracy.get(name, {}):
            raise ValueError(f"accuracy does not say how often {name!r} is right on kind {task.get('kind')!r}")
        if name not in self.said:
            right = self.np_random.random() < self.accuracy[name][task["kind"]]
            self.said[name] = str(task["answer"]) if right else nearly_right(task, self.np_random)
        return self.said[name]

    ask.__doc__ = description
    return tool(name=name, price=price, latency=latency, timeout=None)(ask)


def nearly_right(task: Task, rng: np.random.Generator) -> str:
    """A wrong answer that looks like a right one: a number that is off by 1 to 9, or another word of the question."""
    answer = str(task["answer"])
    if answer.removeprefix("-").isdecimal():
        return str(int(answer) + int(rng.integers(1, 10)))
    words = [word for word in task["question"].replace(",", " ").split() if word != answer]
    return min(words[-2:]) if words else f"not {answer}"
