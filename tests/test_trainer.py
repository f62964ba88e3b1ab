import json
import re
import threading
import tomllib

import numpy as np
import pytest
from safetensors.torch import load_file
from tiny import group_of, make_model, make_tokenizer, save_start, vector_of
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer

from grpo_agents import store
from grpo_agents.advantage import AdvantageConfig, assign_advantages
from grpo_agents.build import build
from grpo_agents.config import load_config
from grpo_agents.envs.orchestra import OrchestraEnv
from grpo_agents.envs.orchestra.questions import held_out
from grpo_agents.methods.gdpo import Gdpo
from grpo_agents.rewards import cost, latency
from grpo_agents.rewards.component import RewardVector
from grpo_agents.sources import describe, pick
from grpo_agents.tasks import as_tasks
from grpo_agents.trainer import Trainer, resume, train
from runs import grpo, left_behind, rows_of, sft, steps_of


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
    assert first["mismatch/max"] < 1e-4  # the learner computes what the engine said
    assert sorted(entry.name for entry in (unbroken / "checkpoints").iterdir()) == ["step-000002", "step-000004"]
    assert list((unbroken / "tensorboard").glob("events*"))
    resolved = tomllib.loads((unbroken / "config.toml").read_text())
    assert resolved["train"]["steps"] == 4
    assert resolved["learner"]["optimizer"]["betas"] == [0.9, 0.95]
    assert load_config(unbroken / "config.toml") == load_config(unbroken / "config.toml", ["train.steps=4"])


def test_every_trajectory_is_kept(unbroken):
    """The figures of each step can be recomputed from its file."""
    metrics = [row for row in rows_of(unbroken) if "loss" in row]
    vector = RewardVector(["outcome", cost, latency])
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
        assign_advantages(groups, vector, AdvantageConfig(), OrchestraEnv.maxima, Gdpo())
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
    threads = set(threading.enumerate())
    again = train(grpo(tmp_path / "run", warm))
    for thread in set(threading.enumerate()) - threads:
        if thread.name == "grpo-agents-step":
            thread.join(10)  # it is told to end
            assert not thread.is_alive()
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
    with pytest.raises(ValueError, match=r"(?s)step 1 has nothing to learn from: every episode lacks.*NameError: .*"
                       r"'tsk'.*grpo-agents check .*shop\.py:Shop.*train --resume"):  # fmt: skip
        train(config)
    said = capsys.readouterr().err
    assert "step 0: no evaluation reward; 2 episodes have none" in said
    assert said.count("NameError") == 1  # of the evaluation: it is not said again of the step
    assert "(2 of 2 episodes)" in said
    *_, row = rows_of(tmp_path / "run")
    assert row == {"step": 0, "eval/missing/outcome": 2.0, "eval/missing/reward": 2.0}
    stored = store.read(tmp_path / "run" / "trajectories" / "train-000000.parquet")
    assert {trajectory.stop_reason for trajectory in stored} == {"error"}
    shop(tmp_path, warm, "task['id']")
    resume(tmp_path / "run")
    assert steps_of(rows_of(tmp_path / "run"), False) == [0, 1]


def test_a_component_that_always_fails_stops_the_run(warm, tmp_path):
    """Unless it weighs nothing: then there is nothing amiss with what is learned."""
    (tmp_path / "mine.py").write_text(
        "from grpo_agents import component\n@component\ndef odd(it):\n    return it.finl\n"
    )
    rewards = {"rewards.vector": f"['outcome', '{tmp_path / 'mine.py'}:odd']", "eval.every": 9, "train.steps": 1}
    with pytest.raises(ValueError, match=r"every episode lacks a reward.*\nno odd: AttributeError: .*finl"):
        train(grpo(tmp_path / "run", warm, **rewards, **{"preference.choices": "[{outcome = 0.5, odd = 0.5}]"}))
    train(grpo(tmp_path / "other", warm, **rewards, **{"preference.choices": "[{outcome = 1.0, odd = 0.0}]"}))


def test_an_environment_that_fails_now_and_then_is_said_and_trained_on(warm, tmp_path, capsys):
    config = shop(tmp_path, warm, "task['id'] if task['id'] != 'b' else 1 / 0")
    train(config)
    said = capsys.readouterr().err
    assert said.count("ZeroDivisionError") == 1
    missing = [row["missing/outcome"] for row in rows_of(tmp_path / "run") if "loss" in row or "left_out" in row]
    assert missing == [3.0, 3.0]
    assert "missing outcome 3" in said
    assert "left_out 3" in said


def test_tasks_of_the_evaluation_that_are_trained_on_are_said_once(warm, tmp_path, capsys):
    train(shop(tmp_path, warm, "'12+3'"))
    said = capsys.readouterr().err
    assert said.count("2 of 3 tasks are among those of the evaluation. To evaluate on tasks that are held out") == 1
    assert "held-out" not in said
    train(grpo(tmp_path / "split", warm, **{"train.steps": 1}))
    assert "among those of the evaluation" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["mamba", "qwen3"])
