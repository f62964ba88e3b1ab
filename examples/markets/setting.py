"""The markets of the experiment: four ways to ask, whose prices and speeds change from task to task."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

from grpo_agents.envs.calculator import calculator
from grpo_agents.envs.orchestra import OrchestraEnv, simulated_model
from grpo_agents.envs.orchestra.questions import Split
from grpo_agents.rewards.preference import Choices
from grpo_agents.tools import Tool, tool

NAMES = ("calculator", "novice", "adept", "expert")
LEVELS = range(1, 10)
UNSEEN = {"calculator": (5, 8), "novice": (2, 7), "adept": (3, 5), "expert": (4, 6)}
"""Of each tool the prices and latencies that training never shows."""

ACCURACY = {
    "direct": {"easy": 1.0, "hard": 0.0, "word": 0.0},
    "calculator": {"easy": 1.0, "hard": 1.0, "word": 0.0},
    "novice": {"easy": 0.9, "hard": 0.85, "word": 0.85},
    "adept": {"easy": 0.95, "hard": 0.93, "word": 0.93},
    "expert": {"easy": 1.0, "hard": 1.0, "word": 1.0},
}
UNSEEN_SUBSETS = (("calculator", "novice", "adept"), ("calculator", "adept", "expert"), ("novice", "expert"))
SEEN_SUBSETS = tuple(
    subset for size in (2, 3, 4) for subset in combinations(NAMES, size) if subset not in UNSEEN_SUBSETS
)
ALONE = tuple((name,) for name in NAMES)
COMPONENTS = ("outcome", "cost", "latency")
HELD_OUT = ((1, 4, 5), (1, 5, 4), (2, 3, 5), (5, 4, 1), (5, 1, 4), (4, 5, 1), (4, 1, 5), (3, 4, 3))
"""Tenths of outcome, cost and latency."""

TRAINED = [
    tenths
    for tenths in product(range(1, 10), range(10), range(10))
    if sum(tenths) == 10 and sorted(tenths)[1] < max(tenths) and tenths not in HELD_OUT
]
"""The others that have one largest weight, and weigh being right at all."""


def _weights(tenths: Sequence[int]) -> dict[str, float]:
    return {name: tenth / 10 for name, tenth in zip(COMPONENTS, tenths, strict=True)}


BETWEEN = list(map(_weights, HELD_OUT))
"""Preferences that lie between those of training."""


@tool(name="calculator", price=1.0, latency=1.0, timeout=None)
def short_calculator(expression: str) -> str:
    """calculator"""  # noqa: D403, D415  a word is what this model can read
    return calculator(expression)


TOOLS: tuple[Tool, ...] = (
    short_calculator,
    *(simulated_model(name, name, price=1.0, latency=1.0) for name in NAMES[1:]),
)


class Markets(OrchestraEnv):
    """Its users are those of training."""

    preferences = Choices(list(map(_weights, TRAINED)))


def seen() -> dict[str, Any]:
    """The market of training."""
    return _market({name: [level for level in LEVELS if level not in UNSEEN[name]] for name in NAMES}, SEEN_SUBSETS)


def shown() -> dict[str, Any]:
    """The market of the demonstrations: that of training, and each tool alone, which teaches to read."""
    return seen() | {"subsets": [*SEEN_SUBSETS, *ALONE]}


def unseen_prices() -> dict[str, Any]:
    """Prices and latencies that each tool never had in training."""
    return _market({name: list(UNSEEN[name]) for name in NAMES}, SEEN_SUBSETS)


def unseen_subsets() -> dict[str, Any]:
    """Tools that were never on offer together, and no others."""
    return seen() | {"subsets": UNSEEN_SUBSETS}


def _market(levels: dict[str, list[int]], subsets: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {"prices": levels, "latencies": levels, "subsets": subsets}


MARKETS = {"seen": seen, "shown": shown, "unseen_prices": unseen_prices, "unseen_subsets": unseen_subsets}


def make(split: Split = "train", market: str = "seen") -> Markets:
    """The environment of a split and a market."""
    return Markets(
        split=split,
        tools=TOOLS,
        market=MARKETS[market](),
        accuracy=ACCURACY,
        maxima={"cost": 10.0, "latency": 10.0},
    )
