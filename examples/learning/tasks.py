"""Arithmetic that was never trained on: longer operands, and an operator that no training question has."""

from __future__ import annotations

import numpy as np

from grpo_agents.trajectory import Task


def out_of_domain(rng: np.random.Generator) -> Task:
    """Draws a task: operands of three digits where training has two, or a division where it has none."""
    if rng.random() < 0.5:
        a, b = int(rng.integers(100, 1000)), int(rng.integers(12, 100))
        question, answer = f"{a}*{b}", str(a * b)
    else:
        b, quotient = int(rng.integers(12, 100)), int(rng.integers(12, 100))
        question, answer = f"{b * quotient}/{b}", str(quotient)
    return {"id": question, "question": question, "answer": answer, "kind": "hard"}
