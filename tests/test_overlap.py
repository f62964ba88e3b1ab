"""The engine between two batches: it sleeps, or samples one step ahead, and when that took place never shows."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from apart import sample_apart
from tiny import REPOSITORY

from grpo_agents import store
from grpo_agents.config import save_config
from grpo_agents.engines import EngineFailure
from grpo_agents.engines.transformers import TransformersEngine
from grpo_agents.learner.learner import Learner
from grpo_agents.run_state import RunState
from grpo_agents.stopping import Preempted
from grpo_agents.trainer import Trainer, resume, train
from runs import grpo, interrupt_at, left_behind, rows_of, steps_of

OVERLAP = {
    "train.overlap": "true",
    "engine.backend": "vllm",  # stands for an engine of its own: see apart.py
    "method.tis": 2.0,
    "learner.old_logprobs": "recompute",
    "train.steps": 6,
    "eval.every": 4,
}


@pytest.fixture(scope="module")
def overlapped(warm, tmp_path_factory):
    """The run folder of a run with overlap that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        sample_apart(patch)
        return train(grpo(tmp_path_factory.mktemp("overlapped") / "run", warm, **OVERLAP))


def versions(folder, phase):
    return [
        {turn.version for trajectory in store.read(file) for turn in trajectory.steps}
        for file in sorted((folder / "trajectories").glob(f"{phase}-*"))
    ]


def test_each_batch_is_of_weights_one_step_old_and_evaluations_of_the_present_ones(overlapped):
    assert versions(overlapped, "train") == [{0}, {0}, {1}, {2}, {3}, {4}]
    assert versions(overlapped, "eval") == [{0}, {4}, {6}]
    rows = [row for row in rows_of(overlapped) if "lr" in row]
    assert [row["staleness/max"] for row in rows] == [0, 1, 1, 1, 1, 1]
    assert [row["staleness/mean"] for row in rows] == [0, 1, 1, 1, 1, 1]
    assert rows[0]["mismatch/max"] < 1e-4
    assert not any("mismatch/max" in row for row in rows[1:])  # nothing of equal weights to compare
    assert rows[0]["tis/weight"] == pytest.approx(1, abs=1e-4)
    assert all(abs(row["tis/weight"] - 1) > 1e-4 for row in rows[1:])


def test_an_engine_apart_without_overlap_trains_as_the_learners_own_model_does(unbroken, warm, tmp_path, monkeypatch):
    sample_apart(monkeypatch)
    assert left_behind(train(grpo(tmp_path / "run", warm))) == left_behind(unbroken)


class Uneven(TransformersEngine):
    """Takes its time, and will not be given weights meanwhile."""

    sampling = 0

    def submit(self, requests, sampling, deliver):
        self.sampling += 1
        time.sleep(random.uniform(0, 0.1))
        super().submit(requests, sampling, deliver)
        self.sampling -= 1

    def update_weights(self, weights):
        assert not self.sampling
        super().update_weights(weights)


@pytest.mark.slow
def test_how_long_sampling_and_learning_take_never_shows(overlapped, warm, tmp_path, monkeypatch):
    sample_apart(monkeypatch, Uneven)
    learn = Learner.learn

    def slowly(self, *args, **settings):
        time.sleep(random.uniform(0, 0.2))
        return learn(self, *args, **settings)

    monkeypatch.setattr(Learner, "learn", slowly)
    assert left_behind(train(grpo(tmp_path / "run", warm, **OVERLAP))) == left_behind(overlapped)


def test_sampling_and_learning_go_on_at_the_same_time(warm, tmp_path, monkeypatch):
    """Each waits until the other has begun."""
    (learning, sampling), learn = (threading.Event(), threading.Event()), Learner.learn

    class Waiting(TransformersEngine):
        def submit(self, requests, sampling_, deliver):
            if threading.current_thread() is not threading.main_thread():
                sampling.set()
                assert learning.wait(30)
            super().submit(requests, sampling_, deliver)

    def waiting(self, *args, **settings):
        learning.set()
        assert sampling.wait(30)
        return learn(self, *args, **settings)

    sample_apart(monkeypatch, Waiting)
    monkeypatch.setattr(Learner, "learn", waiting)
    train(grpo(tmp_path / "run", warm, **{**OVERLAP, "train.steps": 2}))
    assert learning.is_set()


