"""What tests of the learner share."""

import copy

import numpy as np
import pytest
import torch
from tiny import copy_weights, full_logprobs, sampled

from grpo_agents.learner.learner import Learner
from grpo_agents.learner.settings import LearnerConfig, OptimizerConfig
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.sft import Sft

VOCAB = 97


def make_learner(
    model, method=None, *, temperature=1.0, lr=0.1, optimizer="adamw", steps=10, source="policy", **settings
):
    config = LearnerConfig(optimizer=OptimizerConfig(name=optimizer, lr=lr, clip=100.0), **settings)
    return Learner(model, config, method or Grpo(), source=source, steps=steps, temperature=temperature)


def ragged(seed=0, count=6, advantages=None):
    """Trajectories of different lengths and turns."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        turns = [(int(rng.integers(1, 5)), int(rng.integers(1, 4))) for _ in range(rng.integers(1, 4))]
        advantage = float(rng.normal()) if advantages is None else advantages[number]
        found.append(sampled(rng, VOCAB, int(rng.integers(1, 7)), turns, advantage=advantage, index=number))
    return found


class Gradient(Exception):
    pass


def gradients(learner, batch, progress=0.0):
    """The gradient of one update, which is not made, by parameter."""
    found = {}

    def catch(_, **settings):
        found.update({name: value.grad.clone() for name, value in learner.optimizer.named.items()})
        raise Gradient

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner.optimizer, "step", catch)
        with pytest.raises(Gradient):
            learner.update(batch, progress)
    for value in learner.optimizer.named.values():
        value.grad = None
    return found


def on_policy(model, trajectories, temperature=1.0):
    """Writes what an engine would have returned: the model's own log-probabilities."""
    for trajectory in trajectories:
        for sample in trajectory.samples:
            values = np.concatenate([[0.0], full_logprobs(model, sample.ids, temperature)])
            sample.logprobs[:] = np.where(sample.mask, values, 0.0)
    return trajectories


def reference_gradient(model, method, trajectories, temperature):
    """The same in float64 from whole logits, trajectory by trajectory: GRPO without the clip (ρ = 1) or SFT."""
    model = copy.deepcopy(model).double()
    count = sum(trajectory.sampled_tokens for trajectory in trajectories)
    total = torch.zeros((), dtype=torch.float64)
    for trajectory in trajectories:
        for sample in trajectory.samples:
            ids = torch.tensor(sample.ids[None].astype(np.int64))
            logits = model(input_ids=ids, use_cache=False).logits[0] / temperature
            every = torch.log_softmax(logits[:-1], -1).gather(-1, ids[0, 1:, None])[:, 0]
            said = every[torch.tensor(sample.mask[1:])]
            if isinstance(method, Sft):
                total = total - trajectory.advantage * said.sum() / count
            else:
                share = trajectory.sampled_tokens * len(trajectories) if method.aggregation == "sequence" else count
                total = total - trajectory.advantage * (said - said.detach()).exp().sum() / share
    total.backward()
    return {name: value.grad for name, value in model.named_parameters()}


def unmoved(learner, before):
    """Whether weights are, to the bit, those of before, and the optimiser has not begun."""
    same = all(
        torch.equal(before[name].view(torch.int32), value.view(torch.int32))
        for name, value in copy_weights(learner.model).items()
    )
    return same and not learner.optimizer.state()
