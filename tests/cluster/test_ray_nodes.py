"""Runs on a Ray cluster of several machines (all of them here): one is lost, memory leaks, the head node is gone."""

import os
import subprocess
import sys
import time

import pytest
import ray
from ray.cluster_utils import Cluster

from grpo_agents.cluster import pool
from grpo_agents.config import save_config
from grpo_agents.run_folder import RunFolder
from grpo_agents.trainer import train
from runs import grpo, rows_of, tokens_of

RAY = {"cluster.kind": "ray", "model.threads": 1, "engine.max_rows": 6}
LEAKY = """
from grpo_agents.envs.orchestra import OrchestraEnv

kept = []


class Leaky(OrchestraEnv):
    def reset(self, **settings):
        kept.append(bytearray(20_000_000))
        return super().reset(**settings)
"""


@pytest.fixture
def machines():
    """A head node of two processors; others are added by tests."""
    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def at_step(monkeypatch, step, act):
    """Does something as soon as the figures of a step are written, once."""
    log, done = RunFolder.log, []

    def log_and_act(self, row):
        log(self, row)
        if row["step"] == step and "lr" in row and not done:
            done.append(step)
            act()

    monkeypatch.setattr(RunFolder, "log", log_and_act)


def figures(folder):
    """Of steps and evaluations; probes, of which there are more where a worker was replaced, have rows of their own."""
    return [row for row in rows_of(folder) if "sync/max_difference" not in row]


@pytest.mark.slow
def test_a_lost_machine_is_replaced_by_another_and_two_ranks_learn_on(warm, tmp_path, monkeypatch, machines, capfd):
    """Whichever processes Ray has packed onto the one that is lost; it comes to what one process comes to."""
    other = machines.add_node(num_cpus=2)

    def lose():
        machines.remove_node(other, allow_graceful=False)
        machines.add_node(num_cpus=2)

    at_step(monkeypatch, 1, lose)
    steps = {"train.steps": 3, "eval.every": 3}
    run = train(grpo(tmp_path / "run", warm, **RAY, **steps, **{"cluster.learner_ranks": 2, "cluster.workers": 2}))
    alone = train(grpo(tmp_path / "alone", warm, **steps))
    assert tokens_of(run) == tokens_of(alone)
    for mine, theirs in zip(figures(alone), figures(run), strict=True):
        assert {name: theirs[name] for name in mine} == pytest.approx(mine, rel=1e-3, abs=1e-4)
    said = capfd.readouterr().err
    assert said.count("It is replaced") >= 2 or "a process of the learner died after step 2" in said


@pytest.mark.slow
def test_a_worker_whose_environments_leak_is_replaced(warm, tmp_path, monkeypatch, machines, capfd):
    """20 MB an episode; a worker that has loaded all it needs has less than a gigabyte."""
    (tmp_path / "leaky.py").write_text(LEAKY)
    monkeypatch.setattr(pool, "PULSE_SECONDS", 0.1)
    settings = {**RAY, "cluster.workers": 1, "cluster.worker_memory_gib": 1.2, "train.steps": 12, "eval.every": 12}
    settings["env.id"] = f"{tmp_path / 'leaky.py'}:Leaky"
    run = train(grpo(tmp_path / "run", warm, **settings))
    assert [row["step"] for row in rows_of(run) if "lr" in row] == list(range(12))
    assert "rollout worker 0 had more memory than cluster.worker_memory_gib. It is replaced\n" in capfd.readouterr().err


@pytest.mark.slow
def test_without_its_head_node_a_run_ends_with_a_line_and_goes_on_with_another_one(warm, tmp_path):
    """Ray ends the process at once: somebody else has to say it."""
    env = os.environ | {"RAY_gcs_rpc_server_reconnect_timeout_s": "3", "OMP_NUM_THREADS": "1"}
    folder = tmp_path / "run"
    begun = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    settings = {**RAY, "cluster.workers": 1, "cluster.address": begun.address, "train.steps": 5, "eval.every": 5}
    save_config(grpo(folder, warm, **settings), tmp_path / "config.toml")
    command = [sys.executable, "-m", "grpo_agents", "train"]
    with subprocess.Popen(
        [*command, tmp_path / "config.toml"], env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        while not (folder / "checkpoints" / "step-000002").exists():
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
        begun.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
        said = first.communicate(timeout=120)[1]
    begun.shutdown()
    assert first.returncode != 0
    line = "the run ended at once: Ray's head node is gone (`ray status`), or the process was killed. Checkpoints are "
    line += f"intact: go on with `grpo-agents train --resume {folder}`"
    assert line in said
    assert "Traceback" not in said
    again = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    subprocess.run(
        [*command, "--resume", folder, "--set", f"cluster.address={again.address}"], env=env, check=True, timeout=120
    )
    again.shutdown()
    alone = train(grpo(tmp_path / "alone", warm, **{"train.steps": 5, "eval.every": 5}))
    assert tokens_of(folder) == tokens_of(alone)
    for mine, theirs in zip(figures(alone), figures(folder), strict=True):
        assert {name: theirs[name] for name in mine} == pytest.approx(mine, rel=1e-3, abs=1e-4)
