import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grpo_agents.tasks import GeneratedTasks, as_tasks, load_object, load_tasks

ROWS = [{"question": "1 + 1", "answer": "2"}, {"question": "2 + 2", "answer": "4"}]


def write_jsonl(path, lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return str(path)


def draw(rng):
    return {"number": int(rng.integers(10**9))}


def test_a_list():
    tasks = as_tasks(ROWS)
    assert (tasks.count, tasks[1]) == (2, ROWS[1])
    tasks[1]["answer"] = "spoiled"
    assert tasks[1]["answer"] == "4"
    assert as_tasks(tasks) is tasks


def test_a_generator_depends_on_seed_and_index_alone():
    tasks, again = as_tasks(draw, seed=1), as_tasks(draw, seed=1)
    assert tasks.count is None
    ahead = [tasks[index] for index in (5, 0, 5)]
    assert ahead == [again[5], again[0], again[5]]
    assert len({tasks[index]["number"] for index in range(50)}) == 50
    assert GeneratedTasks(draw, 2)[0] != tasks[0]
    assert tasks[3] == draw(np.random.default_rng([1, 3]))


@pytest.mark.parametrize("source", [3, "text", {"a": 1}.keys()])
def test_what_is_no_source_is_refused(source):
    with pytest.raises(TypeError, match="tasks must be a list, a generator function or a task source"):
        as_tasks(source)


def test_an_empty_list_is_refused():
    with pytest.raises(ValueError, match="empty"):
        as_tasks([])


def test_jsonl(tmp_path):
    source = write_jsonl(tmp_path / "tasks.jsonl", [ROWS[0], "", ROWS[1]])
    tasks = load_tasks(source)
    assert [tasks[index] for index in range(tasks.count)] == ROWS


@pytest.mark.parametrize(
    ("line", "said"),
    [("{'a': 1}", "line 2, column 2: Expecting property name"), ("[1, 2]", "line 2: a JSON object was expected")],
)
def test_a_broken_line_is_named(tmp_path, line, said):
    source = write_jsonl(tmp_path / "tasks.jsonl", [ROWS[0], line, ROWS[1]])
    with pytest.raises(ValueError, match=rf"tasks\.jsonl, {said}.*skip_broken"):
        load_tasks(source)


def test_broken_lines_can_be_skipped(tmp_path, capsys):
    source = write_jsonl(tmp_path / "tasks.jsonl", [ROWS[0], "{broken", ROWS[1]])
    tasks = load_tasks(source, skip_broken=True)
    assert [tasks[index] for index in range(tasks.count)] == ROWS
    assert "tasks.jsonl, line 2" in capsys.readouterr().err


def test_parquet(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "tasks.parquet")
    tasks = load_tasks(str(tmp_path / "tasks.parquet"))
    assert [tasks[index] for index in range(tasks.count)] == ROWS
    (tmp_path / "broken.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match=r"broken\.parquet: not a readable Parquet file"):
        load_tasks(str(tmp_path / "broken.parquet"))


def test_columns_are_renamed(tmp_path):
    source = write_jsonl(tmp_path / "tasks.jsonl", ROWS)
    tasks = load_tasks(source, columns={"problem": "question", "gold": "answer"})
    assert tasks[0] == {"problem": "1 + 1", "gold": "2"}
    with pytest.raises(ValueError, match=r"no column 'solution'; it has question, answer\. See tasks\.columns"):
        load_tasks(source, columns={"gold": "solution"})


def test_a_column_that_a_later_line_lacks_is_named(tmp_path):
    source = write_jsonl(tmp_path / "tasks.jsonl", [ROWS[0], {"question": "?"}])
    with pytest.raises(ValueError, match="task 2 has no column 'answer'"):
        load_tasks(source, columns={"gold": "answer"})


def test_a_data_set_on_disk(tmp_path):
    import datasets

    plain = datasets.Dataset.from_list(ROWS)
    plain.save_to_disk(tmp_path / "plain")
    tasks = load_tasks(str(tmp_path / "plain"), columns={"gold": "answer"})
    assert (tasks.count, tasks[1]) == (2, {"gold": "4"})
    splits = datasets.DatasetDict({"train": plain.select([0]), "test": plain.select([1])})
    splits.save_to_disk(tmp_path / "splits")
    assert load_tasks(str(tmp_path / "splits"), split="test")[0] == ROWS[1]
    with pytest.raises(ValueError, match="split 'dev'"):
        load_tasks(str(tmp_path / "splits"), split="dev")


def test_missing_and_empty_files(tmp_path):
    for name in ("none.jsonl", "none.parquet"):
        with pytest.raises(FileNotFoundError, match=name):
            load_tasks(str(tmp_path / name))
    with pytest.raises(ValueError, match=r"empty\.jsonl: it holds no tasks"):
        load_tasks(write_jsonl(tmp_path / "empty.jsonl", []))


def test_tasks_from_code(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def draw(rng):\n    return {'n': int(rng.integers(100))}\nROWS = [{'n': 1}]\n")
    assert load_tasks(f"{file}:draw", seed=4)[2] == {"n": int(np.random.default_rng([4, 2]).integers(100))}
    assert load_tasks(f"{file}:ROWS").count == 1
    assert load_tasks("grpo_agents.envs.math:draw_task").count is None
    with pytest.raises(ValueError, match=r"mine\.py:draw: tasks\.columns is for files and data sets"):
        load_tasks(f"{file}:draw", columns={"number": "n"})


def test_load_object_errors(tmp_path):
    with pytest.raises(ValueError, match=r"should read module:name or file\.py:name"):
        load_object("nothing")
    with pytest.raises(ValueError, match="No module named 'no_such_module'"):
        load_object("no_such_module:name")
