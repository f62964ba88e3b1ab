"""Whole runs whose sampling is cut: the learner's distributions are cut alike (DeepSeek-V3.2, 2512.02556)."""

from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from grpo_agents import store
from grpo_agents.learner.batch import make_batch
from grpo_agents.learner.learner import Learner
from grpo_agents.learner.settings import LearnerConfig
from grpo_agents.lens import explain
from grpo_agents.methods.grpo import Grpo
from grpo_agents.trainer import train
from runs import grpo, rows_of

CUT = {"rollout.top_k": 8, "rollout.top_p": 0.9, "rollout.temperature": 1.3, "eval": "{}"}


@pytest.fixture(scope="module")
def cut(warm, tmp_path_factory):
    """A run on the policy, of dialogues of several turns."""
    settings = {**CUT, "method": "{kl_weight = 0.1}"}
    return train(grpo(tmp_path_factory.mktemp("cut") / "run", warm, **settings))


@pytest.fixture(scope="module")
def first(cut):
    """What was sampled at its first step, by the model it began with."""
    trajectories = store.read(cut / "trajectories" / "train-000000.parquet")
    for trajectory in trajectories:
        trajectory.advantage = 1.0
    return trajectories


def steps(folder):
    return [row for row in rows_of(folder) if "loss" in row]


def mismatch(warm, trajectories):
    """How far the learner's log-probabilities are from the sampler's, (tokens,)."""
    model = AutoModelForCausalLM.from_pretrained(warm / "model")
    learner = Learner(model, LearnerConfig(), Grpo(), steps=1, temperature=1.3)
    rows = list(learner.score(make_batch(trajectories).rows))
    return np.concatenate([np.abs(logprobs - row.sampler) for row, logprobs in rows])


def test_on_policy_the_ratio_is_one_and_the_kl_to_the_first_policy_nothing(cut):
    for row in steps(cut):
        assert row["ratio"] == pytest.approx(1.0, abs=1e-5)
        assert row["mismatch/max"] < 2e-5
        assert row["grad_norm"] > 0
    assert steps(cut)[0]["kl"] < 1e-9  # π_ref is π, and cut like it
    assert steps(cut)[-1]["kl"] > 1e-6


def test_without_the_mask_it_would_be_another_distribution(warm, first):
    bare = [
        replace(trajectory, samples=[replace(sample, support=None) for sample in trajectory.samples])
        for trajectory in first
    ]
    assert mismatch(warm, first).max() < 2e-5
    assert mismatch(warm, bare).mean() > 0.05
    assert np.exp(-mismatch(warm, bare)).min() < 0.8  # ratios, which are all at most 1


def test_every_sampled_token_has_its_support_and_no_other_has_one(first):
    counts = np.concatenate([sample.support.counts for trajectory in first for sample in trajectory.samples])
    mask = np.concatenate([sample.mask for trajectory in first for sample in trajectory.samples])
    assert max(len(trajectory.steps) for trajectory in first) > 1
    assert not counts[~mask].any()
    assert counts[mask].min() >= 1
    assert counts[mask].max() == 8


@pytest.mark.parametrize("kind", ["recompute", "stored", "frozen"])
def test_other_ways_to_old_log_probabilities(kind, cut, warm, tmp_path):
    """π_old computed again by the learner, or sampled and stored before it began."""
    file = cut / "trajectories" / "train-000000.parquet"
    settings = {
        "recompute": {"learner.old_logprobs": "recompute", "method": "{tis = 2.0, kl_weight = 0.1}"},
        "stored": {"source.kind": "stored", "source.path": file, "method": "{}"},
        "frozen": {"source.kind": "frozen", "source.batches": 1, "method": "{name = 'dpo'}"},
    }[kind]
    row = steps(train(grpo(tmp_path / "run", warm, **{**CUT, "train.steps": 1, **settings})))[0]
    assert row["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert row["grad_norm"] > 0
    if kind == "recompute":
        assert row["tis/weight"] == pytest.approx(1.0, abs=1e-5)
        assert row["mismatch/max"] < 2e-5
    if kind == "frozen":
        assert row["kl"] < 1e-9


def test_the_lens_looks_through_it(cut, warm, first):
    longest = max(first, key=lambda trajectory: len(trajectory.steps))
    found = explain(cut, longest.id, methods=["run"], step=0, weights=warm / "model").table
    assert len(found) == longest.sampled_tokens
    assert found["ratio"].to_numpy() == pytest.approx(1.0, abs=1e-4)
    assert found["kl"].to_numpy() == pytest.approx(0.0, abs=1e-8)
