"""The pages of docs/ say what is there."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import typer
from scripts import script
from stored import SCORING, groups_of
from tiny import REPOSITORY

from grpo_agents import store
from grpo_agents.advantage import AdvantageConfig
from grpo_agents.cli import app
from grpo_agents.config import SourceConfig
from grpo_agents.curriculum import CurriculumConfig
from grpo_agents.importers import FORMATS
from grpo_agents.learner.settings import RewardModelConfig
from grpo_agents.methods import available, make_method
from grpo_agents.report.sources import LIMIT
from grpo_agents.rollout import RolloutConfig
from grpo_agents.schema import SCHEMA, SCHEMA_VERSION

EVALUATION = (REPOSITORY / "docs" / "evaluation.md").read_text(encoding="utf-8")
BLOCKS = [(kind, text) for kind, text in re.findall(r"^```(\w+)\n(.*?)^```$", EVALUATION, re.DOTALL | re.MULTILINE)]
STORED = Path("runs", "demo", "grpo", "trajectories", "eval-000100.parquet")
PAPERS = (REPOSITORY / "docs" / "papers.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in PAPERS.splitlines() if "tests/" in line]
SECTIONS = {
    "advantage": AdvantageConfig,
    "curriculum": CurriculumConfig,
    "reward_model": RewardModelConfig,
    "rollout": RolloutConfig,
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_papers_lines_are_a_config_and_its_tests_are_there(row):
    _, config, tests = row
    line = re.search(r"`([^`]+)`", config)[1]
    ((name, value),) = tomllib.loads(line).items()
    if name == "method":
        made = make_method(value)
        assert made.name == value["name"]
    elif name in SECTIONS:
        SECTIONS[name](**value)
    else:
        assert name in ("model", "rewards")
    assert Path(REPOSITORY, tests.strip(" |`")).is_file()


def test_every_method_has_its_paper():
    named = {make_method(tomllib.loads(line)["method"]).name for line in re.findall(r"`(method = [^`]+)`", PAPERS)}
    assert named == set(available())


def test_the_tables_of_the_tree_are_those_of_what_was_measured():
    """docs/tree.md, from runs/bench."""
    page = script("tree/page.py")
    text = (REPOSITORY / "docs" / "tree.md").read_text()
    assert page.with_tables(text) == text
    assert all(f"<!-- table {name} -->\n| " in text for name in page.TABLES)


def test_the_table_of_methods_is_that_of_the_runs_that_are_kept():
    """docs/learning.md, from examples/learning/results."""
    compare = script("learning/compare.py")
    table = compare.table(compare.read_results())
    assert len(table.splitlines()) == 13  # eleven methods below a head
    assert table in (REPOSITORY / "docs" / "learning.md").read_text()


def _leaves(name, kind):
    """The columns below a column and their types; a message is one of them."""
    inner, many = (kind.value_type, True) if pa.types.is_list(kind) else (kind, False)
    if not pa.types.is_struct(inner):
        return {name: f"list<{inner}>" if many else str(inner)}
    if inner == _message():
        return {name: "messages" if many else "message"}
    return {path: said for entry in inner for path, said in _leaves(f"{name}.{entry.name}", entry.type).items()}


def _message():
    return SCHEMA.field("prompt").type.value_type


def _table(head):
    """The first two cells of each row of the table with this head."""
    rows = re.search(rf"^\| {head} \|.*\n\|[-|]+\n((?:\|.*\n)+)", EVALUATION, re.MULTILINE)[1].splitlines()
    return [tuple(cell.strip(" `") for cell in row.strip("|").split(" | ")[:2]) for row in rows]


def test_the_table_of_columns_is_the_schema():
    leaves = {path: said for entry in SCHEMA for path, said in _leaves(entry.name, entry.type).items()}
    assert len(leaves) > 40
    assert sorted(_table("column")) == sorted(leaves.items())


def test_the_table_of_a_message_is_the_schema():
    fields = {path: said for entry in _message() for path, said in _leaves(entry.name, entry.type).items()}
    assert sorted(_table("field")) == sorted(fields.items())


def test_every_version_of_the_schema_is_said():
    assert [int(version) for version, _ in _table("version")] == [*range(1, SCHEMA_VERSION + 1)]


def test_every_format_of_an_import_is_said():
    assert {name for name, _ in _table("`--format`")} == FORMATS.keys()


def test_the_keys_of_the_page_are_those_of_its_script():
    script = (REPOSITORY / "grpo_agents" / "report" / "page" / "keys.js").read_text(encoding="utf-8")
    shown = re.search(r"const KEYS = \[\n(.*?)^\];", script, re.DOTALL | re.MULTILINE)[1]
    keys = [tuple(json.loads(line.strip().rstrip(","))) for line in shown.splitlines()]
    assert len(keys) > 5
    assert _table("key") == keys


LEFT = """
import json
said_of = means.filter(pl.col("run_step") == 100).select("name", "value", "missing")
print(json.dumps([list(outcome.items()), said_of.rows(), paid, len(data), asked, said]))
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """What the page's blocks of Python come to, and the trajectories that they read.

    In a process of its own: the binding of DuckDB talks about leaks when pytest ends.
    """
    folder, groups = tmp_path_factory.mktemp("opened"), groups_of(20)
    store.write(folder / STORED, groups, step=100, phase="eval", scoring=SCORING)
    program = "\n".join(text for kind, text in BLOCKS if kind == "python") + LEFT
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "HF_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), [entry for group in groups for entry in group.trajectories]


