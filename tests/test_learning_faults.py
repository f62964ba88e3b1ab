"""Whole runs in which something goes wrong: what is skipped, counted and said, when they stop, how they go on."""

import math
import threading
from collections import Counter
from typing import ClassVar

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from grpo_agents import AgentEnv, store
from grpo_agents.alarms import ALARMS, LearningStopped
from grpo_agents.cli import app
from grpo_agents.env import Reply
from grpo_agents.methods.grpo import Grpo
from grpo_agents.run_folder import RunFolder
from grpo_agents.threads import HANGING, hanging
from grpo_agents.trainer import resume, train
from runs import grpo, interrupt_at, left_behind, rows_of

OWN = {"env.options": "{}", "rewards.vector": "['outcome']", "eval": "{}"}


def spoil(monkeypatch, steps, of):
    """Makes the loss of those steps not a number."""
    loss = Grpo.loss

    def spoiled(self, tokens):
        return loss(self, tokens) * (math.nan if round(tokens.progress * of) in steps else 1.0)

    monkeypatch.setattr(Grpo, "loss", spoiled)


def rang(folder, name):
    """The steps in which an alarm rang."""
    return [row["step"] for row in rows_of(folder) if f"alarms/{name}" in row]


@pytest.mark.slow
def test_a_run_goes_on_after_losses_that_are_not_finite_and_resumes_to_the_bit(warm, tmp_path, monkeypatch, capsys):
    """Also where it is interrupted between two of them: they are steps in a row all the same."""
    settings = {"train.steps": 5, "train.save_every": 1, "train.keep": 9, "learner.updates": 2,
                "alarms.kl_old": 1e9}  # fmt: skip
    spoil(monkeypatch, (1, 2, 4), of=5)
    unbroken = train(grpo(tmp_path / "unbroken", warm, **settings))
    said = capsys.readouterr().err
    assert rang(unbroken, "non_finite") == [1, 2, 4]
    counts = [row.get("skipped/non_finite") for row in rows_of(unbroken) if "lr" in row]
    assert counts == [None, 2.0, 2.0, None, 2.0]
    (line,) = [line for line in said.splitlines() if "not finite" in line]  # said once
    assert line.startswith("step 2: the loss of a micro-batch of 9 trajectories, ")
    assert line.endswith(f"; 2 updates were not made. Try: {ALARMS['non_finite'].remedy}")
    saved = {step: unbroken / "checkpoints" / f"step-{step:06d}" for step in range(1, 6)}
    for file in ("model/model.safetensors", "optimizer.safetensors"):
        one, two, three, four = (load_file(saved[step] / file) for step in (1, 2, 3, 4))
        assert all(value.equal(two[name]) and value.equal(three[name]) for name, value in one.items())
        assert any(not value.equal(four[name]) for name, value in one.items())
    interrupt_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        train(grpo(tmp_path / "broken", warm, **settings))
    assert left_behind(resume(tmp_path / "broken")) == left_behind(unbroken)


def test_so_many_in_a_row_stop_the_run_and_it_goes_on_from_the_last_good_weights(warm, tmp_path, monkeypatch):
    """With an exit code and one message, after a checkpoint; whether or not it was interrupted in between."""
    settings = {"train.steps": 6, "train.save_every": 2, "train.keep": 9, "alarms.stop_after": 3}
    with monkeypatch.context() as patch:
        spoil(patch, (1, 2, 3, 4, 5), of=6)
        with pytest.raises(LearningStopped) as stopped:
            train(grpo(tmp_path / "run", warm, **settings))
        interrupt_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(grpo(tmp_path / "broken", warm, **settings))
        result = CliRunner().invoke(app, ["train", "--resume", str(tmp_path / "broken")])
    assert str(stopped.value).startswith(
        "stopped after step 4, which is saved: 3 steps in a row went wrong (alarms.stop_after), the last one so: the "
        "loss of a micro-batch"
    )
    assert str(stopped.value).endswith(f"go on with `grpo-agents train --resume {tmp_path / 'run'}`")
    assert result.exit_code == 2
    assert "stopped after step 4, which is saved: 3 steps in a row" in result.stderr
    assert "Traceback" not in result.stderr
    for run in (tmp_path / "run", tmp_path / "broken"):
        assert rang(run, "non_finite") == [1, 2, 3]
    last = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    assert last.name == "step-000004"
    good = load_file(tmp_path / "run" / "checkpoints" / "step-000002" / "model" / "model.safetensors")
    assert all(value.equal(good[name]) for name, value in load_file(last / "model" / "model.safetensors").items())
    resume(tmp_path / "run")
    assert [row["step"] for row in rows_of(tmp_path / "run") if "lr" in row] == list(range(6))
    assert rang(tmp_path / "run", "non_finite") == [1, 2, 3]


