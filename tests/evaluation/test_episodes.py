"""Columns of episodes, read from files and made of trajectories."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpo_agents import store
from grpo_agents.evaluation import evaluate, scalar_rewards
from grpo_agents.evaluation.episodes import Coded, Episodes
from grpo_agents.rewards import RewardVector, cost, latency
from grpo_agents.schema import VERSION_KEY
from grpo_agents.trajectory import Sample, Step, ToolRun, Trajectory
from grpo_agents.utility import utility

VECTOR = RewardVector(["outcome", cost, latency])


def played(group, index=0, **fields):
    """An episode with something of everything, of its own numbers."""
    rng = np.random.default_rng([group, index])
    said = [Step({"role": "assistant", "content": text}) for text in ("let me see", rf"so \boxed{{{index % 3}}}", "")]
    said[0].tools = [ToolRun("ask", 2.0, 0.5), ToolRun("made_up", error="no such tool")]
    length = int(rng.integers(3, 9))
    sample = Sample(np.arange(length, dtype=np.int32), rng.random(length) < 0.7, np.zeros(length, np.float32))
    values = {
        "env": f"env {group % 2}",
        "task": {"id": group, "level": ["easy", "hard"][group % 2]},
        "preference": [{}, {"outcome": 0.5, "cost": 0.5}, {"outcome": 0.2, "latency": 0.8}][group % 3],
        "tools": [{"type": "function", "function": {"name": "ask"}}],
        "steps": said[: index % 3 + 1],
        "samples": [sample],
        "rewards": {"outcome": float(index % 2), "cost": float(rng.uniform(0, 12)), "latency": None},
        "missing": {"latency": "no clock"},
        "stop_reason": ["terminated", "tokens"][index % 2],
        "error": None if index else "it broke",
        "seconds": float(rng.random()),
    }
    return Trajectory(**{**values, **fields}, group=group, index=index)


EVERYONE = [played(group, index) for group in range(7) for index in range(4)]
EVERYONE += [
    Trajectory(group=7, task={"question": "ß ½"}, rewards={"outcome": 1.0, "cost": 0.0, "latency": 2.5}),
    Trajectory(group=8, steps=[Step({"role": "assistant", "content": None}, tokens=30)], rewards={}),
]


@pytest.fixture
def file(tmp_path):
    store.write(tmp_path / "some.parquet", EVERYONE, step=3, phase="eval")
    return tmp_path / "some.parquet"


def silent(problem):
    pytest.fail(problem)


def assert_same(one, other, apart=("file", "step", "phase")):
    for field in dataclasses.fields(Episodes):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name in apart:
            continue
        if isinstance(a, Coded):
            assert [a.values[code] if code >= 0 else None for code in a.codes] == [
                b.values[code] if code >= 0 else None for code in b.codes
            ], field.name
        elif isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, field.name)


def test_a_file_has_the_columns_of_its_trajectories(file):
    read = Episodes.read(file, silent)
    assert_same(read, Episodes.of(EVERYONE))
    assert read.tokens.tolist() == [entry.sampled_tokens for entry in EVERYONE]
    assert read.turns.tolist() == [len(entry.steps) for entry in EVERYONE]
    assert read.dollars.tolist() == [entry.usage.dollars for entry in EVERYONE]
    assert read.latency.tolist() == [entry.usage.latency for entry in EVERYONE]
    assert read.trainable.tolist() == [entry.trainable for entry in EVERYONE]
    for name in ("outcome", "cost", "latency"):
        expected = [np.nan if (value := entry.rewards.get(name)) is None else value for entry in EVERYONE]
        np.testing.assert_array_equal(read.rewards[name], expected)
    assert read.missing["latency"].counts() == {"no clock": 28}
    assert set(read.step) == {3}
    boxed = read.answer[[index for index, entry in enumerate(EVERYONE) if entry.index == 1]]
    assert len(set(boxed)) == 1  # what is in the box of the last message


def test_the_scalar_rewards_are_those_of_each_trajectory(file):
    """The array form against the scalar form of the same formula."""
    maxima = {"cost": 10.0}
    found = scalar_rewards(Episodes.read(file, silent), VECTOR, maxima, "outcome")
    expected = [utility(entry.rewards, entry.preference, VECTOR, maxima, "outcome") for entry in EVERYONE]
    np.testing.assert_allclose(found, [np.nan if value is None else value for value in expected])


def test_a_file_from_before_tokens_were_kept_has_them_counted(file):
    table = pq.read_table(file)
    usage = table["usage"].combine_chunks()
    before = ["calls", "dollars", "latency"]
    old = pa.StructArray.from_arrays([usage.field(name) for name in before], before)
    at = table.schema.get_field_index("usage")
    old_table = table.set_column(at, "usage", old).replace_schema_metadata({**table.schema.metadata, VERSION_KEY: b"3"})
    pq.write_table(old_table, file.with_name("old.parquet"))
    assert_same(Episodes.read(file.with_name("old.parquet"), silent), Episodes.of(EVERYONE))
    assert store.read(file.with_name("old.parquet"))[3].sampled_tokens == EVERYONE[3].sampled_tokens


def test_parts_of_them_evaluate_as_they_would_alone(file):
    episodes = Episodes.read(file, silent)
    for by, mine in {
        "level": lambda entry: entry.task.get("level", "none"),
        "env": lambda entry: entry.env,
        "preference": lambda entry: (
            ", ".join(f"{name} {weight:g}" for name, weight in entry.preference.items()) or "none"
        ),
        "level, env": lambda entry: f"{entry.task.get('level', 'none')}, {entry.env}".removesuffix(", "),
    }.items():
        parts = episodes.parts(by)
        assert set(parts) == {mine(entry) for entry in EVERYONE}
        for label, mask in parts.items():
            alone = evaluate([entry for entry in EVERYONE if mine(entry) == label], VECTOR)
            found = evaluate(episodes.where(mask), VECTOR).as_dict()
            assert {**found, "tool_calls": 0} == {**alone.as_dict(), "tool_calls": 0}, (by, label)


def test_tools_that_go_by_other_names_are_counted_under_their_own(tmp_path):
    """Which tool has which name differs by episode; one that was never called has none but that."""

    def hidden(group, search, code):
        tools = [{"type": "function", "function": {"name": name}} for name in ("a-1", "a-2", "spare")]
        runs = [ToolRun("search", 1.0, called=search), ToolRun("code", called=code), ToolRun("search", error="no tool")]
        return Trajectory(group=group, tools=tools, steps=[Step({"role": "assistant", "content": "x"}, tools=runs)])

    everyone = [hidden(0, "a-1", "a-2"), hidden(1, "a-2", "a-1")]
    store.write(tmp_path / "a.parquet", everyone)
    for episodes in (Episodes.of(everyone), Episodes.read(tmp_path / "a.parquet", silent)):
        summary = evaluate(episodes)
        assert summary.tool_calls == {"spare": 0.0, "search": 1.0, "code": 1.0, "unknown": 1.0}
        assert summary.tool_errors == {"search": 0.0, "code": 0.0, "unknown": 1.0}


def test_they_are_split_by_run_step_and_number(tmp_path):
    for run in ("a", "b"):
        for step in (2, 10):
            file = tmp_path / run / "trajectories" / f"eval-{step}.parquet"
            store.write(file, [played(step)], step=step, phase="eval")
    episodes = Episodes.read(sorted(tmp_path.glob("*/trajectories")), silent)
    assert list(episodes.parts("step")) == ["2", "10"]
    assert [label.rsplit("/", 1)[1] for label in episodes.parts("run")] == ["a", "b"]
    assert {mask.sum() for mask in episodes.parts("run,step").values()} == {1}
    numbered = Episodes.of([played(level, task={"id": level, "level": level}) for level in (10, 9, 2)])
    assert list(numbered.parts("level")) == ["2", "9", "10"]
    with pytest.raises(ValueError, match=r"--by levle: no task has such a key. Did you mean 'level'\?"):
        numbered.parts("levle")


def test_another_preference(file):
    episodes = Episodes.read(file, silent).preferring({"outcome": 1.0})
    np.testing.assert_array_equal(scalar_rewards(episodes, VECTOR, {}, None), episodes.rewards["outcome"])


class TestBroken:
    def test_a_damaged_file_costs_no_other_one(self, file, tmp_path):
        whole = file.read_bytes()
        (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
        problems = []
        read = Episodes.read([tmp_path / "cut.parquet", file], problems.append)
        assert len(read) == len(EVERYONE)
        assert len(problems) == 1
        assert "cut.parquet: not a readable trajectory file" in problems[0]
        assert problems[0].endswith(" Nothing of it is kept.")
        with pytest.raises(ValueError, match=r"cut\.parquet: not a readable"):
            Episodes.read(tmp_path / "cut.parquet", problems.append)

    def test_the_rows_before_a_damaged_page_are_kept(self, tmp_path):
        """Of a file of many row groups, one is overwritten; those that were read before it stay."""
        file = tmp_path / "long.parquet"
        store.write(file, [played(group) for group in range(6000)])
        meta = pq.ParquetFile(file).metadata
        page = meta.row_group(3).column(pq.read_schema(file).get_field_index("run_step"))
        content = bytearray(file.read_bytes())
        start = page.dictionary_page_offset or page.data_page_offset
        content[start : start + page.total_compressed_size] = b"\xff" * page.total_compressed_size
        file.write_bytes(content)
        problems = []
        read = Episodes.read(file, problems.append)
        assert 0 < len(read) < 6000
        np.testing.assert_array_equal(read.group, np.arange(len(read)))
        assert problems[0].endswith(f" Its first {len(read):,} rows are kept.")
        assert "\n" not in problems[0]

    def test_rows_that_say_again_what_others_say(self, file):
        table = pq.read_table(file)
        pq.write_table(pa.concat_tables([table, table.slice(3, 2)]), file)
        problems = []
        assert_same(Episodes.read(file, problems.append), Episodes.of(EVERYONE))
        (problem,) = problems
        assert "some.parquet: rows 30, 31 repeat earlier ones" in problem

    def test_a_task_that_is_no_json(self, file):
        table = pq.read_table(file)
        tasks = table["task"].to_pylist()
        tasks[5] = "{broken"
        table = table.set_column(table.schema.get_field_index("task"), "task", pa.array(tasks))
        pq.write_table(table, file)
        problems = []
        assert len(Episodes.read(file, problems.append)) == len(EVERYONE) - 1
        assert "some.parquet: rows 5 are left out: their task is no JSON" in problems[0]

    def test_a_reward_that_is_no_finite_number_is_missing(self, tmp_path):
        broken = [played(at, rewards={"outcome": value}, missing={}) for at, value in enumerate((np.inf, np.nan))]
        store.write(tmp_path / "a.parquet", broken)
        summary = evaluate(Episodes.read(tmp_path / "a.parquet", silent))
        assert summary.components["outcome"].missing == 2
        said = summary.components["outcome"].reasons
        assert said == {f"stored as {value}, which is no finite number": 1 for value in ("inf", "nan")}

    def test_a_column_that_is_needed_and_one_that_is_not(self, file):
        table = pq.read_table(file)
        pq.write_table(table.drop_columns(["prompt", "group_notes"]), file)
        assert len(Episodes.read(file, silent)) == len(EVERYONE)
        pq.write_table(table.drop_columns("rewards"), file)
        with pytest.raises(ValueError, match=r"some\.parquet: it lacks the column rewards"):
            Episodes.read(file, silent)

    def test_no_rows_at_all(self, tmp_path):
        store.write(tmp_path / "a.parquet", [])
        with pytest.raises(ValueError, match="no trajectories to evaluate"):
            evaluate(Episodes.read(tmp_path / "a.parquet", silent))


def test_an_evaluation_is_the_same_of_a_file_and_of_trajectories(file):
    read = evaluate(Episodes.read(file, silent), VECTOR, {"cost": 10.0}, "outcome")
    assert json.dumps(read.as_dict()) == json.dumps(evaluate(EVERYONE, VECTOR, {"cost": 10.0}, "outcome").as_dict())
