"""Whole runs of every kind of method and source; each that is stopped goes on as if it had not been."""

import json
import os
import signal
from collections import Counter

import pytest
from safetensors.torch import load_file

from grpo_agents import store
from grpo_agents.engines.transformers import TransformersEngine
from grpo_agents.rescoring import rescore
from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.sources import PolicySource
from grpo_agents.trainer import Trainer, resume, train
from runs import grpo, interrupt_at, left_behind, rows_of, steps_of

ODD = """
from grpo_agents import AgentEnv, component

@component
def odd(trajectory):
    return float(trajectory.samples[0].ids[-1] % 2)

class Talk(AgentEnv):
    tasks = [{"id": str(number)} for number in range(8)]

    def start(self, task):
        return "Say something: " + task["id"]

    def finish(self, task, message):
        return {"outcome": 1.0}
"""
"""About half of what a model without any training says is odd."""


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """What is common to all runs: the environment, and a reward."""
    file = tmp_path_factory.mktemp("odd") / "odd.py"
    file.write_text(ODD)
    return {
        "env.id": f"{file}:Talk", "env.options": "{}", "rewards.vector": f"['{file}:odd']", "rollout.group_size": 4,
        "rollout.max_turn_tokens": 6,
    }  # fmt: skip


@pytest.fixture
def config(odd, start):
    """Makes the config of a run of four steps."""

    def make(run, method, **settings):
        small = {
            "model.path": start, "train.batch": 3, "eval": "{}", "learner.optimizer.lr": 1e-3, "source.batches": 2,
            "method": method,
        }  # fmt: skip
        return grpo(run, start, **{**odd, **small, **settings})

    return make


@pytest.fixture(scope="module")
def earlier(odd, start, tmp_path_factory):
    """The trajectories of an earlier run, and those of its evaluations beside them."""
    settings = {**odd, "model.path": start, "method": "{}", "eval": "{every = 2, tasks = 2}", "train.steps": 3}
    return train(grpo(tmp_path_factory.mktemp("earlier") / "run", start, **settings)) / "trajectories"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    lines = [{"prompt": f"{n}+1", "chosen": str(n + 1), "rejected": f"{n} or so"} for n in range(5)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


RUNS = {
    "rft": ("{name = 'rft', correct = 'odd'}", {}),
    "online_rft": ("{name = 'online_rft', correct = 'odd'}", {}),
    "dpo-frozen": ("{name = 'dpo'}", {"source.kind": "frozen"}),
    "dpo-stored": ("{name = 'dpo', form = 'length_normalised'}", {"source.kind": "stored", "source.path": "earlier"}),
    "dpo-pairs": ("{name = 'dpo'}", {"source.path": "pairs"}),
    "ppo-head": ("{name = 'ppo', kl_weight = 0.1}", {"learner.updates": 2}),
    "ppo-separate": ("{name = 'ppo', value_model = 'separate', whiten = true}", {"rollout.group_size": 1}),
    "grpo-iterative": ("{kl_weight = 0.1, reference_every = 2}", {}),
    "grpo-stored": ("{}", {"source.kind": "stored", "source.path": "earlier", "source.rescore": "true"}),
    "reinforce_pp": ("{name = 'reinforce_pp'}", {}),
}
SAMPLED = ("online_rft", "ppo-head", "ppo-separate", "grpo-iterative", "reinforce_pp")


FEW = ("dpo-frozen", "ppo-separate", "grpo-iterative", "grpo-stored")  # one of each source, and each second model


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FEW)) for name in RUNS])
def test_a_run_that_is_stopped_ends_as_if_it_had_not_been(name, config, earlier, pairs, tmp_path, monkeypatch):
    """After its third step: in the middle of a round of frozen groups, and one step after the reference was renewed."""
    method, settings = RUNS[name]
    places = {"earlier": earlier, "pairs": pairs}
    settings = {key: places.get(value, value) for key, value in settings.items()}
    whole = train(config(tmp_path / "whole", method, **settings))
    rows = [row for row in rows_of(whole) if "loss" in row]
    assert steps_of(rows, False) == [0, 1, 2, 3]
    assert all(row["grad_norm"] > 0 for row in rows)
    interrupt_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        train(config(tmp_path / "run", method, **settings))
    calls = Counter()
    sample = PolicySource.batch
    monkeypatch.setattr(PolicySource, "batch", lambda self, step: calls.update(n=1) or sample(self, step))
    resume(tmp_path / "run")
    assert left_behind(tmp_path / "run") == left_behind(whole)
    assert calls["n"] == (1 if name in SAMPLED else 0)  # frozen groups are there
    held = {file.name for file in (whole / "checkpoints" / "step-000004").iterdir()}
    assert ("critic.safetensors" in held) == name.startswith("ppo")
    assert ("reference.safetensors" in held) == (name == "grpo-iterative")
    for file in sorted(held & {"critic.safetensors", "reference.safetensors"}):
        one, other = (load_file(run / "checkpoints" / "step-000004" / file) for run in (whole, tmp_path / "run"))
        assert one.keys() == other.keys()
        assert all((one[key] == other[key]).all() for key in one)


