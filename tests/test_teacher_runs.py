"""Whole runs that learn from references which the policy of before training synthesises, and from no gold answer."""

import asyncio
import json

import pytest
from safetensors.torch import load_file
from tiny import save_start

from grpo_agents import store
from grpo_agents.build import build
from grpo_agents.config import load_config, make_config
from grpo_agents.engines import Request, Sampling
from grpo_agents.rewards.reference import synthesise
from grpo_agents.trainer import resume, train
from runs import interrupt_at, left_behind, rows_of

REWARD = """
from grpo_agents import RewardVector
from grpo_agents.rewards.reference import reference

def last_letter(text):
    return text.strip()[-1:] or None

def equal(one, other):
    return one.isalpha() == other.isalpha()

vector = RewardVector([reference(answer=last_letter, compare=equal, prompt="{rollouts}")])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model from scratch, questions with gold and with wrong answers, a reward that so small a model can earn."""
    folder = tmp_path_factory.mktemp("teacher")
    save_start(folder / "start", scale=0.1, max_position_embeddings=1024)
    (folder / "reward.py").write_text(REWARD)
    for name, shift in {"gold": 0, "wrong": 1000}.items():
        tasks = [{"question": f"What is {n} + {n}?", "answer": str(2 * n + shift)} for n in range(6)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return folder


def settings(folder, run, gold="gold", **changes):
    config = {
        "run": str(folder / run),
        "model": {"path": str(folder / "start"), "device": "cpu"},
        "env": {"id": "grpo_agents/Teacher-v0"},
        "tasks": {"source": str(folder / f"{gold}.jsonl")},
        "rewards": {"vector": f"{folder / 'reward.py'}:vector", "watch": ["gold_outcome"]},
        "models": {"anchor": {"max_tokens": 8}},
        "rollout": {"group_size": 4, "max_turn_tokens": 6, "max_turns": 1},
        "learner": {"optimizer": {"lr": 0.01}},
        "train": {"steps": 4, "batch": 3, "save_every": 2, "keep": 3},
        "eval": {"every": 4, "tasks": 4, "rollouts": 2},
    }
    return make_config({**config, **changes})


@pytest.fixture(scope="module")
def trained(folder):
    return train(settings(folder, "trained"))


def groups_of(run, step):
    return store.read_groups(run / "trajectories" / f"train-{step:06d}.parquet")


def test_it_learns_from_references(trained, folder):
    before, after = (
        load_file(folder / "start" / "model.safetensors"),
        load_file(trained / "model" / "model.safetensors"),
    )
    assert any((before[name] != after[name]).any() for name in before)
    notes = [group.notes["reference"] for step in range(4) for group in groups_of(trained, step)]
    for note in notes:
        assert note["calls"] == 1
        assert 1 <= note["written"] <= 8 < note["read"]
        assert len(note["answers"]) == len(note["agrees"]) == 4
    assert len({tuple(note["agrees"]) for note in notes}) > 1


def test_rewards_are_what_the_notes_say_and_gold_is_stored_beside_them(trained):
    for group in groups_of(trained, 3):
        assert [entry.rewards["reference"] for entry in group.trajectories] == group.notes["reference"]["agrees"]
        assert {entry.rewards["gold_outcome"] for entry in group.trajectories} == {0.0}


def test_the_figures_of_a_step_say_how_they_differ_and_what_it_took(trained):
    rows = [row for row in rows_of(trained) if "lr" in row]
    for row in rows:
        assert row.keys() >= {"diversity/answers", "diversity/unanimous", "reference/read", "reference/written"}
        assert row.keys() >= {"gold/reference_agrees", "gold/reference_right", "gold/majority_right"}
        assert row["reward/gold_outcome"] == 0
        assert row["reward"] == row["reward/reference"]  # what is watched is no part of it
        assert row["gold/reference_agrees"] == pytest.approx(1 - row["reward/reference"])  # gold says always 0


def test_an_evaluation_has_what_is_watched(trained):
    rows = [row for row in rows_of(trained) if "eval/gold_outcome" in row]
    assert [row["step"] for row in rows] == [0, 4]
    assert store.read_scoring(trained / "trajectories" / "eval-000004.parquet").watched[0].name == "gold_outcome"


def test_training_is_the_same_bit_for_bit_whatever_the_gold_answers_are(trained, folder):
    other = train(settings(folder, "wrong-gold", gold="wrong"))
    one, two = left_behind(trained), left_behind(other)
    assert one["weights"] == two["weights"]
    assert one["optimizer"] == two["optimizer"]


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_as_the_unbroken_one(trained, folder, monkeypatch):
    interrupt_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        train(settings(folder, "broken"))
    assert left_behind(resume(folder / "broken")) == left_behind(trained)


def asked_anew(folder, group, run, **changes):
    """What the first weights, loaded by themselves, make of a group."""
    config = settings(folder, run, **changes)
    parts = build(config, say=lambda _: None)
    try:
        return asyncio.run(synthesise(group, parts.models.by_name["anchor"], "{rollouts}")).text
    finally:
        parts.close()


def test_the_anchor_stays_what_the_policy_was(trained, folder):
    for group in groups_of(trained, 3):
        assert group.notes["reference"]["text"] == asked_anew(folder, group, "asked")


@pytest.mark.slow
def test_with_lora_the_anchor_is_the_policy_without_its_adapter(folder):
    config = settings(
        folder, "lora", model={"path": str(folder / "start"), "device": "cpu", "lora": {"rank": 4, "alpha": 64.0}}
    )
    said = []
    parts = build(config, learning=True, say=said.append)
    assert parts.models.engines == []  # nothing is loaded beside the policy
    assert said == []
    run = train(config)
    adapter = load_file(run / "model" / "adapter_model.safetensors")
    assert all(value.abs().max() > 1e-3 for name, value in adapter.items() if "lora_B" in name)
    for group in groups_of(run, 3):
        assert group.notes["reference"]["text"] == asked_anew(folder, group, "asked")


def test_a_model_that_nobody_asks_for_is_named_and_not_loaded(folder):
    said = []
    spare = {"judge": {"path": "nobody/loads-this"}, "anchor": {}}
    parts = build(settings(folder, "spare", models=spare), say=said.append)
    parts.close()
    assert list(parts.models.by_name) == ["anchor"]
    assert said == ["models.judge: no component of the rewards asks for a model of this name, and it is not loaded"]


def test_the_adapter_is_on_again_after_the_anchor_was_asked(folder):
    import torch

    config = settings(folder, "on", model={"path": str(folder / "start"), "device": "cpu", "lora": {"rank": 4}})
    parts = build(config, learning=True, say=lambda _: None)
    for name, value in parts.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.5)
    request = Request(1, [5, 6, 7], 3, 12)

    def sampled():
        found = []
        parts.engine.submit([request], Sampling(), found.append)
        parts.engine.release([1])
        return found[0].logprobs

    before = sampled()
    answer = asyncio.run(parts.models.by_name["anchor"].complete([{"role": "user", "content": "1 + 1"}]))
    assert sampled() == before
    fresh = build(settings(folder, "fresh"), say=lambda _: None)
    other = asyncio.run(fresh.models.by_name["anchor"].complete([{"role": "user", "content": "1 + 1"}]))
    assert answer.message == other.message
    assert all(value.requires_grad for name, value in parts.model.named_parameters() if "lora_" in name)


def test_tasks_that_are_evaluated_and_trained_are_said_to_be_test_time_training(folder, capsys):
    train(settings(folder, "said", train={"steps": 1, "batch": 2}, eval={"every": 1, "tasks": 6, "rollouts": 2}))
    said = " ".join(capsys.readouterr().err.split())
    assert "2 of 2 tasks are among those of the evaluation: their gold answers are hidden from training" in said
    assert "gold_outcome 0.000" in said


def test_gold_is_refused_where_it_would_be_learned_from(folder):
    with pytest.raises(ValueError, match=r"'gold_outcome', which TeacherEnv hides from training\. Name it in rewards"):
        build(settings(folder, "x", rewards={"vector": ["gold_outcome"]}))
    with pytest.raises(ValueError, match=r"'majority' is in rewards\.vector and in rewards\.watch"):
        build(settings(folder, "x", rewards={"vector": ["majority"], "watch": ["majority"]}))
    with pytest.raises(ValueError, match=r"(?s)no math_answer: KeyError: 'the task has an answer, which is hidden"):
        train(settings(folder, "peeking", rewards={"vector": ["math_answer"]}))


def test_a_saved_config_has_its_models(trained):
    assert load_config(trained / "config.toml").models["anchor"].max_tokens == 8