# Runs that are stopped


@pytest.mark.parametrize("step", [0, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 4))])
def test_after_ctrl_c_it_goes_on_with_the_batch_that_was_sampled_ahead(overlapped, warm, tmp_path, monkeypatch, step):
    """At a step that is saved anyway, and at others."""
    folder = tmp_path / "run"
    sample_apart(monkeypatch)
    interrupt_at(monkeypatch, step)
    with pytest.raises(KeyboardInterrupt, match=rf"stopped after step {step + 1}; .*train --resume {folder}"):
        train(grpo(folder, warm, **OVERLAP))
    assert (folder / "checkpoints" / f"step-{step + 1:06d}" / "ahead.parquet").exists()
    resume(folder)
    assert left_behind(folder) == left_behind(overlapped)


def test_sigterm_does_not_wait_for_the_batch_that_is_sampled_ahead(warm, tmp_path, monkeypatch):
    """Resumed, the run samples it anew, with weights that are younger."""
    folder, saved, learn, save = tmp_path / "run", threading.Event(), Learner.learn, RunState.save

    class Waiting(TransformersEngine):
        def submit(self, requests, sampling, deliver):
            if threading.current_thread() is not threading.main_thread():
                assert saved.wait(60)
            super().submit(requests, sampling, deliver)

    def learn_and_terminate(self, *args, **settings):
        if not saved.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
        return learn(self, *args, **settings)

    def save_and_go_on(self, *args):
        save(self, *args)
        saved.set()

    sample_apart(monkeypatch, Waiting)
    monkeypatch.setattr(Learner, "learn", learn_and_terminate)
    monkeypatch.setattr(RunState, "save", save_and_go_on)
    with pytest.raises(Preempted, match="stopped after step 1; "):
        train(grpo(folder, warm, **{**OVERLAP, "train.steps": 3, "eval.every": 3}))
    assert not (folder / "checkpoints" / "step-000001" / "ahead.parquet").exists()
    resume(folder)
    assert versions(folder, "train") == [{0}, {1}, {1}]
    assert steps_of(rows_of(folder), False) == [0, 1, 2]


class Failing(TransformersEngine):
    """Dies when it is to sample with the weights of step 3."""

    def submit(self, requests, sampling, deliver):
        if self.version == 3:
            deliver(EngineFailure("out of memory"))
        else:
            super().submit(requests, sampling, deliver)


def test_what_the_engine_died_of_reaches_the_main_thread_and_the_run_goes_on(overlapped, warm, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    sample_apart(monkeypatch, Failing)
    with pytest.raises(EngineFailure, match="out of memory"):
        train(grpo(folder, warm, **OVERLAP))
    assert steps_of(rows_of(folder), False) == [0, 1, 2]
    sample_apart(monkeypatch)
    resume(folder)
    assert left_behind(folder) == left_behind(overlapped)


def test_a_learner_that_fails_does_not_wait_for_the_engine(warm, tmp_path, monkeypatch):
    stuck, release = threading.Event(), threading.Event()

    class Stuck(TransformersEngine):
        def submit(self, requests, sampling, deliver):
            if threading.current_thread() is not threading.main_thread():
                stuck.set()
                release.wait(60)
            super().submit(requests, sampling, deliver)

    failed = []

    def fail(self, *args, **settings):
        assert stuck.wait(60)
        failed.append(time.monotonic())
        raise FloatingPointError("no gradient")

    sample_apart(monkeypatch, Stuck)
    monkeypatch.setattr(Learner, "learn", fail)
    with pytest.raises(FloatingPointError, match="no gradient"), pytest.warns(UserWarning, match="holds up what is"):
        train(grpo(tmp_path / "run", warm, **OVERLAP, **{"rollout.step_timeout": 3.0}))
    assert time.monotonic() - failed[0] < 30
    release.set()


KILLED = """
    import os, signal, sys, time
    import torch
    torch.set_num_threads(1)
    from pathlib import Path
    import pytest
    sys.path.insert(0, "tests")
    from apart import sample_apart
    from grpo_agents.config import load_config
    from grpo_agents.trainer import resume, train

    config, folder = load_config(sys.argv[1]), Path(sys.argv[2])
    sample_apart(pytest.MonkeyPatch())
    for attempt in range(4):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            resume(folder) if (folder / "config.toml").exists() else train(config)
            os._exit(0)
        wanted = folder / "trajectories" / f"train-{2 * attempt + 1:06d}.parquet"
        while attempt < 3 and not wanted.exists():
            time.sleep(0.002)
        if attempt < 3:
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            sys.exit(os.WEXITSTATUS(status))
"""


@pytest.mark.slow  # test_resume.py kills runs as well, and Ctrl-C stops one here
def test_killed_again_and_again_it_ends_as_if_it_had_not_been(overlapped, warm, tmp_path):
    """While the learner works and the next batch is sampled ahead."""
    save_config(grpo(tmp_path / "run", warm, **OVERLAP), tmp_path / "config.toml")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), tmp_path / "config.toml", tmp_path / "run"],
        capture_output=True, text=True, cwd=REPOSITORY, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert left_behind(tmp_path / "run") == left_behind(overlapped)


