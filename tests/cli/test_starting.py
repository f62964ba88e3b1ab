"""What one starts from."""

import json

import pytest
from shell import episode, refused

from grpo_agents import store


def test_keys_are_listed_whole_or_by_section(run):
    assert "learner.optimizer.lr: number = 1e-06\n    Learning rate at its highest.\n" in run("keys").stdout
    shown = run("keys", "model.lora").stdout
    assert [line.split(":")[0] for line in shown.splitlines() if not line.startswith(" ")] == [
        "model.lora", "model.lora.rank", "model.lora.alpha", "model.lora.dropout", "model.lora.targets"
    ]  # fmt: skip
    assert "Did you mean 'rollout'" in refused(run("keys", "rolout"))


def test_a_new_environment_keeps_the_contract_and_is_never_overwritten(run, tmp_path):
    assert "corner_shop.py:CornerShop" in run("new", "env", "corner_shop").stdout
    written = (tmp_path / "corner_shop.py").read_text()
    assert "class CornerShop(AgentEnv)" in written
    assert run("check", "corner_shop.py:CornerShop").exit_code == 0
    assert "corner_shop.py exists" in refused(run("new", "env", "corner_shop"))
    assert (tmp_path / "corner_shop.py").read_text() == written


def test_a_new_reward_scores_episodes(run, tmp_path):
    assert 'vector = "brief.py:vector"' in run("new", "reward", "brief").stdout
    store.write(tmp_path / "some.parquet", [episode("a", 1.0, 10.0)])
    found = json.loads(run("evaluate", "some.parquet", "--reward", "brief.py:vector", "--json").stdout)
    means = {name: entry["interval"]["mean"] for name, entry in found["components"].items()}
    assert means == {"outcome": 1.0, "brevity": pytest.approx(1 - 7 / 500), "cost": 10.0}
