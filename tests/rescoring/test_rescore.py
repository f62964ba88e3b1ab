"""Other rewards and preferences, in a new file."""

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
from processes import eventually
from stored import SCORING, groups_of, write
from tiny import plain

from grpo_agents import store
from grpo_agents.rescoring import files_of_other_preference, new_file, rescore, spans
from grpo_agents.rewards import BUILT_IN
from grpo_agents.rewards.component import Component, RewardVector

MINE = """
from grpo_agents import RewardVector, component

@component(direction="min", unit="words")
def words(trajectory):
    if trajectory.task["id"] == 5:
        raise KeyError("no words")
    return len(trajectory.final.split())

@component(per="group")
async def best(group):
    tokens = [trajectory.sampled_tokens for trajectory in group.trajectories]
    return [float(count == max(tokens)) for count in tokens]

vector = RewardVector(["outcome", words, best, "cost"])
"""


@pytest.fixture(autouse=True)
def small_spans(monkeypatch):
    monkeypatch.setattr(spans, "ROWS", 8)


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    return write(tmp_path / "a.parquet", groups_of(30), rows=4)  # groups of 3: most go on in the next row group


def names_of(path):
    return [list(trajectory.rewards) for trajectory in store.read(path)]


def test_new_components_are_beside_those_that_are_stored(file, tmp_path):
    before = file.read_bytes()
    done = rescore(file, tmp_path / "new.parquet", vector="mine.py:vector")
    assert file.read_bytes() == before
    assert (done.trajectories, done.computed, done.replaced) == (90, ("words", "best", "cost"), ("cost",))
    wanted = store.read_groups(file)
    RewardVector([BUILT_IN["cost"]]).score(wanted)
    found = store.read_groups(tmp_path / "new.parquet")
    assert [group.notes for group in found] == [group.notes for group in wanted]
    for one, other in zip(found, wanted, strict=True):
        most = max((each.sampled_tokens for each in other.trajectories if each.stop_reason != "error"), default=None)
        for new, old in zip(one.trajectories, other.trajectories, strict=True):
            assert list(new.rewards) == ["outcome", "cost", "words", "best"]
            assert (new.rewards["outcome"], new.rewards["cost"]) == (old.rewards["outcome"], old.rewards["cost"])
            if new.stop_reason == "error":
                assert new.missing["words"] == "the episode failed: it broke"
            else:
                assert new.rewards["words"] == (None if one.task["id"] == 5 else 2)
                assert new.rewards["best"] == (old.sampled_tokens == most)
            for each in (new, old):
                each.rewards, each.missing = {}, {}
            assert plain(new) == plain(old)
    assert (done.missing["words"].count, done.missing["best"].count) == (12 + 3, 12)


def test_the_first_that_could_not_be_computed_is_named(file, tmp_path):
    (tmp_path / "mine.py").write_text(MINE.replace("component(direc", "component(worst=None, direc"))
    missing = rescore([file, tmp_path / "a.parquet"], tmp_path / "b.parquet", vector="mine.py:words").missing["words"]
    assert (missing.file, missing.row) == (file, 6)
    assert store.read(file)[missing.row].stop_reason == "error"
    only = groups_of(1, first=5)
    write(tmp_path / "c.parquet", only)
    found = rescore(tmp_path / "c.parquet", tmp_path / "d.parquet", vector="mine.py:words").missing["words"]
    assert (found.row, found.reason) == (0, "KeyError: 'no words'")


def test_the_new_file_is_one_to_every_reader(file, tmp_path):
    import polars

    out = tmp_path / "new.parquet"
    rescore(file, out, vector="tool_calls,length", preference={"outcome": 1.0, "length": 0.5})
    old, new = pq.read_table(file), pq.read_table(out)
    assert new.schema == old.schema
    for name in old.column_names:
        assert new[name].equals(old[name]) == (name not in ("rewards", "preference"))
    frame = polars.read_parquet(out)
    assert frame["rewards"].to_list() == new["rewards"].to_pylist()
    assert frame["preference"].to_list() == 90 * [
        [{"name": "outcome", "weight": 1.0}, {"name": "length", "weight": 0.5}]
    ]
    query = "import duckdb; print(duckdb.sql(\"select count(*), sum(rewards[3].value) from 'new.parquet'\").fetchall())"
    said = subprocess.run([sys.executable, "-c", query], cwd=tmp_path, capture_output=True, text=True, check=True)
    calls = [trajectory.rewards["tool_calls"] or 0 for trajectory in store.read(out)]
    assert said.stdout == f"[(90, {sum(calls)})]\n"
    before, after = pq.read_metadata(file), pq.read_metadata(out)
    assert after.num_row_groups == before.num_row_groups
    for place in range(after.num_row_groups):
        group = after.row_group(place)
        chunks = [group.column(number) for number in range(group.num_columns)]
        assert group.total_byte_size == sum(chunk.total_uncompressed_size for chunk in chunks)


