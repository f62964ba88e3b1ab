"""Orchestra-v0: choosing among a direct answer, a calculator, a novice and an expert as this user prefers.

The novice and the expert are simulated language models of declared accuracy, so the best achievable reward of every
task and preference is known. The tools and the preference vector follow ToolOrchestra (arXiv 2511.21689).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from grpo_agents.env import AgentEnv
from grpo_agents.envs.calculator import calculator
from grpo_agents.rewards.preference import Choices
from grpo_agents.tasks import GeneratedTasks
from grpo_agents.tools import Tool, tool
from grpo_agents.trajectory import Message, Task, Usage

WORDS = tuple(
    "apple brook cedar delta ember fjord grape hazel ivory jewel knoll lemon maple "
    "night ocean pearl quartz river stone tulip umber violet willow xenon yarrow zephyr".split()
)
TEST_SHARE = 5
"""One question in so many is held out, whichever seed draws it."""


def held_out(question: str) -> bool:
    """Whether a question belongs to the held-out split: decided by the question alone, so the splits cannot overlap."""
    return zlib.crc32(question.encode()) % TEST_SHARE == 0


def generate(rng: np.random.Generator) -> Task:
    """Draws a task.

    ``easy`` (an addition without a carry), ``hard`` (out of reach of mental arithmetic) or ``word``.
    """
    kind = ("easy", "hard", "word")[rng.choice(3, p=[0.2, 0.4, 0.4])]
    if kind == "easy":
        tens, units = int(rng.integers(1, 10)), int(rng.integers(0, 9))
        added = int(rng.integers(1, 10 - units))
        question, answer = f"{10 * tens + units}+{added}", str(10 * tens + units + added)
    elif kind == "hard":
        a, b, c = (int(number) for number in rng.integers([12, 12, 2], [100, 100, 10]))
        form = int(rng.integers(3))
        question = (f"{a}*{b}", f"({c}+{a})*{b}", f"{a}*{b}-{c}")[form]
        answer = str((a * b, (c + a) * b, a * b - c)[form])
    else:
        words = [WORDS[index] for index in rng.choice(len(WORDS), size=3, replace=False)]
        question, answer = f"last of {words[0]}, {words[1]}, {words[2]}", max(words)
    return {"id": question, "question": question, "answer": answer, "kind": kind}


class _Split:
    """Draws until a question falls into the split."""

    def __init__(self, test: bool):
        self.test = test

    def __call__(self, rng: np.random.Generator) -> Task:
        while held_out((task := generate(rng))["question"]) != self.test:
            pass
        return task


class OrchestraEnv(AgentEnv):
    """Questions of three kinds; each answer may be given directly, or after asking a tool that costs money and time.

    Args:
        split: Which questions: ``train``, ``test`` (held out) or ``all``.
    """

    components: ClassVar[tuple[str, ...]] = ("outcome",)
    maxima: ClassVar[Mapping[str, float]] = {"cost": 10.0, "latency": 3.0}
    preferences = Choices(
        [
            {"outcome": outcome / 10, "cost": cost / 10, "latency": latency / 10}
            for outcome, cost, latency in (
                (8, 1, 1), (1, 8, 1), (1, 9, 0), (2, 7, 1), (2, 8, 0), (1, 1, 8), (2, 0, 8), (2, 1, 7),
            )
        ]
    )  # fmt: skip

    accuracy: ClassVar[Mapping[str, Mapping[str, float]]] = {
        "direct": {"easy": 1.0, "hard": 0.0, "word": 0.0},
        "calculator": {"easy": 1.0, "hard": 1.0, "word": 0.0},
        "novice": {"easy": 0.7, "hard": 0.6, "word": 0.8},
        "expert": {"easy": 0.98, "hard": 0.98, "word": 0.98},
    }
    """How often an answer is right by way of each choice and kind of task.

    For ``direct`` it is what a policy could reach.
    """

    def __init__(
        self, tasks: object = None, *, split: Literal["train", "test", "all"] = "all", render_mode: str | None = None
    ):
        if tasks is None:
            tasks = GeneratedTasks(generate if split == "all" else _Split(split == "test"))
        super().__init__(tasks, render_mode=render_mode)

    @tool(price=0.5, latency=2.5, timeout=None)
    def novice(self) -> str:
        """Asks a small language model about the question: cheap, and often wrong."""
        return self._simulated("novice")

    @tool(price=10.0, latency=0.3, timeout=None)
    def expert(self) -> str:
        """Asks a large language model about the question: dear, quick, and nearly always right."""
        return self._simulated("expert")

    tools: ClassVar[Sequence[Tool]] = (calculator.costing(price=1.0, latency=3.0), novice, expert)

    def start(self, task: Task) -> str:
        """The question."""
        return task["question"]

    def describe_preference(self, preference: Mapping[str, float]) -> str:
        """The weights in tenths: short, and a digit each."""
        return "weights: " + ", ".join(f"{name} {10 * weight:.0f}" for name, weight in preference.items())

    def finish(self, task: Task, message: Message) -> dict[str, float]:
        """``outcome`` is 1 where the answer is the task's, to the letter."""
        return {"outcome": float(str(message.get("content") or "").strip() == task["answer"])}

    def _simulated(self, name: str) -> str:
        answer = self.task["answer"]
        if self.np_random.random() < self.accuracy[name][self.task["kind"]]:
            return answer
        if self.task["kind"] == "word":
            return min(word.strip(",") for word in self.task["question"].split()[2:])
        return str(int(answer) + int(self.np_random.integers(1, 10)))

    @classmethod
    def choices(cls) -> dict[str, Usage]:
        """The declared choices and what each costs: one call of a tool, or none."""
        costs = {entry.name: Usage(1, entry.price, entry.latency or 0.0) for entry in cls.tools}
        return {"direct": Usage(), **costs}

    @classmethod
    def expected_rewards(cls, task: Task) -> dict[str, dict[str, float]]:
        """How often each choice is right, and what it costs; nothing of a task that is of no known kind."""
        if task.get("kind") not in cls.accuracy["direct"]:
            return {}
        return {
            name: {
                "outcome": cls.accuracy[name][task["kind"]],
                "cost": usage.dollars,
                "latency": usage.latency,
                "tool_calls": usage.calls,
            }
            for name, usage in cls.choices().items()
        }

    @classmethod
    def expected_utility(cls, task: Task, preference: Mapping[str, float]) -> dict[str, float]:
        """Expected scalar reward of each choice.

        Accuracy · (w_outcome + w_cost · share saved + w_latency · share saved).
        """
        expected = {}
        for name, usage in cls.choices().items():
            saved = {
                "cost": 1 - usage.dollars / cls.maxima["cost"],
                "latency": 1 - usage.latency / cls.maxima["latency"],
            }
            worth = preference["outcome"] + sum(preference[key] * max(0.0, share) for key, share in saved.items())
            expected[name] = cls.accuracy[name][task["kind"]] * worth
        return expected
