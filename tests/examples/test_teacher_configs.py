"""The configs of examples/teacher, run by the same code path on a tiny stand-in of their architecture."""

import json
from pathlib import Path

import pytest
from tiny import REPOSITORY

from grpo_agents import store
from grpo_agents.chat_models import ChatModels
from grpo_agents.config import load_config
from grpo_agents.engines.chat_model import ScriptedModel
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
    with pytest.raises(ValueError, match="no rubric: ValueError: the anchor wrote no whole reference"):
        train_few("rubric.toml", stand_in, tmp_path, [row, {**row, "prompt_id": "b"}])


def scripted(monkeypatch, script):
    """A language model for the tiny one, which can write neither references nor verdicts."""
    models = dict.fromkeys(("anchor", "judge"), ScriptedModel(script))
    monkeypatch.setattr("grpo_agents.build.make_models", lambda *_: ChatModels(models))


def metrics_of(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {key: value for row in rows for key, value in row.items()}


def test_a_rubric_is_learned_from_and_held_against_the_physicians(stand_in, tmp_path, monkeypatch):
    """Its judge likes responses of odd length, and so does the physicians'."""
    monkeypatch.chdir(REPOSITORY)

    def script(messages):
        asked = messages[-1]["content"]
        if "Answer with one word" in asked:
            return "yes" if len(asked) % 2 else "no"
        return "\n".join(f"{n}. Is it odd, {n}?" for n in range(1, 6)) if "criteria" in asked else "A good response."

    scripted(monkeypatch, script)
    rubrics = [{"criterion": "Is it kind?", "points": 5, "tags": []}]
    row = {"prompt_id": "a", "prompt": [{"role": "user", "content": "My head aches."}], "rubrics": rubrics}
    trajectories = train_few("rubric.toml", stand_in, tmp_path, [row, {**row, "prompt_id": "b"}])
    assert {name for entry in trajectories for name in entry.rewards} == {"rubric", "gold_physicians"}
    assert all(entry.rewards[name] in (0, 1) for entry in trajectories for name in entry.rewards)
    figures = metrics_of(tmp_path / "run")
    agree = [(entry.rewards["rubric"] >= 0.5) == (entry.rewards["gold_physicians"] >= 0.5) for entry in trajectories]
    assert figures["gold/rubric_agrees"] == pytest.approx(sum(agree) / len(agree))
    assert figures["diversity/answers"] == 2
    assert figures["rubric/written"] > 5 * 2


def test_a_reference_is_learned_from(stand_in, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    scripted(monkeypatch, lambda messages: r"So it is \boxed{2}.")
    row = {"problem": "What is $1+1$?", "answer": "2", "solution": "It is 2.", "level": 1, "subject": "Algebra"}
    trajectories = train_few("math500.toml", stand_in, tmp_path, [row, {**row, "answer": "3"}])
    assert [entry.rewards for entry in trajectories] == [{"reference": 0.0, "gold_outcome": 0.0}] * 4
    assert metrics_of(tmp_path / "run")["gold/reference_right"] == 0.5  # by the answers of the tasks, 2 and 3


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