def test_how_it_is_scored_is_noted(file, tmp_path):
    rescore(file, tmp_path / "new.parquet", vector="mine.py:vector")
    scoring = store.read_scoring(tmp_path / "new.parquet")
    assert [(entry.name, entry.direction, entry.unit) for entry in scoring.vector] == [
        ("outcome", "max", ""),
        ("cost", "min", "dollars"),
        ("words", "min", "words"),
        ("best", "max", ""),
    ]
    assert (scoring.maxima, scoring.gate) == (SCORING.maxima, "outcome")
    write(tmp_path / "old.parquet", groups_of(3), scoring=None)
    rescore(tmp_path / "old.parquet", tmp_path / "older.parquet", vector="outcome,length")
    assert store.read_scoring(tmp_path / "older.parquet") is None
    assert names_of(tmp_path / "older.parquet") == [["outcome", "cost", "length"]] * 9


def test_what_the_environment_gave_comes_from_the_steps_where_it_is_not_stored(tmp_path):
    groups = groups_of(4)
    for group in groups:
        for trajectory in group.trajectories:
            trajectory.rewards = {"cost": 1.0}
            trajectory.steps[-1].rewards["style"] = 0.25
    for scoring in (None, SCORING):
        write(tmp_path / "a.parquet", groups, scoring=scoring)
        out = tmp_path / f"{scoring is None}.parquet"
        done = rescore(tmp_path / "a.parquet", out, vector="style,cost")
        assert done.computed == ("style", "cost")
        values = [trajectory.rewards["style"] for trajectory in store.read(out)]
        assert values == [None if (place + 1) % 7 == 0 else 0.25 for place in range(12)]


def test_several_files_become_one(tmp_path):
    files = [
        write(tmp_path / f"{name}.parquet", groups_of(7, first=7 * place), rows=5) for place, name in enumerate("ab")
    ]
    out = tmp_path / "new.parquet"
    assert rescore(files, out, vector="length").trajectories == 42
    wanted = [trajectory for group in store.read_groups(files) for trajectory in group.trajectories]
    for new, old in zip(store.read(out), wanted, strict=True):
        failed = old.stop_reason == "error"
        assert new.rewards == {**old.rewards, "length": None if failed else old.sampled_tokens}
        new.rewards, new.missing, old.rewards = {}, {}, {}
        assert plain(new) == plain(old)
    write(tmp_path / "again.parquet", groups_of(1))
    with pytest.raises(
        ValueError, match=r"a\.parquet and .*again\.parquet both have a group that is numbered 0, of st"
    ):
        rescore([*files, tmp_path / "again.parquet"], tmp_path / "d.parquet", vector="length")
    write(tmp_path / "c.parquet", groups_of(2), version=3)
    with pytest.raises(
        ValueError, match=r"a\.parquet and .*c\.parquet have not the same columns, .*: rescore them one"
    ):
        rescore([files[0], tmp_path / "c.parquet"], tmp_path / "d.parquet", vector="length")


def test_a_group_is_scored_whole_wherever_its_rows_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    groups = groups_of(10)
    everyone = [trajectory for group in groups for trajectory in group.trajectories]
    apart = [trajectory for index in range(3) for trajectory in everyone if trajectory.index == index]
    for name, rows in (("together", everyone), ("apart", apart)):
        write(tmp_path / f"{name}.parquet", rows)
        rescore(tmp_path / f"{name}.parquet", tmp_path / f"{name}-new.parquet", vector="mine.py:best")
    together, scattered = (
        {t.id: t.rewards for t in store.read(tmp_path / f"{name}-new.parquet")} for name in ("together", "apart")
    )
    assert together == scattered
    for trajectory in everyone:
        trajectory.group = 0
    write(tmp_path / "mixed.parquet", everyone)
    with pytest.raises(
        ValueError, match=r"group number 0, and a component looks at whole groups\. Number them by task"
    ):
        rescore(tmp_path / "mixed.parquet", tmp_path / "b.parquet", vector="mine.py:best")
    assert rescore(tmp_path / "mixed.parquet", tmp_path / "c.parquet", vector="length").trajectories == 30


