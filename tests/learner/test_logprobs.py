import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from grpo_agents.learner import logprobs as module
from grpo_agents.learner.logprobs import token_logprobs
from grpo_agents.support import Support


def parts(tokens=23, size=8, vocab=50, bias=False):
    torch.manual_seed(0)
    hidden = torch.randn(tokens, size)
    head = torch.nn.Linear(size, vocab, bias=bias)
    return hidden, head, torch.randint(vocab, (tokens,))


def plainly(hidden, head, targets, temperature, supports=None):
    """Log π and entropy from whole logits, in float64; token by token over its support, where there are some."""
    bias = None if head.bias is None else head.bias.double()
    logits = torch.nn.functional.linear(hidden.double(), head.weight.double(), bias) / temperature
    values, entropies = [], []
    for row, target, kept in zip(logits, targets.tolist(), supports or [[]] * len(targets), strict=True):
        kept = kept or list(range(len(row)))
        every = torch.log_softmax(row[kept], -1)
        values.append(every[kept.index(target)])
        entropies.append(-(every.exp() * every).sum())
    return torch.stack(values), torch.stack(entropies)


def supports_of(targets, vocab, kind):
    """Ids that hold each target: of many lengths, all of the same, all of the vocabulary, or some not cut at all."""
    rng = np.random.default_rng(0)
    lengths = {
        "ragged": rng.integers(1, 9, len(targets)),
        "some whole": rng.integers(0, 9, len(targets)),
        "full": np.full(len(targets), vocab),
    }[kind]
    found = []
    for target, length in zip(targets.tolist(), lengths, strict=True):
        others = rng.permutation([token for token in range(vocab) if token != target])
        found.append(rng.permutation([target, *others[: length - 1]]).tolist() if length else [])
    ids = np.array([token for kept in found for token in kept], np.int32)
    return found, Support(ids, lengths.astype(np.int32))


@pytest.fixture(params=[1 << 25, 50 * 7, 1], ids=["one chunk", "chunks of 7", "chunks of 1"])
def chunk(request, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_LOGITS", request.param)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [None, "ragged", "some whole", "full"])
def test_values_and_gradients_are_those_of_whole_logits(temperature, bias, kind):
    """And, where they are cut, of the softmax renormalised over the support (DeepSeek-V3.2, keep sampling mask)."""
    hidden, head, targets = parts(bias=bias)
    weights = torch.randn(2, len(targets))
    supports, support = (None, None) if kind is None else supports_of(targets, 50, kind)
    results = []
    for function, kept, kind in ((token_logprobs, support, torch.float32), (plainly, supports, torch.float64)):
        own = hidden.clone().requires_grad_(True)
        head.zero_grad()
        settings = {"entropy_gradient": True} if function is token_logprobs else {}
        values, entropies = function(own, head, targets, temperature, kept, **settings)
        assert values.dtype == entropies.dtype == kind
        (values @ weights[0].to(kind) + entropies @ weights[1].to(kind)).backward()
        results.append((values, entropies, own.grad, *(entry.grad.clone() for entry in head.parameters())))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found.double(), expected.double(), rtol=1e-4, atol=2e-6)


@pytest.mark.usefixtures("chunk")
def test_the_entropy_has_no_gradient_unless_asked_for():
    hidden, head, targets = parts()
    hidden.requires_grad_(True)
    values, entropies = token_logprobs(hidden, head, targets)
    assert not entropies.requires_grad
    values.sum().backward()
    every = torch.log_softmax(hidden @ head.weight.T, -1)
    torch.testing.assert_close(entropies, -(every.exp() * every).sum(-1).detach())


@pytest.mark.usefixtures("chunk")
def test_without_gradients_the_values_are_the_same():
    hidden, head, targets = parts()
    with torch.no_grad():
        values, entropies = token_logprobs(hidden, head, targets, 0.7)
    expected = plainly(hidden, head, targets, 0.7)
    torch.testing.assert_close(values.double(), expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(entropies.double(), expected[1], rtol=1e-5, atol=1e-6)
    assert not values.requires_grad


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that any operation made."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        made = [value for value in tree_leaves(found) if isinstance(value, torch.Tensor)]
        self.numbers = max([self.numbers, *(value.numel() for value in made)])
        return found


@pytest.mark.parametrize("kind", [None, "ragged", "some whole"])
def test_never_more_logits_at_once_than_a_chunk(kind, monkeypatch):
    """However many tokens there are, no tensor is larger than a chunk, the hidden states or the output layer."""
    monkeypatch.setattr(module, "CHUNK_LOGITS", 50 * 16)
    hidden, head, targets = parts(tokens=90)
    support = None if kind is None else supports_of(targets, 50, kind)[1]
    with Largest() as largest:
        values, entropies = token_logprobs(
            hidden.requires_grad_(True), head, targets, 0.7, support, entropy_gradient=True
        )
        (values.sum() + entropies.sum()).backward()
    assert largest.numbers == max(50 * 16, hidden.numel(), head.weight.numel())


def test_no_tokens_at_all():
    hidden, head, targets = parts(tokens=0)
    values, entropies = token_logprobs(hidden, head, targets)
    assert values.shape == entropies.shape == (0,)


def test_a_certain_token_and_an_impossible_one():
    """Logits of ±200: no overflow, no NaN."""
    head = torch.nn.Linear(2, 2, bias=False)
    head.weight.data = torch.tensor([[200.0, 0.0], [-200.0, 0.0]])
    hidden = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    values, entropies = token_logprobs(hidden, head, torch.tensor([0, 1]), entropy_gradient=True)
    assert values.tolist() == [0.0, -400.0]
    assert entropies.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    (values.sum() + entropies.sum()).backward()
    assert torch.isfinite(hidden.grad).all()


@pytest.mark.usefixtures("chunk")
def test_what_alone_could_be_sampled_is_certain_and_has_no_gradient():
    hidden, head, targets = parts()
    hidden.requires_grad_(True)
    alone = Support(targets.int().numpy(), np.ones(len(targets), np.int32))
    values, entropies = token_logprobs(hidden, head, targets, 0.7, alone, entropy_gradient=True)
    assert not values.any()
    assert not entropies.any()
    (values.sum() + entropies.sum()).backward()
    assert not hidden.grad.any()
