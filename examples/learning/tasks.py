"""What the comparison adds to the demo: dialogues for its one preference, and questions that nobody trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from grpo_agents.tasks import load_object
from grpo_agents.trajectory import Task

_demonstrate = load_object(f"{Path(__file__).parents[1] / 'demo' / 'demonstrations.py'}:demonstrate")


def demonstrate(rng: np.random.Generator) -> dict[str, Any]:
    """A dialogue of the demo, for a user who weighs nothing but the outcome."""
    return _demonstrate(rng, {"outcome": 1.0})


def out_of_domain(rng: np.random.Generator) -> Task:
    """Draws a task: an operand of three digits where training has two, or a division where it has none.

    Answers are as long as those trained on: a model this small copies no longer ones.
    """
    quotient, b = int(rng.integers(100, 1000)), int(rng.integers(2, 10))
    if rng.random() < 0.5:
        question, answer = f"{quotient}*{b}", str(quotient * b)
    else:
        question, answer = f"{quotient * b}/{b}", str(quotient)
    return {"id": question, "question": question, "answer": answer, "kind": "hard"}
