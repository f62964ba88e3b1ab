"""Column addition with the working shown, and an anchor that is a script: what examples/teacher/experiment.py plays.

The anchor is no language model. One of half a million parameters cannot read eight rollouts; this script reads them as
Compute as Teacher has it: it sees their working and nothing else, neither the question nor the gold answer, votes on
each step, and composes the reference. It adds nothing up itself: every sum in the reference was written by a rollout.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from grpo_agents import AgentEnv, RewardVector
from grpo_agents.engines.chat_model import ScriptedModel
from grpo_agents.rewards.component import Component
from grpo_agents.rewards.consensus import majority
from grpo_agents.rewards.reference import reference
from grpo_agents.trajectory import Group, Message, Task

DIGITS = 4
_STEP = re.compile(r"(\d\+\d)(\+1)?=(\d{1,2})")


def draw(rng: np.random.Generator) -> Task:
    """Draws two numbers of four digits."""
    a, b = (int(number) for number in rng.integers(10 ** (DIGITS - 1), 10**DIGITS, 2))
    return {"id": f"{a}+{b}", "question": f"{a}+{b}", "answer": str(a + b)}


def working(question: str) -> str:
    """Column by column from the right, and the sum.

    >>> working("4785+1219")
    '5+9=14;8+1+1=10;7+2+1=10;4+1+1=6;6004'
    """
    a, b = question.split("+")
    steps, carry = [], 0
    for one, other in zip(reversed(a), reversed(b), strict=True):
        total = int(one) + int(other) + carry
        steps.append(f"{one}+{other}{'+1' if carry else ''}={total}")
        carry = total // 10
    return ";".join([*steps, str(int(a) + int(b))])


def demonstrate(rng: np.random.Generator) -> dict[str, Any]:
    """A question and its working, to imitate."""
    task = draw(rng)
    said = {"role": "assistant", "content": working(task["question"])}
    return {"messages": [{"role": "user", "content": task["question"]}, said]}


def last_part(text: str) -> str | None:
    """The sum that a text ends with."""
    part = text.rpartition(";")[2].strip()
    return part if part.isdigit() else None


class Addition(AgentEnv):
    """Two numbers to be added."""

    tasks = draw

    def start(self, task: Task) -> str:
        """The question."""
        return task["question"]

    def finish(self, task: Task, message: Message) -> dict[str, float]:
        """1 for the right sum, else 0."""
        return {"outcome": float(last_part(str(message.get("content") or "")) == task["answer"])}


def compose(messages: Sequence[Message]) -> str:
    r"""Votes on the rollouts' working, column by column, and puts together what won.

    >>> rollouts = ["5+9=14;8+1+1=10;94", "5+9=14;8+1+1=11;114", "5+9=13;8+1+1=10;103"]
    >>> compose([{"role": "user", "content": "\n".join(rollouts)}])
    '5+9=14;8+1+1=10;104'
    """
    workings = [_STEP.findall(line) for line in str(messages[-1]["content"]).splitlines()]
    workings = [steps for steps in workings if steps]
    said, digits, carry = [], "", ""
    for column in range(max(map(len, workings), default=0)):
        steps = [steps[column] for steps in workings if column < len(steps)]
        pair = _vote([step[0] for step in steps])
        total = _vote([step[2] for step in steps if step[:2] == (pair, carry)] or [step[2] for step in steps])
        said.append(f"{pair}{carry}={total}")
        digits, carry = total[-1] + digits, "+1" if len(total) > 1 else ""
    return ";".join([*said, ("1" if carry else "") + digits])


def _vote(texts: Sequence[str]) -> str:
    return Counter(texts).most_common(1)[0][0]


_reference = reference(answer=last_part, compare=str.__eq__, prompt="{rollouts}")


async def _synthesise(group: Group) -> list[float]:
    return await _reference(group, anchor=ScriptedModel(compose))


synthesis = Component("reference", _synthesise, unit="agrees", per="group")
taught = RewardVector([synthesis])
compared = RewardVector([synthesis, majority(answer=last_part, compare=str.__eq__)])
