"""The configs of examples/teacher, run by the same code path on a tiny stand-in of their architecture."""

import json
from pathlib import Path

import pytest
from tiny import REPOSITORY

from grpo_agents import store
from grpo_agents.config import load_config
from grpo_agents.trainer import train

EXAMPLES = Path("examples/teacher")
FEW = [
    "model.dtype=float32",
    "model.device=cpu",
    "engine.backend=transformers",
    "models.anchor.backend=transformers",
    "models.anchor.max_tokens=8",
    "rollout.group_size=2",
    "rollout.max_turn_tokens=8",
    "learner.optimizer.name=adamw",
    "train.steps=1",
    "train.batch=2",
    "eval.every=1",
    "eval.tasks=2",
    "eval.rollouts=2",
]


def train_few(name, stand_in, tmp_path, rows):
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    local = [f"tasks.source={file}", f"run={tmp_path / 'run'}", f"model.path={stand_in}"]
    run = train(load_config(EXAMPLES / name, [*FEW, *local]))
    return store.read(run / "trajectories" / "train-000000.parquet")


def test_math500_trains_on_its_own_questions(stand_in, tmp_path, monkeypatch):
    """So small an anchor is never in a box: the reward is ours to lack, and what is watched is there."""
    monkeypatch.chdir(REPOSITORY)
    row = {"problem": "What is $1+1$?", "answer": "2", "solution": "It is 2.", "level": 1, "subject": "Algebra"}
    with pytest.raises(ValueError, match="every episode lacks a reward, most for this:\nno reference: ValueError: the"):
        train_few("math500.toml", stand_in, tmp_path, [row, {**row, "answer": "3"}])
    trajectories = store.read(tmp_path / "run" / "trajectories" / "train-000000.parquet")
    assert [entry.rewards for entry in trajectories] == [{"reference": None, "gold_outcome": 0.0}] * 4


def test_rubric_asks_the_policy_without_its_adapter(stand_in, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    rubrics = [{"criterion": "Is it kind?", "points": 5, "tags": []}, {"criterion": "Wrong?", "points": -3, "tags": []}]
    row = {"prompt_id": "a", "prompt": [{"role": "user", "content": "My head aches."}], "rubrics": rubrics}
    with pytest.raises(ValueError, match="no rubric: ValueError: the anchor wrote 0 of 5 criteria"):
        train_few("rubric.toml", stand_in, tmp_path, [row, {**row, "prompt_id": "b"}])


@pytest.mark.parametrize(
    ("name", "model", "data"),
    [
        ("math500.toml", "Qwen/Qwen3-4B", "HuggingFaceH4/MATH-500"),
        ("rubric.toml", "Qwen/Qwen3-1.7B", "Tonic/Health-Bench-Eval-OSS-2025-07"),
    ],
)
def test_they_name_models_and_data_of_the_hub(name, model, data, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    config = load_config(EXAMPLES / name)
    assert (config.model.path, config.tasks.source) == (model, data)
    assert config.env.id == "grpo_agents/Teacher-v0"


def test_math500_has_the_papers_settings(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    config = load_config(EXAMPLES / "math500.toml")
    assert (config.rollout.group_size, config.train.batch, config.learner.optimizer.lr) == (8, 256, 5e-7)
    assert config.method["kl_weight"] == 1e-3
