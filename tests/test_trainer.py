import functools
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import tomllib

import numpy as np
import pytest
from safetensors.torch import load_file
from test_rollout import plain
from tiny import DEMO, REPOSITORY, group_of, save_start, vector_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo_agents import store
from grpo_agents.advantage import AdvantageConfig, assign_advantages
from grpo_agents.build import build
from grpo_agents.config import list_keys, load_config, make_config, save_config
from grpo_agents.envs.orchestra import OrchestraEnv, held_out
from grpo_agents.report.run_pictures import draw_run
from grpo_agents.rewards import named
from grpo_agents.rewards.component import RewardVector
from grpo_agents.run_folder import RunFolder
from grpo_agents.sources import describe, pick
from grpo_agents.tasks import as_tasks
from grpo_agents.trainer import Trainer, _politely, resume, train

SMALL = {
    "train.steps": 4,
    "train.batch": 3,
    "train.save_every": 2,
    "train.keep": 3,
    "eval.every": 2,
    "eval.tasks": 5,
    "advantage": '{normalise = "gdpo"}',  # without a gate: so small a model is hardly ever right
    "rollout.group_size": 3,
}
SFT = {"demonstrations.source": f"{DEMO / 'demonstrations.py'}:demonstrate", "learner.optimizer.warmup": 1}


def grpo(run, warm, **settings):
    settings = {**SMALL, "run": run, "model.path": warm / "model", **settings}
    return load_config(DEMO / "grpo.toml", [f"{key}={value}" for key, value in settings.items()])


def sft(run, start, **settings):
    settings = {**SMALL, **SFT, "run": run, "model.path": start, **settings}
    return load_config(DEMO / "sft.toml", [f"{key}={value}" for key, value in settings.items()])


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in rows]


def steps_of(rows, eval_):
    return [row["step"] for row in rows if any(key.startswith("eval/") for key in row) == eval_]


def left_behind(folder):
    """Everything that must not depend on when a run was killed."""
    latest = max((folder / "checkpoints").glob("step-*"))
    return {
        "weights": {name: value.tolist() for name, value in load_file(folder / "model" / "model.safetensors").items()},
        "optimizer": {name: value.tolist() for name, value in load_file(latest / "optimizer.safetensors").items()},
        "metrics": rows_of(folder),
        "trajectories": {
            file.name: [plain(trajectory) for trajectory in store.read(file)]
            for file in sorted((folder / "trajectories").glob("*.parquet"))
        },
    }


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    save_start(folder, scale=0.1)
    return folder


@pytest.fixture(scope="module")
def unbroken(warm, tmp_path_factory):
    return train(grpo(tmp_path_factory.mktemp("unbroken") / "run", warm))


# Whole runs


def test_a_warm_start_learns_the_form(warm):
    """The demonstrations' loss falls, and what is sampled then ends with a stop token."""
    rows = rows_of(warm)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[0] == pytest.approx(np.log(444), abs=0.3)  # uniform over the vocabulary
    assert np.mean(losses[-5:]) < 0.35 * losses[0]
    assert steps_of(rows, False) == list(range(60))
    assert steps_of(rows, True) == [0, 60]
    rates = [row["lr"] for row in rows if "lr" in row]
    assert rates[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])  # the warm-up
    before, after = (store.read(warm / "trajectories" / f"eval-{step:06d}.parquet") for step in (0, 60))
    ended = [np.mean([t.steps[0].finish_reason == "stop" for t in some]) for some in (before, after)]
    assert ended[1] > 0.7 > ended[0]
    assert not list((warm / "trajectories").glob("train-*"))


def test_the_model_of_a_run_is_one_of_transformers(warm):
    model = AutoModelForCausalLM.from_pretrained(warm / "model")
    tokenizer = AutoTokenizer.from_pretrained(warm / "model")
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.chat_template