def test_its_block_for_pandas_groups_by_calls(opened):
    (outcome, *_), trajectories = opened
    values = defaultdict(list)
    for entry in trajectories:
        values[entry.usage.calls].append(entry.rewards["outcome"])
    assert len(values) > 1
    assert dict(outcome) == pytest.approx({calls: np.mean(found) for calls, found in values.items()})


def test_its_block_for_polars_has_the_mean_of_each_component(opened):
    (_, means, *_), trajectories = opened
    right = np.mean([entry.rewards["outcome"] for entry in trajectories])
    assert sorted(means) == [["cost", 1.5, 0], ["outcome", pytest.approx(right), 0]]


def test_its_block_for_duckdb_counts_calls_and_adds_what_they_cost(opened):
    (_, _, paid, *_), trajectories = opened
    runs = [run for entry in trajectories for step in entry.steps for run in step.tools]
    assert paid == [["look", len(runs), sum(run.dollars for run in runs)]]


def test_its_blocks_for_datasets_and_for_objects_read_what_was_written(opened):
    (*_, rows, asked, said), trajectories = opened
    assert (rows, asked) == (len(trajectories), "0 + 1?")
    assert said == [entry.final for entry in trajectories if entry.rewards["outcome"] == 1]


def test_its_config_is_one():
    (text,) = [text for kind, text in BLOCKS if kind == "toml"]
    assert SourceConfig(**tomllib.loads(text)["source"]).kind == "stored"


COMMANDS = sorted(set(re.findall(r"(?:^(?:    \$ )?|`)grpo-agents ([^`\n]+)", EVALUATION, re.MULTILINE)))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_it_shows_has_these_options(command):
    name, *arguments = shlex.split(command, comments=True)
    arguments = ["x" if argument.isupper() else argument for argument in arguments]
    typer.main.get_command(app).commands[name].make_context(name, arguments)


def test_it_shows_every_command_that_works_on_what_is_stored():
    shown = {command.split()[0] for command in COMMANDS}
    assert shown >= {"evaluate", "pareto", "rescore", "replay", "report", "import", "export", "train"}
    options = {word for command in COMMANDS for word in command.split() if word.startswith("--")}
    assert options >= {"--reward", "--preference", "--by", "--against", "--json", "--markdown", "--watch", "--pictures"}


def test_the_page_holds_as_many_trajectories_as_it_says():
    assert f"At most {LIMIT:,} trajectories" in EVALUATION
