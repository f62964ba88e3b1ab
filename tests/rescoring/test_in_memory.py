"""Rewards computed anew for an evaluation, against those of trajectories that were read."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from grpo_agents import store
from grpo_agents.evaluation.episodes import Episodes
from grpo_agents.rescoring import given_by, with_rewards
from grpo_agents.rewards import RewardVector, component, cost
from grpo_agents.trajectory import Group, Step, ToolRun, Trajectory


@component(per="group")
def place(group):
    """Of the first rollout 0, of the second 1."""
    return [float(entry.index) for entry in group.trajectories]


@component
def brief(trajectory):
    """Says nothing of long answers."""
    return None if len(trajectory.final) > 3 else 1.0


VECTOR = RewardVector(["outcome", place, brief, cost])


def played(group, index):
    steps = [Step({"role": "assistant", "content": "x" * group}, tools=[ToolRun("ask", index + 0.5)])]
    rewards = {"outcome": float(group), "old": 2.0}
    return Trajectory(env="e", task={"id": group}, steps=steps, rewards=rewards, group=group, index=index)


def test_rows_that_are_left_out_do_not_move_the_others(tmp_path):
    groups = [Group({"id": at}, {}, [played(at, index) for index in range(3)]) for at in range(6)]
    for name, some in {"a": groups[:4], "b": groups[4:]}.items():
        store.write(tmp_path / f"{name}.parquet", some)
    table = pq.read_table(tmp_path / "a.parquet")
    pq.write_table(pa.concat_tables([table.slice(0, 2), table.slice(0, 1), table.slice(2)]), tmp_path / "a.parquet")
    problems = []
    episodes = Episodes.read(tmp_path, problems.append)
    assert (len(episodes), len(problems)) == (18, 1)
    found = with_rewards(episodes, VECTOR, given_by(None, ["outcome"]))
    assert list(found.rewards) == ["outcome", "place", "brief", "cost"]
    everyone = [entry for group in groups for entry in group.trajectories]
    assert found.rewards["outcome"].tolist() == [float(entry.group) for entry in everyone]
    assert found.rewards["cost"].tolist() == [entry.index + 0.5 for entry in everyone]
    short = [1.0 if entry.group <= 3 else np.nan for entry in everyone]
    np.testing.assert_array_equal(found.rewards["brief"], short)
    assert found.missing["brief"].counts() == {"it returned None: it could not judge": 6}
    assert found.rewards["place"][6:].tolist() == [0.0, 1.0, 2.0] * 4  # of the group with a row twice it counts four
    assert "old" in episodes.rewards
