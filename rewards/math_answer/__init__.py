r"""Whether an answer to a question of mathematics is the right one.

Two steps: :func:`extract` finds the final answer in a response, :func:`verify` compares two answers. The text is read
by a grammar of its own and never evaluated as code; arithmetic is exact; all work is bounded, and what can take long is
done by a process that is killed when it does.

>>> verify(r"\frac{1}{2}", "0.5").status
'equal'
>>> bool(verify("1/3", "0.33"))
False
>>> verify("(1, 2)", "(2, 1)").sentence
'The answer (2, 1) is not (1, 2): they differ in their elements.'
"""

from __future__ import annotations

from grpo_agents.rewards.component import component
from grpo_agents.rewards.math_answer.extraction import LENIENT, STRICT, Mode, extract
from grpo_agents.rewards.math_answer.verdict import COMMON, Conventions, Verdict
from grpo_agents.rewards.math_answer.verification import VerifierError, verify, verify_all
from grpo_agents.trajectory import Trajectory

__all__ = [
    "COMMON",
    "LENIENT",
    "STRICT",
    "Conventions",
    "Mode",
    "Verdict",
    "VerifierError",
    "extract",
    "math_answer",
    "score_answer",
    "verify",
    "verify_all",
]


def score_answer(gold: str, answer: str | None, conventions: Conventions = COMMON) -> float:
    """1 for a right answer; 0 for a wrong one, a missing one and one that nobody can read.

    Raises:
        ValueError: The gold answer cannot be read, so there is nothing to judge by.
        VerifierError: The process that was to decide failed.
    """
    verdict = verify(gold, answer or "", conventions)
    if verdict.status == "unparsed" and verdict.rule == "gold":
        raise ValueError(f"the gold answer {gold!r:.200} cannot be read: it {verdict.problem}")
    return float(bool(verdict))


@component
def math_answer(trajectory: Trajectory, marker: str | None = None) -> float:
    r"""Whether the last message's answer, in ``\boxed{}`` or after the marker, equals the task's ``answer``."""
    return score_answer(str(trajectory.task["answer"]), extract(trajectory.final, marker))
