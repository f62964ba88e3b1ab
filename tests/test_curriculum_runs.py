"""Whole runs with a curriculum, also such as are stopped in between."""

import json
import os
import signal

import numpy as np
import pytest
from apart import sample_apart
from tiny import vector_of

from grpo_agents import store
from grpo_agents.curriculum import PassRate
from grpo_agents.learner.learner import Learner
from grpo_agents.stopping import Preempted
from grpo_agents.trainer import Trainer, resume, train
from runs import grpo, interrupt_at, left_behind, rows_of

VECTOR = vector_of(outcome="max", half="max", cost="min")


SHOP = """
from grpo_agents import AgentEnv

class Shop(AgentEnv):
    tasks = [{"id": str(n), "level": 1 + n % 3} for n in range(9)]

    def start(self, task):
        return "12+3" + task["id"]

    def finish(self, task, message):
        return {"outcome": float(len(str(message["content"])) % (1 + task["level"]) == 0)}
"""

RUN = {
    "env.options": "{}",
    "eval.env_options": "{}",
    "eval.every": 4,
    "eval.tasks": 2,
    "rewards.vector": "['outcome']",
    "train.batch": 3,
    "train.steps": 5,
    "curriculum": '{sampler = "pass_rate", difficulty = "level", limits = [1, 3], decay = 0.9}',
}
OVERLAP = {
    "train.overlap": "true",
    "engine.backend": "vllm",  # stands for an engine of its own: see apart.py
    "method.tis": 2.0,
    "learner.old_logprobs": "recompute",
}


def shop(tmp_path, warm, run="run", **settings):
    (tmp_path / "shop.py").write_text(SHOP)
    return grpo(tmp_path / run, warm, **{"env.id": f"{tmp_path / 'shop.py'}:Shop", **RUN, **settings})


def played(folder, step):
    return store.read(folder / "trajectories" / f"train-{step:06d}.parquet")


def counts(folder):
    return np.load(max((folder / "checkpoints").glob("step-*")) / "curriculum.npy").tolist()


def everything(folder):
    return left_behind(folder), counts(folder)


def test_a_run_counts_what_it_played(warm, tmp_path):
    folder = train(shop(tmp_path, warm, **{"curriculum.decay": 1.0}))
    rows = [row for row in rows_of(folder) if "curriculum/limit" in row]
    assert [row["curriculum/limit"] for row in rows] == [1, 2, 3, 3, 3]
    assert rows[0]["curriculum/pass_rate"] == 0.5
    assert rows[0]["curriculum/drawn"] == pytest.approx(3 / 9)
    expected, shares = np.zeros((3, 9)), []
    for step, limit in enumerate([1, 2, 3, 3, 3]):
        everyone = played(folder, step)
        assert max(trajectory.task["level"] for trajectory in everyone) <= limit
        for trajectory in everyone:
            index = int(trajectory.task["id"])
            expected[0 if trajectory.rewards["outcome"] else 1, index] += 1
            expected[2, index] += 1 / 3
        shares.append((expected[2] > 0).mean())
    assert counts(folder) == expected.round(9).tolist()
    assert [row["curriculum/drawn"] for row in rows] == pytest.approx(shares)
    assert 0 < expected[0].sum() < expected[:2].sum()  # some are passed, and some are not


@pytest.fixture(
    scope="module", params=["alone", *(pytest.param(name, marks=pytest.mark.slow) for name in ("overlap", "resample"))]
)
def whole(request, warm, tmp_path_factory):
    """The settings of a run, and its folder, where nothing disturbed it."""
    settings = {"alone": {}, "overlap": {**OVERLAP, "method.name": "grpo", "method.resample": 1},
                "resample": {"method.name": "grpo", "method.resample": 2}}[request.param]  # fmt: skip
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        if "train.overlap" in settings:
            sample_apart(patch)
        return settings, folder, train(shop(folder, warm, "whole", **settings))


