"""Through a model: the environment's tokens carry no loss, whatever rows and micro-batches a trajectory comes in."""

import copy

import numpy as np
import pytest
import torch
from ragged import make_tokens
from tiny import make_model, sampled

from grpo_agents.learner.batch import make_batch
from grpo_agents.learner.learner import Learner
from grpo_agents.learner.settings import LearnerConfig
from grpo_agents.methods import coefficients, make_method
from grpo_agents.trajectory import Step, Trajectory

VOCAB = 97


def forked(rng, **fields):
    """A trajectory of two samples of two turns each; the turns of the first have an advantage of 0 in all."""
    one, two = (sampled(rng, VOCAB, 4, [(3, 2), (2, 1)]) for _ in range(2))
    steps = [Step({}, sample=number, span=span, advantage=value)
             for number, value in ((0, -fields["advantage"]), (1, 0.4)) for span in ((4, 7), (9, 11))]  # fmt: skip
    for sample in (one.samples[0], two.samples[0]):
        sample.logprobs[sample.mask] = np.log(1 / VOCAB) + rng.normal(0, 0.3, sample.mask.sum())
    return Trajectory(samples=[*one.samples, *two.samples], steps=steps, **fields)


def expected_gradient(model, method, trajectories):
    """−Σ coefficient · ∇ log π in float64, from whole logits and the mask alone."""
    model = copy.deepcopy(model).double()
    said, old, advantages, whose = [], [], [], []
    for number, trajectory in enumerate(trajectories):
        for index, sample in enumerate(trajectory.samples):
            ids = torch.tensor(sample.ids[None].astype(np.int64))
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            every = torch.log_softmax(logits, -1).gather(-1, ids[0, 1:, None])[:, 0]
            said.append(every[torch.tensor(sample.mask[1:])])
            old += sample.logprobs[sample.mask].tolist()
            turns = [step for step in trajectory.steps if step.sample == index]
            advantages += [trajectory.advantage + step.advantage for step in turns for _ in range(*step.span)]
            whose += [number] * int(sample.mask.sum())
    logprobs = torch.cat(said)
    tokens = make_tokens([int(n) for n in np.bincount(whose)])
    tokens.logprobs, tokens.old, tokens.advantages = (
        logprobs.detach(),
        torch.tensor(old).double(),
        torch.tensor(advantages),
    )
    tokens.sampler = tokens.old
    (-(coefficients(method, tokens) * logprobs).sum()).backward()
    return {name: value.grad for name, value in model.named_parameters()}


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "grpo"},
        {"name": "dr_grpo", "max_length": 30},
        {"name": "cispo"},
        {"name": "sapo"},
        {"name": "gspo", "clip_low": 0.5, "clip_high": 0.9},
        {"name": "grpo", "off_policy_mask": 0.05},
    ],
    ids=lambda settings: "_".join([settings["name"], *list(settings)[1:2]]),
)
@pytest.mark.parametrize("max_tokens", [24, 400])
def test_the_gradient_is_that_of_sampled_tokens(settings, max_tokens):
    model, rng = make_model(scale=0.2), np.random.default_rng(0)
    method = make_method(settings)
    trajectories = [forked(rng, advantage=value, index=index) for index, value in enumerate((1.0, -0.7, 0.3, -1.2))]
    learner = Learner(model, LearnerConfig(max_tokens=max_tokens), method, steps=1)
    found = {}

    def catch(_, **settings):
        found.update({name: value.grad.clone() for name, value in model.named_parameters()})
        return 0.0

    learner.optimizer.step = catch
    learner.update(make_batch(trajectories), 0.0)
    for name, value in expected_gradient(model, method, trajectories).items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-3, atol=1e-7 + 1e-4 * value.abs().max().item())
