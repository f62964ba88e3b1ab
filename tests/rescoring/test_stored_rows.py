"""Trajectories whose columns are read when they are asked for."""

import copy
import dataclasses

import pyarrow.parquet as pq
import pytest
from stored import groups_of, write
from tiny import plain

from grpo_agents import store
from grpo_agents.rescoring.stored_rows import StoredRows
from grpo_agents.rewards import BUILT_IN
from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.rewards.overlong import overlong
from grpo_agents.trajectory import Group, Trajectory


def talk(trajectory):
    return float(sum(len(str(message["content"])) for message in trajectory.messages()))


def masks(trajectory):
    return float(sum(int(sample.mask.sum()) * sample.ids.sum() for sample in trajectory.samples))


def tools(trajectory):
    return float(sum(run.error is not None for step in trajectory.steps for run in step.tools) + len(trajectory.tools))


def mixed(trajectory):
    return trajectory.task["id"] + trajectory.preference["cost"] + trajectory.rewards["cost"] + trajectory.truncated


async def later(trajectory):
    return float(len(trajectory.steps) + len(trajectory.final))


def ranks(group):
    order = sorted(trajectory.sampled_tokens for trajectory in group.trajectories)
    return [order.index(trajectory.sampled_tokens) + group.notes["reference"] for trajectory in group.trajectories]


def named(group):
    return [float(len(group.task["question"]) + group.preference["cost"])] * len(group.trajectories)


ASK_A_MODEL = ("reward_model", "reference", "rubric", "self_judged")
COMPONENTS = [
    *(entry for entry in BUILT_IN.values() if entry.name not in ASK_A_MODEL),
    overlong(8, 4),
    *(Component(function.__name__, function) for function in (talk, masks, tools, mixed, later)),
    *(Component(function.__name__, function, per="group") for function in (ranks, named)),
    Component("outcome", None),
]


@pytest.mark.parametrize("version", [None, 3])
@pytest.mark.parametrize("entry", COMPONENTS, ids=lambda entry: entry.name)
def test_a_component_says_what_it_says_of_trajectories_that_were_read(entry, version, tmp_path):
    path = write(tmp_path / "a.parquet", groups_of(9), version=version)
    wanted = store.read_groups(path)
    RewardVector([entry]).score(wanted)
    with pq.ParquetFile(path) as file:
        rows = StoredRows(file)
        groups = rows.groups()
        RewardVector([entry]).score(groups)
        for one, other in zip(groups, wanted, strict=True):
            for a, b in zip(one.trajectories, other.trajectories, strict=True):
                assert (a.rewards, a.missing) == (b.rewards, b.missing)
    values = [trajectory.rewards[entry.name] for group in wanted for trajectory in group.trajectories]
    assert len(set(values)) > 2
    assert None in values


@pytest.mark.parametrize("version", [None, 3])
def test_every_field_is_that_of_the_trajectory(tmp_path, version):
    path = write(tmp_path / "a.parquet", groups_of(5), version=version)
    with pq.ParquetFile(path) as file:
        for lazy, whole in zip(StoredRows(file).trajectories, store.read(path), strict=True):
            assert isinstance(lazy, Trajectory)
            assert (lazy.usage, lazy.sampled_tokens) == (whole.usage, whole.sampled_tokens)
            assert plain(lazy) == plain(whole)
            assert (lazy.id, lazy.final, lazy.trainable) == (whole.id, whole.final, whole.trainable)
            with pytest.raises(AttributeError, match="no 'reward'"):
                lazy.reward  # noqa: B018


def test_a_copy_is_a_plain_trajectory(tmp_path):
    path = write(tmp_path / "a.parquet", groups_of(2))
    with pq.ParquetFile(path) as file:
        rows = StoredRows(file)
        lazy, group = rows.trajectories[0], rows.groups()[0]
        for other in (copy.deepcopy(lazy), dataclasses.replace(lazy, index=lazy.index)):
            assert type(other) is Trajectory
            assert plain(other) == plain(lazy)
        shorter = dataclasses.replace(lazy, steps=[])
        assert (shorter.usage.calls, type(copy.copy(group)), type(dataclasses.replace(group))) == (0, Group, Group)
        assert group.notes == {"reference": 0}


def test_only_columns_that_are_asked_for_are_read(tmp_path):
    path = write(tmp_path / "a.parquet", groups_of(4))
    with pq.ParquetFile(path) as file:
        read, asked = file.read, []
        file.read = lambda columns, **options: (asked.extend(columns), read(columns, **options))[1]
        groups = StoredRows(file).groups()
        RewardVector([BUILT_IN["cost"], BUILT_IN["length"]]).score([g for g in groups if g.trajectories[0].group != 2])
    places = {"run_step", "phase", "group", "stop_reason", "error"}
    assert set(asked) <= places | {"usage", "rewards", "task", "preference", "group_notes"}
    assert len(asked) == len(set(asked))
