"""What a run costs, as it is shown."""

import json
import re

import pytest
from huggingface_hub import constants
from shell import CONFIG, refused


@pytest.fixture
def here(finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    monkeypatch.setenv("COLUMNS", "100")


def test_cost_shows_operations_memory_disk_and_methods(run, here):
    result = run("cost", "run.toml")
    assert result.exit_code == 0, result.output
    for part in ("sampling", "training", "evaluation", "weights", "moments (AdamW)", "checkpoints", "gspo", "dpo"):
        assert part in result.stdout
    assert "grpo: 4 episodes a step" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 110  # with the tables within 100
    room = "The context leaves room for 1 of the 12 tokens that an episode may sample"
    assert room in result.stdout
    assert room not in run("cost", "run.toml", "--prompt", "40", "--observation", "20").stdout


def test_cost_of_a_run_is_less_than_its_budgets(run, here):
    allowed, did = (
        json.loads(run("cost", "run.toml", "--json", "--prompt", 400, *options).stdout)
        for options in ([], ["--run", "runs/a"])
    )
    assert (allowed["workload"]["measured"], did["workload"]["measured"]) == (False, True)
    assert did["total"]["flops"] < allowed["total"]["flops"]
    assert did["workload"]["sampled"] <= 12
    assert {row["times"] for row in did["phases"]} == {2}
    assert "means of runs/a" in run("cost", "run.toml", "--run", "runs/a").stdout


def test_cost_says_when_an_episode_would_be_refused(run, here):
    said = run("cost", "run.toml", "--set", "learner.max_tokens=64", "--prompt", 100).stdout
    assert re.search(r"An episode of \d+ tokens is refused: learner.max_tokens is 64", said)


def test_cost_refuses_what_is_no_model(run, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # else it is asked six times where it is out of reach
    (tmp_path / "run.toml").write_text(CONFIG)
    assert "model.path 'start' could not be loaded" in refused(run("cost", "run.toml", "--set", "model.path=start"))
    assert "model.path: there is no folder" in refused(run("cost", "run.toml", "--set", "model.path=./start"))
    (tmp_path / "start").mkdir()
    assert "model.path 'start' could not be loaded" in refused(run("cost", "run.toml"))
    (tmp_path / "start" / "config.json").write_text('{"model_type": "vit"}')
    assert "model.path 'start' is no causal language model" in refused(run("cost", "run.toml"))


def test_cost_counts_the_configs_reward_model(run, here):
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    config = Qwen3Config.from_pretrained("start", num_labels=1)
    Qwen3ForSequenceClassification(config).save_pretrained("judge")
    settings = ["--set", "reward_model.path=./judge", "--set", "reward_model.retrain_every=1"]
    shown = run("cost", "run.toml", *settings)
    for part in ("reward model training", "evaluation's rewards", "reward model's gradients, moments", "retraining"):
        assert part in shown.stdout, shown.output
    counted = json.loads(run("cost", "run.toml", "--run", "runs/a", "--json", *settings).stdout)
    assert counted["workload"]["judging"]["heads"] == 4  # an output a conversation
    assert counted["total"]["retraining"] > counted["total"]["sampling"]
    refusal = refused(run("cost", "run.toml", "--set", "reward_model.path=./nowhere"))
    assert "reward_model.path './nowhere' could not be loaded" in refusal


def test_cost_refuses_a_run_without_trajectories(run, here):
    assert "trajectories holds no trajectories of training" in refused(run("cost", "run.toml", "--run", "nowhere"))
