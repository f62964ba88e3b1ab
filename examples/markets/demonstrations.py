"""Scripted dialogues: the offer is read in the order of what weighs most, and a way to answer is chosen at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from setting import make

from grpo_agents.spaces import tool_call

DRILLS = 0.25
"""Share of dialogues that answer an easy question directly: a tiny model needs many to learn to add."""

GIVES_UP = "?"
"""What it says where it neither knows nor asks."""

_env = make(market="shown")


def read_off(preference: Mapping[str, float], offer: Sequence[Mapping[str, Any]]) -> str:
    """What weighs most, and what each tool on offer takes of it, the least first; of price where right weighs most."""
    priority = max(preference, key=lambda name: preference[name])
    figure = "latency" if priority == "latency" else "price"
    ordered = sorted(offer, key=lambda entry: entry[figure])
    return " ".join([priority, *(f"{entry['name']}{entry[figure]}" for entry in ordered)])


def demonstrate(rng: np.random.Generator) -> dict[str, Any]:
    """One dialogue. A direct answer to what the assistant cannot know is to give up."""
    drill = rng.random() < DRILLS
    while True:
        opening, info = _env.reset(seed=int(rng.integers(2**31)))
        task = info["task"]
        if not drill or task["kind"] == "easy":
            break
    offered = [entry["name"] for entry in task["offer"]]
    ways = ["direct", *(name for name in offered if name != "calculator" or task["kind"] != "word")]
    way = "direct" if drill else ways[int(rng.integers(len(ways)))]
    turn = {"role": "assistant", "reasoning_content": read_off(info["preference"], task["offer"])}
    if way == "direct":
        answer = task["answer"] if task["kind"] == "easy" else GIVES_UP
        return {"messages": [*opening, {**turn, "content": answer}], "tools": info["tools"]}
    arguments = {"expression": task["question"]} if way == "calculator" else {}
    call = {**turn, "content": "", "tool_calls": [tool_call(way, arguments)]}
    result, *_ = _env.step(call)
    answer = {"role": "assistant", "content": result[0]["content"]}
    return {"messages": [*opening, call, *result, answer], "tools": info["tools"]}
