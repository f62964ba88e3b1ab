import copy
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_model

from grpo_agents.learner.optimizer import Optimizer
from grpo_agents.learner.settings import OptimizerConfig


def make_optimizer(model, steps=100, **settings):
    return Optimizer(model.named_parameters(), OptimizerConfig(**{"lr": 1e-2, **settings}), steps)


def push(model, seed, scale=1.0):
    """Random gradients."""
    torch.manual_seed(seed)
    for value in model.parameters():
        value.grad = scale * torch.randn_like(value)


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, {0: 1.0, 50: 1.0, 99: 1.0}),
        ({"schedule": "linear", "lr_end": 0.1}, {0: 1.0, 50: 0.55, 100: 0.1, 500: 0.1}),
        ({"schedule": "cosine"}, {0: 1.0, 25: 0.5 * (1 + math.cos(math.pi / 4)), 50: 0.5, 100: 0.0}),
        ({"schedule": "cosine", "warmup": 20, "lr_end": 0.5}, {0: 0.05, 9: 0.5, 19: 1.0, 20: 1.0, 60: 0.75, 100: 0.5}),
        ({"schedule": "linear", "warmup": 200}, {0: 0.005, 199: 1.0, 200: 1.0, 201: 0.0}),
    ],
)
def test_schedules_at_points_computed_by_hand(settings, rates):
    optimizer = make_optimizer(make_model(), **settings)
    for step, share in rates.items():
        assert optimizer.rate(step) == pytest.approx(1e-2 * share, abs=1e-12)


def test_adamw_is_torchs_with_decay_on_matrices_alone():
    model, other = make_model(), make_model()
    optimizer = make_optimizer(model, weight_decay=0.3, betas=(0.8, 0.9), clip=1e9)
    plain = torch.optim.AdamW(
        [
            {"params": [value for value in other.parameters() if value.ndim >= 2], "weight_decay": 0.3},
            {"params": [value for value in other.parameters() if value.ndim < 2], "weight_decay": 0.0},
        ],
        lr=1e-2,
        betas=(0.8, 0.9),
    )
    for step in range(3):
        push(model, step)
        push(other, step)
        optimizer.step(step)
        plain.step()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_muon_takes_the_matrices_inside_the_layers():
    model = make_model(tie_word_embeddings=False)
    optimizer = make_optimizer(model, name="muon")
    push(model, 0)
    optimizer.step(0)
    keys = {key for key in optimizer.state() if key.endswith("momentum_buffer")}
    expected = {
        f"{name}|momentum_buffer"
        for name, value in model.named_parameters()
        if "layers" in name and name.endswith("proj.weight")
    }
    assert keys == expected
    assert "lm_head.weight|exp_avg" in optimizer.state()
    assert "model.embed_tokens.weight|exp_avg" in optimizer.state()


def test_the_gradient_is_clipped_by_its_whole_norm_and_forgotten():
    model = make_model()
    optimizer = make_optimizer(model, clip=0.5)
    push(model, 0)
    expected = math.sqrt(sum(float((value.grad.double() ** 2).sum()) for value in model.parameters()))
    seen = {}
    original = optimizer._parts[0].step
    optimizer._parts[0].step = lambda: (
        seen.update(norm=math.sqrt(sum(float((value.grad.double() ** 2).sum()) for value in model.parameters()))),
        original(),
    )
    assert optimizer.step(0) == pytest.approx(expected, rel=1e-4)
    assert seen["norm"] == pytest.approx(0.5, rel=1e-4)
    assert all(value.grad is None for value in model.parameters())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_moves_nothing(bad):
    model = make_model()
    optimizer = make_optimizer(model)
    push(model, 0)
    optimizer.step(0)
    before = [value.detach().clone() for value in model.parameters()]
    push(model, 1)
    next(model.parameters()).grad[0, 0] = bad
    assert not math.isfinite(optimizer.step(1))
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), before, strict=True))
    assert all(value.grad is None for value in model.parameters())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_stored_state_goes_on_bit_for_bit(name, tmp_path):
    """Steps, weights and state into files, a new optimiser from them, and on: as if it had never stopped."""
    settings = {"name": name, "schedule": "cosine", "weight_decay": 0.1}
    model = make_model()
    optimizer = make_optimizer(model, **settings)
    for step in range(3):
        push(model, step)
        optimizer.step(step)
    save_file({key: value.contiguous() for key, value in optimizer.state().items()}, tmp_path / "state.safetensors")
    other = copy.deepcopy(model)
    resumed = make_optimizer(other, **settings)
    resumed.load(load_file(tmp_path / "state.safetensors"))
    for step in range(3, 6):
        for one, its in ((model, optimizer), (other, resumed)):
            push(one, step)
            its.step(step)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    assert resumed.state().keys() == optimizer.state().keys()
    assert all(torch.equal(value, optimizer.state()[key]) for key, value in resumed.state().items())


def stepped(**settings):
    model = make_model(**settings.pop("model", {}))
    optimizer = make_optimizer(model, **settings)
    push(model, 0)
    optimizer.step(0)
    return optimizer


def test_the_state_of_another_model_is_refused():
    state = stepped().state()
    with pytest.raises(ValueError, match=r"of another model: it has 'model\.layers\.1"):
        make_optimizer(make_model(num_hidden_layers=1)).load(state)
    with pytest.raises(ValueError, match="of another model"):
        make_optimizer(make_model(intermediate_size=40)).load(state)


@pytest.mark.parametrize(("one", "other"), [("adamw", "muon"), ("muon", "adamw")])
def test_the_state_of_another_optimiser_is_refused(one, other):
    with pytest.raises(ValueError, match="another"):
        make_optimizer(make_model(), name=other).load(stepped(name=one).state())