def test_a_learning_rate_that_is_far_too_high_is_said_by_the_second_update_on_a_batch(warm, tmp_path, capsys):
    folder = train(grpo(tmp_path / "run", warm, **{"train.steps": 1, "learner.updates": 2}))
    (row,) = [row for row in rows_of(folder) if "lr" in row]
    assert row["kl_old"] > 1
    assert row["skipped/ratio"] == row["alarms/ratio"] == 1.0
    assert "step 1: π/π_old exploded" in capsys.readouterr().err
    once = train(grpo(tmp_path / "once", warm, **{"train.steps": 1}))
    one, other = (load_file(run / "model" / "model.safetensors") for run in (folder, once))
    assert all(value.equal(other[name]) for name, value in one.items())


class Same(AgentEnv):
    """Every answer earns the same."""

    tasks = ({"id": "a"}, {"id": "b"}, {"id": "c"})

    def start(self, task):
        return task["id"]

    def finish(self, task, message):
        return {"outcome": 1.0}


def test_a_run_of_which_all_groups_are_tied_moves_nothing_and_stops(warm, tmp_path, capsys):
    """Also where episodes are masked; and not by a KL term, whose gradient is 0 at the reference, or weight decay."""
    settings = {**OWN, "env.id": "test_learning_faults:Same", "alarms.stop_after_stuck": 3, "alarms.again": 2,
                "rollout.truncated": "mask"}  # fmt: skip
    with pytest.raises(LearningStopped, match=r"after step 3, .*\(alarms.stop_after_stuck\).*groups_tied is 1"):
        train(grpo(tmp_path / "run", warm, **settings, **{"learner.optimizer.weight_decay": 0.1}))
    rows = rows_of(tmp_path / "run")
    assert [row["skipped/no_gradient"] for row in rows if "lr" in row] == [1.0] * 3
    assert rang(tmp_path / "run", "tied") == [0, 1, 2]
    assert capsys.readouterr().err.count(ALARMS["tied"].remedy) == 2  # of the first step and the third
    before = load_file(warm / "model" / "model.safetensors")
    after = load_file(tmp_path / "run" / "checkpoints" / "step-000003" / "model" / "model.safetensors")
    assert all(value.equal(before[name]) for name, value in after.items())
    train(grpo(tmp_path / "other", warm, **{**settings, "alarms.stop_after_stuck": 0}))
    assert rang(tmp_path / "other", "tied") == [0, 1, 2, 3]


class Down(Same):
    """Fails while a service is down."""

    down = False

    def start(self, task):
        if Down.down:
            raise ConnectionError("the market does not answer")
        return task["id"]

    def finish(self, task, message):
        return {"outcome": float(self.np_random.random())}


