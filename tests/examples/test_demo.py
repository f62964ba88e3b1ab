"""The demo on a smaller scale: its files, and that its summary follows from the stored trajectories alone."""

import json
import os
import shlex
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats
from tiny import DEMO, demo_module


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a demo of a few steps, and what it said of itself."""
    sys.path.insert(0, str(DEMO))
    import demo

    folder = tmp_path_factory.mktemp("demo")
    small = ("train.steps=4", "train.batch=4", "rollout.group_size=4", "eval.tasks=60", "model.threads=1")
    return folder, demo.run(folder, seed=3, overrides=small)


def rows_of(file):
    """Reward, best and blind U of every trajectory, from the Parquet columns and the issue's formula."""
    rows = []
    for row in pq.read_table(file).to_pylist():
        values = {entry["name"]: entry["value"] for entry in row["rewards"]}
        weights = {entry["name"]: entry["weight"] for entry in row["preference"]}
        task = json.loads(row["task"])
        saved_cost, saved_latency = 1 - values["cost"] / 10, 1 - values["latency"] / 3
        worth = weights["outcome"] + weights["cost"] * max(0, saved_cost) + weights["latency"] * max(0, saved_latency)
        rows.append(
            {"kind": task["kind"], "task": task["id"], "weights": weights, "U": values["outcome"] * worth, **values}
        )
    return rows


CHOICES = {"direct": (0, 0), "calculator": (1, 3), "novice": (0.5, 2.5), "expert": (10, 0.3)}  # dollars, seconds
RIGHT = {
    "direct": {"easy": 1, "hard": 0, "word": 0},
    "calculator": {"easy": 1, "hard": 1, "word": 0},
    "novice": {"easy": 0.7, "hard": 0.6, "word": 0.8},
    "expert": {"easy": 0.98, "hard": 0.98, "word": 0.98},
}


def expected(row, choice):
    dollars, seconds = CHOICES[choice]
    weights = row["weights"]
    worth = weights["outcome"] + weights["cost"] * (1 - dollars / 10) + weights["latency"] * (1 - seconds / 3)
    return RIGHT[choice][row["kind"]] * worth


def test_summary_json_is_what_run_returned(finished):
    folder, found = finished
    assert json.loads((folder / "summary.json").read_text()) == found


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_summary_follows_from_the_parquet_alone(finished, when):
    folder, found = finished
    files = sorted((folder / "grpo" / "trajectories").glob("eval-*.parquet"))
    rows = rows_of(files[0] if when == "before" else files[-1])
    assert len(rows) == found["episodes"] == 60
    assert len({row["task"] for row in rows}) == found["tasks"]
    for name, key in (("reward", "U"), ("outcome", "outcome"), ("cost", "cost"), ("latency", "latency")):
        assert found[when][name]["mean"] == pytest.approx(np.mean([row[key] for row in rows]), abs=1e-12)
    best = np.mean([max(expected(row, choice) for choice in CHOICES) for row in rows])
    assert found[when]["share_of_best"]["mean"] == pytest.approx(np.mean([row["U"] for row in rows]) / best)


def test_the_blind_share_is_that_of_one_choice_for_each_kind_of_task(finished):
    folder, found = finished
    rows = rows_of(sorted((folder / "grpo" / "trajectories").glob("eval-*.parquet"))[-1])
    total = sum(
        max(sum(expected(row, choice) for row in rows if row["kind"] == kind) for choice in CHOICES)
        for kind in ("easy", "hard", "word")
    )
    best = sum(max(expected(row, choice) for choice in CHOICES) for row in rows)
    assert found["share_of_best_blind"] == pytest.approx(total / best)


def test_intervals_are_clustered_by_task(finished):
    folder, found = finished
    rows = rows_of(sorted((folder / "grpo" / "trajectories").glob("eval-*.parquet"))[-1])
    mean = np.mean([row["U"] for row in rows])
    sums = {}
    for row in rows:
        sums[row["task"]] = sums.get(row["task"], 0.0) + row["U"] - mean
    clusters = len(sums)
    error = np.sqrt(clusters / (clusters - 1) * sum(value**2 for value in sums.values())) / len(rows)
    half = stats.t.ppf(0.975, clusters - 1) * error
    assert found["after"]["reward"]["low"] == pytest.approx(mean - half)
    assert found["after"]["reward"]["high"] == pytest.approx(mean + half)


def test_training_and_held_out_questions_are_disjoint(finished):
    folder, _ = finished
    trained, held_out = (
        {row["task"] for file in (folder / "grpo" / "trajectories").glob(f"{phase}-*.parquet") for row in rows_of(file)}
        for phase in ("train", "eval")
    )
    assert trained
    assert held_out
    assert not trained & held_out


def test_demonstrations_are_of_training_questions():
    sys.path.insert(0, str(DEMO))
    import demonstrations

    from grpo_agents.envs.orchestra.questions import held_out

    for seed in range(200):
        dialogue = demonstrations.demonstrate(np.random.default_rng(seed))
        question = dialogue["messages"][0]["content"].split("\n")[0]
        assert not held_out(question)


def test_its_closing_hint_can_be_copied_and_names_one_policy(finished, capsys, monkeypatch):
    import demo

    folder, found = finished
    monkeypatch.chdir(folder)
    demo.show(found, folder)
    program, command, file = shlex.split(capsys.readouterr().out.rpartition("in full: ")[2])
    assert os.access(program, os.X_OK)
    assert command == "evaluate"
    assert Path(file) == folder / "grpo" / "trajectories" / "eval-000004.parquet"


def test_the_warm_start_needs_what_its_config_says(tmp_path, monkeypatch, capsys):
    text = (DEMO / "sft.toml").read_text()
    said = next(line for line in text.splitlines() if line.startswith("# Needs"))
    program, *arguments = shlex.split(said.partition(": ")[2].removeprefix("python "))
    assert program == "examples/demo/tiny_model.py"
    assert arguments == [tomllib.loads(text)["model"]["path"]]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    demo_module("tiny_model").main()
    assert (tmp_path / arguments[0] / "model.safetensors").is_file()
    assert (tmp_path / arguments[0] / "tokenizer.json").is_file()
    assert f"--set model.path={arguments[0]}" in capsys.readouterr().out


def test_it_leaves_pictures_and_models(finished):
    folder, _ = finished
    for name in ("grpo/curves.png", "grpo/tool_use.png", "grpo/model/model.safetensors", "grpo/metrics.jsonl"):
        assert (folder / name).stat().st_size > 0
