"""Scripted dialogues that mix all behaviours: whatever the user prefers, a way to answer is chosen at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from grpo_agents.envs.orchestra import OrchestraEnv
from grpo_agents.spaces import tool_call

DRILLS = 0.25
"""Share of dialogues that answer an easy question directly: a tiny model needs many to learn to add."""

GIVES_UP = "?"
"""What it says where it neither knows nor asks."""

_env = OrchestraEnv(split="train")


def demonstrate(rng: np.random.Generator, preference: Mapping[str, float] | None = None) -> dict[str, Any]:
    """One dialogue: the task and, unless it is given, the preference are drawn, and so is how it is answered.

    The assistant first names what weighs most. A direct answer to what it cannot know is to give up.
    """
    drill = rng.random() < DRILLS
    while True:
        opening, info = _env.reset(seed=int(rng.integers(2**31)), options={"preference": preference})
        kind = info["task"]["kind"]
        if not drill or kind == "easy":
            break
    ways = ["direct", "novice", "expert"] + ["calculator"] * (kind != "word")
    way = "direct" if drill else str(rng.choice(ways))
    priority = max(info["preference"], key=lambda name: info["preference"][name])
    turn = {"role": "assistant", "reasoning_content": priority}
    if way == "direct":
        answer = info["task"]["answer"] if kind == "easy" else GIVES_UP
        return {"messages": [*opening, {**turn, "content": answer}], "tools": info["tools"]}
    arguments = {"expression": info["task"]["question"]} if way == "calculator" else {}
    call = {**turn, "content": "", "tool_calls": [tool_call(way, arguments)]}
    result, *_ = _env.step(call)
    answer = {"role": "assistant", "content": result[0]["content"]}
    return {"messages": [*opening, call, *result, answer], "tools": info["tools"]}
