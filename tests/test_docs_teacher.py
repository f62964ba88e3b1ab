"""docs/teacher.md: its configs are configs, its rewards run, and its figures are those of a run."""

import json
import re
import tomllib

import pytest
from tiny import REPOSITORY, save_start

from grpo_agents import store
from grpo_agents.config import load_config, make_config
from grpo_agents.engines.chat_model import ScriptedModel
from grpo_agents.pseudo_labels import PseudoLabels
from grpo_agents.rewards.component import from_environment
from grpo_agents.rewards.pseudo_label import Label, Reading, agreement
from grpo_agents.tasks import load_object
from grpo_agents.trainer import train
from grpo_agents.trajectory import Group, Step, Trajectory

TEXT = (REPOSITORY / "docs" / "teacher.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
FILES = {name[1]: text for _, text in BLOCKS if (name := re.match(r"# (\S+)\n", text))}
SHORT = {
    "model.path": "start",
    "train.steps": 1,
    "train.batch": 2,
    "eval.tasks": 2,
    "eval.rollouts": 2,
    "rollout.group_size": 3,
    "rollout.max_turn_tokens": 4,
    "models.anchor.max_tokens": 4,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The page's files, beside a tiny model and questions."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    save_start(tmp_path / "start", scale=0.1, max_position_embeddings=2048)
    tasks = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(4)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return tmp_path


def test_its_config_trains_with_its_own_rewards(folder):
    settings = {**SHORT, "rewards.vector": "teaching.py:vector"}
    run = train(load_config(folder / "teach.toml", [f"{key}={value}" for key, value in settings.items()]))
    groups = store.read_groups(run / "trajectories" / "train-000000.parquet")
    assert all("reference" in entry.rewards for group in groups for entry in group.trajectories)
    assert all(entry.rewards["gold_outcome"] == 0 for group in groups for entry in group.trajectories)


def test_its_models_are_a_config():
    (text,) = [text for kind, text in BLOCKS if kind == "toml" and "[models.anchor]" in text]
    config = make_config({"model": {"path": "x"}, "env": {"id": "x"}, **tomllib.loads(text)})
    assert (config.models["anchor"].vllm.memory, config.models["judge"].server.model) == (0.2, "judge")


def test_its_own_comparison_takes_the_last_word(folder):
    vector = load_object("teaching.py:vector")
    trajectories = [Trajectory(steps=[Step({"role": "assistant", "content": text})]) for text in ("so Yes.", "no", "")]
    group = Group({}, {}, trajectories)
    vector.score([group], {"anchor": ScriptedModel(lambda messages: f"{messages[0]['content'][:8]} yes")})
    assert [entry.rewards["reference"] for entry in trajectories] == [1, 0, 0]
    assert group.notes["reference"]["text"] == "3 people yes"


def test_its_rubrics_need_no_rollouts_but_the_one_they_judge(folder):
    criteria = "\n".join(f"{number}. Is it so?" for number in range(1, 7))
    model = ScriptedModel(lambda messages: criteria if "reference response" in messages[0]["content"] else "yes")
    task = {"ideal": "a text", "criteria": ["Is it short?"]}
    for name in ("from_ideal", "given"):
        trajectory = Trajectory(task=task, steps=[Step({"role": "assistant", "content": "Yes."})])
        load_object(f"judged.py:{name}").score([Group(task, {}, [trajectory])], {"anchor": model, "judge": model})
        assert trajectory.rewards == {"rubric": 1.0}


def test_the_table_of_figures_is_complete():
    shown = set(re.findall(r"`((?:diversity|reference|gold)/\w+)`", TEXT))
    rollouts = [
        Trajectory(index=n, steps=[Step({"role": "assistant", "content": text})], rewards={"gold": float(text == "2")})
        for n, text in enumerate("112")
    ]
    group = Group({}, {}, rollouts)
    values = agreement("reference", group, Label("2", "2", {"read": 1, "written": 1}), Reading(str, str.__eq__))
    for rollout, value in zip(rollouts, values, strict=True):
        rollout.rewards["reference"] = value
    watch = PseudoLabels([from_environment("reference")], [from_environment("gold")], lambda task, text: {})
    assert shown == watch([group]).keys()
