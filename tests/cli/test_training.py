"""Commands that need a model."""

import json
import re
import shutil

import pytest
from shell import CONFIG, refused

from grpo_agents import store, trainer
from grpo_agents.cli.errors import INTERRUPTED, TERMINATED
from grpo_agents.config import load_config
from grpo_agents.stopping import Preempted
from grpo_agents.trajectory import Step, Trajectory


def test_train_says_where_to_look(finished):
    folder, printed = finished
    pictures = ["runs/a/curves.png", "runs/a/tool_use.png"]
    assert f"pictures  {', '.join(pictures)}" in printed
    assert all((folder / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert "grpo-agents evaluate runs/a/trajectories/eval-000002.parquet" in printed


def test_train_refuses_a_folder_that_holds_a_run(run, finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    message = refused(run("train", "run.toml", "--set", "run=runs/a"))
    assert "train --resume runs/a" in message
    assert "--overwrite" in message


def test_train_refuses_a_config_where_its_own_would_be_written(run, finished, monkeypatch):
    """Whether a run is there or not: nobody's config is lost."""
    monkeypatch.chdir(finished[0])
    (finished[0] / "exp").mkdir()
    (finished[0] / "exp" / "config.toml").write_text(CONFIG.replace("runs/new", "exp"))
    for place in ("exp", "runs/a"):
        before = (finished[0] / place / "config.toml").read_text()
        for options in ([], ["--overwrite"]):
            message = refused(run("train", f"{place}/config.toml", *options))
            assert f"{place}/config.toml lies where the run writes a config.toml of its own" in message
        assert (finished[0] / place / "config.toml").read_text() == before


def test_a_finished_run_can_be_resumed(run, finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    before = (finished[0] / "runs/a/metrics.jsonl").read_text().splitlines()
    assert run("train", "--resume", "runs/a").exit_code == 0
    after = (finished[0] / "runs/a/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in after] == [json.loads(line) for line in before]


def test_a_run_is_made_longer_in_its_config(run, finished, tmp_path):
    longer = shutil.copytree(finished[0] / "runs/a", tmp_path / "longer")
    shutil.copytree(finished[0] / "start", tmp_path / "start")
    config = longer / "config.toml"
    config.write_text(config.read_text().replace("steps = 2", "steps = 3"))
    assert run("train", "--resume", "longer").exit_code == 0
    rows = [json.loads(line) for line in (longer / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "reward" in row] == [0, 1, 2]
    assert [row["step"] for row in rows if "eval/reward" in row] == [0, 2, 3]


def changed(finished, folder, *edits):
    """The finished run in another folder, with another config."""
    shutil.copytree(finished[0] / "runs/a", folder / "changed")
    shutil.copytree(finished[0] / "start", folder / "start")
    config = folder / "changed" / "config.toml"
    text = config.read_text()
    for before, after in edits:
        assert before in text
        text = text.replace(before, after)
    config.write_text(text)
    return folder / "changed"


def test_what_a_config_has_that_it_had_not_is_said_when_a_run_goes_on(run, finished, tmp_path):
    changed(finished, tmp_path, ("steps = 2", "steps = 3"), ("lr = ", "lr = 0.5  # "))
    before = load_config(finished[0] / "runs/a/config.toml").learner.optimizer.lr
    done = run("train", "--resume", "changed")
    assert done.exit_code == 0, done.output
    said = f"the config is not what it was after 2 steps: learner.optimizer.lr (was {before}, is 0.5)"
    assert said in done.output.replace("\n", " ")


def test_a_run_goes_on_with_the_rewards_that_it_began_with(run, finished, tmp_path):
    folder = changed(finished, tmp_path, ("steps = 2", "steps = 3"), ('    "latency",\n', ""))
    evaluations = [path.read_bytes() for path in sorted(folder.glob("trajectories/eval-*"))]
    said = refused(run("train", "--resume", "changed"))
    now = "rewards.vector was ['outcome', 'cost', 'latency'], and is ['outcome', 'cost'] now"
    assert now in said.replace("\n", " ")
    assert [path.read_bytes() for path in sorted(folder.glob("trajectories/eval-*"))] == evaluations


@pytest.mark.parametrize(("kind", "code"), [(KeyboardInterrupt, INTERRUPTED), (Preempted, TERMINATED)])
def test_a_run_that_is_stopped_says_how_to_go_on_and_exits_as_shells_have_it(run, finished, monkeypatch, kind, code):
    monkeypatch.chdir(finished[0])

    def stopped(config, *, overwrite):
        raise kind("stopped after step 3; go on with `grpo-agents train --resume runs/a`")

    monkeypatch.setattr(trainer, "train", stopped)
    assert "go on with `grpo-agents train --resume runs/a`" in refused(run("train", "run.toml"), code)


def test_rollout_stores_and_sums_up(run, finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    result = run("rollout", "run.toml", "--tasks", 3, "--out", "played.parquet")
    assert result.exit_code == 0, result.output
    assert "6 episodes of 3 tasks" in result.stdout
    stored = store.read(finished[0] / "played.parquet")
    assert [entry.id for entry in stored] == ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1"]
    assert all(entry.samples and set(entry.rewards) == {"outcome", "cost", "latency"} for entry in stored)
    assert "played.parquet exists" in refused(run("rollout", "run.toml", "--out", "played.parquet"))


def test_greedy_rollouts_are_one_a_task_and_those_of_the_evaluation_other_tasks(run, finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    for name, options in {"greedy": ["--greedy"], "held": ["--greedy", "--eval"]}.items():
        assert run("rollout", "run.toml", "--tasks", 4, "--out", f"{name}.parquet", *options).exit_code == 0
    greedy, held = (store.read(finished[0] / f"{name}.parquet") for name in ("greedy", "held"))
    assert len(greedy) == len(held) == 4
    assert not {entry.task["id"] for entry in greedy} & {entry.task["id"] for entry in held}


def test_a_reward_model_is_trained_on_stored_groups_and_on_written_pairs(run, finished, tmp_path):
    folder, _ = finished
    everyone = [
        Trajectory(
            prompt=({"role": "user", "content": f"{number}+1"},),
            steps=[Step({"role": "assistant", "content": answer})],
            rewards={"style": float(index)},
            group=number,
            index=index,
        )
        for number in range(3)
        for index, answer in enumerate(("2", "3"))
    ]
    store.write("groups.parquet", everyone)
    told = run("reward-model", "--model", folder / "start", "--trajectories", "groups.parquet", "--label", "style",
               "--out", "judge", "--epochs", 2)  # fmt: skip
    *epochs, last = told.stdout.splitlines()
    assert [line[:8] for line in epochs] == ["epoch 1:", "epoch 2:"]
    assert all("of 3 pairs" in line for line in epochs)
    assert last == 'reward_model.path = "judge"'
    message = refused(
        run("reward-model", "--model", folder / "start", "--trajectories", "groups.parquet", "--out", "no")
    )
    assert "reward_model.label is 'outcome', which is not among the rewards: style" in message
    pair = {"prompt": [{"role": "user", "content": "1+1"}], "chosen": "2", "rejected": "3"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    told = run("reward-model", "--model", folder / "start", "--pairs", "pairs.jsonl", "--out", "second")
    assert re.search(r"epoch 1: loss \d\.\d+, .*% of 1 pairs in the right order", told.stdout)
    assert (tmp_path / "second" / "config.json").exists()
    assert "second exists" in refused(
        run("reward-model", "--model", folder / "start", "--pairs", "pairs.jsonl", "--out", "second")
    )
    assert "--pairs or --trajectories" in refused(run("reward-model", "--model", folder / "start", "--out", "third"))
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": pair["prompt"], "chosen": "2"}) + "\n")
    message = refused(run("reward-model", "--model", folder / "start", "--pairs", "pairs.jsonl", "--out", "third"))
    assert "pair 0 of pairs.jsonl: KeyError: 'rejected'" in message


def test_a_run_that_is_interrupted_is_summed_up_as_far_as_it_went(run, finished, tmp_path, monkeypatch):
    folder = shutil.copytree(finished[0] / "runs/a", tmp_path / "runs/a")
    (tmp_path / "run.toml").write_text(CONFIG)
    shutil.rmtree(folder / "model")

    def stopped(config, *, overwrite):
        raise KeyboardInterrupt("stopped after step 2; go on with `grpo-agents train --resume runs/a`")

    monkeypatch.setattr(trainer, "train", stopped)
    result = run("train", "run.toml", "--set", "run=runs/a")
    assert result.exit_code == INTERRUPTED
    assert "grpo on grpo_agents/Orchestra-v0: 2 of 2 steps in" in result.stdout
    assert "model     runs/a/checkpoints" in result.stdout
    assert result.stderr.strip() == "stopped after step 2; go on with `grpo-agents train --resume runs/a`"


def test_train_ends_with_what_came_of_the_run_and_what_to_do_next(finished):
    _, printed = finished
    assert "grpo on grpo_agents/Orchestra-v0: 2 of 2 steps in" in printed
    assert "difference (paired)" in printed
    assert printed.splitlines()[-1] == "replay    grpo-agents replay runs/a"
    assert printed.count("runs/a/metrics.jsonl") == 1