def test_sigterm_after_a_batch_was_counted_counts_it_once(whole, warm, monkeypatch):
    """The batch is left, and sampled again."""
    settings, folder, unbroken = whole
    if "train.overlap" in settings:
        sample_apart(monkeypatch)
    observe = PassRate.observe

    def observe_and_terminate(self, draw, played):
        found = observe(self, draw, played)
        if draw.step == 3 and "train.overlap" not in settings:
            monkeypatch.setattr(PassRate, "observe", observe)
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    monkeypatch.setattr(PassRate, "observe", observe_and_terminate)
    run = shop(folder, warm, "terminated", **settings)
    if "train.overlap" in settings:
        interrupt_at(monkeypatch, 2, signal.SIGTERM)  # the batch ahead is sampled in a thread, and waited for
    with pytest.raises(Preempted, match="stopped after step 3"):
        train(run)
    assert everything(resume(folder / "terminated")) == everything(unbroken)


@pytest.mark.parametrize("step", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_run_that_was_interrupted_ends_as_if_it_had_not_been(whole, warm, monkeypatch, step):
    """With overlap the next batch is drawn by then, and its evidence counted: once."""
    settings, folder, unbroken = whole
    if "train.overlap" in settings:
        sample_apart(monkeypatch)
    interrupt_at(monkeypatch, step)
    with pytest.raises(KeyboardInterrupt):
        train(shop(folder, warm, f"run{step}", **settings))
    resume(folder / f"run{step}")
    assert everything(folder / f"run{step}") == everything(unbroken)


def test_a_run_that_broke_between_checkpoints_ends_as_if_it_had_not(whole, warm, monkeypatch):
    """What was counted since the last checkpoint is forgotten, and counted again."""
    settings, folder, unbroken = whole
    if "train.overlap" in settings:
        sample_apart(monkeypatch)
    learn = Learner.learn

    def fail(self, batch, *, version, **others):
        if version == 3:
            raise FloatingPointError("no gradient")
        return learn(self, batch, version=version, **others)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "learn", fail)
        with pytest.raises(FloatingPointError):
            train(shop(folder, warm, "broken", **settings))
    assert not (folder / "broken" / "checkpoints" / "step-000003").exists()
    resume(folder / "broken")
    assert everything(folder / "broken") == everything(unbroken)


def test_with_overlap_a_batch_is_drawn_from_the_counts_of_all_before_it(warm, tmp_path, monkeypatch):
    """Those of the step that is being learned from included: its rollouts have ended."""
    sample_apart(monkeypatch)
    seen, take = [], PassRate.take

    def recorded(self, draw, count):
        seen.append((draw.step, self.drawn.sum()))
        return take(self, draw, count)

    monkeypatch.setattr(PassRate, "take", recorded)
    train(shop(tmp_path, warm, **OVERLAP))
    assert seen == [(step, 3 * step) for step in range(5)]


def test_a_plain_run_has_neither_counts_nor_figures_of_a_curriculum(unbroken):
    assert not list(unbroken.rglob("curriculum.npy"))
    assert "curriculum" not in json.dumps(rows_of(unbroken))


def test_a_sampler_that_is_changed_on_the_way_begins_with_nothing(warm, tmp_path, monkeypatch, capsys):
    interrupt_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        train(shop(tmp_path, warm, curriculum="{}"))
    config = tmp_path / "run" / "config.toml"
    config.write_text(config.read_text().replace('sampler = "uniform"', 'sampler = "pass_rate"'))
    resume(tmp_path / "run")
    assert "has no curriculum.npy: nothing is known of pass rates yet" in capsys.readouterr().err
    assert np.sum(counts(tmp_path / "run")[2]) == 9


def test_generated_tasks_of_a_run_are_refused_before_it_begins(warm, tmp_path):
    with pytest.raises(ValueError, match=r"curriculum\.sampler is 'pass_rate', and these tasks are generated"):
        Trainer(grpo(tmp_path / "run", warm, **{"curriculum.sampler": "pass_rate"}))
    assert not (tmp_path / "run").exists()
