"""Runs that are stopped, and go on as if they had not been."""

import os
import re
import shutil
import signal
import threading

import pytest

from grpo_agents.config import load_config
from grpo_agents.learner.learner import Learner
from grpo_agents.periodic_evaluation import PeriodicEvaluation
from grpo_agents.report.run_pictures import draw_run
from grpo_agents.rollout import Rollout
from grpo_agents.rollout.environments import Environments
from grpo_agents.run_folder import RunFolder
from grpo_agents.run_state import RunState
from grpo_agents.sources import PolicySource
from grpo_agents.stopping import Preempted, stopping
from grpo_agents.trainer import Trainer, resume, train
from runs import grpo, interrupt_at, left_behind, rows_of, sft, steps_of


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(unbroken, warm, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    handler = signal.getsignal(signal.SIGINT)
    interrupt_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt, match=rf"stopped after step 3; .*train --resume {folder}"):
        train(grpo(folder, warm))
    assert signal.getsignal(signal.SIGINT) is handler
    assert (folder / "checkpoints" / "step-000003" / "manifest.json").exists()  # not one of every second step
    assert steps_of(rows_of(folder), False) == [0, 1, 2]
    assert resume(folder) == folder
    ended = left_behind(folder)
    assert ended == left_behind(unbroken)


WORK = {
    "sampling": (Environments, "receive", 2),  # while the first episodes of the third step are under way
    "what was sampled": (PolicySource, "batch", 3),
    "evaluating": (PeriodicEvaluation, "run", 4),
    "learning": (Learner, "learn", 3),
    "writing": (RunState, "save", 2),
}
"""What SIGTERM comes in the middle of, and after how many steps the run is saved then."""


@pytest.mark.parametrize(
    "work", [pytest.param(work, marks=[pytest.mark.slow] * (work not in ("sampling", "learning"))) for work in WORK]
)
def test_sigterm_saves_at_once_what_is_done_and_the_run_ends_as_the_unbroken_one(
    unbroken, warm, tmp_path, monkeypatch, work
):
    """What can be sampled again is left in its middle; an update and a checkpoint are finished."""
    kind, name, done = WORK[work]
    folder, handler = tmp_path / "run", signal.getsignal(signal.SIGTERM)
    original = getattr(kind, name)

    def work_and_terminate(self, *args, **settings):
        step = max((row["step"] for row in rows_of(folder) if "lr" in row), default=-1) + 1
        found = original(self, *args, **settings)
        if step == done - (work == "learning"):
            monkeypatch.setattr(kind, name, original)
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    monkeypatch.setattr(kind, name, work_and_terminate)
    with pytest.raises(Preempted, match=rf"stopped after step {done}; .*train --resume {folder}"):
        train(grpo(folder, warm))
    assert signal.getsignal(signal.SIGTERM) is handler
    assert (folder / "checkpoints" / f"step-{done:06d}" / "manifest.json").exists()
    resume(folder)
    assert left_behind(folder) == left_behind(unbroken)


def test_sigterm_while_frozen_groups_are_sampled_leaves_them_in_their_middle(warm, tmp_path, monkeypatch):
    """What a folder has of them by then is kept: see test_sources.py."""
    play = Rollout.play

    def play_and_terminate(self, *args, **settings):
        os.kill(os.getpid(), signal.SIGTERM)
        return play(self, *args, **settings)

    monkeypatch.setattr(Rollout, "play", play_and_terminate)
    config = grpo(tmp_path / "run", warm, **{"source.kind": "frozen", "method": "{name = 'dpo'}"})
    with pytest.raises(Preempted, match=r"stopped after step 0; .*train --resume"):
        train(config)


@pytest.mark.parametrize("settings", [
    pytest.param({}, id="full", marks=pytest.mark.slow),
    pytest.param({"model.lora": "{rank = 2, dropout = 0.2}"}, id="lora"),
])  # fmt: skip
def test_a_warm_start_is_resumed_bit_for_bit(start, tmp_path, monkeypatch, settings):
    """With dropout, too: what is drawn depends on the seed and the step."""
    whole = train(sft(tmp_path / "whole", start, **settings))
    interrupt_at(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        train(sft(tmp_path / "run", start, **settings))
    resume(tmp_path / "run")
    assert rows_of(tmp_path / "run") == rows_of(whole)
    name = "adapter_model.safetensors" if settings else "model.safetensors"
    assert (tmp_path / "run" / "model" / name).read_bytes() == (whole / "model" / name).read_bytes()


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_used(unbroken, warm, tmp_path, capsys):
    folder = train(grpo(tmp_path / "run", warm))
    weights = folder / "checkpoints" / "step-000004" / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-9] ^= 4
    weights.write_bytes(data)
    resume(folder)
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"step-000004 is damaged \(model/model\.safetensors is not what was written\)", said)
    assert re.search(r"going on from \S*step-000002, after 2 steps", said)
    assert left_behind(folder) == left_behind(unbroken)