def test_an_architecture_that_shares_no_prefixes_says_so_once(kind, tmp_path, capsys):
    """A state-space model's layers know only what stands right before a token."""
    save_start(tmp_path / "start", kind=kind, scale=0.1, **({"state_size": 4} if kind == "mamba" else {}))
    config = sft(tmp_path / "run", tmp_path / "start", **{"train.steps": 2})
    folder = train(config.model_copy(update={"eval": config.eval.model_copy(update={"every": None})}))
    said = capsys.readouterr().err
    assert said.count("prefixes that rollouts share are computed again for each of them") == (kind == "mamba")
    assert ("MambaForCausalLM does not take its attention from transformers" in said) == (kind == "mamba")
    assert [row["step"] for row in rows_of(folder) if row["grad_norm"] > 0] == [0, 1]


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused_before_the_run_begins(tmp_path):
    tokenizer, model = make_tokenizer(), make_model(vocab=len(make_tokenizer()))
    first = len(tokenizer)
    tokenizer.add_tokens([AddedToken("<|picture|>", special=True)])  # no template writes it
    for folder in (tmp_path / "picture", tmp_path / "word"):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        tokenizer.add_tokens(["wholly", "new"])
    Trainer(sft(tmp_path / "run", tmp_path / "picture"))
    with pytest.raises(ValueError, match=rf"knows 'wholly' as number {first + 1}, .* is of {first} \(2 tokens"):
        Trainer(sft(tmp_path / "other", tmp_path / "word"))
    assert not (tmp_path / "other").exists()
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<|padding|>"})
    tokenizer.save_pretrained(tmp_path / "picture")
    with pytest.raises(ValueError, match=rf"knows '<\|padding\|>' as number {first}"):
        Trainer(sft(tmp_path / "other", tmp_path / "picture"))


MINE = """
from grpo_agents import RewardVector
from grpo_agents.envs.math import MathEnv

outcom = RewardVector(["outcom"])

def plain(trajectory):
    return 1.0

class Free(MathEnv):
    maxima = {"cost": 0.0}

class Costs(MathEnv):
    maxima = {"costs": 1.0}
"""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"env.id": "grpo_agents/Orchestr-v0"}, "'grpo_agents/Orchestr-v0'. Did you mean grpo_agents/Orch"),
        ({"rewards.vector": '["outcome", "costs"]'}, "rewards.vector: unknown reward 'costs'. Did you mean 'cost'"),
        ({"model.path": "/no/where"}, "model.path: there is no folder /no/where"),
        ({"env.options": "{splt = 1}"}, "no option 'splt' (env.options, eval.env_options). Did you mean 'split'"),
        ({"eval.env_options": "{hard = 1}"}, "no option 'hard' (env.options, eval.env_options). There are: tasks"),
        ({"chat.template": "/no/where.jinja"}, "chat.template: there is no file /no/where.jinja"),
        ({"rewards.vector": "mine.py:outcom"}, "unknown reward 'outcom'. Did you mean 'outcome'"),
        ({"rewards.vector": "mine.py:plain"}, "'mine.py:plain': a RewardVector, a component or a list"),
        ({"env.id": "mine.py:Free", "env.options": "{}"}, "maxima: 'cost' is 0.0, and the most"),
        ({"env.id": "mine.py:Costs", "env.options": "{}"}, "maxima: 'costs' is no reward component. Did you mean"),
        ({"advantage.gate": "outcom"}, "advantage.gate is 'outcom'"),
        ({"preference.choices": "[{outcome = 0.5, costs = 0.5}]"}, "the preference weighs 'costs'"),
        ({"preference.simplex": "['outcome', 'latenzy']"}, "Did you mean 'latency'?"),
        ({"tasks.source": "/no/where.jsonl"}, "tasks.source: no task file /no/where.jsonl"),
        ({"eval.source.source": "/no/where.jsonl"}, "eval.source.source: no task file /no/where.jsonl"),
        ({"method": "{name = 'sft'}", "source.path": "/no/where.jsonl"}, "no task file /no/where.jsonl"),
    ],
)  # fmt: skip
def test_what_a_run_cannot_be_made_of_is_said_before_it_begins(warm, tmp_path, monkeypatch, settings, message):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        Trainer(grpo(tmp_path / "run", warm, **settings))
    assert not (tmp_path / "run").exists()  # so that the mended config starts as a new one


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
    few = {"train.steps": 2, "eval.every": 9, "source.path": tmp_path / "good.jsonl"}
    losses = [row["loss"] for row in rows_of(train(sft(tmp_path / "sft", start, **few))) if "loss" in row]
    assert losses[1] < losses[0]
    (tmp_path / "bad.jsonl").write_text('{"messages": [{"role": "user", "content": "12+3"}]}\n')
    few["source.path"] = tmp_path / "bad.jsonl"
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
