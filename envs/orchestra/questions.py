"""Questions of three kinds: mental arithmetic, arithmetic that takes a calculator, and what no calculator can do."""

from __future__ import annotations

import zlib
from typing import Literal

import numpy as np

from grpo_agents.tasks import GeneratedTasks
from grpo_agents.trajectory import Task

Split = Literal["train", "test", "all"]

WORDS = tuple(
    "apple brook cedar delta ember fjord grape hazel ivory jewel knoll lemon maple "
    "night ocean pearl quartz river stone tulip umber violet willow xenon yarrow zephyr".split()
)
TEST_SHARE = 5
"""One question in so many is held out, whichever seed draws it."""


def questions(split: Split = "all") -> GeneratedTasks:
    """The questions of a split, without end."""
    return GeneratedTasks(generate if split == "all" else _OfSplit(split == "test"))


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


class _OfSplit:
    """Draws until a question falls into the split."""

    def __init__(self, test: bool):
        self.test = test

    def __call__(self, rng: np.random.Generator) -> Task:
        while held_out((task := generate(rng))["question"]) != self.test:
            pass
        return task