def test_without_any_checkpoint_it_begins_again(unbroken, warm, tmp_path, capsys):
    config = grpo(tmp_path / "run", warm)
    RunFolder(config.run).create(config)
    resume(tmp_path / "run")
    assert "no checkpoint that can be used" in capsys.readouterr().err.replace("\n", " ")
    assert left_behind(tmp_path / "run") == left_behind(unbroken)


def test_a_finished_run_that_is_resumed_stays_as_it_is(warm, tmp_path):
    folder = train(grpo(tmp_path / "run", warm, **{"train.steps": 2}))
    before = left_behind(folder)
    resume(folder)
    assert left_behind(folder) == before


def test_a_run_that_is_longer_than_its_config_says_is_not_gone_on_with(unbroken, tmp_path):
    run = shutil.copytree(unbroken, tmp_path / "run")
    config = run / "config.toml"
    config.write_text(config.read_text().replace("steps = 4", "steps = 3"))
    before = (run / "metrics.jsonl").read_text()
    with pytest.raises(
        ValueError, match=r"train\.steps is 3, and .*step-000004 is after 4 steps: set train\.steps to at"
    ):
        resume(run)
    assert (run / "metrics.jsonl").read_text() == before


def test_nothing_to_resume(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.toml"):
        resume(tmp_path)


def test_a_folder_that_holds_a_run_is_not_written_over(warm, tmp_path):
    config = grpo(tmp_path / "run", warm, **{"train.steps": 1, "eval.every": 9})
    train(config)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(
        FileExistsError, match=rf"{tmp_path / 'run'} holds a run already.*--resume.*--overwrite.*--set run"
    ):
        Trainer(config)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_overwriting_removes_what_a_run_writes_and_nothing_else(warm, tmp_path):
    folder, settings = tmp_path / "run", {"train.steps": 1, "eval.every": 1}
    train(grpo(folder, warm, **settings))
    draw_run(folder)
    written = {file.relative_to(folder) for file in folder.rglob("*")}
    (folder / "shop.py").write_text("mine")
    for name in ("tool_use.png", "trajectories/train-000007.parquet"):
        (folder / name).write_text("of the old run")
    events = set((folder / "tensorboard").iterdir())
    again = grpo(folder, warm, **settings, seed=1)
    train(again, overwrite=True)
    assert (folder / "shop.py").read_text() == "mine"
    assert not events & set((folder / "tensorboard").iterdir())
    kept = {file.relative_to(folder) for file in folder.rglob("*") if file.parent.name != "tensorboard"}
    assert {str(file) for file in kept - written} == {"shop.py"}
    assert not (folder / "tool_use.png").exists()
    assert load_config(folder / "config.toml") == again


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_config_that_is_no_runs_is_never_taken_for_one(warm, tmp_path, overwrite):
    """Nor is what lies beside it, though a run would call it so."""
    (tmp_path / "config.toml").write_text("mine")
    (tmp_path / "model").mkdir()
    with pytest.raises(FileExistsError, match=r"config\.toml is no run's.*another name.*--set run"):
        Trainer(grpo(tmp_path, warm), overwrite=overwrite)
    assert (tmp_path / "config.toml").read_text() == "mine"
    (tmp_path / "config.toml").unlink()
    RunFolder(tmp_path).create(grpo(tmp_path, warm), overwrite=overwrite)
    assert (tmp_path / "model").exists()


def test_a_line_of_figures_that_a_kill_cut_off_is_left_out(tmp_path):
    folder = RunFolder(tmp_path)
    for step in range(4):
        folder.log({"step": step, "loss": step / 3})
    with folder.metrics.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [row["step"] for row in folder.read_metrics()] == [0, 1, 2, 3]
    folder.rewind(2)
    assert folder.read_metrics() == [{"step": 0, "loss": 0.0}, {"step": 1, "loss": 1 / 3}]


def test_a_full_disk_keeps_the_checkpoints_there_are(warm, tmp_path, monkeypatch):
    import errno

    from grpo_agents.learner import saved

    real, calls = saved.save_file, []

    def save(state, path):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(state, path)

    monkeypatch.setattr(saved, "save_file", save)
    with pytest.raises(OSError, match="checkpoint of step 4 not written"):
        train(grpo(tmp_path / "run", warm))
    assert [entry.name for entry in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]


def test_a_second_ctrl_c_stops_at_once():
    with stopping() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_thread_that_trains_leaves_signals_alone():
    handler, found = signal.getsignal(signal.SIGINT), []

    def job():
        with stopping() as asked:
            found.append((asked(), signal.getsignal(signal.SIGINT) is handler))

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert found == [(False, True)]
