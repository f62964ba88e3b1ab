r"""What is on offer for a task: some of the tools, at prices and speeds of the day, under names that say nothing.

A policy that has learned on one market by heart knows neither the tools nor the prices of the next: it has to read
(ToolOrchestra, arXiv 2511.21689, section 3).

>>> from grpo_agents.envs.calculator import calculator
>>> market = Market(prices={"calculator": (0.5, 2.0)}, aliases=("tool-A", "tool-B"))
>>> offer = market.draw([calculator.costing(price=1.0, latency=3.0)], np.random.default_rng(0))
>>> offer
[{'name': 'tool-A', 'tool': 'calculator', 'price': 2.0, 'latency': 3.0}]
>>> on_offer([calculator], offer)[0].schema["function"]["description"]
'Evaluates an arithmetic expression exactly.\nPrice: $2 a call. Time: about 3 s.'
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import numpy as np

from grpo_agents.section import unknown_key
from grpo_agents.tools import Tool
from grpo_agents.tools.definition import CALLABLE_NAME

T = TypeVar("T")


@dataclass(frozen=True)
class Market:
    """How offers differ from task to task.

    Attributes:
        prices: Of a tool's own name the prices, in dollars a call, of which one is drawn; it keeps its own where it is
            not named.
        latencies: The same in seconds.
        aliases: Names that the tools are given at random; their own where there are none.
        subsets: By the tools' own names, which ones may be on offer together; each is as likely. None: any that is not
            empty.
    """

    prices: Mapping[str, Sequence[float]] = field(default_factory=dict)
    latencies: Mapping[str, Sequence[float]] = field(default_factory=dict)
    aliases: Sequence[str] = ()
    subsets: Sequence[Sequence[str]] | None = None

    def check(self, tools: Sequence[Tool]) -> None:
        """Refuses a market that cannot offer these tools.

        Raises:
            ValueError: Names the key and what is wrong.
        """
        known = [tool.name for tool in tools]
        for tool in tools:
            if tool.name in self.prices and tool.prices is None:
                raise ValueError(f"market.prices names {tool.name!r}, of which each call says what it cost")
        for alias in self.aliases:
            if self.aliases.count(alias) > 1 or not CALLABLE_NAME.fullmatch(alias):
                raise ValueError(
                    f"market.aliases has {alias!r} twice, or as what no tool can be called: names are of at most 64 "
                    "letters, digits, _ and -, each once"
                )
        for key, drawn in (("prices", self.prices), ("latencies", self.latencies)):
            for name, values in drawn.items():
                if name not in known:
                    raise ValueError(f"market.{key} names {name!r}; the tools are {', '.join(known)}")
                if not (isinstance(values, Sequence) and values and all(map(_is_amount, values))):
                    raise ValueError(
                        f"market.{key} of {name!r} is {values!r}: a list of numbers of at least 0 is wanted"
                    )
        most = len(known) if self.subsets is None else max((len(subset) for subset in self.subsets), default=0)
        for subset in self.subsets or ():
            if unknown := [name for name in subset if name not in known]:
                raise ValueError(f"market.subsets names {unknown[0]!r}; the tools are {', '.join(known)}")
        if self.subsets is not None and not self.subsets:
            raise ValueError("market.subsets is empty: give at least one, or leave it out")
        if self.aliases and len(self.aliases) < most:
            raise ValueError(f"market.aliases has {len(self.aliases)} names for up to {most} tools")

    def draw(self, tools: Sequence[Tool], rng: np.random.Generator) -> list[dict[str, Any]]:
        """An offer, as plain data: name, tool, price and latency of each tool in it, in random order.

        The price is None of a tool of which only a call shows what it costs, the latency of one that is measured.
        """
        chosen = self._subset(tools, rng)
        names = rng.permutation(list(self.aliases)).tolist() if self.aliases else [tool.name for tool in chosen]
        return [
            {
                "name": name,
                "tool": tool.name,
                "price": _drawn(self.prices.get(tool.name), None if tool.metered else tool.price, rng),
                "latency": _drawn(self.latencies.get(tool.name), tool.latency, rng),
            }
            for name, tool in zip(names, chosen, strict=False)
        ]

    def _subset(self, tools: Sequence[Tool], rng: np.random.Generator) -> list[Tool]:
        if self.subsets is None:
            code = int(rng.integers(1, 2 ** len(tools)))
            chosen = [tool for index, tool in enumerate(tools) if code >> index & 1]
        else:
            names = self.subsets[int(rng.integers(len(self.subsets)))]
            chosen = [tool for tool in tools if tool.name in names]
        return [chosen[index] for index in rng.permutation(len(chosen))]


def on_offer(tools: Sequence[Tool], offer: Sequence[dict[str, Any]]) -> list[Tool]:
    """The tools of an offer, with price and latency in their descriptions.

    Raises:
        ValueError: The offer names a tool that there is not.
    """
    known = {tool.name: tool for tool in tools}
    found = []
    for entry in offer:
        if entry["tool"] not in known:
            raise ValueError(f"the task's offer names the tool {entry['tool']!r}; there are {', '.join(known)}")
        tool = known[entry["tool"]].costing(price=entry["price"], latency=entry["latency"])
        found.append(tool.called(entry["name"]).with_price_shown())
    return found


def from_settings(kind: type[T], settings: Mapping[str, Any], where: str) -> T:
    """What a config's table makes: a market, or a price.

    Args:
        kind: A dataclass.
        settings: Its fields by name.
        where: What a person calls the table.

    Raises:
        ValueError: A field that there is not, or that cannot be what it is; names it.
    """
    known = [entry.name for entry in fields(kind)]  # type: ignore[arg-type]
    for key in settings:
        if key not in known:
            raise ValueError(unknown_key(f"{where}.{key}", known))
    try:
        return kind(**settings)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf


def _drawn(values: Sequence[float] | None, declared: float | None, rng: np.random.Generator) -> float | None:
    return declared if values is None else values[int(rng.integers(len(values)))]