def test_the_reference_of_a_checkpoint_is_the_policy_of_two_steps_before(config, tmp_path):
    method, settings = RUNS["grpo-iterative"]
    folder = train(config(tmp_path / "run", method, **settings, **{"train.save_every": 1, "train.keep": 9}))

    def weights(step, file):
        return load_file(folder / "checkpoints" / f"step-{step:06d}" / file)

    for done, renewed in ((3, 2), (4, 2)):  # after step 4 it is not renewed before there is a fifth
        reference, policy = weights(done, "reference.safetensors"), weights(renewed, "model/model.safetensors")
        assert reference.keys() == policy.keys()
        assert all((reference[name] == value).all() for name, value in policy.items())
    assert not all((weights(4, "model/model.safetensors")[name] == value).all() for name, value in reference.items())


def test_a_run_that_is_stopped_while_it_samples_what_is_frozen(config, tmp_path, monkeypatch):
    """Ctrl-C waits for the batch under way, not for all of them; those that are there are not sampled again."""
    whole = train(config(tmp_path / "whole", "{name = 'rft', correct = 'odd'}"))
    sample, steps = PolicySource.batch, []

    def interrupted(self, step):
        steps.append(step)
        if len(steps) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return sample(self, step)

    monkeypatch.setattr(PolicySource, "batch", interrupted)
    with pytest.raises(KeyboardInterrupt, match=rf"before learning began; .*train --resume {tmp_path / 'run'}"):
        train(config(tmp_path / "run", "{name = 'rft', correct = 'odd'}"))
    resume(tmp_path / "run")
    assert steps == [0, 1]
    assert left_behind(tmp_path / "run") == left_behind(whole)


def test_frozen_groups_are_of_the_first_weights_and_gone_through_again(config, tmp_path):
    folder = train(config(tmp_path / "run", "{name = 'rft', correct = 'odd'}", **{"train.steps": 5}))
    files = sorted((folder / "trajectories").iterdir())
    assert [file.name for file in files] == ["frozen-000000.parquet", "frozen-000001.parquet"]
    trajectories = store.read(files)
    assert {step.version for trajectory in trajectories for step in trajectory.steps} == {0}
    right = [trajectory.rewards["odd"] == 1 for trajectory in trajectories]
    assert [trajectory.advantage for trajectory in trajectories] == [1.0 if entry else None for entry in right]
    rewards = [row["reward"] for row in rows_of(folder) if "loss" in row]
    assert (rewards[0] + rewards[1]) / 2 == pytest.approx((rewards[2] + rewards[3]) / 2)  # a round is a round
    losses = [row["loss"] for row in rows_of(folder) if "loss" in row]
    assert losses[4] < losses[0]


def test_given_pairs_are_told_apart(config, pairs, tmp_path):
    few = {"source.path": pairs, "train.batch": 5, "train.steps": 8, "learner.optimizer.lr": 3e-3}
    rows = [
        row for row in rows_of(train(config(tmp_path / "run", "{name = 'dpo', beta = 0.3}", **few))) if "loss" in row
    ]
    assert rows[0]["loss"] == pytest.approx(0.6931, abs=1e-4)  # log 2: policy and reference are the same
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert rows[-1]["loss"] < 0.5
    assert rows[-1]["pair_right"] == 1.0
    assert not {name for name in rows[0] if name.startswith(("ratio", "mismatch"))}


