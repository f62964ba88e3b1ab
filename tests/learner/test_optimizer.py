import copy
import math
import sys
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_model

from grpo_agents.learner.optimizer import Optimizer
from grpo_agents.learner.settings import OptimizerConfig

eight_bit = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


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
        fused=True,
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


@eight_bit
def test_moments_of_8_bits_lead_where_those_of_32_do():
    """On a quadratic: to the same place, though each moment is one of 256 codes."""
    torch.manual_seed(0)
    target = torch.rand(80, 80)
    ends = {}
    for name in ("adamw", "adamw8bit"):
        weight, bias = torch.nn.Parameter(torch.zeros(80, 80)), torch.nn.Parameter(torch.zeros(80))
        config = OptimizerConfig(name=name, lr=0.05, schedule="cosine", clip=1e9)
        optimizer = Optimizer([("weight", weight), ("bias", bias)], config, 200)
        for step in range(200):
            (((weight - target) ** 2).sum() + ((bias - target[0]) ** 2).sum()).backward()
            optimizer.step(step)
        ends[name] = [(weight - target).detach().abs().max(), (bias - target[0]).detach().abs().max()]
    assert all(max(left) < 0.02 for left in ends.values()), ends
    kept = {key: (value.dtype, tuple(value.shape)) for key, value in optimizer.state().items()}
    assert kept["weight|state1"] == kept["weight|state2"] == (torch.uint8, (80, 80))
    assert kept["weight|absmax1"] == kept["weight|absmax2"] == (torch.float32, (25,))
    assert kept["bias|state1"] == kept["bias|state2"] == (torch.float32, (80,))


@eight_bit
def test_the_first_steps_in_8_bits_are_adamws_with_decay_on_matrices_alone():
    """Of the first gradient each block's largest moments are exact; the others as near as a code is."""
    moved = {}
    for name in ("adamw", "adamw8bit"):
        model = make_model(vocab=150)
        optimizer = make_optimizer(model, name=name, weight_decay=0.3, betas=(0.8, 0.9))
        for step in range(2):
            push(model, step)
            optimizer.step(step)
        moved[name] = dict(model.named_parameters())
    start = dict(make_model(vocab=150).named_parameters())
    for name, value in moved["adamw"].items():
        change, other = value - start[name], moved["adamw8bit"][name] - start[name]
        assert (change - other).abs().mean() < 0.03 * change.abs().mean(), name


def test_bitsandbytes_is_said_to_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim.adamw", None)
    with pytest.raises(ValueError, match=r"learner\.optimizer\.name .*pip install 'grpo-agents\[eightbit\]'"):
        make_optimizer(make_model(), name="adamw8bit")
    make_optimizer(make_model())


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


@pytest.mark.parametrize("name", ["adamw", "muon", pytest.param("adamw8bit", marks=eight_bit)])
def test_a_stored_state_goes_on_bit_for_bit(name, tmp_path):
    """Steps, weights and state into files, a new optimiser from them, and on: as if it had never stopped."""
    settings = {"name": name, "schedule": "cosine", "weight_decay": 0.1}
    model = make_model(vocab=150)  # 4,800 weights of the table: enough for moments in 8 bits
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


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("adamw", "muon"),
        ("muon", "adamw"),
        pytest.param("adamw", "adamw8bit", marks=eight_bit),
        pytest.param("adamw8bit", "adamw", marks=eight_bit),
    ],
)
def test_the_state_of_another_optimiser_is_refused(one, other):
    with pytest.raises(ValueError, match="another"):
        make_optimizer(make_model(), name=other).load(stepped(name=one).state())
