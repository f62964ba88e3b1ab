"""What tests of the learner share."""

import copy

import numpy as np
import pytest
import torch
from tiny import full_logprobs

from grpo_agents.methods.sft import Sft


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
