import numpy as np
import pytest
import torch
from tiny import make_tokenizer, vector_of
from transformers import AutoModelForSequenceClassification, Qwen3Config, Qwen3ForSequenceClassification

from grpo_agents import store
from grpo_agents.build import build
from grpo_agents.learner.reward_model import RewardModel, best_and_worst
from grpo_agents.learner.settings import RewardModelConfig
from grpo_agents.rewards import RewardVector, named
from grpo_agents.trainer import resume, train
from grpo_agents.trajectory import Group, Step, Trajectory
from runs import grpo, left_behind, rows_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny classifier with one output, and the demo's tokenizer."""
    folder = tmp_path_factory.mktemp("reward_model")
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = Qwen3Config(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=512,
                         num_labels=1, pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    Qwen3ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def said(text, outcome=None, index=0, question="1+1"):
    prompt = ({"role": "user", "content": question},)
    rewards = {} if outcome is None else {"outcome": outcome}
    return Trajectory(prompt=prompt, steps=[Step({"role": "assistant", "content": text})], rewards=rewards, index=index)


def test_the_score_is_the_classifiers_own_for_each_conversation_alone(folder):
    """However many are computed together, and whatever their lengths."""
    texts = ["2", "1+1=2", "3", "12+3=15", "7"]
    found = RewardModel(RewardModelConfig(path=str(folder), batch=2)).score([said(text) for text in texts])
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = make_tokenizer()
    for text, score in zip(texts, found, strict=True):
        whole = tokenizer.apply_chat_template(said(text).messages(), tokenize=False)
        ids = torch.tensor([tokenizer(whole, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            assert score == pytest.approx(model(ids).logits.item(), abs=1e-5)


def test_the_component_scores_a_group_and_says_what_is_too_long(folder):
    group = Group({}, {}, [said("2"), said("1+1=2", index=1)])
    vector = RewardVector([named("reward_model", {})])
    reward_model = RewardModel(RewardModelConfig(path=str(folder)))
    vector.score([group], {"reward_model": reward_model})
    expected = reward_model.score(group.trajectories)
    assert [trajectory.rewards["reward_model"] for trajectory in group.trajectories] == pytest.approx(expected)
    vector.score([group], {"reward_model": RewardModel(RewardModelConfig(path=str(folder), max_tokens=3))})
    assert [trajectory.rewards["reward_model"] for trajectory in group.trajectories] == [None, None]
    assert "longer than reward_model.max_tokens = 3" in group.trajectories[0].missing["reward_model"]


def test_one_that_is_too_long_costs_the_others_nothing(folder):
    groups = [Group({}, {}, [said("2", 1.0), said("1+1=" * 50 + "2", 0.0, index=1), said("7", 0.5, index=2)])]
    reward_model = RewardModel(RewardModelConfig(path=str(folder), max_tokens=60))
    vector = RewardVector([named("reward_model", {})])
    vector.score(groups, {"reward_model": reward_model})
    short, long, other = groups[0].trajectories
    alone = [score for one in (short, other) for score in reward_model.score([one])]
    assert [short.rewards["reward_model"], other.rewards["reward_model"]] == pytest.approx(alone, abs=1e-5)
    assert long.rewards["reward_model"] is None
    assert "longer than reward_model.max_tokens = 60" in long.missing["reward_model"]
    outcome = vector_of(outcome="max")
    assert reward_model.observe(groups, outcome) == {"reward_model/too_long": 1.0}
    assert reward_model.learn() == {"reward_model/pairs": 0.0}
    long.rewards["outcome"] = None
    assert reward_model.observe(groups, outcome) == {"reward_model/too_long": 0.0}
    assert reward_model.learn()["reward_model/pairs"] == 1.0


def test_the_loss_and_its_gradient_are_bradley_and_terrys(folder):
    """−log σ(r_better − r_worse): σ(−Δ) pushes the better up and the worse down."""
    reward_model = RewardModel(RewardModelConfig(path=str(folder), lr=1e-12))
    pairs = [(reward_model.encode(said(better).messages()), reward_model.encode(said(worse).messages()))
             for better, worse in (("2", "3"), ("1+1=2", "7"), ("15", "12+3"))]  # fmt: skip
    with torch.no_grad():
        margins = [
            float(reward_model.forward([better])[0] - reward_model.forward([worse])[0]) for better, worse in pairs
        ]
    figures = reward_model.learn(pairs)
    assert figures["reward_model/loss"] == pytest.approx(np.mean([np.log1p(np.exp(-m)) for m in margins]), rel=1e-4)
    assert figures["reward_model/accuracy"] == np.mean([m > 0 for m in margins])
    assert figures["reward_model/pairs"] == 3


def test_it_learns_which_of_two_is_better(folder):
    reward_model = RewardModel(RewardModelConfig(path=str(folder), lr=3e-3, batch=8))
    rng = np.random.default_rng(0)

    def groups(count):
        return [Group({}, {}, [said("2", 1.0, question=f"{n}+1"), said("3", 0.0, question=f"{n}+1")])
                for n in rng.integers(0, 100, count)]  # fmt: skip

    accuracies = []
    for _ in range(6):
        reward_model.observe(groups(16), vector_of(outcome="max"))
        accuracies.append(reward_model.learn()["reward_model/accuracy"])
    assert accuracies[-1] == 1.0
    right, wrong = reward_model.score([said("2", question="55+1"), said("3", question="55+1")])
    assert right > wrong


def test_a_share_of_older_pairs_is_learned_again(folder):
    reward_model = RewardModel(RewardModelConfig(path=str(folder), replay=0.25, memory=5))
    pair = ([1, 2, 3], [1, 2])
    assert reward_model.learn([pair] * 6)["reward_model/pairs"] == 6  # none older yet
    assert reward_model.learn([pair] * 6)["reward_model/pairs"] == 8  # 2 of 8 are older
    assert reward_model.learn([pair] * 60)["reward_model/pairs"] == 65  # no more than are kept
    assert reward_model.learn() == {"reward_model/pairs": 0.0}


def test_pairs_are_the_best_against_the_worst():
    mixed = Group({}, {}, [said("a", 0.5), said("b", 0.0, 1), said("c", 1.0, 2), said("d", 0.0, 3)])
    tied = Group({}, {}, [said("a", 1.0), said("b", 1.0, 1)])
    unknown = Group({}, {}, [Trajectory(rewards={"outcome": None}), said("b", 1.0, 1)])
    for vector in (vector_of(outcome="max"), ()):
        (pair,) = best_and_worst([mixed, tied, unknown], "outcome", vector)
        assert [trajectory.final for trajectory in pair] == ["c", "b"]
    (pair,) = best_and_worst([mixed, tied, unknown], "outcome", vector_of(outcome="min"))
    assert [trajectory.final for trajectory in pair] == ["b", "c"]  # a cost: the least is the best
    with pytest.raises(ValueError, match=r"reward_model\.label is 'style', which is not among the rewards: outcome"):
        best_and_worst([mixed], "style", ())


def test_what_cannot_be_loaded_is_named(tmp_path, warm):
    with pytest.raises(ValueError, match=r"reward_model\.path .*nowhere.* could not be loaded"):
        RewardModel(RewardModelConfig(path=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match=r"rewards\.vector names reward_model: say which one, reward_model\.path"):
        build(grpo(tmp_path / "run", warm, **{"rewards.vector": '["outcome", "reward_model"]'}))


def settings(folder, **others):
    vector = {"rewards.vector": '["outcome", "reward_model"]', "preference.choices": "[{reward_model = 1.0}]"}
    return {**vector, "reward_model.path": folder, "eval.tasks": 1, **others}


def test_a_policy_is_trained_on_a_learned_reward(warm, folder, tmp_path):
    run = train(grpo(tmp_path / "run", warm, **settings(folder)))
    rows = [row for row in rows_of(run) if "loss" in row]
    assert all(row["grad_norm"] > 0 for row in rows)
    stored = store.read(run / "trajectories" / "train-000003.parquet")
    again = RewardModel(RewardModelConfig(path=str(folder))).score(stored)
    assert [trajectory.rewards["reward_model"] for trajectory in stored] == pytest.approx(again, abs=1e-5)


def test_it_learns_while_the_policy_does_and_goes_on_after_a_kill(warm, folder, tmp_path):
    """Iterative GRPO: labels come from the length, so that there are pairs in every group."""
    moving = settings(folder, **{"reward_model.retrain_every": 2, "reward_model.label": "length",
                                 "rewards.vector": '["outcome", "reward_model", "length"]'})  # fmt: skip
    whole = train(grpo(tmp_path / "whole", warm, **moving))
    taught = {row["step"]: row["reward_model/pairs"] for row in rows_of(whole) if "reward_model/pairs" in row}
    assert list(taught) == [1, 3]
    assert all(taught.values())
    part = train(grpo(tmp_path / "part", warm, **moving))
    (max((part / "checkpoints").glob("step-*")) / "manifest.json").unlink()
    resume(part)
    assert left_behind(part) == left_behind(whole)
    assert (part / "reward_model" / "model.safetensors").read_bytes() == (
        whole / "reward_model" / "model.safetensors"
    ).read_bytes()
