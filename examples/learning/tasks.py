"""Arithmetic never trained on, with answers as long as those that were: a model this small copies no longer ones."""

from __future__ import annotations

import numpy as np

from grpo_agents.trajectory import Task


def out_of_domain(rng: np.random.Generator) -> Task:
    """Draws a task: an operand of three digits where training has two, or a division where it has none."""
    quotient, b = int(rng.integers(100, 1000)), int(rng.integers(2, 10))
    if rng.random() < 0.5:
        question, answer = f"{quotient}*{b}", str(quotient * b)
    else:
        question, answer = f"{quotient * b}/{b}", str(quotient)
    return {"id": question, "question": question, "answer": answer, "kind": "hard"}
