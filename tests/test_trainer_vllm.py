"""Short runs whose engine is vLLM, in a process of its own."""

import os
import signal
import threading
from contextlib import closing

import numpy as np
import psutil
import pytest
import torch
from tiny import full_logprobs, make_tokenizer, sampled, save_start
from transformers import AutoModelForCausalLM

from grpo_agents import store
from grpo_agents.engines.child import ChildEngine
from grpo_agents.learner.batch import make_batch
from grpo_agents.learner.learner import Learner
from grpo_agents.learner.settings import LearnerConfig, OptimizerConfig
from grpo_agents.methods.grpo import Grpo
from grpo_agents.run_folder import RunFolder
from grpo_agents.trainer import Trainer, train
from runs import grpo, rows_of, steps_of

pytestmark = pytest.mark.vllm

LOW = """
from grpo_agents import component

@component(direction="max", unit="share")
def low(trajectory):
    ids = trajectory.samples[0].ids[trajectory.samples[0].mask]
    return float((ids < 200).mean())
"""
"""A reward in which the episodes of a model that knows nothing differ."""

SAMPLED = {
    "engine.backend": "vllm",
    "engine.vllm.cpu_cache_gib": 1,
    "engine.check.every": 2,
    "preference.choices": "[{low = 1.0}]",
    "eval.tasks": 2,
    "learner.optimizer.lr": 1e-3,
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    save_start(folder, head_dim=32, scale=0.3)
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="all weights"),
        pytest.param(
            {"model.lora": "{rank = 4, alpha = 8.0}"},
            id="adapter",
            marks=pytest.mark.slow,  # test_vllm.py sends adapters, too
        ),
        pytest.param(
            {"train.overlap": True, "method.tis": 2.0, "learner.old_logprobs": "recompute"},
            id="overlap",
            marks=pytest.mark.slow,  # test_overlap.py has it with another engine apart
        ),
    ],
)
def test_a_run_samples_from_the_policy_that_it_trains(start, tmp_path, settings):
    """Weights move, arrive, and log-probabilities of engine and learner agree all along."""
    (tmp_path / "low.py").write_text(LOW)
    settings["rewards.vector"] = f"{tmp_path / 'low.py'}:low"
    trainer = Trainer(grpo(tmp_path / "run", start.parent, **{"model.path": start, **SAMPLED, **settings}))
    if len(settings) == 1:  # and the engine's process dies in the middle of it
        threading.Timer(1.0, os.kill, (trainer.parts.engine.pid, signal.SIGKILL)).start()
    folder = trainer.train()
    rows = rows_of(folder)
    probes = [row["sync/max_difference"] for row in rows if "sync/max_difference" in row]
    assert len(probes) == 3
    assert max(probes) < 1e-5
    trained = [row for row in rows if "grad_norm" in row]
    assert [row["step"] for row in trained] == [0, 1, 2, 3]
    assert all(row["grad_norm"] > 0 for row in trained)
    late = int("train.overlap" in settings)
    assert all(row["mismatch/max"] < 1e-5 for row in trained[: 1 if late else None])
    assert [row["staleness/max"] for row in trained] == [0.0, *[float(late)] * 3]
    for step in range(4):
        (file,) = (folder / "trajectories").glob(f"train-{step:06d}*")
        versions = {turn.version for trajectory in store.read(file) for turn in trajectory.steps}
        assert versions == {max(0, step - late)}
    assert len(steps_of(rows, eval_=True)) == 3


@pytest.mark.slow  # test_ray_runs.py has it with another engine
def test_workers_on_ray_have_each_an_engine_that_samples_from_it(start, tmp_path, monkeypatch):
    """Also where the process of one of these engines is killed in the middle of the run."""
    log, killed = RunFolder.log, []

    def log_and_kill(self, row):
        log(self, row)
        if row["step"] == 1 and "lr" in row:
            everyone = psutil.Process().children(recursive=True)
            engines = [one for one in everyone if "grpo_agents.engines.child" in " ".join(one.cmdline())]
            assert len(engines) == 2
            killed.append(engines[0])
            engines[0].kill()

    monkeypatch.setattr(RunFolder, "log", log_and_kill)
    (tmp_path / "low.py").write_text(LOW)
    settings = {
        "model.path": start,
        "rewards.vector": f"{tmp_path / 'low.py'}:low",
        "cluster.kind": "ray",
        "cluster.workers": 2,
    }
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)  # more than there are
    try:
        folder = train(grpo(tmp_path / "run", start.parent, **SAMPLED, **settings))
    finally:
        ray.shutdown()
    assert killed
    rows = rows_of(folder)
    probes = [row["sync/max_difference"] for row in rows if "sync/max_difference" in row]
    assert len(probes) == 3
    assert max(probes) < 1e-5
    trained = [row for row in rows if "grad_norm" in row]
    assert all(row["grad_norm"] > 0 for row in trained)
    assert all(row["mismatch/max"] < 1e-5 for row in trained)
    for step in range(4):
        played = list(store.read(folder / "trajectories" / f"train-{step:06d}.parquet"))
        assert [one.id for one in played] == [f"{group}.{index}" for group in range(3) for index in range(3)]
        assert {turn.version for one in played for turn in one.steps} == {step}


def test_a_trained_policy_says_the_same_wherever_it_is_loaded(start, tmp_path):
    """An update, saved: log-probabilities of the learner, of transformers, and of vLLM, which reads the folder."""
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32).eval()
    rng = np.random.default_rng(0)
    turns = [(9, 4), (7, 0)]
    trajectories = [sampled(rng, model.config.vocab_size, 12, turns, advantage=(-1.0) ** n, index=n) for n in range(6)]
    untrained = [full_logprobs(model, trajectory.samples[0].ids) for trajectory in trajectories]
    config = LearnerConfig(optimizer=OptimizerConfig(lr=1e-2))
    learner = Learner(model, config, Grpo(), source="stored", steps=1)
    batch = make_batch(trajectories)
    assert "skipped" not in str(learner.learn(batch, version=0, progress=0.0))
    learner.save_policy(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    settings = {"model": str(tmp_path), "dtype": "float32", "cpu_cache_gib": 1}
    with closing(ChildEngine("grpo_agents.engines.vllm:VllmEngine", settings, patience=60.0)) as engine:
        scores = engine.score([row.ids.tolist() for row in batch.rows])
    of_vllm = {row.trajectory: logprobs[row.trained] for row, logprobs in zip(batch.rows, scores, strict=True)}
    for row, logprobs in learner.score(batch.rows):
        assert np.abs(logprobs - untrained[row.trajectory][row.trained - 1]).max() > 0.1
        assert logprobs == pytest.approx(full_logprobs(loaded, row.ids)[row.trained - 1], abs=1e-5)
        assert logprobs == pytest.approx(of_vllm[row.trajectory], abs=1e-5)
