import pytest
import torch

from grpo_agents.learner.muon import Muon, orthogonalised

SETTINGS = {"lr": 0.05, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
COEFFICIENTS = (3.4445, -4.775, 2.0315)


def parameters(seed=0):
    torch.manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in ((8, 24), (24, 8), (16, 16), (8, 24))]


def test_it_is_torchs_muon_to_the_precision_of_bfloat16():
    ours, theirs = parameters(), parameters()
    optimizers = Muon(ours, **SETTINGS), torch.optim.Muon(theirs, **SETTINGS)
    for step in range(5):
        torch.manual_seed(10 + step)
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        start = [value.detach().clone() for value in ours]
        for optimizer in optimizers:
            optimizer.step()
        for one, other, before in zip(ours, theirs, start, strict=True):
            moved = (one - before).norm()
            assert (one - other).norm() < 0.03 * moved, step
            other.data.copy_(one.data)  # compare every step on its own: bfloat16 would drift


def test_a_parameter_without_a_gradient_stays_where_it_is():
    first, second = parameters()[:2]
    before = second.detach().clone()
    optimizer = Muon([first, second], **SETTINGS)
    first.grad = torch.randn_like(first)
    optimizer.step()
    assert torch.equal(second, before)
    assert second not in optimizer.state


def test_parameters_of_one_shape_do_not_mix():
    alone, together = parameters(), parameters()
    gradients = [torch.randn_like(value) for value in alone]
    for value, gradient in zip([*alone, *together], gradients * 2, strict=True):
        value.grad = gradient.clone()
    for value in alone:
        Muon([value], **SETTINGS).step()
    Muon(together, **SETTINGS).step()
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (9, 9)])
def test_singular_values_come_near_one(shape):
    torch.manual_seed(0)
    matrix = torch.randn(1, *shape)
    found = orthogonalised(matrix, COEFFICIENTS, 5, 1e-7)[0]
    u, _, v = torch.linalg.svd(matrix[0], full_matrices=False)
    assert found.shape == shape
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.3
    along = torch.diagonal(u.T @ found @ v.T)  # the singular vectors stay
    torch.testing.assert_close(along, values.gather(0, along.argsort(descending=True).argsort()), rtol=1e-3, atol=1e-3)


def test_a_gradient_of_zeros_gives_zeros():
    assert torch.equal(orthogonalised(torch.zeros(1, 3, 4), COEFFICIENTS, 5, 1e-7), torch.zeros(1, 3, 4))