def test_a_run_leaves_what_the_design_says(unbroken):
    rows = rows_of(unbroken)
    assert steps_of(rows, False) == [0, 1, 2, 3]
    assert steps_of(rows, True) == [0, 2, 4]
    for row in rows:
        assert all(isinstance(value, int | float) for value in row.values())
        if row["step"] in (0, 2) and "eval/reward" in row:
            assert row["eval/reward_low"] <= row["eval/reward"] <= row["eval/reward_high"]
    first = next(row for row in rows if "loss" in row)
    assert first["ratio"] == pytest.approx(1, abs=1e-5)
    assert first["mismatch"] < 1e-5  # the learner computes what the engine said
    assert sorted(entry.name for entry in (unbroken / "checkpoints").iterdir()) == ["step-000002", "step-000004"]
    assert list((unbroken / "tensorboard").glob("events*"))
    resolved = tomllib.loads((unbroken / "config.toml").read_text())
    assert resolved["train"]["steps"] == 4
    assert resolved["learner"]["optimizer"]["betas"] == [0.9, 0.95]
    assert load_config(unbroken / "config.toml") == load_config(unbroken / "config.toml", ["train.steps=4"])


def test_every_trajectory_is_kept(unbroken):
    """The figures of each step can be recomputed from its file."""
    metrics = [row for row in rows_of(unbroken) if "loss" in row]
    vector = RewardVector([named(name, ("outcome",)) for name in ("outcome", "cost", "latency")])
    for step, row in enumerate(metrics):
        file = unbroken / "trajectories" / f"train-{step:06d}.parquet"
        everyone = store.read(file)
        assert [trajectory.id for trajectory in everyone] == [f"{g}.{i}" for g in range(3) for i in range(3)]
        for name in vector.names:
            assert np.mean([trajectory.rewards[name] for trajectory in everyone]) == pytest.approx(
                row[f"reward/{name}"]
            )
        assert np.mean([len(trajectory.steps) for trajectory in everyone]) == row["turns"]
        stored = [trajectory.advantage for trajectory in everyone]
        groups = store.read_groups(file)
        assign_advantages(groups, vector, AdvantageConfig(normalise="gdpo"), OrchestraEnv.maxima)
        assert [trajectory.advantage for group in groups for trajectory in group.trajectories] == stored
        assert {trajectory.steps[0].version for trajectory in everyone} == {step}
        assert not any(held_out(trajectory.task["question"]) for trajectory in everyone)


def test_held_out_tasks_are_the_same_ones_every_time(unbroken):
    evaluations = [store.read(unbroken / "trajectories" / f"eval-{step:06d}.parquet") for step in (0, 2, 4)]
    tasks = [[trajectory.task for trajectory in some] for some in evaluations]
    assert tasks[0] == tasks[1] == tasks[2]
    assert len(tasks[0]) == 5
    assert all(held_out(task["question"]) for task in tasks[0])
    assert [t.preference for t in evaluations[0]] == [t.preference for t in evaluations[2]]
    assert [t.steps[0].version for t in evaluations[1]] == [2] * 5


def test_the_same_config_gives_the_same_run(unbroken, warm, tmp_path):
    again = train(grpo(tmp_path / "run", warm))
    assert left_behind(again) == left_behind(unbroken)
    other = train(grpo(tmp_path / "other", warm, seed=1))
    assert rows_of(other) != rows_of(unbroken)


def test_a_run_moves_its_weights_and_only_its_own(unbroken, warm):
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (warm, unbroken))
    assert before.keys() == after.keys()
    assert max((after[name] - before[name]).abs().max() for name in before) > 1e-3


def test_mu_updates_and_a_reference(warm, tmp_path):
    """Two updates a batch, a KL term, Muon: figures of the last update."""
    settings = {"learner.updates": 2, "method.kl_weight": 0.05, "train.steps": 2, "learner.optimizer.name": "muon",
                "method.aggregation": "sequence", "advantage": '{normalise = "minmax"}'}  # fmt: skip
    rows = [row for row in rows_of(train(grpo(tmp_path / "run", warm, **settings))) if "loss" in row]
    assert all(row["kl"] > 0 for row in rows)
    assert all(abs(row["ratio"] - 1) > 1e-4 for row in rows)


