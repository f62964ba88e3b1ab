"""The pages of docs/ say what is there."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tiny import REPOSITORY

from grpo_agents.advantage import AdvantageConfig
from grpo_agents.curriculum import CurriculumConfig
from grpo_agents.learner.settings import RewardModelConfig
from grpo_agents.methods import available, make_method
from grpo_agents.rollout import RolloutConfig

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
    spec = importlib.util.spec_from_file_location("tree_page", REPOSITORY / "examples" / "tree" / "page.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    text = (REPOSITORY / "docs" / "tree.md").read_text()
    assert page.with_tables(text) == text
    assert all(f"<!-- table {name} -->\n| " in text for name in page.TABLES)


def test_the_table_of_methods_is_that_of_the_runs_that_are_kept():
    """docs/learning.md, from examples/learning/results."""
    done = subprocess.run(
        [sys.executable, REPOSITORY / "examples" / "learning" / "compare.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    table = done.stdout.strip()
    assert len(table.splitlines()) == 13  # eleven methods below a head
    assert table in (REPOSITORY / "docs" / "learning.md").read_text()
