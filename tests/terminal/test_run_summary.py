"""What is said of a run when it has ended."""

import math
import shutil
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from grpo_agents import store
from grpo_agents.config import save_config
from grpo_agents.run_folder import RunFolder
from grpo_agents.terminal.run_summary import RunSummary
from grpo_agents.trajectory import Trajectory
from grpo_agents.utility import utility
from runs import sft


def summed_up(folder, width=120):
    screen = Console(file=StringIO(), width=width)
    RunSummary(RunFolder(folder)).print(screen)
    return screen.file.getvalue()


def row(text, name):
    line = next(line for line in text.splitlines() if line.startswith(f"│ {name} "))
    return [cell.strip() for cell in line.strip("│").split("│")][1:]


def means(folder, value):
    """Of the first and the last evaluation, computed apart."""
    files = sorted((folder / "trajectories").glob("eval-*.parquet"))
    return [float(np.mean([value(entry) for entry in store.read(file)])) for file in (files[0], files[-1])]


def test_a_run_is_summed_up_by_what_its_folder_holds(unbroken):
    text = summed_up(unbroken)
    assert "gdpo on grpo_agents/Orchestra-v0: 4 of 4 steps in" in text
    assert "Evaluation of 5 episodes: mean ± 95 % interval, clustered by task" in text
    assert "after 0 steps" in text
    assert "after 4 steps" in text
    scoring = store.read_scoring(sorted((unbroken / "trajectories").glob("eval-*"))[0])
    for name, value in {
        "reward": lambda entry: utility(entry.rewards, entry.preference, scoring.vector, scoring.maxima, scoring.gate),
        "outcome ↑": lambda entry: entry.rewards["outcome"],
        "cost ↓": lambda entry: entry.rewards["cost"],
        "calls of novice": lambda entry: sum(run.name == "novice" for step in entry.steps for run in step.tools),
    }.items():
        first, last = means(unbroken, value)
        cells = row(text, name)
        assert [cell.split(" ± ")[0] for cell in cells[:2]] == [f"{first:.3f}", f"{last:.3f}"]
        assert float(cells[2].split(" ± ")[0]) == pytest.approx(last - first, abs=6e-4)


def test_batches_are_those_of_the_first_and_the_last_tenth(unbroken, tmp_path):
    folder = RunFolder(shutil.copytree(unbroken, tmp_path / "run"))
    rows = [row for row in folder.read_metrics() if "seconds/step" in row]
    folder.metrics.write_text("")
    for step in range(30):
        folder.log({**rows[0], "step": step, "reward": float(step), "kl": math.nan})
    text = summed_up(folder.path)
    assert "first 3 steps" in text
    batches = text[text.index("Batches") :]
    assert row(batches, "reward") == ["1", "28"]
    assert row(batches, "kl") == ["n/a", "n/a"]


def test_what_went_wrong_is_counted(unbroken, tmp_path):
    folder = RunFolder(shutil.copytree(unbroken, tmp_path / "run"))
    assert "episodes" not in summed_up(folder.path).split("Batches")[1]
    folder.log({"step": 4, "missing/outcome": 2.0, "left_out": 2.0, "skipped/non_finite": 1.0, "seconds/step": 1.0})
    folder.log({"step": 5, "missing/outcome": 3.0, "left_out": 3.0, "skipped/no_gradient": 2.0, "seconds/step": 1.0})
    last = sorted(folder.trajectories.glob("eval-*"))[-1]
    scoring = store.read_scoring(last)
    broken = Trajectory(error="shop: no pears", stop_reason="error", rewards=dict.fromkeys(scoring.vector.names))
    store.write(last, [*store.read(last), broken], phase="eval", scoring=scoring)
    text = summed_up(folder.path)
    assert "episodes without outcome: 5" in text
    assert "episodes left out of learning: 5" in text
    assert "updates not made, as something was not finite: 1" in text
    assert "updates not made, as nothing had a gradient: 2" in text
    assert "exploded" not in text
    assert "episodes of the last evaluation with error: shop: no pears: 1" in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_run_without_evaluation_or_of_one_step_or_of_none(start, tmp_path, width):
    folder = RunFolder(tmp_path / "run")
    folder.trajectories.mkdir(parents=True)
    save_config(sft(folder.path, start, eval="{}", **{"train.steps": 1}), folder.config)
    text = summed_up(folder.path, width)
    assert "0 of 1 steps" in text.replace("\n", "")
    assert "Batches" not in text
    folder.log({"step": 0, "loss": 0.5, "seconds/step": 2.0})
    text = summed_up(folder.path, width)
    assert "sft on grpo_agents/Orchestra-v0: 1 of 1 steps in 2 s, 2 s each" in text
    assert row(text, "loss") == ["0.5"]
    assert "Evaluation" not in text


def test_one_evaluation_alone_has_no_difference(unbroken, tmp_path):
    folder = shutil.copytree(unbroken, tmp_path / "run")
    for file in sorted((folder / "trajectories").glob("eval-*"))[1:]:
        file.unlink()
    text = summed_up(folder)
    assert "difference" not in text
    assert len(row(text, "outcome ↑")) == 1


def test_evaluations_that_share_no_task_have_no_difference(unbroken, tmp_path):
    folder = shutil.copytree(unbroken, tmp_path / "run")
    last = sorted((folder / "trajectories").glob("eval-*"))[-1]
    scoring, others = store.read_scoring(last), store.read(last)
    for number, entry in enumerate(others):
        entry.task = {"id": f"other {number}"}
    store.write(last, others, phase="eval", scoring=scoring)
    assert row(summed_up(folder), "outcome ↑")[-1] == "n/a"