# Stopped and resumed

DRIVER = """
    import os, random, signal, sys, time
    import torch
    torch.set_num_threads(1)
    from pathlib import Path
    from grpo_agents.config import load_config
    from grpo_agents.trainer import resume, train

    config, folder = load_config(sys.argv[1]), Path(sys.argv[2])
    config = config.model_copy(update={"run": str(folder)})
    chance = random.Random(int(sys.argv[3]))
    kills, seconds = 0, 3.0

    def go():
        if (folder / "config.toml").exists():
            resume(folder)
        else:
            train(config)

    def die_at(event):
        # at the so-many-th time that a file is opened, renamed or removed: also in the middle of a checkpoint
        left = [event]
        def hook(name, args):
            if name in ("open", "os.rename", "os.mkdir", "os.remove", "shutil.rmtree") and str(folder) in str(args):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)

    for attempt in range(8):
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            if attempt % 2 == 0 and attempt < 6:
                die_at(chance.randrange(3, 90))
            go()
            os._exit(0)
        if attempt % 2 == 1 and attempt < 6:
            time.sleep(chance.uniform(0.3, seconds))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            kills += 1
            continue
        assert os.WEXITSTATUS(status) == 0, status
        if attempt < 6:
            continue
        break
    print(kills)
"""


def test_killed_at_any_point_and_resumed_it_ends_as_if_it_had_not_been(unbroken, warm, tmp_path):
    """SIGKILL up to six times: at random moments, and at random accesses to its files."""
    save_config(grpo(tmp_path / "run", warm), tmp_path / "config.toml")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DRIVER), tmp_path / "config.toml", tmp_path / "run", "1"],
        capture_output=True, text=True, cwd=REPOSITORY, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2  # the rest may come when the run has ended
    assert left_behind(tmp_path / "run") == left_behind(unbroken)
    assert not list(tmp_path.rglob("*partial*"))


@pytest.fixture
def interrupt(monkeypatch):
    """Sends Ctrl-C while the figures of that step are written."""

    def at(step):
        log = RunFolder.log

        def log_and_interrupt(self, row):
            log(self, row)
            if row["step"] == step and "loss" in row:
                monkeypatch.setattr(RunFolder, "log", log)
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(RunFolder, "log", log_and_interrupt)

    return at


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(unbroken, warm, tmp_path, interrupt):
    folder = tmp_path / "run"
    handler = signal.getsignal(signal.SIGINT)
    interrupt(2)
    with pytest.raises(KeyboardInterrupt, match=rf"stopped after step 3; .*train --resume {folder}"):
        train(grpo(folder, warm))
    assert signal.getsignal(signal.SIGINT) is handler
    assert (folder / "checkpoints" / "step-000003" / "manifest.json").exists()  # not one of every second step
    assert steps_of(rows_of(folder), False) == [0, 1, 2]
    assert resume(folder) == folder
    ended = left_behind(folder)
    assert ended == left_behind(unbroken)


@pytest.mark.parametrize("settings", [{}, {"model.lora": "{rank = 2, dropout = 0.2}"}], ids=["full", "lora"])
def test_a_warm_start_is_resumed_bit_for_bit(start, tmp_path, interrupt, settings):
    """With dropout, too: what is drawn depends on the seed and the step."""
    whole = train(sft(tmp_path / "whole", start, **settings))
    interrupt(1)
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

    from grpo_agents import trainer

    real, calls = trainer.save_file, []

    def save(state, path):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(state, path)

    monkeypatch.setattr(trainer, "save_file", save)
    with pytest.raises(OSError, match="checkpoint of step 4 not written"):
        train(grpo(tmp_path / "run", warm))
    assert [entry.name for entry in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]