def test_another_preference_is_noted_as_one_that_was_not_shown(file, tmp_path):
    weights = {"outcome": 1.0, "cost": 0.2}
    assert rescore(file, tmp_path / "b.parquet", preference=weights).other_preference
    assert {json.dumps(t.preference) for t in store.read(tmp_path / "b.parquet")} == {json.dumps(weights)}
    assert [t.rewards for t in store.read(tmp_path / "b.parquet")] == [t.rewards for t in store.read(file)]
    assert rescore(tmp_path / "b.parquet", tmp_path / "c.parquet", vector="length").other_preference  # still
    assert not rescore(file, tmp_path / "d.parquet", vector="length").other_preference
    shown = write(tmp_path / "e.parquet", groups_of(3, preference=weights))
    assert not rescore(shown, tmp_path / "f.parquet", preference=weights).other_preference
    assert [path.name for path in files_of_other_preference(tmp_path)] == ["b.parquet", "c.parquet"]


def test_processes_say_what_one_says(file, tmp_path):
    """They import a person's file themselves, and components that wait are waited for there."""
    one = rescore(file, tmp_path / "one.parquet", vector="mine.py:vector")
    told = []
    many = rescore(
        file, tmp_path / "many.parquet", vector="mine.py:vector", workers=2, progress=lambda *given: told.append(given)
    )
    assert many == one
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "many.parquet").read_bytes()
    assert told[-1] == (90, 90)
    assert [count for count, _ in told] == sorted({count for count, _ in told})
    with pytest.raises(ValueError, match="a vector cannot be sent to 2 processes: give its name, or workers = 1"):
        rescore(file, tmp_path / "b.parquet", vector=RewardVector([BUILT_IN["cost"]]), workers=2)