@pytest.mark.slow
def test_overlap_that_is_given_up_goes_on_with_present_weights(warm, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    sample_apart(monkeypatch)
    interrupt_at(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        train(grpo(folder, warm, **OVERLAP))
    save_config(grpo(folder, warm, **{**OVERLAP, "train.overlap": "false"}), folder / "config.toml")
    resume(folder)
    assert versions(folder, "train") == [{0}, {1}, {2}, {3}, {4}, {5}]


# Sleep


@pytest.mark.parametrize("overlap", [False, True])
def test_the_engine_sleeps_while_the_learner_works_and_never_with_overlap(warm, tmp_path, monkeypatch, overlap):
    """It would not be asked to sample in its sleep: neither for a probe nor for an evaluation."""
    told, learn = [], Learner.learn

    class Recording(TransformersEngine):
        asleep = False

        def submit(self, requests, sampling, deliver):
            assert not self.asleep
            super().submit(requests, sampling, deliver)

        def sleep(self):
            told.append("sleep")
            self.asleep = True

        def update_weights(self, weights):
            told.append(weights.version)
            self.asleep = False
            super().update_weights(weights)

    def recorded(self, *args, **settings):
        told.append("learn")
        return learn(self, *args, **settings)

    sample_apart(monkeypatch, Recording)
    monkeypatch.setattr(Learner, "learn", recorded)
    settings = OVERLAP if overlap else {}
    folder = train(grpo(tmp_path / "run", warm, **{**settings, "train.steps": 3, "eval.every": 2}))
    first = ["learn"] if overlap else ["sleep", "learn"]
    assert told == [0, *first, 1, *first, 2, *first, 3]
    assert versions(folder, "eval") == [{0}, {2}, {3}]


def test_weights_can_be_read_while_the_learner_works(warm, tmp_path, monkeypatch):
    """What an engine that starts again in the middle of a batch reads: the weights of a version, and that version."""
    runner_of, seen = {}, []

    class Curious(TransformersEngine):
        def submit(self, requests, sampling, deliver):
            if threading.current_thread() is not threading.main_thread():
                with runner_of["run"].weights.reading() as (named, version):
                    seen.append((version, {name: value.detach().clone() for name, value in named.items()}))
            super().submit(requests, sampling, deliver)

    sample_apart(monkeypatch, Curious)
    runner = runner_of["run"] = Trainer(grpo(tmp_path / "run", warm, **{**OVERLAP, "learner.updates": 2}))
    sent, update = {}, runner.parts.engine.update_weights

    def remember(weights):
        sent[weights.version] = {name: value.detach().clone() for name, value in weights.named.items()}
        update(weights)

    runner.parts.engine.update_weights = remember
    runner.train()
    assert seen
    for version, named in seen:
        assert all((sent[version][name] == value).all() for name, value in named.items())