def test_gradients_without_end_stop_the_run(warm, tmp_path, monkeypatch):
    """And the weights are those before them."""
    from grpo_agents.methods.grpo import Grpo

    monkeypatch.setattr(Grpo, "_aggregate", lambda self, per_token, tokens: per_token.sum() * float("nan"))
    runner = Trainer(grpo(tmp_path / "run", warm, **{"learner.stop_after_skips": 2}))
    with pytest.raises(FloatingPointError, match="2 updates in a row"):
        runner.train()
    before = load_file(warm / "model" / "model.safetensors")
    assert all((before[name] == value).all() for name, value in runner.parts.model.named_parameters())


SHOP = """
from grpo_agents import AgentEnv

class Shop(AgentEnv):
    tasks = [{"id": "a"}, {"id": "b"}, {"id": "c"}]

    def start(self, task):
        return QUESTION

    def finish(self, task, message):
        return {"outcome": 1.0}
"""


def shop(tmp_path, warm, question):
    """A config whose environment asks that, and is a user's own file."""
    (tmp_path / "shop.py").write_text(SHOP.replace("QUESTION", question))
    own = {"env.id": f"{tmp_path / 'shop.py'}:Shop", "env.options": "{}", "rewards.vector": "['outcome']"}
    few = {"train.steps": 2, "eval.tasks": 2, "eval.env_options": "{}"}
    return grpo(tmp_path / "run", warm, **own, **few)


def test_an_environment_that_always_fails_stops_the_run_and_a_mended_one_goes_on(warm, tmp_path, capsys):
    config = shop(tmp_path, warm, "tsk['id']")
    with pytest.raises(ValueError, match=r"(?s)every episode of step 1 ended in an error, the first in .*NameError: .*"
                       r"'tsk'.*grpo-agents check .*shop\.py:Shop.*train --resume"):  # fmt: skip
        train(config)
    said = capsys.readouterr().err
    assert "step 0: no evaluation reward; 2 episodes have none" in said
    assert said.count("NameError") == 1  # of the evaluation: it is not said again of the step
    assert "(2 of 2 episodes)" in said
    assert rows_of(tmp_path / "run") == [{"step": 0, "eval/missing/outcome": 2.0, "eval/missing/reward": 2.0}]
    stored = store.read(tmp_path / "run" / "trajectories" / "train-000000.parquet")
    assert {trajectory.stop_reason for trajectory in stored} == {"error"}
    shop(tmp_path, warm, "task['id']")
    resume(tmp_path / "run")
    assert steps_of(rows_of(tmp_path / "run"), False) == [0, 1]


def test_an_environment_that_fails_now_and_then_is_said_and_trained_on(warm, tmp_path, capsys):
    config = shop(tmp_path, warm, "task['id'] if task['id'] != 'b' else 1 / 0")
    train(config)
    said = capsys.readouterr().err
    assert said.count("ZeroDivisionError") == 1
    missing = [row["missing/outcome"] for row in rows_of(tmp_path / "run") if "loss" in row or "left_out" in row]
    assert missing == [3.0, 3.0]
    assert "missing outcome 3" in said


def test_tasks_of_the_evaluation_that_are_trained_on_are_said_once(warm, tmp_path, capsys):
    train(shop(tmp_path, warm, "'12+3'"))
    said = capsys.readouterr().err
    assert said.count("2 of 3 tasks are among those of the evaluation. To evaluate on tasks that are held out") == 1
    assert "held-out" not in said
    train(grpo(tmp_path / "split", warm, **{"train.steps": 1}))
    assert "among those of the evaluation" not in capsys.readouterr().err


# Configs


