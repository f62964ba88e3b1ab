import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_agents import store
from grpo_agents.evaluation.episodes import Episodes
from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.schema import SCHEMA, SCHEMA_VERSION, VERSION_KEY
from grpo_agents.scoring import Scoring
from grpo_agents.support import Support
from grpo_agents.trajectory import Group, Sample, Step, ToolRun, Trajectory


def sample(count, shared=0, *, cut=False):
    rng = np.random.default_rng(count)
    counts = rng.integers(0, 4, count).astype(np.int32)
    return Sample(
        rng.integers(0, 150_000, count).astype(np.int32),
        rng.random(count) < 0.5,
        rng.normal(size=count).astype(np.float32),
        shared,
        Support(rng.integers(0, 150_000, counts.sum()).astype(np.int32), counts) if cut else None,
    )


def rich(group=0, index=0):
    """A trajectory with something in every field."""
    call = {"id": "call00000", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": [None, 2.5]}}}
    broken = {
        "id": "call00001",
        "type": "function",
        "function": {"name": "add", "arguments": "{'a': 1"},
        "invalid": "no JSON",
        "text": "<tool_call>{'a': 1",
    }
    answer = {"role": "tool", "tool_call_id": "call00000", "name": "add", "content": "3"}
    said = {"role": "assistant", "content": None, "reasoning_content": "hm, ä 漢", "tool_calls": [call, broken]}
    return Trajectory(
        env="grpo_agents/Math-v0",
        task={"id": f"t{group}", "question": "1 + 2 = ? ½", "answer": {"value": 3, "unit": None}},
        seed=2**40,
        preference={"outcome": 0.75, "cost": 0.25},
        prompt=(
            {"role": "system", "content": ""},
            {"role": "user", "content": [{"type": "text", "text": "look"}], "x": 1},
        ),
        tools=[{"type": "function", "function": {"name": "add", "description": "", "parameters": {}}}],
        steps=[
            Step(
                said,
                (answer,),
                {"outcome": 0.0},
                [ToolRun("add", 0.5, 1.5), ToolRun("add", error="no JSON", called="a-2")],
            ),
            Step({"role": "assistant", "content": "3"}, (), {}, [], "length", 1, (3, 7), 12, 0.25, 4, -1.5, 9, 0.125),
        ],
        samples=[sample(5), sample(9, cut=True), sample(0), sample(7, shared=4, cut=True)],
        rewards={"outcome": 1.0, "rubric": None},
        missing={"rubric": "the judge is down"},
        stop_reason="deadline",
        error="60 s",
        masked=True,
        advantage=-0.5,
        seconds=1.25,
        group=group,
        index=index,
    )


def assert_same(read, written):
    """Equality of trajectories down to the arrays' types (numpy arrays have no == that gives one truth value)."""
    assert len(read) == len(written)
    for one, other in zip(read, written, strict=True):
        for a, b in zip(one.samples, other.samples, strict=True):
            assert (a.support is None) == (b.support is None)
            parts = [(getattr(a, name), getattr(b, name)) for name in ("ids", "mask", "logprobs")]
            if a.support is not None:
                parts += [(a.support.ids, b.support.ids), (a.support.counts, b.support.counts)]
            for x, y in parts:
                assert x.dtype == y.dtype
                np.testing.assert_array_equal(x, y)
            assert a.shared == b.shared
        assert dataclasses.replace(one, samples=[]) == dataclasses.replace(other, samples=[])


def test_a_trajectory_comes_back_as_it_was(tmp_path):
    written = [rich(), Trajectory(), rich(1, 3)]
    store.write(tmp_path / "a.parquet", written)
    assert_same(store.read(tmp_path / "a.parquet"), written)


def test_a_file_from_before_tokens_were_counted_is_read(tmp_path):
    """Schema version 1 gained a column: files that lack it hold turns whose token ids are known."""
    path = tmp_path / "a.parquet"
    step = Step({"role": "assistant", "content": "3"}, span=(3, 7))
    store.write(path, [Trajectory(steps=[step], samples=[sample(7)])])
    table = pq.read_table(path)
    rows = table.to_pylist()
    del rows[0]["steps"][0]["tokens"]
    at = table.schema.get_field_index("steps")
    steps = table.schema.field("steps").type.value_type
    before = pa.list_(pa.struct([field for field in steps if field.name != "tokens"]))
    pq.write_table(pa.Table.from_pylist(rows, table.schema.set(at, pa.field("steps", before))), path)
    assert "tokens" not in str(pq.read_schema(path).field("steps"))
    (read,) = store.read(path)
    assert read.steps == [step]
    assert read.trainable


def test_a_file_from_before_supports_were_kept_is_read(tmp_path):
    """Version 2 had no such columns; nothing was cut in training then."""
    path = tmp_path / "a.parquet"
    store.write(path, [Trajectory(samples=[sample(7), sample(3)])])
    table = pq.read_table(path)
    rows = table.to_pylist()
    for entry in rows[0]["samples"]:
        del entry["support"], entry["support_counts"]
    at = table.schema.get_field_index("samples")
    fields = [field for field in table.schema.field("samples").type.value_type if "support" not in field.name]
    before = table.schema.set(at, pa.field("samples", pa.list_(pa.struct(fields))))
    before = before.with_metadata({**before.metadata, VERSION_KEY: b"2"})
    pq.write_table(pa.Table.from_pylist(rows, before), path)
    assert "support" not in str(pq.read_schema(path).field("samples"))
    assert_same(store.read(path), [Trajectory(samples=[sample(7), sample(3)])])


def test_a_file_from_before_turns_had_an_advantage_is_read(tmp_path):
    """The first version had no such column, and left no turn out of learning."""
    path = tmp_path / "a.parquet"
    steps = [Step({"role": "assistant", "content": "3"}), Step({"role": "assistant", "content": "4"}, advantage=None)]
    store.write(path, [Trajectory(steps=steps)])
    table = pq.read_table(path)
    at = table.schema.get_field_index("steps")
    fields = [field for field in table.schema.field("steps").type.value_type if field.name != "advantage"]
    old = table.schema.set(at, pa.field("steps", pa.list_(pa.struct(fields))))
    old = old.with_metadata({**old.metadata, VERSION_KEY: b"1"})
    assert [step.advantage for step in store.read(path)[0].steps] == [0.0, None]
    pq.write_table(pa.Table.from_pylist(table.to_pylist(), old), path)
    assert [step.advantage for step in store.read(path)[0].steps] == [0.0, 0.0]


def test_a_file_from_before_own_tokens_had_a_price_is_read(tmp_path):
    """Version 4 had no such columns: nothing was charged for them, and tools went by their own names."""
    path = tmp_path / "a.parquet"
    step = Step({"role": "assistant", "content": "3"}, tools=[ToolRun("add", 0.5, 1.5)], tokens=4)
    store.write(path, [Trajectory(steps=[step])])
    table = pq.read_table(path)
    rows = table.to_pylist()
    at = table.schema.get_field_index("steps")
    fields = [field for field in table.schema.field("steps").type.value_type if field.name not in ("read", "dollars")]
    tools = next(number for number, field in enumerate(fields) if field.name == "tools")
    before = pa.struct([field for field in fields[tools].type.value_type if field.name != "called"])
    fields[tools] = pa.field("tools", pa.list_(before))
    old = table.schema.set(at, pa.field("steps", pa.list_(pa.struct(fields))))
    old = old.with_metadata({**old.metadata, VERSION_KEY: b"4"})
    pq.write_table(pa.Table.from_pylist(rows, old), path)
    assert "called" not in str(pq.read_schema(path).field("steps"))
    (read,) = store.read(path)
    assert read.steps == [step]
    assert (read.usage.dollars, read.steps[0].dollars) == (0.5, 0.0)
    episodes = Episodes.read(path, pytest.fail)
    assert (episodes.dollars.tolist(), episodes.called.counts()) == ([0.5], {})


def test_every_field_of_the_dataclasses_is_stored(tmp_path):
    """A field added to the nouns but not to the schema would come back as its default: none of rich()'s is one."""
    full, plain = rich(1, 1), Trajectory()
    assert all(getattr(full, field.name) != getattr(plain, field.name) for field in dataclasses.fields(Trajectory))
    plain_step = Step({})
    for field in dataclasses.fields(Step):
        assert any(getattr(step, field.name) != getattr(plain_step, field.name) for step in full.steps), field.name


def test_arrays_read_can_be_written_to(tmp_path):
    store.write(tmp_path / "a.parquet", [rich()])
    read = store.read(tmp_path / "a.parquet")[0].samples[0]
    assert all(getattr(read, name).flags.writeable for name in ("ids", "mask", "logprobs"))


texts = st.text(max_size=12)
plain = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | texts
documents = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
objects = st.dictionaries(texts, documents, max_size=3)
calls = st.fixed_dictionaries(
    {
        "id": texts,
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": texts, "arguments": objects | texts}),
    },
    optional={"invalid": texts, "text": texts},
)
messages = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant", "tool"]),
        "content": st.none() | texts | st.just([{"a": 1}]),
    },
    optional={
        "tool_calls": st.none() | st.lists(calls, max_size=2),
        "tool_call_id": texts,
        "name": texts,
        "reasoning_content": st.none() | texts,
        "refusal": plain,
    },
)
rewards = st.dictionaries(texts, st.none() | st.floats(allow_nan=False), max_size=3)
steps = st.builds(
    Step,
    messages,
    st.lists(messages, max_size=2).map(tuple),
    st.dictionaries(texts, st.floats(allow_nan=False), max_size=2),
    st.lists(st.builds(ToolRun, texts, st.floats(0, 9), st.floats(0, 9), st.none() | texts), max_size=2),
    texts,
    st.integers(0, 9),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
trajectories = st.builds(
    Trajectory,
    env=texts,
    task=objects,
    seed=st.integers(-(2**63), 2**63 - 1),
    preference=st.dictionaries(texts, st.floats(0, 1), max_size=3),
    prompt=st.lists(messages, max_size=2).map(tuple),
    tools=st.lists(objects, max_size=2),
    steps=st.lists(steps, max_size=2),
    samples=st.lists(st.builds(sample, st.integers(0, 9), st.integers(0, 3)), max_size=3),
    rewards=rewards,
    error=st.none() | texts,
    advantage=st.none() | st.floats(allow_nan=False),
    masked=st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(written=st.lists(trajectories, max_size=4))
def test_whatever_is_said_comes_back(written, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "a.parquet"
    store.write(path, written)
    assert_same(store.read(path), written)


def test_special_numbers_come_back(tmp_path):
    trajectory = Trajectory(
        advantage=float("nan"),
        samples=[Sample(np.zeros(3, np.int32), np.ones(3, bool), np.array([np.nan, -np.inf, -0.0], np.float32))],
    )
    store.write(tmp_path / "a.parquet", [trajectory])
    read = store.read(tmp_path / "a.parquet")[0]
    assert read.advantage is not None
    assert np.isnan(read.advantage)
    assert read.samples[0].logprobs.tobytes() == trajectory.samples[0].logprobs.tobytes()


def test_lone_surrogates_do_not_stop_a_run(tmp_path):
    """json.loads makes them of what a model writes; UTF-8 has no form for them."""
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": json.loads('{"a": "\\ud83d"}')}}
    written = Trajectory(steps=[Step({"role": "assistant", "content": "a\ud83db", "tool_calls": [call]})])
    store.write(tmp_path / "a.parquet", [written])
    read = store.read(tmp_path / "a.parquet")[0].steps[0].message
    assert read["tool_calls"] == [call]
    assert read["content"] == "a\\ud83db"


def test_groups_come_back_with_their_notes(tmp_path):
    groups = []
    for number, notes in enumerate(({"reference": "42", "rubric": ["é", 1]}, {})):
        members = [rich(number, index) for index in range(3)]
        groups.append(Group(members[0].task, members[0].preference, members, notes))
    store.write(tmp_path / "a.parquet", groups, step=7, phase="train")
    store.write(tmp_path / "b.parquet", groups[:1], step=8, phase="train")
    read = store.read_groups([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    for one, other in zip(read, [*groups, groups[0]], strict=True):
        assert (one.task, one.preference, one.notes) == (other.task, other.preference, other.notes)
        assert_same(one.trajectories, other.trajectories)
    table = pq.read_table(tmp_path / "a.parquet", columns=["run_step", "phase", "usage"])
    assert set(table["run_step"].to_pylist()) == {7}
    assert set(table["phase"].to_pylist()) == {"train"}
    assert table["usage"][0].as_py() == {
        "tokens": int(sum(one.mask.sum() for one in rich().samples)) + 4,
        "calls": 2,
        "dollars": 0.5 + 0.125,
        "latency": 1.5,
    }


def test_trajectories_written_alone_are_read_as_groups_by_number(tmp_path):
    store.write(tmp_path / "a.parquet", [rich(0, 0), rich(1, 0), rich(0, 1)])
    assert [[t.index for t in group.trajectories] for group in store.read_groups(tmp_path)] == [[0, 1], [0]]
    store.write(tmp_path / "a.parquet", [Trajectory(task={"id": 1}), Trajectory(task={"id": 2})])
    with pytest.raises(ValueError, match=r"a\.parquet: .*group number 0.*Trajectory\.group"):
        store.read_groups(tmp_path)


def test_a_folder_stands_for_its_files_in_order(tmp_path):
    for name, index in (("b", 1), ("a", 0)):
        store.write(tmp_path / "trajectories" / f"{name}.parquet", [rich(index=index)])
    assert [trajectory.index for trajectory in store.read(tmp_path / "trajectories")] == [0, 1]
    with pytest.raises(FileNotFoundError, match=r"no \.parquet file"):
        store.read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no trajectory file .*c\.parquet"):
        store.read(tmp_path / "c.parquet")


def test_iterate_reads_no_more_than_it_needs(tmp_path):
    """The second row group is damaged on the disk; the rows before it are read all the same."""
    path = tmp_path / "a.parquet"
    store.write(path, [Trajectory(index=index) for index in range(store.ROW_GROUP + 1)])
    second = pq.read_metadata(path).row_group(1)
    start = min(second.column(i).dictionary_page_offset or second.column(i).data_page_offset for i in range(5))
    content = bytearray(path.read_bytes())
    content[start : start + 200] = b"\xff" * 200
    path.write_bytes(content)
    stream = store.iterate(path)
    assert [next(stream).index for _ in range(store.ROW_GROUP)] == list(range(store.ROW_GROUP))
    with pytest.raises(ValueError, match="not a readable trajectory file"):
        next(stream)


def test_how_they_were_scored_comes_back_as_plain_data(tmp_path):
    vector = RewardVector(["outcome", Component("words", len, "min", "words")])
    scorings = {"a": Scoring(vector, {"words": 4.0}, "outcome"), "b": None, "c": Scoring(vector, {"words": 5.0})}
    for name, scoring in scorings.items():
        store.write(tmp_path / f"{name}.parquet", [rich()], step=7, scoring=scoring)
        read = store.read_scoring(tmp_path / f"{name}.parquet")
        assert (read and read.as_dict()) == (scoring and scoring.as_dict())
    assert_same(store.read(tmp_path / "a.parquet"), [rich()])
    a = store.read_scoring([tmp_path / "a.parquet", tmp_path / "b.parquet"])  # b is as of old: it does not say
    assert a is not None
    assert [(entry.name, entry.function, entry.direction, entry.unit) for entry in a.vector] == [
        ("outcome", None, "max", ""),
        ("words", None, "min", "words"),
    ]
    assert (a.maxima, a.gate) == ({"words": 4.0}, "outcome")
    with pytest.raises(ValueError, match=r"a\.parquet and .*c\.parquet were scored differently"):
        store.read_scoring(tmp_path)


class TestOtherReaders:
    def test_datasets(self, tmp_path, monkeypatch):
        import datasets

        store.write(tmp_path / "a.parquet", [rich(), Trajectory()])
        data = datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "cache"))
        assert data.column_names == SCHEMA.names
        row = data[0]
        assert row["rewards"][1] == {"name": "rubric", "value": None, "missing": "the judge is down"}
        assert row["samples"][3]["ids"] == rich().samples[3].ids.tolist()
        assert row["samples"][3]["support"] == rich().samples[3].support.ids.tolist()
        assert row["samples"][0]["support"] is None
        arguments = row["steps"][0]["message"]["tool_calls"][0]["arguments"]
        assert json.loads(arguments) == {"a": 1, "b": [None, 2.5]}

    def test_pandas(self, tmp_path):
        import pandas

        store.write(tmp_path / "a.parquet", [rich(), Trajectory()])
        assert pandas.read_parquet(tmp_path / "a.parquet")["stop_reason"].tolist() == ["deadline", "terminated"]

    def test_polars(self, tmp_path):
        import polars

        store.write(tmp_path / "a.parquet", [rich()])
        assert polars.read_parquet(tmp_path / "a.parquet")["steps"][0][1]["version"] == 12

    def test_duckdb(self, tmp_path):
        """In a process of its own: its binding talks about leaks when pytest ends."""
        store.write(tmp_path / "a.parquet", [rich()])
        query = "import duckdb; print(duckdb.sql(\"select steps[2].version from 'a.parquet'\").fetchall())"
        said = subprocess.run([sys.executable, "-c", query], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert said.stdout == "[(12,)]\n"

    def test_plain_arrow_without_maps(self, tmp_path):
        store.write(tmp_path / "a.parquet", [rich()])
        table = pq.read_table(tmp_path / "a.parquet")
        assert "map<" not in str(table.schema)
        assert table.schema.metadata[VERSION_KEY] == b"5"


class TestBroken:
    def test_a_write_that_fails_midway_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "a.parquet"
        store.write(path, [rich()])
        before = path.read_bytes()

        def full(table, file, **settings):
            file.write(b"PAR1 and a half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(store.pq, "write_table", full)
        with pytest.raises(OSError, match=r"No space left.*a\.parquet") as caught:
            store.write(path, [Trajectory()])
        assert caught.value.errno == errno.ENOSPC
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.parquet"]
        assert path.read_bytes() == before

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_a_full_disk(self, tmp_path):
        """Every write to /dev/full fails with ENOSPC; a link puts it where the unfinished file goes."""
        (tmp_path / f".a.parquet.{os.getpid()}.unfinished").symlink_to("/dev/full")
        with pytest.raises(
            OSError, match=r"trajectories not written \(No space left on device\).*a\.parquet"
        ) as caught:
            store.write(tmp_path / "a.parquet", [rich()])
        assert caught.value.errno == errno.ENOSPC
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("kept", [0, 3, 0.5, 0.99])
    def test_truncated(self, kept, tmp_path):
        path = tmp_path / "a.parquet"
        store.write(path, [rich()])
        content = path.read_bytes()
        path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
        with pytest.raises(ValueError, match=r"a\.parquet: not a readable trajectory file .*copy it again"):
            store.read(path)

    def test_foreign(self, tmp_path):
        pq.write_table(pa.table({"question": ["1 + 1"]}), tmp_path / "a.parquet")
        with pytest.raises(ValueError, match=r"a\.parquet: a Parquet file, but not of trajectories"):
            store.read(tmp_path)

    def test_newer(self, tmp_path):
        table = pa.table({"group": [1]}).replace_schema_metadata({VERSION_KEY: str(SCHEMA_VERSION + 1)})
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(ValueError, match=r"schema version is 6.*up to 5.*Install"):
            store.read(tmp_path)

    def test_missing_column(self, tmp_path):
        store.write(tmp_path / "a.parquet", [rich()])
        pq.write_table(pq.read_table(tmp_path / "a.parquet").drop_columns("steps"), tmp_path / "b.parquet")
        with pytest.raises(ValueError, match=r"b\.parquet: it lacks the column steps"):
            store.read(tmp_path / "b.parquet")

    @pytest.mark.parametrize(
        ("trajectory", "message"),
        [
            (Trajectory(task={"at": object()}), r"trajectory 0\.0 .*a\.parquet.*not JSON serializable.*plain JSON"),
            (Trajectory(samples=[Sample(np.zeros(1, np.int64), np.ones(1, bool), np.zeros(1, np.float32))]), "int64"),
            (Trajectory(missing={"rubric": "down"}), "rubric, which is not among its rewards"),
            (Trajectory(seed=2**64), r"a\.parquet: a value does not fit"),
        ],
    )
    def test_what_cannot_be_stored_is_refused(self, trajectory, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            store.write(tmp_path / "a.parquet", [trajectory])
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("groups", "message"),
        [
            ([Group({}, {}, [])], "without trajectories"),
            ([Group({}, {}, [Trajectory()]), Group({}, {}, [Trajectory()])], "two groups are numbered 0"),
            ([Group({"id": 1}, {}, [Trajectory()])], r"trajectory 0\.0 is in group 0, but"),
            ([Group({}, {}, [Trajectory()], {"a": {1}})], "notes of group 0"),
        ],
    )
    def test_groups_that_could_not_be_read_again_are_refused(self, groups, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            store.write(tmp_path / "a.parquet", groups)


def test_an_empty_file_is_an_empty_list(tmp_path):
    store.write(tmp_path / "a.parquet", [])
    assert store.read(tmp_path) == []
    assert store.read_groups(tmp_path) == []
