"""Whole runs on a Ray cluster of this machine: the same trajectories and updates, whatever becomes of processes."""

import os
import signal
from contextlib import suppress

import psutil
import pytest
import ray
import torch
from processes import eventually
from safetensors.torch import load_file

from grpo_agents import store
from grpo_agents.cluster.learner import RemoteLearner
from grpo_agents.run_folder import RunFolder
from grpo_agents.trainer import resume, train
from runs import grpo, interrupt_at, rows_of, tokens_of

RAY = {
    "cluster.kind": "ray",
    "cluster.workers": 2,
    "model.threads": 1,
    "engine.max_rows": 6,  # two groups at once at a worker
}
AHEAD = {
    **RAY,
    "cluster.max_staleness": 2,
    "method.tis": 2.0,
    "learner.old_logprobs": "recompute",
    "eval.every": 4,
}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A Ray cluster of one machine, for all runs here."""
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def actors():
    """The processes of actors, by class; those of this test alone, as others may run beside it."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            name = " ".join(process.cmdline())
            for kind in ("WorkerActor", "RankActor"):
                if name.startswith(f"ray::{kind}"):
                    found.setdefault(kind, []).append(process)
    return found


def kill_one(monkeypatch, kind, when):
    """Kills an actor of a kind as soon as the figures of a step are written."""
    log, killed = RunFolder.log, []

    def log_and_kill(self, row):
        log(self, row)
        if row["step"] == when and "lr" in row and not killed:
            victim = min(actors()[kind], key=lambda process: process.pid)
            killed.append(victim.pid)
            os.kill(victim.pid, signal.SIGKILL)

    monkeypatch.setattr(RunFolder, "log", log_and_kill)
    return killed


@pytest.fixture(scope="module")
def alone(warm, tmp_path_factory):
    """A run in this process, which samples as workers do: its batches are of other sizes."""
    return train(grpo(tmp_path_factory.mktemp("alone") / "run", warm, **{"model.threads": 1}))


def same_figures(run, alone):
    """Of steps and evaluations; probes have rows of their own, more of them where something was loaded again."""
    rows, expected = ([row for row in rows_of(one) if "sync/max_difference" not in row] for one in (run, alone))
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for mine, theirs in zip(expected, rows, strict=True):
        assert {name: theirs[name] for name in mine} == pytest.approx(mine, rel=1e-3, abs=1e-4)


def test_a_run_on_workers_is_the_local_one(alone, warm, tmp_path):
    """The same tokens; log-probabilities and what follows from them up to rounding, as batches are others."""
    run = train(grpo(tmp_path / "run", warm, **RAY))
    assert tokens_of(run) == tokens_of(alone)
    same_figures(run, alone)
    assert [row.keys() for row in rows_of(run)] == [row.keys() for row in rows_of(alone)]
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (alone, run))
    assert all(((other[name] - value).abs() > 1e-4).float().mean() < 1e-2 for name, value in one.items())
    assert eventually(lambda: not actors(), seconds=60)  # Ray ends them in its own time


def test_workers_run_ahead_as_far_as_they_may_and_a_lost_one_costs_nothing(warm, tmp_path, monkeypatch, capfd):
    killed = kill_one(monkeypatch, "WorkerActor", 1)
    run = train(grpo(tmp_path / "run", warm, **AHEAD, **{"cluster.weights": "collective"}))
    assert killed
    rows = [row for row in rows_of(run) if "lr" in row]
    assert [row["step"] for row in rows] == list(range(4))
    assert all(row["staleness/max"] <= 2 for row in rows)
    assert any(row["staleness/max"] > 0 for row in rows)
    shares = [sum(value for key, value in row.items() if key.startswith("staleness/share_")) for row in rows]
    assert all(share == pytest.approx(1) for share, row in zip(shares, rows, strict=True) if row["staleness/max"])
    for step in range(4):
        played = list(store.read(run / "trajectories" / f"train-{step:06d}.parquet"))
        assert len({trajectory.id for trajectory in played}) == len(played) == 9
        assert {turn.version for one in played for turn in one.steps} <= set(range(max(0, step - 2), step + 1))
    evaluations = [store.read(run / "trajectories" / f"eval-{step:06d}.parquet") for step in (0, 4)]
    assert [{turn.version for one in some for turn in one.steps} for some in evaluations] == [{0}, {4}]
    said = capfd.readouterr().err
    assert (
        said.count("rollout worker 0 died. It is replaced") + said.count("rollout worker 1 died. It is replaced") == 1
    )
    assert sum(row.get("cluster/workers_replaced", 0) for row in rows_of(run)) == 1
    assert eventually(lambda: not actors(), seconds=60)  # Ray ends them in its own time


