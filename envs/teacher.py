r"""Any environment with its gold answers hidden from training: they evaluate, and teach nothing.

What the wrapped environment scores is called ``gold_…`` here. A run may name it in ``rewards.watch``; in
``rewards.vector`` it is refused, and rewards that are learned from see tasks without their gold keys. With it the
questions that are to be answered can be trained on (Compute as Teacher, arXiv 2509.14234).

>>> env = TeacherEnv([{"question": "What is 6 times 7?", "answer": "42"}])
>>> observation, info = env.reset(seed=0)
>>> _, reward, terminated, _, info = env.step(r"Six sevens are \boxed{42}.")
>>> reward, terminated, info["rewards"]
(0.0, True, {'gold_outcome': 1.0})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grpo_agents.env import AgentEnv, make_env
from grpo_agents.tools import Tool
from grpo_agents.trajectory import Message, Task


class TeacherEnv(AgentEnv):
    """Plays another environment, and renames what it scores.

    Args:
        tasks: A task source; that of the wrapped environment where there is none.
        env: The wrapped one: a Gymnasium id, ``module:Class`` or ``file.py:Class``.
        options: What it is made with.
        gold: Keys of tasks that hold gold answers.
        render_mode: See :class:`AgentEnv`.

    Raises:
        ValueError: No such environment, or one that hides gold answers itself.
    """

    def __init__(
        self,
        tasks: Any = None,
        *,
        env: str = "grpo_agents/Math-v0",
        options: Mapping[str, Any] | None = None,
        gold: Sequence[str] = ("answer",),
        render_mode: str | None = None,
    ):
        given = {} if tasks is None else {"tasks": tasks}
        self.inner = make_env(env, **{**(options or {}), **given}, render_mode=render_mode)
        if self.inner.hidden:
            raise ValueError(f"env.options.env: {env} hides gold answers itself; name the environment within")
        self.tools = self.inner.tools  # type: ignore[misc]  # of each wrapped environment its own
        super().__init__(self.inner.task_source, render_mode=render_mode)
        self._gold_name = {name: f"gold_{name}" for name in self.inner.components}
        self.components = tuple(self._gold_name.values())  # type: ignore[misc]
        self.hidden = self.components  # type: ignore[misc]
        self.gold = tuple(gold)  # type: ignore[misc]
        self.maxima = {self._gold_name.get(name, name): most for name, most in self.inner.maxima.items()}  # type: ignore[misc]
        self.token_price = self.inner.token_price
        self.repeats = self.inner.repeats
        self.preferences = self.inner.preferences  # type: ignore[misc]

    @property
    def np_random(self) -> np.random.Generator:
        """The wrapped environment's: it draws everything."""
        return self.inner.np_random

    @np_random.setter
    def np_random(self, value: np.random.Generator) -> None:
        self.inner.np_random = value

    @property
    def np_random_seed(self) -> int:
        """Of the wrapped environment."""
        return self.inner.np_random_seed

    @property
    def acting(self) -> AgentEnv:
        """The wrapped environment."""
        return self.inner.acting

    def vary(self, task: Task, rng: np.random.Generator) -> Task:
        """As the wrapped environment varies it."""
        return self.inner.vary(task, rng)

    def charge(self, dollars: float) -> None:
        """Adds to what the wrapped environment's episode has spent."""
        self.inner.charge(dollars)

    def offered(self, task: Task) -> Sequence[Tool]:
        """The tools that the wrapped environment offers for this task."""
        return self.inner.offered(task)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[Message, ...], dict[str, Any]]:
        """Starts an episode of the wrapped environment; see :meth:`AgentEnv.reset`."""
        said = self.inner.reset(seed=seed, options=options)
        self.task, self.preference = self.inner.task, self.inner.preference
        self.offer, self.runs = self.inner.offer, []
        return said

    def step(self, action: Message | str) -> tuple[tuple[Message, ...], float, bool, bool, dict[str, Any]]:
        """As the wrapped environment's, with the components renamed and a reward of 0: gold rewards nobody."""
        observation, _, terminated, truncated, info = self.inner.step(action)
        self.runs = self.inner.runs
        rewards = {self._gold_name.get(name, name): value for name, value in info["rewards"].items()}
        return observation, 0.0, terminated, truncated, {**info, "rewards": rewards}

    def render(self) -> str | None:  # type: ignore[override]
        """The wrapped environment's conversation."""
        return self.inner.render()

    def close(self) -> None:
        """Closes the wrapped environment."""
        self.inner.close()
