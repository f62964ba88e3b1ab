"""Orchestra-v0: to answer directly or to ask, and whom, as this user prefers.

Tools of any kind, each with a price and a latency; a preference over being right, what it costs and how long it takes;
and, where a market is given, an offer that differs from task to task. After ToolOrchestra (arXiv 2511.21689).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from grpo_agents.env import AgentEnv
from grpo_agents.envs.calculator import calculator
from grpo_agents.envs.orchestra.market import Market, from_settings, on_offer
from grpo_agents.envs.orchestra.questions import Split, questions
from grpo_agents.envs.orchestra.simulated import simulated_model
from grpo_agents.rewards.cost import USES
from grpo_agents.rewards.math_answer import extract, score_answer
from grpo_agents.rewards.preference import Choices
from grpo_agents.spaces import Action
from grpo_agents.tasks import load_object
from grpo_agents.tools import Price, Tool
from grpo_agents.trajectory import Message, Task, Usage

DIRECT = "direct"
"""The choice of asking nobody."""

DECLARED: Mapping[str, Mapping[str, float]] = {
    DIRECT: {"easy": 1.0, "hard": 0.0, "word": 0.0},
    "calculator": {"easy": 1.0, "hard": 1.0, "word": 0.0},
    "novice": {"easy": 0.7, "hard": 0.6, "word": 0.8},
    "expert": {"easy": 0.98, "hard": 0.98, "word": 0.98},
}
"""How often an answer to the built-in questions is right by way of each choice and kind of question."""


class OrchestraEnv(AgentEnv):
    """Questions that may be answered directly, or after asking tools that cost money and time.

    A task has a ``question`` and an ``answer``; the built-in ones are of three kinds, with a calculator and two
    simulated models to ask.

    Args:
        tasks: A task source instead of the built-in questions.
        split: Which of the built-in questions: ``train``, ``test`` (held out) or ``all``.
        tools: The tools there are, or ``module:tools`` or ``file.py:tools`` that names them.
        market: What of the offer is drawn for each task: a :class:`Market` or its settings. None: every tool, as it is.
        answers: How answers are compared: ``text``, to the letter, or ``math``, by the verifier.
        accuracy: How often an answer is right by way of each choice and kind of task, where that is known: simulated
            models keep to it, and the best achievable reward follows from it.
        maxima: The most an episode can sensibly cost, by component, where that is not what the built-in tools cost.
        budget: Dollars that an episode may spend; a task's own ``budget`` goes before it.
        token_price: What the policy's own tokens cost: a :class:`Price` or its settings, as ``{written = 2e-6}``.
        render_mode: See :class:`AgentEnv`.

    Raises:
        ValueError: A market that does not fit the tools, or an accuracy that lacks one.
    """

    components: ClassVar[tuple[str, ...]] = ("outcome",)
    maxima: Mapping[str, float] = {"cost": 10.0, "latency": 3.0}
    preferences = Choices(
        [
            {"outcome": outcome / 10, "cost": cost / 10, "latency": latency / 10}
            for outcome, cost, latency in (
                (8, 1, 1), (1, 8, 1), (1, 9, 0), (2, 7, 1), (2, 8, 0), (1, 1, 8), (2, 0, 8), (2, 1, 7),
            )
        ]
    )  # fmt: skip
    tools: ClassVar[Sequence[Tool]] = (
        calculator.costing(price=1.0, latency=3.0),
        simulated_model(
            "novice", "Asks a small language model about the question: cheap, and often wrong.", price=0.5, latency=2.5
        ),
        simulated_model(
            "expert",
            "Asks a large language model about the question: dear, quick, and nearly always right.",
            price=10.0,
            latency=0.3,
        ),
    )

    def __init__(
        self,
        tasks: object = None,
        *,
        split: Split = "all",
        tools: Sequence[Tool] | str | None = None,
        market: Market | Mapping[str, Any] | None = None,
        answers: Literal["text", "math"] = "text",
        accuracy: Mapping[str, Mapping[str, float]] | None = None,
        maxima: Mapping[str, float] | None = None,
        budget: float | None = None,
        token_price: Price | Mapping[str, float] | None = None,
        render_mode: str | None = None,
    ):
        super().__init__(questions(split) if tasks is None else tasks, render_mode=render_mode)
        self.tools = load_object(tools) if isinstance(tools, str) else tools or type(self).tools  # type: ignore[misc]
        self.market = from_settings(Market, market, "market") if isinstance(market, Mapping) else market
        if self.market is not None:
            self.market.check(self.tools)
        self.answers = answers
        self.accuracy = accuracy or (DECLARED if tools is None else {})
        if self.accuracy and (lacking := {DIRECT, *(tool.name for tool in self.tools)} - set(self.accuracy)):
            raise ValueError(
                f"accuracy lacks {', '.join(sorted(lacking))}: say how often each choice is right, by kind"
            )
        self.action_space = Action(self.tools)
        self.maxima = maxima or type(self).maxima
        self.budget = budget
        self.token_price = (
            from_settings(Price, token_price, "token_price") if isinstance(token_price, Mapping) else token_price
        )
        self.said: dict[str, str] = {}  # by simulated models in this episode

    def vary(self, task: Task, rng: np.random.Generator) -> Task:
        """Draws the offer from the market, where there is one, as the task's ``offer``."""
        if self.market is None or "offer" in task:
            return task
        return {**task, "offer": self.market.draw(self.tools, rng)}

    def offered(self, task: Task) -> Sequence[Tool]:
        """The tools of the task's offer, or all."""
        return on_offer(self.tools, task["offer"]) if "offer" in task else self.tools

    def allowance(self, task: Task) -> float | None:
        """The task's ``budget``, or the environment's."""
        own = task.get("budget")
        return self.budget if own is None else own

    def start(self, task: Task) -> str:
        """The question."""
        self.said = {}
        return task["question"]

    def describe_preference(self, preference: Mapping[str, float]) -> str:
        """The weights in tenths, short and a digit each; those of tools under the names by which they are on offer."""
        called = {f"{USES}{tool.name}": tool.alias for tool in self.offer.values()}
        shown = {called.get(name, name): 10 * weight for name, weight in preference.items()}
        return "weights: " + ", ".join(
            f"{name} {tenths:g}" for name, tenths in shown.items() if not name.startswith(USES)
        )

    def finish(self, task: Task, message: Message) -> dict[str, float]:
        """``outcome`` is 1 where the answer is the task's.

        Raises:
            ValueError: The task's own answer cannot be read.
        """
        content = str(message.get("content") or "").strip()
        if self.answers == "math":
            return {"outcome": score_answer(str(task["answer"]), extract(content) or content)}
        return {"outcome": float(content == str(task["answer"]).strip())}

    def choices(self, task: Task) -> dict[str, Usage]:
        """What each choice costs: one call of a tool that is on offer and within the budget, or none."""
        allowance = self.allowance(task)
        within = [entry for entry in self.offered(task) if allowance is None or entry.price <= allowance]
        return {DIRECT: Usage(), **{entry.name: Usage(1, entry.price, entry.latency or 0.0) for entry in within}}

    def expected_rewards(self, task: Task) -> dict[str, dict[str, float]]:
        """How often each choice is right, and what it costs, the policy's own tokens apart.

        Nothing of a task that is of no known kind, or where only a call shows what a tool costs.
        """
        unknown = not self.accuracy or task.get("kind") not in self.accuracy[DIRECT]
        if unknown or any(tool.metered for tool in self.offered(task)):
            return {}
        return {
            name: {
                "outcome": self.accuracy[name][task["kind"]],
                "cost": usage.dollars,
                "latency": usage.latency,
                "tool_calls": usage.calls,
                **{f"{USES}{tool.name}": float(tool.name == name) for tool in self.tools},
            }
            for name, usage in self.choices(task).items()
        }