@pytest.mark.slow
def test_a_learner_that_dies_goes_on_from_the_last_checkpoint(alone, warm, tmp_path, monkeypatch, capfd):
    killed = kill_one(monkeypatch, "RankActor", 2)
    run = train(grpo(tmp_path / "run", warm, **RAY))
    assert killed
    assert "a process of the learner died after step 3; the learner goes on from the last checkpoint" in (
        capfd.readouterr().err
    )
    assert tokens_of(run) == tokens_of(alone)
    same_figures(run, alone)


@pytest.mark.slow
def test_when_either_of_two_ranks_dies_both_are_loaded_again(alone, warm, tmp_path, monkeypatch, capfd):
    """The one that answers, in the second step, and the one that it waits for then, in the third."""
    log, victims = RunFolder.log, {1: 0, 2: -1}

    def log_and_kill(self, row):
        log(self, row)
        if "lr" in row and row["step"] in victims:
            ranks = sorted(actors()["RankActor"], key=lambda process: process.pid)
            os.kill(ranks[victims.pop(row["step"])].pid, signal.SIGKILL)

    monkeypatch.setattr(RunFolder, "log", log_and_kill)
    run = train(grpo(tmp_path / "run", warm, **RAY, **{"cluster.learner_ranks": 2}))
    assert not victims
    said = capfd.readouterr().err
    assert said.count("; the learner goes on from the last checkpoint") == 2
    assert tokens_of(run) == tokens_of(alone)
    same_figures(run, alone)
    assert eventually(lambda: not actors(), seconds=60)  # Ray ends them in its own time


@pytest.mark.slow
def test_from_the_same_trajectories_the_learner_makes_the_same_update_to_the_bit(alone, warm, tmp_path):
    settings = {"source.kind": "stored", "source.path": alone / "trajectories", "eval.every": 100, "model.threads": 1}
    settings["learner.old_logprobs"] = "recompute"  # other weights sampled than those that learn
    here = train(grpo(tmp_path / "here", warm, **settings))
    there = train(grpo(tmp_path / "there", warm, **{**settings, **RAY, "cluster.workers": 1}))
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (here, there))
    start = load_file(warm / "model" / "model.safetensors")
    assert all(torch.equal(other[name], value) for name, value in one.items())
    assert not all(torch.equal(start[name], value) for name, value in one.items())
    assert rows_of(there) == rows_of(here)


@pytest.mark.slow
def test_a_run_that_began_in_one_process_goes_on_with_workers(alone, warm, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        train(grpo(tmp_path / "run", warm, **{"model.threads": 1, "engine.max_rows": 6}))
    run = resume(tmp_path / "run", ["cluster.kind=ray", "cluster.workers=2"])
    assert tokens_of(run) == tokens_of(alone)
    same_figures(run, alone)


@pytest.mark.slow
def test_one_that_is_asked_to_end_saves_what_it_learned_and_goes_on(alone, warm, tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 2, signal.SIGTERM)
    config = grpo(tmp_path / "run", warm, **RAY)
    with pytest.raises(KeyboardInterrupt, match=r"stopped after step 3; go on with `grpo-agents train --resume "):
        train(config)
    assert eventually(lambda: not actors(), seconds=60)  # Ray ends them in its own time
    assert (tmp_path / "run" / "checkpoints" / "step-000003").is_dir()
    run = train(config, resume=True)
    assert tokens_of(run) == tokens_of(alone)
    assert [row["step"] for row in rows_of(run)] == [row["step"] for row in rows_of(alone)]


@pytest.mark.slow
@pytest.mark.parametrize(("while_", "said"), [
    ("stored_weights", "a process of the learner died after step 0; the learner goes on from the last checkpoint"),
    ("restore", "a process of the learner died while it was loading; it is loaded again"),
])  # fmt: skip
def test_a_learner_that_dies_whenever_it_is_asked_is_loaded_again(
    alone, warm, tmp_path, monkeypatch, capfd, while_, said
):
    """For its first weights, for which no worker is to blame; or when it goes on from a checkpoint, having died."""
    once = [getattr(RemoteLearner, while_)]
    if while_ == "restore":
        kill_one(monkeypatch, "RankActor", 2)

    def die_and_do(self, *arguments):
        if len(once) == 1:
            once.append(None)
            for process in actors()["RankActor"]:
                process.kill()
        return once[0](self, *arguments)

    monkeypatch.setattr(RemoteLearner, while_, die_and_do)
    run = train(grpo(tmp_path / "run", warm, **RAY))
    err = capfd.readouterr().err
    assert said in err
    assert "rollout worker" not in err.replace("rollout workers are loading", "")
    assert tokens_of(run) == tokens_of(alone)
    assert [row["step"] for row in rows_of(run)] == [row["step"] for row in rows_of(alone)]
    assert eventually(lambda: not actors(), seconds=60)  # Ray ends them in its own time
