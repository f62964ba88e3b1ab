"""examples/markets: the experiment from its start to its tables, small; and its figures by hand."""

import json
import os
import subprocess
import sys

import pytest
from scripts import script
from tiny import REPOSITORY

MARKETS = REPOSITORY / "examples" / "markets"

SMALL = """
import json, pathlib, sys
import compare, measured, tables
load = compare.load_config
few = ["train.steps=2", "train.batch=4", "rollout.group_size=2", "learner.optimizer.warmup=0"]
compare.load_config = lambda path, overrides: load(path, [*overrides, *few])
compare.QUESTIONS, compare.RESULTS = 40, pathlib.Path("results")
compare.run_seed(0, ["minmax"])
print("TABLES")
print(tables.all_of(compare.read_results()))
"""

BY_HAND = """
import json
import numpy as np
import measured
from grpo_agents.trajectory import Step, ToolRun, Trajectory

def offer(**levels):
    return [{"name": name, "tool": name, "price": price, "latency": wait} for name, (price, wait) in levels.items()]

def episode(kind, called, rewards, **levels):
    task = {"id": kind, "question": "1+1", "answer": "2", "kind": kind, "offer": offer(**levels)}
    preference = {"outcome": 0.2, "cost": 0.8, "latency": 0.0}
    steps = [Step({}, tools=[ToolRun(name) for name in called])]
    return Trajectory(task=task, preference=preference, steps=steps, rewards=dict(zip(measured.USERS, rewards)))

found = measured.figures([
    episode("hard", ["calculator"], (1.0, 2, 9), calculator=(2, 9), expert=(5, 1)),
    episode("hard", ["calculator"], (1.0, 9, 1), calculator=(9, 1), expert=(5, 3)),
    episode("word", ["novice"], (0.0, 1, 1), novice=(1, 1), expert=(6, 6)),
])
print(json.dumps(found))
"""


def run(script, folder):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(MARKETS), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_it_runs_from_the_start_to_the_tables(tmp_path):
    printed = run(SMALL, tmp_path)
    kept = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert kept == ["minmax-0.json", "sft-0.json"]
    tables = printed.partition("TABLES\n")[2]
    assert tables.count("`minmax`") == 1 + 3 + 1  # shares; three users; the calculator
    assert "| most capable |" in tables
    for name in kept:
        found = json.loads((tmp_path / "results" / name).read_text())
        for test in ("seen", "unseen_prices", "unseen_subsets", "between"):
            assert 0 <= found[test]["policy"]["share_of_best"]["mean"] <= 1.5


def test_the_figures_by_hand(tmp_path):
    """Shares saved of 10 dollars, gated by being right; hard questions: calculator and expert are always right."""
    found = json.loads(run(BY_HAND, tmp_path))
    best = [0.2 + 0.8 * 0.8, 0.2 + 0.8 * 0.5, max(0.85 * (0.2 + 0.8 * 0.9), 0.2 + 0.8 * 0.4)]
    earned = [0.2 + 0.8 * 0.8, 0.2 + 0.8 * 0.1, 0.0]
    assert found["policy"]["share_of_best"]["mean"] == pytest.approx(sum(earned) / sum(best))
    assert found["policy"]["by_user"]["cost"]["outcome"] == pytest.approx(2 / 3)
    assert list(found["policy"]["by_user"]) == ["cost"]
    cheapest = best[0] + best[1] + 0.85 * (0.2 + 0.8 * 0.9)
    assert found["cheapest"]["share_of_best"]["mean"] == pytest.approx(cheapest / sum(best))
    quickest = (0.2 + 0.8 * 0.5) + (0.2 + 0.8 * 0.1) + 0.85 * (0.2 + 0.8 * 0.9)
    assert found["quickest"]["share_of_best"]["mean"] == pytest.approx(quickest / sum(best))
    expert = 0.2 + 0.8 * 0.5  # of hard questions worth more on the whole than the calculator: (0.84 + 0.28) / 2
    by_kind = 2 * expert + 0.85 * (0.2 + 0.8 * 0.9)
    assert found["best by kind"]["share_of_best"]["mean"] == pytest.approx(by_kind / sum(best))
    assert found["calculator"] == {"when_best": 1.0, "when_a_model_is_better": 1.0}


def test_the_tables_and_the_picture_of_the_page_are_those_of_the_runs_that_are_kept(tmp_path):
    kept = [path.stem.rpartition("-") for path in (MARKETS / "results").glob("*.json")]
    seeds = {name: {seed for method, _, seed in kept if method == name} for name, _, _ in kept}
    assert set(map(len, seeds.values())) == {5}
    page = (REPOSITORY / "docs" / "orchestra.md").read_text(encoding="utf-8")
    compare = script("markets/compare.py")
    runs = compare.read_results()
    found = compare.tables.all_of(runs).strip().split("\n\n")
    compare.picture.draw(runs, tmp_path / "front.svg")
    assert len(found) == 4
    assert all(table in page for table in found)
    assert "](orchestra/front.svg)" in page
    assert (tmp_path / "front.svg").stat().st_size > 10_000