def wrong(**changes):
    settings = {"model": {"path": "x"}, "env": {"id": "grpo_agents/Orchestra-v0"}}
    for key, value in changes.items():
        *sections, last = key.split("__")
        data = settings
        for section in sections:
            data = data.setdefault(section, {})
        data[last] = value
    return settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner__optimiser": {}}, r"unknown key learner\.optimiser\. Did you mean 'optimizer'\?"),
        ({"rollout__group_sise": 4}, r"unknown key rollout\.group_sise\. Did you mean 'group_size'\?"),
        ({"learner__optimizer__zzz": 4}, r"unknown key learner\.optimizer\.zzz\. There are: name, lr, "),
        ({"modle": {}}, r"unknown key modle\. Did you mean 'model'\?"),
        ({"model__lora": {"ranc": 2}}, r"unknown key model\.lora\.ranc\. Did you mean 'rank'\?"),
        ({"train__steps": "many"}, r"train\.steps: .*integer.*'many'"),
        ({"train__steps": 0}, r"train\.steps: .*greater than or equal to 1.*0"),
        ({"rollout__truncated": "drop"}, r"rollout\.truncated: .*'keep', 'mask' or 'worst'.*'drop'"),
        ({"rollout__group_size": 1}, r"rollout\.group_size is 1: method 'grpo' compares .*at least 2"),
        ({"rollout__top_p": 0.9}, r"rollout\.top_k and rollout\.top_p cut the distribution"),
        ({"rollout__top_k": 5}, r"rollout\.top_k and rollout\.top_p cut the distribution"),
        ({"rollout__temperature": 0}, r"rollout\.temperature is 0"),
        ({"method": {"name": "sft"}}, r"method 'sft' learns from demonstrations: set demonstrations\.source"),
        ({"method": {"name": "grop"}}, r"unknown method 'grop'\. Did you mean 'grpo'"),
        ({"method": {"clip_hihg": 1}}, r"unknown key method\.clip_hihg\. Did you mean 'clip_high'\?"),
        ({"method": {"clip_low": 2, "kl": "k1"}}, r"(?s)  method\.clip_low: .*\n  method\.kl: .*'k1'"),
        ({"rewards": {"vector": "outcome"}}, r'rewards\.vector is "outcome", and a list is wanted: .*\["outcome"\]'),
        ({"demonstrations": {}}, r"demonstrations\.source is missing: As tasks\.source"),
        ({"method": {"aggregation": "constant"}}, r"max_length go together"),
        ({"preference": {"choices": [{"a": 1.0}], "simplex": ["a"]}}, r"preference\.choices and .*simplex exclude"),
        ({"model": "x"}, r"model: .*'x'"),
        ({"train__steps__more": 1}, r"train\.steps: "),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_config_is_said(changes, message):
    with pytest.raises(ValueError, match=message):
        make_config(wrong(**changes))


def test_every_problem_has_a_line():
    with pytest.raises(ValueError, match="config:") as caught:
        make_config({"env": {"id": 3}, "trane": {}})
    text = str(caught.value)
    assert len(text.splitlines()) == 4
    assert "model.path is missing: Hub id or folder" in text
    assert "env.id" in text
    assert "Did you mean 'train'?" in text


def test_sft_takes_any_group_size():
    settings = wrong(rollout__group_size=1, method={"name": "sft"}, demonstrations={"source": "x.jsonl"})
    assert make_config(settings).chosen_method.name == "sft"