SLOW = """
import os, sys, time
from grpo_agents.rescoring import rescore, spans
spans.ROWS = 8
if __name__ == "__main__":
    rescore("a.parquet", "new.parquet", vector="slow.py:vector", workers=int(sys.argv[1]))
"""
VECTOR = """
import os, pathlib, time
from grpo_agents import RewardVector, component

@component
def slow(trajectory):
    if os.environ.get("SLOW"):
        time.sleep(0.02)
    with open("seen", "a") as file:
        file.write(f"{trajectory.id}\\n")
    return trajectory.task["id"]

vector = RewardVector([slow])
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_one_that_was_killed_goes_on_and_ends_with_the_same_file(file, tmp_path, workers):
    (tmp_path / "go.py").write_text(SLOW)
    (tmp_path / "slow.py").write_text(VECTOR)
    command = [sys.executable, "go.py", str(workers)]
    left = tmp_path / ".new.parquet.rescoring"
    environment = {**os.environ, "SLOW": "1"}
    child = subprocess.Popen(command, cwd=tmp_path, env=environment)
    assert eventually(lambda: len(list(left.glob("*-*.parquet"))) >= 3, 60)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    time.sleep(0.3)  # its processes end
    parts = {part: part.stat().st_mtime_ns for part in left.glob("*-*.parquet")}
    assert not (tmp_path / "new.parquet").exists()
    again = subprocess.run(command, cwd=tmp_path, check=True, env={**os.environ})
    assert again.returncode == 0
    rescore(file, tmp_path / "whole.parquet", vector="slow.py:vector")
    assert (tmp_path / "new.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    kept = sum(pq.read_metadata(file).row_group(0).num_rows * 2 for _ in parts)
    seen = (tmp_path / "seen").read_text().split()
    judged = sum(trajectory.stop_reason != "error" for trajectory in store.read(file))
    assert len(seen) < 3 * judged - kept // 3  # what was kept was not computed twice
    assert not left.exists()


def test_one_that_was_stopped_at_any_place_ends_with_the_same_file(file, tmp_path, monkeypatch):
    """After each of the values, and between the new file and the end of tidying up."""
    rescore(file, tmp_path / "whole.parquet", vector="mine.py:vector")
    out, whole = tmp_path / "new.parquet", (tmp_path / "whole.parquet").read_bytes()

    def stop(*_):
        raise KeyboardInterrupt

    for patched, name in ((new_file, "_assemble"), (new_file.os, "fsync"), (new_file.shutil, "rmtree")):
        with monkeypatch.context() as patch:
            patch.setattr(patched, name, stop)
            with pytest.raises(KeyboardInterrupt):
                rescore(file, out, vector="mine.py:vector")
        done = rescore(file, out, vector="mine.py:vector")
        assert out.read_bytes() == whole
        assert done.resumed == (0 if name == "rmtree" else 90)
        out.unlink()
    for count in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            rescore(file, out, vector="mine.py:vector", progress=lambda done, _, most=8 * count: done < most or stop())
        assert 8 * count <= rescore(file, out, vector="mine.py:vector").resumed < 90
        assert out.read_bytes() == whole
        out.unlink()


def test_what_another_rescoring_left_is_refused_and_said(file, tmp_path, monkeypatch):
    out = tmp_path / "new.parquet"

    def begin(**settings):
        def stop(*_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            rescore(file, out, **settings, progress=stop)

    begin(vector="mine.py:vector")
    for settings, what in (
        ({"vector": "length"}, "the rewards and in their code"),
        ({"vector": "mine.py:vector", "preference": {"outcome": 1.0}}, "the preference"),
    ):
        with pytest.raises(ValueError, match=rf"holds what is done of .*new\.parquet that differs in {what}\. Give"):
            rescore(file, out, **settings)
    (tmp_path / "mine.py").write_text(MINE + "\n# other words\n")
    with pytest.raises(ValueError, match=r"\.new\.parquet\.rescoring holds .* differs in their code\. .*begin anew"):
        rescore(file, out, vector="mine.py:vector")
    (tmp_path / "mine.py").write_text(MINE)
    write(file, groups_of(31))
    with pytest.raises(ValueError, match="differs in the files"):
        rescore(file, out, vector="mine.py:vector")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "there is nothing to do: name rewards to compute, or another preference"),
        ({"vector": "lenght"}, "unknown reward 'lenght'. Did you mean 'length'"),
        ({"vector": "reward_model"}, "reward 'reward_model' asks for 'reward_model'; there is nothing to hand it"),
        ({"preference": {"outcom": 1.0}}, "weighs 'outcom', which is no reward component. Did you mean 'outcome'"),
        ({"preference": {"length": 1.0}}, "weighs 'length', which is no reward component"),
        ({"preference": {"outcome": -1.0}}, "a weight is a finite number of at least 0"),
        ({"vector": "broken.py:vector"}, r"broken\.py, line 3: NameError: name 'Reward'"),
        ({"vector": "mine.py:nothing"}, "mine.py defines no 'nothing'"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(file, tmp_path, settings, message):
    (tmp_path / "broken.py").write_text("import math\n\nvector = Reward([])\n")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=message):
        rescore(file, tmp_path / "new.parquet", **settings)
    assert sorted(tmp_path.iterdir()) == before


def test_files_that_are_there_stay(file, tmp_path):
    with pytest.raises(ValueError, match=r"a\.parquet is one of the files that are read, and they stay as they are"):
        rescore(tmp_path, file, vector="length")
    (tmp_path / "b").write_text("mine")
    with pytest.raises(FileExistsError, match=r"b exists; remove it"):
        rescore(file, tmp_path / "b", vector="length")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        rescore(tmp_path / "nowhere.parquet", tmp_path / "c.parquet", vector="length")
    store.write(tmp_path / "none.parquet", [])
    with pytest.raises(ValueError, match=r"there are no trajectories in .*none\.parquet"):
        rescore(tmp_path / "none.parquet", tmp_path / "c.parquet", vector="length")
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"cut\.parquet: not a readable trajectory file"):
        rescore(cut, tmp_path / "c.parquet", vector="length")


def test_a_component_without_a_name_may_be_a_function_made_here(file, tmp_path):
    vector = RewardVector([Component("twice", lambda trajectory: 2.0 * trajectory.index)])
    rescore(file, tmp_path / "new.parquet", vector=vector)
    values = [trajectory.rewards["twice"] for trajectory in store.read(tmp_path / "new.parquet")]
    assert values[:6] == [0.0, 2.0, 4.0, 0.0, 2.0, 4.0]
