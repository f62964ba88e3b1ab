"""float16 and bfloat16: scaled losses, skipped overflows, and what engine and learner differ by."""

import copy

import numpy as np
import pytest
import torch
from tiny import copy_weights, make_model, sampled

from grpo_agents.learner.batch import make_batch
from grpo_agents.learner.learner import Learner
from grpo_agents.learner.settings import LearnerConfig, OptimizerConfig
from grpo_agents.methods.grpo import Grpo
from grpo_agents.trainer import resume, train
from runs import grpo, left_behind, rows_of


def make_learner(model, dtype, lr=1e-3, **settings):
    config = LearnerConfig(optimizer=OptimizerConfig(lr=lr, clip=1e9), **settings)
    return Learner(model, config, Grpo(), steps=10, dtype=dtype)


def batch(advantage=1.0):
    rng = np.random.default_rng(0)
    return make_batch([sampled(rng, 97, 4, [(5, 2), (3, 0)], advantage=sign * advantage) for sign in (1, -0.5, 2)])


def gradients(learner, batch, monkeypatch):
    """What an update would move by."""
    found = {}
    norm = torch.nn.utils.clip_grad_norm_

    def looking(parameters, largest):
        found.update({name: value.grad.clone() for name, value in learner.optimizer.named.items()})
        return norm(parameters, largest)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", looking)
    learner.update(batch, 0.0)
    monkeypatch.undo()
    return torch.cat([value.flatten() for value in found.values()])


@pytest.mark.parametrize("advantage", [1.0, 1e-7])
def test_small_gradients_survive_float16_by_the_scaled_loss(advantage, monkeypatch):
    model = make_model()
    exact = gradients(make_learner(copy.deepcopy(model), "float32"), batch(advantage), monkeypatch)
    scaled = gradients(make_learner(copy.deepcopy(model), "float16"), batch(advantage), monkeypatch)
    assert (scaled - exact).norm() < 0.02 * exact.norm()
    plain = make_learner(copy.deepcopy(model), "float16")
    plain.optimizer.scaler = torch.amp.GradScaler("cpu", enabled=False)
    unscaled = gradients(plain, batch(advantage), monkeypatch)
    assert ((unscaled - exact).norm() > 0.3 * exact.norm()) == (advantage < 1e-3)


def test_a_scale_that_overflows_is_halved_until_it_does_not():
    model = make_model()
    learner = make_learner(model, "float16")
    learner.optimizer.scaler.load_state_dict({**learner.optimizer.scaler.state_dict(), "scale": 2.0**26})
    start = copy_weights(model)
    skipped, scales = [], []
    while not skipped or skipped[-1]:
        unmoved = all(torch.equal(value, start[name]) for name, value in model.named_parameters())
        assert unmoved
        figures = learner.update(batch(), 0.0)
        skipped.append("skipped/loss_scale" in figures)
        scales.append(figures["loss_scale"])
    assert len(skipped) > 3
    assert not learner.not_finite  # it is no failure
    assert scales == [2.0 ** (26 - number) for number in range(len(scales))]
    assert any(not torch.equal(value, start[name]) for name, value in model.named_parameters())


def test_weights_and_moments_stay_in_float32():
    learner = make_learner(make_model(), "float16")
    learner.update(batch(), 0.0)
    assert {value.dtype for value in learner.model.parameters()} == {torch.float32}
    assert {value.dtype for value in learner.optimizer.state().values()} == {torch.float32}


def test_a_gradient_that_no_scale_makes_finite_is_a_failure(monkeypatch):
    """At once where the loss is not finite, whatever its scale; else when the scale is down to 1."""
    learner = make_learner(make_model(), "float16")
    bad = batch()
    bad.rows[0].old = bad.rows[0].old - 1e3
    bad.rows[0].advantages[:] = -1.0
    assert learner.update(bad, 0.0)["skipped/non_finite"] == 1
    assert learner.not_finite == f"trajectory {bad.rows[0].name}: π/π_old is not finite"
    learner = make_learner(make_model(), "float16")
    monkeypatch.setattr(learner.method.__class__, "loss", lambda self, tokens: (tokens.logprobs * 0).sqrt().sum() * 0)
    found = []
    while "skipped/non_finite" not in (figures := learner.update(batch(), 0.0)):
        found.append(figures)
    assert [figures["skipped/loss_scale"] for figures in found] == [1] * 16  # 2¹⁶ is halved to 1
    assert figures["loss"] == 0
    assert learner.not_finite == "the loss is finite, and its gradient is not"


@pytest.fixture(scope="module")
def mismatches(warm, tmp_path_factory):
    """The mean mismatch of engine and learner in short runs, by what they compute in."""
    found = {}
    for dtype in ("float32", "float16", "bfloat16"):
        folder = train(grpo(tmp_path_factory.mktemp(dtype) / "run", warm, **{"model.dtype": dtype, "eval.tasks": 1}))
        found[dtype] = np.mean([row["mismatch/mean"] for row in rows_of(folder) if "mismatch/mean" in row])
    return found


@pytest.mark.slow
def test_engine_and_learner_differ_less_in_float16_than_in_bfloat16(mismatches):
    """Its mantissa is three bits longer (arXiv 2510.26788)."""
    assert mismatches["float32"] < mismatches["float16"] < mismatches["bfloat16"] / 1.5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("model.dtype", "float16", id="float16", marks=pytest.mark.slow),
        pytest.param("learner.optimizer.name", "adamw8bit", id="8 bit", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_is_the_unbroken_one(warm, tmp_path, key, value):
    if value == "adamw8bit":
        pytest.importorskip("bitsandbytes")

    def config(name, steps):
        return grpo(tmp_path / name, warm, **{key: value, "train.steps": steps, "eval.tasks": 1})

    whole = train(config("whole", 4))
    part = train(config("part", 4))
    last = max((part / "checkpoints").glob("step-*"))
    (last / "manifest.json").unlink()
    resume(part)
    assert left_behind(part) == left_behind(whole)
