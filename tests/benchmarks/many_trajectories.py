"""A file of as many trajectories as wanted: several turns, a tool, a few hundred tokens, groups of 16 a task.

Some thousand are made with care and written by the store; the rest are those again, with tasks, rewards, costs, seeds
and places of their own.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from grpo_agents.rewards import RewardVector, cost, latency
from grpo_agents.schema import SCHEMA, SCORING_KEY, TEXTS, to_json, to_row, to_table
from grpo_agents.scoring import Scoring
from grpo_agents.store import ROW_GROUP
from grpo_agents.trajectory import Sample, Step, ToolRun, Trajectory

GROUP = 16
PATTERN = 2048
SCORING = Scoring(RewardVector(["outcome", cost, latency]), {"cost": 10.0, "latency": 3.0}, "outcome")
TOOLS = {"calculator": (1.0, 3.0), "novice": (0.5, 2.5), "expert": (10.0, 0.3)}
PREFERENCES = ((0.8, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.9, 0.0), (0.2, 0.7, 0.1), (0.1, 0.1, 0.8), (0.2, 0.0, 0.8))


def generate(path: Path, count: int, seed: int = 0) -> None:
    """Writes a file of ``count`` trajectories, of which every 16 are a group."""
    rng = np.random.default_rng(seed)
    pattern = to_table([row(rng, place) for place in range(PATTERN)]).combine_chunks()
    schema = SCHEMA.with_metadata({**SCHEMA.metadata, SCORING_KEY: to_json(SCORING.as_dict())})
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=TEXTS) as writer:
        for start in range(0, count, PATTERN):
            size = min(PATTERN, count - start)
            writer.write_table(_varied(pattern.slice(0, size), start, rng).cast(schema), row_group_size=ROW_GROUP)


def row(rng: np.random.Generator, place: int) -> dict[str, object]:
    """One made with care: a thought, a call or two, and an answer."""
    sampled, steps, samples = [], [], []
    length = 0
    calls = int(rng.integers(0, 3))
    for turn in range(calls + 1):
        length += int(rng.integers(20, 60))  # what is said to the policy
        wrote = int(rng.integers(20, 60))
        sampled.append((length, length + wrote))
        length += wrote
        message = {"role": "assistant", "content": " ".join(["word"] * (wrote // 2))}
        step = Step(message, span=sampled[-1])
        if turn < calls:
            name = str(rng.choice(list(TOOLS)))
            call = {"id": f"call{turn:05d}", "type": "function", "function": {"name": name, "arguments": {"x": turn}}}
            message["tool_calls"] = [call]
            step.tools = [ToolRun(name, *TOOLS[name])]
            step.observation = ({"role": "tool", "tool_call_id": call["id"], "name": name, "content": str(turn)},)
        else:
            message["content"] += f" \\boxed{{{int(rng.integers(0, 5))}}}"
            step.rewards = {"outcome": 1.0}
        steps.append(step)
    mask = np.zeros(length, bool)
    for start, stop in sampled:
        mask[start:stop] = True
    logprobs = np.where(mask, -rng.exponential(0.5, length), 0).astype(np.float32)
    samples = [Sample(rng.integers(0, 150_000, length).astype(np.int32), mask, logprobs)]
    schemas = [{"type": "function", "function": {"name": name, "description": "", "parameters": {}}} for name in TOOLS]
    trajectory = Trajectory(
        env="bench/Questions",
        prompt=({"role": "user", "content": "A question of some length, with its preference. " * 3},),
        preference=dict(zip(SCORING.vector.names, PREFERENCES[place // GROUP % len(PREFERENCES)], strict=True)),
        tools=schemas,
        steps=steps,
        samples=samples,
        rewards=dict.fromkeys(SCORING.vector.names, 0.0),
        seconds=float(rng.exponential(2.0)),
        stop_reason="tokens" if rng.random() < 0.02 else "terminated",
    )
    return {"run_step": 0, "phase": "rollout", "group_notes": "{}", **to_row(trajectory, None)}


def _varied(table: pa.Table, start: int, rng: np.random.Generator) -> pa.Table:
    """The pattern with other tasks, places, seeds and outcomes; its costs are those of its calls."""
    count = len(table)
    places = np.arange(start, start + count)
    groups = places // GROUP
    hard = np.random.default_rng(1).random(int(groups[-1]) + 1)  # the same tasks are as hard in every file
    usage = table["usage"].combine_chunks()
    outcome = (rng.random(count) > hard[groups]).astype(np.float64)
    values = np.stack([outcome, usage.field("dollars"), usage.field("latency")], axis=1).ravel()
    entry = {"name": pa.array(SCORING.vector.names * count), "value": pa.array(values)}
    nobody = pa.nulls(len(values), pa.string())
    rewards = pa.StructArray.from_arrays([entry["name"], entry["value"], nobody], ["name", "value", "missing"])
    tasks = [json.dumps({"id": at, "question": f"Question {at}?", "level": at % 5}) for at in groups.tolist()]
    columns = {
        "group": pa.array(groups),
        "index": pa.array(places % GROUP),
        "seed": pa.array(places),
        "task": pa.array(tasks),
        "rewards": pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * 3), rewards),
    }
    for name, column in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table