def test_overrides(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('[model]\npath = "x"\n[env]\nid = "y"\n')
    config = load_config(path, ["learner.optimizer.lr=1e-5", "model.path=some/where", "rollout.stop=['a', 'b']",
                                "eval.env_options.split=test", "seed = 7"])  # fmt: skip
    assert config.learner.optimizer.lr == 1e-5
    assert config.model.path == "some/where"
    assert config.rollout.stop == ["a", "b"]
    assert config.eval.env_options == {"split": "test"}
    assert config.seed == 7
    for override, message in {
        "seed": "write section.key=value",
        "seed.x=1": "seed",
        "model.path.x=1": "'path' is no section",
        "learner.lr=1": "unknown key learner.lr",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_config(path, [override])


def test_files_that_are_not_there_or_not_toml(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config file .*nowhere\.toml"):
        load_config(tmp_path / "nowhere.toml")
    (tmp_path / "bad.toml").write_text("[model\n")
    with pytest.raises(ValueError, match=r"bad\.toml: not valid TOML"):
        load_config(tmp_path / "bad.toml")


def test_a_saved_config_is_the_same_config(tmp_path, warm):
    config = grpo(tmp_path / "run", warm, **{"method.kl_weight": 0.1, "model.lora": "{rank = 4}"})
    save_config(config, tmp_path / "config.toml")
    assert load_config(tmp_path / "config.toml") == config


def test_a_saved_config_shows_every_key_and_names_those_that_are_not_set(tmp_path):
    save_config(make_config(wrong(method={"clip_high": 0.28})), tmp_path / "config.toml")
    text = (tmp_path / "config.toml").read_text()
    saved = tomllib.loads(text)
    assert saved["method"].items() >= {"name": "grpo", "clip_low": 0.2, "clip_high": 0.28, "kl": "k3"}.items()
    unset = text.splitlines()[0].partition("Not set: ")[2].split(", ")
    assert {"model.threads", "method.max_length", "advantage.gate", "demonstrations"} <= set(unset)
    for key in list_keys():
        *sections, last = key.name.split(".")
        table = functools.reduce(lambda table, section: table.get(section, {}), sections, saved)
        assert last in table or any(f"{key.name}.".startswith(f"{name}.") for name in unset), key.name


def test_every_key_says_what_it_takes_and_means():
    keys = {key.name: key for key in list_keys()}
    assert all(key.description for key in keys.values())
    assert (keys["model.path"].type, keys["model.path"].default) == ("text", "required")
    assert (keys["model.threads"].type, keys["model.threads"].default) == ("whole number", "not set")
    assert (keys["rollout.truncated"].type) == '"keep" or "mask" or "worst"'
    assert keys["model.lora"].type == "section"
    assert keys["model.lora.rank"].default == "16"
    assert keys["method.clip_high"].description.startswith("grpo: ")
    assert {key.name for key in list_keys("learner.optimizer")} == {
        name for name in keys if name.startswith("learner.optimizer.")
    }
    with pytest.raises(ValueError, match=r"unknown key learnr\. Did you mean 'learner'\?"):
        list_keys("learnr")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env.id": "grpo_agents/Orchestr-v0"}, "'grpo_agents/Orchestr-v0'. Did you mean grpo_agents/Orch"),
        ({"rewards.vector": '["outcome", "costs"]'}, "unknown reward 'costs'. Did you mean 'cost'"),
        ({"model.path": "/no/where"}, "model.path: there is no folder /no/where"),
        ({"env.options": "{splt = 1}"}, "no option 'splt' (env.options, eval.env_options). Did you mean 'split'"),
        ({"eval.env_options": "{hard = 1}"}, "no option 'hard' (env.options, eval.env_options). There are: tasks"),
        ({"chat.template": "/no/where.jinja"}, "chat.template: there is no file /no/where.jinja"),
        ({"advantage.gate": "outcom"}, "advantage.gate is 'outcom'"),
        ({"preference.choices": "[{outcome = 0.5, costs = 0.5}]"}, "the preference weighs 'costs'"),
        ({"preference.simplex": "['outcome', 'latenzy']"}, "Did you mean 'latency'?"),
        ({"tasks.source": "nowhere.jsonl"}, "no task file nowhere.jsonl"),
        ({"eval.source.source": "nowhere.jsonl"}, "no task file nowhere.jsonl"),
        ({"method": "{name = 'sft'}", "demonstrations.source": "nowhere.jsonl"}, "no task file nowhere.jsonl"),
    ],
)  # fmt: skip
def test_what_a_run_cannot_be_made_of_is_said_before_it_begins(warm, tmp_path, settings, message):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        Trainer(grpo(tmp_path / "run", warm, **settings))
    assert not (tmp_path / "run").exists()  # so that the mended config starts as a new one


# Where batches come from


def test_a_finite_source_is_gone_through_once_a_round_in_a_new_order():
    tasks = as_tasks([{"n": n} for n in range(7)])
    rounds = [[pick(tasks, 7 * round_ + place, 3)["n"] for place in range(7)] for round_ in range(4)]
    assert all(sorted(order) == list(range(7)) for order in rounds)
    assert len({tuple(order) for order in rounds}) == 4
    assert rounds[0] != [pick(tasks, place, 4)["n"] for place in range(7)]


def test_tasks_and_demonstrations_from_files(warm, start, tmp_path):
    """A JSONL of tasks with a column renamed, and a JSONL of dialogues."""
    source = OrchestraEnv().task_source
    rows = [source[number] for number in range(4)]
    renamed = [{**{k: v for k, v in row.items() if k != "answer"}, "gold": row["answer"]} for row in rows]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in renamed))
    columns = "{id = 'id', question = 'question', answer = 'gold', kind = 'kind'}"
    settings = {"tasks.source": tmp_path / "tasks.jsonl", "tasks.columns": columns, "train.steps": 2, "train.batch": 2}
    folder = train(grpo(tmp_path / "grpo", warm, **settings))
    seen = [t.task for step in (0, 1) for t in store.read(folder / "trajectories" / f"train-{step:06d}.parquet")]
    assert sorted({task["question"] for task in seen}) == sorted(row["question"] for row in rows)
    dialogue = {"messages": [{"role": "user", "content": "12+3"}, {"role": "assistant", "content": "15"}]}
    (tmp_path / "good.jsonl").write_text(json.dumps(dialogue) + "\n")
    few = {"train.steps": 2, "eval.every": 9, "demonstrations.source": tmp_path / "good.jsonl"}
    losses = [row["loss"] for row in rows_of(train(sft(tmp_path / "sft", start, **few))) if "loss" in row]
    assert losses[1] < losses[0]
    (tmp_path / "bad.jsonl").write_text('{"messages": [{"role": "user", "content": "12+3"}]}\n')
    few["demonstrations.source"] = tmp_path / "bad.jsonl"
    with pytest.raises(ValueError, match=r"demonstration 0: .*assistant"):
        train(sft(tmp_path / "bad", start, **few))


