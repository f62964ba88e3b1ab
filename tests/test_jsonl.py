"""Trajectories as JSON, one a line, and back."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from stored import SCORING, groups_of, write
from test_store import assert_same, rich, trajectories

from grpo_agents import store
from grpo_agents.importers import import_files
from grpo_agents.jsonl import export
from grpo_agents.rescoring import files_of_other_preference, rescore
from grpo_agents.trajectory import Group, Sample, Trajectory


def there_and_back(path):
    export(path, path.with_suffix(".jsonl"))
    back = path.with_name("back.parquet")
    done = import_files([path.with_suffix(".jsonl")], back)
    assert (done.bad, list(done.formats.values())) == ([], ["our own trajectories"])
    return back


def test_everything_comes_back_as_it_was(tmp_path):
    members = [rich(3, index) for index in range(300)]  # more than a row group
    store.write(
        tmp_path / "a.parquet", [Group(members[0].task, members[0].preference, members, {"a": ["é", 1]})], step=7
    )
    back = there_and_back(tmp_path / "a.parquet")
    assert_same(store.read(back), members)
    one, other = (pq.read_table(path) for path in (tmp_path / "a.parquet", back))
    assert one.equals(other)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=trajectories)
def test_whatever_is_stored_comes_back(written, tmp_path_factory):
    path = tmp_path_factory.mktemp("lines") / "a.parquet"
    store.write(path, [written])
    assert_same(store.read(there_and_back(path)), store.read(path))


def test_what_is_not_finite_and_half_a_surrogate_come_back(tmp_path):
    logprobs = np.array([np.nan, -np.inf, -0.0, 0.1], np.float32)
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": {"a": "\ud83d"}}}
    odd = Trajectory(advantage=float("nan"), samples=[Sample(np.zeros(4, np.int32), np.ones(4, bool), logprobs)])
    odd.prompt = ({"role": "assistant", "content": None, "tool_calls": [call]},)
    store.write(tmp_path / "a.parquet", [odd])
    (read,) = store.read(there_and_back(tmp_path / "a.parquet"))
    assert read.samples[0].logprobs.tobytes() == logprobs.tobytes()
    assert np.isnan(read.advantage)
    assert read.prompt == odd.prompt


def test_how_they_were_scored_and_shown_comes_back(tmp_path):
    write(tmp_path / "plain.parquet", groups_of(3))
    rescore(tmp_path / "plain.parquet", tmp_path / "other.parquet", preference={"cost": 1.0})
    back = there_and_back(tmp_path / "other.parquet")
    assert store.read_scoring(back).as_dict() == SCORING.as_dict()
    assert files_of_other_preference(back) == [back]
    assert [group.notes for group in store.read_groups(back)] == [{"reference": number} for number in range(3)]
    with pytest.raises(FileExistsError, match="exists; remove it"):
        export(back, tmp_path / "other.jsonl")
    write(tmp_path / "plain.parquet", groups_of(1), scoring=None)
    export(tmp_path / "plain.parquet", tmp_path / "unscored.jsonl")
    both = import_files([tmp_path / "other.jsonl", tmp_path / "unscored.jsonl"], tmp_path / "both.parquet")
    assert (both.trajectories, len(both.bad)) == (9, 3)
    assert "unscored.jsonl, line 1: it was scored otherwise than the lines before it" in both.bad[0]


def test_a_line_that_is_none_of_ours_is_named(tmp_path):
    store.write(tmp_path / "a.parquet", [rich()])
    export(tmp_path / "a.parquet", tmp_path / "a.jsonl")
    good = (tmp_path / "a.jsonl").read_text()
    record = json.loads(good)
    lines = [
        record | {"grpo_agents": 99},
        record | {"promt": []},
        record | {"steps": [{"massage": {}}]},
        record | {"samples": [{"ids": ["a"], "mask": [True], "logprobs": [0.0]}]},
        record | {"group": 2**70},
        record | {"prompt": [{"role": "robot", "content": ""}]},
        {name: value for name, value in record.items() if name != "grpo_agents"},
    ]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + good)
    done = import_files([tmp_path / "b.jsonl"], tmp_path / "b.parquet", "own")
    reasons = ["install a later one", "'promt'", "'massage'", "invalid literal", "does not fit its column", "'robot'"]
    reasons.append("it is none that `grpo-agents export` wrote")
    said = sorted(done.bad)
    assert [line.split(":")[0].rpartition(" ")[2] for line in said] == [str(number) for number in range(1, 8)]
    for line, reason in zip(said, reasons, strict=True):
        assert reason in line
    assert_same(store.read(tmp_path / "b.parquet"), [rich()])