def test_a_service_that_is_down_skips_steps_then_stops_and_the_run_goes_on_when_it_is_up(warm, tmp_path, monkeypatch):
    log = RunFolder.log

    def falls(self, row):
        log(self, row)
        monkeypatch.setattr(Down, "down", row["step"] >= 1)

    settings = {**OWN, "env.id": "test_learning_faults:Down", "train.steps": 6, "alarms.stop_after": 2}
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", falls)
        with pytest.raises(LearningStopped, match=r"after step 4, .*every episode.*: error: .*the market does not"):
            train(grpo(tmp_path / "run", warm, **settings))
    rows = {row["step"]: row for row in rows_of(tmp_path / "run") if "left_out" in row}
    assert rang(tmp_path / "run", "failed") == [2, 3]
    assert [rows[step].get("skipped/no_gradient") for step in range(4)] == [None, None, 1.0, 1.0]
    monkeypatch.setattr(Down, "down", False)
    resume(tmp_path / "run")
    assert [row["step"] for row in rows_of(tmp_path / "run") if "left_out" in row] == list(range(6))


class Flaky(Same):
    """Three messages an episode; some steps raise and some hang, which ones follows from the episode's seed."""

    release = threading.Event()
    happened: ClassVar[Counter[str]] = Counter()
    said = 0

    def start(self, task):
        self.said = 0
        return task["id"]

    def respond(self, message):
        self.said += 1
        chance = self.np_random.random()
        if chance < 0.01:
            Flaky.happened["deadline"] += 1
            Flaky.release.wait(120)
        elif chance < 0.11:
            Flaky.happened["error"] += 1
            raise ConnectionError("the line is bad")
        if self.said < 3:
            return Reply(messages=["go on"])
        return Reply(rewards={"outcome": float(self.np_random.random())}, terminated=True)


@pytest.fixture
def released():
    """Lets what hangs go when the test is over."""
    Flaky.release.clear()
    Flaky.happened.clear()
    yield
    Flaky.release.set()
    for thread in threading.enumerate():
        if thread.name == HANGING:
            thread.join(10)


def test_a_run_goes_on_with_an_environment_that_raises_in_a_tenth_of_its_steps_and_hangs_in_a_hundredth(
    released, warm, tmp_path
):
    settings = {"env.id": "test_learning_faults:Flaky", "train.steps": 6, "train.batch": 4, "rollout.group_size": 8,
                "rollout.step_timeout": 2.0, "rollout.threads": 4}  # fmt: skip
    before = threading.active_count()
    folder = train(grpo(tmp_path / "run", warm, **OWN, **settings))
    everyone = [entry for file in sorted((folder / "trajectories").glob("train-*")) for entry in store.read(file)]
    assert len(everyone) == 6 * 32
    stopped = Counter(entry.stop_reason for entry in everyone)
    assert {reason: stopped[reason] for reason in ("error", "deadline")} == Flaky.happened
    assert Flaky.happened["deadline"] >= 2
    assert Flaky.happened["error"] > 20
    for entry in everyone:
        if entry.stop_reason == "error":
            assert (
                entry.error == f"test_learning_faults:Flaky step {len(entry.steps)}: ConnectionError: the line is bad"
            )
        elif entry.stop_reason == "deadline":
            assert entry.error == (
                f"test_learning_faults:Flaky step {len(entry.steps)}: still running after 2 s (rollout.step_timeout)"
            )
        else:
            assert entry.error is None
        failed = entry.stop_reason in ("error", "deadline")
        assert (entry.rewards["outcome"] is None) == failed
        assert (entry.advantage is None) == failed
    rows = [row for row in rows_of(folder) if "left_out" in row]
    assert len(rows) == 6
    for reason in ("error", "deadline"):
        assert round(sum(row.get(f"stopped/{reason}", 0.0) * 32 for row in rows)) == Flaky.happened[reason]
    assert sum(row["left_out"] for row in rows) == sum(Flaky.happened.values())
    assert all(math.isfinite(row["loss"]) for row in rows)  # the others are learned from
    assert hanging() == Flaky.happened["deadline"] == rows[-1]["threads/hanging"]
    assert threading.active_count() <= before + 4 + hanging() + 2  # as many as may step, and those of TensorBoard