def test_stored_trajectories_of_other_weights_are_learned_from(config, earlier, tmp_path):
    """Their log-probabilities are π_old: the ratio is that of this policy to those that sampled, each at its time."""
    folder = train(config(tmp_path / "run", "{}", **{"source.kind": "stored", "source.path": earlier}))
    assert {t.steps[0].version for t in store.read(earlier)} > {0, 1, 2}
    rows = [row for row in rows_of(folder) if "loss" in row]
    assert any(abs(row["ratio"] - 1) > 1e-4 for row in rows)
    assert not list((folder / "trajectories").iterdir())


OTHERS = ("{name = 'rft', correct = 'odd'}", "{name = 'dpo'}")


@pytest.mark.parametrize("method", ["{}", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_what_was_rescored_is_learned_from_with_one_line(method, config, earlier, tmp_path):
    """Rewards in the new file that no earlier run computed decide what is learned."""
    out = tmp_path / "rescored.parquet"
    brief = Component("odd", lambda trajectory: float(trajectory.sampled_tokens % 2 == trajectory.index % 2))
    done = rescore(sorted(earlier.glob("train-*")), out, vector=RewardVector([brief]))
    assert (done.replaced, done.missing) == (("odd",), {})
    folder = train(config(tmp_path / "run", method, **{"source.kind": "stored", "source.path": out}))
    rewards = [trajectory.rewards["odd"] for trajectory in store.read(out)]
    assert rewards != [trajectory.rewards["odd"] for trajectory in store.read(sorted(earlier.glob("train-*")))]
    rows = [row for row in rows_of(folder) if "loss" in row]
    assert len(rows) == 4
    assert any(row["grad_norm"] > 0 for row in rows)
    other = tmp_path / "other.parquet"
    rescore(out, other, preference={"odd": 0.5})
    settings = {"source.kind": "stored", "source.path": other}
    with pytest.raises(ValueError, match=r"set source\.other_preference = true"):
        Trainer(config(tmp_path / "refused", method, **settings))
    Trainer(config(tmp_path / "allowed", method, **settings, **{"source.other_preference": "true"}))


def test_rescoring_does_with_truncated_episodes_what_the_config_says(config, earlier, tmp_path):
    settings = {"source.kind": "stored", "source.path": earlier, "source.rescore": "true"}
    found = {}
    for truncated in ("keep", "mask"):
        source = Trainer(config(tmp_path / truncated, "{}", **settings, **{"rollout.truncated": truncated})).source
        found[truncated] = [t for group in source.groups for t in group.trajectories]
    assert [t.rewards for t in found["keep"]] == [t.rewards for t in store.read(sorted(earlier.glob("train-*")))]
    assert {t.masked for t in found["keep"]} == {False}
    assert [t.masked for t in found["mask"]] == [t.truncated for t in found["mask"]]


@pytest.mark.parametrize(
    ("name", "eval_", "updates", "sleeps"),
    [
        ("dpo-pairs", "{}", 0, 0),
        ("dpo-stored", "{}", 0, 0),
        ("rft", "{}", 1, 4),
        ("dpo-pairs", "{every = 3, tasks = 1}", 3, 4),  # before steps 0 and 3, and at the end
        ("online_rft", "{}", 5, 4),
    ],
)
def test_an_engine_is_bothered_only_where_something_is_sampled(
    name, eval_, updates, sleeps, config, earlier, pairs, tmp_path, monkeypatch
):
    calls = Counter()
    for what in ("update_weights", "sleep"):
        real = getattr(TransformersEngine, what)
        monkeypatch.setattr(
            TransformersEngine,
            what,
            lambda self, *given, what=what, real=real: (calls.update([what]), real(self, *given)),
        )
    method, settings = RUNS[name]
    places = {"earlier": earlier, "pairs": pairs}
    settings = {key: places.get(value, value) for key, value in settings.items()}
    train(config(tmp_path / "run", method, **settings, eval=eval_))
    assert (calls["update_weights"], calls["sleep"]) == (updates, sleeps)


@pytest.mark.parametrize("method", ["{name = 'rft', correct = 'even'}", "{name = 'online_rft', correct = 'even'}"])
def test_what_is_right_has_to_be_a_reward(method, config, tmp_path):
    with pytest.raises(ValueError, match=r"reads the reward 'even', which is not .*: odd\. Add it to rewards\.v"):
        Trainer(config(tmp_path / "run", method))
    assert not (tmp_path / "run").exists()
