"""Runs made by hand, for the tests of reports: what a run leaves, without a run."""

import json

import numpy as np

from grpo_agents import store
from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.scoring import Scoring
from grpo_agents.trajectory import Group, Sample, Step, ToolRun, Trajectory

SCORING = Scoring(
    RewardVector([Component("outcome", None, "max"), Component("cost", None, "min", "dollars")]),
    {"cost": 10.0},
    "outcome",
)
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("calculator", "expert")]
PREFERENCES = ({"outcome": 0.9, "cost": 0.1}, {"outcome": 0.2, "cost": 0.8})


def rollout(rng, group, index, *, vocab=60, tokens=12, tool="calculator", error=None, text="so it is", **fields):
    """Two turns, the first with a tool call; every token of both has an id."""
    spans = [(4, 4 + tokens), (6 + tokens, 6 + 2 * tokens)]
    length = spans[1][1]
    mask = np.zeros(length, bool)
    for start, stop in spans:
        mask[start:stop] = True
    sample = Sample(
        rng.integers(0, vocab, length).astype(np.int32),
        mask,
        np.where(mask, -rng.exponential(1.0, length), 0).astype(np.float32),
    )
    call = {
        "id": "call0",
        "type": "function",
        "function": {"name": tool, "arguments": {"expression": f"{group}+{index}"}},
    }
    outcome = float(rng.random() < 0.5)
    steps = [
        Step(
            {"role": "assistant", "content": "", "reasoning_content": "I ask.", "tool_calls": [call]},
            ({"role": "tool", "content": "the result", "name": tool, "tool_call_id": "call0"},),
            tools=[ToolRun(tool, 1.0 + index, 0.5, error)],
            span=spans[0],
        ),
        Step({"role": "assistant", "content": text}, rewards={"outcome": outcome}, span=spans[1], advantage=0.25),
    ]
    made = {
        "env": "shop.py:Shop",
        "task": {"id": f"task {group}", "word": "tree"},
        "preference": PREFERENCES[group % 2],
        "prompt": ({"role": "user", "content": f"How much are {group} apples?"},),
        "tools": TOOLS,
        "steps": steps,
        "samples": [sample],
        "rewards": {"outcome": outcome, "cost": 1.0 + index},
        "advantage": float(rng.normal()),
        "group": group,
        "index": index,
    }
    return Trajectory(**{**made, **fields})


def grouped(trajectories):
    groups = {}
    for one in trajectories:
        groups.setdefault(one.group, Group(one.task, one.preference, [])).trajectories.append(one)
    return list(groups.values())


def make_run(folder, *, steps=(0, 1, 2), evaluations=(0, 2), groups=3, size=4, seed=0, **fields):
    """A run folder with metrics and trajectories."""
    rng = np.random.default_rng(seed)
    rows = []
    for step in evaluations:
        rows.append({"step": step, "eval/reward": 0.4 + 0.1 * step, "eval/reward_low": 0.3, "eval/reward_high": 0.6})
        everyone = [rollout(rng, group, 0, advantage=None, **fields) for group in range(2 * groups)]
        write(folder, "eval", step, everyone)
    for step in steps:
        rows.append({"step": step, "reward": 0.1 * step, "reward/outcome": 0.5, "entropy": 1.0, "loss": 0.1})
        write(folder, "train", step, [rollout(rng, group, n, **fields) for group in range(groups) for n in range(size)])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write(folder, phase, step, trajectories):
    path = folder / "trajectories" / f"{phase}-{step:06d}.parquet"
    store.write(path, grouped(trajectories), step=step, phase=phase, scoring=SCORING)
    return path
