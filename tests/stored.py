"""Trajectories with something to score, and files of them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from grpo_agents import store
from grpo_agents.rewards import BUILT_IN
from grpo_agents.rewards.component import RewardVector
from grpo_agents.schema import SCHEMA, VERSION_KEY
from grpo_agents.scoring import Scoring
from grpo_agents.trajectory import Group, Sample, Step, ToolRun, Trajectory

TOOLS = [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {}}}]
SCORING = Scoring(RewardVector(["outcome", BUILT_IN["cost"]]), {"cost": 4.0}, "outcome")


def groups_of(count, size=3, *, first=0, preference=None):
    """Groups whose tasks, turns, tools, tokens and ends differ; one trajectory in seven failed."""
    rng = np.random.default_rng(first)
    groups = []
    for number in range(first, first + count):
        weights = preference or {"outcome": 0.5 + number % 3 / 10, "cost": 0.5 - number % 3 / 10}
        task = {"id": number, "question": f"{number} + 1?", "answer": str(number + 1)}
        made = []
        for index in range(size):
            said = number + 1 if rng.random() < 0.6 else number
            call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": {"at": number}}}
            broken = {**call, "invalid": "no JSON", "text": "{"} if index == 2 else call
            asks = Step({"role": "assistant", "content": "Hm.", "tool_calls": [broken]}, span=(3, 6))
            asks.observation = ({"role": "tool", "tool_call_id": "c", "name": "look", "content": "…"},)
            asks.tools = [ToolRun("look", float(rng.integers(4)), 0.25, "no JSON" if index == 2 else None)]
            answers = Step(
                {"role": "assistant", "content": rf"So \boxed{{{said}}}"}, (), {"outcome": float(index == 0)}
            )
            turns = [asks] * int(rng.integers(3)) + [answers]
            size_ = int(rng.integers(4, 12))
            sample = Sample(np.arange(size_, dtype=np.int32), rng.random(size_) < 0.5, np.zeros(size_, np.float32))
            failed = (number * size + index) % 7 == 6
            made.append(
                Trajectory(
                    env="here:Env",
                    task=task,
                    preference=weights,
                    prompt=({"role": "user", "content": task["question"]},),
                    tools=TOOLS,
                    steps=turns,
                    samples=[] if index == 1 else [sample],
                    rewards={"outcome": float(index == 0), "cost": 1.5},
                    stop_reason="error" if failed else ("turns" if index == 2 else "terminated"),
                    error="it broke" if failed else None,
                    group=number,
                    index=index,
                )
            )
            if index == 1:
                made[-1].steps[-1].tokens = 5
        groups.append(Group(task, weights, made, {"reference": number}))
    return groups


def write(path, groups, *, rows=4, scoring=SCORING, version=None):
    """Stores groups in row groups of so many rows; as an earlier version did, where one is named."""
    store.write(path, groups, step=2, phase="train", scoring=scoring)
    table = pq.read_table(path)
    if version is not None:
        at = table.schema.get_field_index("usage")
        kept = [field for field in SCHEMA.field("usage").type if field.name != "tokens"]
        usage = pa.array([{field.name: row[field.name] for field in kept} for row in table["usage"].to_pylist()])
        table = table.set_column(at, pa.field("usage", pa.struct(kept)), usage.cast(pa.struct(kept)))
        table = table.replace_schema_metadata({**table.schema.metadata, VERSION_KEY: str(version)})
    pq.write_table(table, path, row_group_size=rows, compression="zstd")
    return path