def test_generated_tasks_follow_the_runs_seed_and_held_out_ones_are_others(warm, tmp_path):
    """Even where no split was asked for."""

    def questions(evaluating, **settings):
        config = grpo(tmp_path / "run", warm, **{"env.options": "{}", "eval.env_options": "{}", **settings})
        _, tasks = build(config).rollout(evaluating=evaluating)
        return [tasks[number]["question"] for number in range(30)]

    training = questions(False)
    assert training == questions(False)
    assert len(set(training) & set(questions(True))) < 5
    assert len(set(training) & set(questions(False, seed=1))) < 5


def test_missing_rewards_are_counted():
    group = group_of([1.0, 0.0, 1.0])
    group.trajectories[2].rewards["outcome"] = None
    figures = describe([group], vector_of(outcome="max"), {}, None)
    assert (figures["missing/outcome"], figures["reward"], figures["reward/outcome"]) == (1.0, 0.5, 0.5)
    group.trajectories[0].stop_reason = "tokens"
    assert describe([group], vector_of(outcome="max"), {}, None)["stopped/tokens"] == pytest.approx(1 / 3)


# Signals


def test_a_second_ctrl_c_stops_at_once():
    with _politely() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_thread_that_trains_leaves_signals_alone():
    handler, found = signal.getsignal(signal.SIGINT), []

    def job():
        with _politely() as asked:
            found.append((asked(), signal.getsignal(signal.SIGINT) is handler))

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert found == [(False, True)]
