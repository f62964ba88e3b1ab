"""What an update is refused or skipped for, and that nothing moves then."""

import math
import re
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from tiny import copy_weights, make_model, sampled
from updates import VOCAB, make_learner, on_policy, ragged, unmoved

from grpo_agents.learner.batch import make_batch
from grpo_agents.methods.grpo import Grpo
from grpo_agents.methods.gspo import Gspo
from grpo_agents.methods.ppo import Ppo
from grpo_agents.methods.sft import Sft
from grpo_agents.support import Support

eight_bit = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


def nan_in(batch, row=2):
    """A batch of which a log-probability of one row's tokens under π_old is not a number, as the method reads it."""
    batch.rows[row].old = np.full_like(batch.rows[row].old, np.nan)
    return batch


@pytest.mark.parametrize("optimizer", ["adamw", "muon", pytest.param("adamw8bit", marks=eight_bit)])
@pytest.mark.parametrize(("method", "max_tokens"), [(Grpo(), 4000), (Grpo(), 40), (Ppo(), 40)],
                         ids=["grpo", "micro-batches", "ppo"])  # fmt: skip
def test_an_update_of_a_loss_that_is_not_finite_is_not_made(method, max_tokens, optimizer):
    """It names the one trajectory, moves neither weights nor moments nor the critic, and is a step of the schedule."""
    settings = {"max_tokens": max_tokens, "optimizer": optimizer, "lr": 0.01}
    learner, other = (make_learner(make_model(), method, **settings) for _ in range(2))
    for one in (learner, other):
        one.learn(make_batch(ragged()), version=0, progress=0.0)
    before, state = weights_of(learner), {key: value.clone() for key, value in learner.optimizer.state().items()}
    bad = make_batch(ragged())
    learner.prepare(bad)
    figures = learner.update(nan_in(bad), 0.0)
    assert figures["skipped/non_finite"] == 1.0
    assert np.isnan(figures["loss"])
    assert learner.not_finite == "trajectory 0.2: π/π_old is not finite"
    assert all(torch.equal(value, before[name]) for name, value in learner.optimizer.named.items())
    assert all(torch.equal(state[key], value) for key, value in learner.optimizer.state().items())
    other.updates += 1
    for one in (learner, other):  # and the next one is as if it had not been
        assert not any("skipped" in name for name in one.learn(make_batch(ragged(1)), version=2, progress=0.0))
        assert one.not_finite == ""
        assert one.updates == 3
    assert all(torch.equal(value, learner.optimizer.named[name]) for name, value in weights_of(other).items())


def weights_of(learner):
    """All that is trained, the critic included."""
    return {name: value.detach().clone() for name, value in learner.optimizer.named.items()}


def test_every_update_on_a_batch_that_is_not_made_is_counted():
    learner = make_learner(make_model(), updates=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Grpo, "loss", lambda self, tokens: tokens.logprobs.sum() * math.nan)
        figures = learner.learn(make_batch(ragged()), version=0, progress=0.0)
    assert (figures["skipped/non_finite"], learner.updates) == (3.0, 3)
    said = r"the loss of a micro-batch of 6 trajectories, 0\.\d among them, is not finite"
    assert re.fullmatch(said, learner.not_finite)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["log π as the engine gave it", "its advantage"])
def test_what_is_given_and_is_not_finite_is_named_before_anything_moves(what, value):
    model, trajectories = make_model(), ragged()
    sample = trajectories[4].samples[0]
    if what == "its advantage":
        trajectories[4].advantage = value
    else:
        sample.logprobs[np.flatnonzero(sample.mask)[-1]] = value
    learner, before = make_learner(model, updates=2), copy_weights(model)
    assert learner.learn(make_batch(trajectories), version=0, progress=0.0) == {"skipped/non_finite": 2.0}
    assert learner.not_finite == f"trajectory 0.4: {what} is not finite"
    assert unmoved(learner, before)
    assert learner.updates == 2
    if what != "its advantage":
        with pytest.raises(FloatingPointError, match=r"trajectory 0\.4: log π as the engine gave it is not finite"):
            learner.score(make_batch(trajectories).rows)


def test_an_update_whose_ratio_exploded_is_not_made():
    """The first one on the batch is; and a method that does not weigh by the ratio makes both."""
    batch = make_batch(on_policy(make_model(), ragged()))
    found = {}
    for name, bound, method in (("all", math.inf, Grpo()), ("first", 0.5, Grpo()), ("one", math.inf, Grpo()),
                                ("sft", 0.5, Sft())):  # fmt: skip
        learner = make_learner(make_model(), method, lr=0.1, updates=1 if name == "one" else 2)
        learner.largest_kl_old = bound
        found[name] = learner.learn(batch, version=0, progress=0.0), copy_weights(learner.model)
    figures, weights = found["first"]
    rows = batch.rows
    assert figures["skipped/ratio"] == 1.0
    assert figures["kl_old"] == found["all"][0]["kl_old"] > 0.5
    assert not any("skipped" in name for other in ("all", "one", "sft") for name in found[other][0])
    assert "kl_old" not in found["sft"][0]
    assert all(torch.equal(value, found["one"][1][name]) for name, value in weights.items())
    assert any(not torch.equal(value, found["all"][1][name]) for name, value in weights.items())
    learner = make_learner(make_model(), lr=0.1)
    learner.learn(batch, version=0, progress=0.0)
    ratios = np.concatenate([values - row.old for row, values in learner.score(rows)])
    assert figures["kl_old"] == pytest.approx(float((np.exp(ratios) - 1 - ratios).mean()), rel=1e-3)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_where_nothing_has_a_gradient_moments_move_no_weights(weight_decay):
    """Neither where no trajectory takes part, nor where all are tied, nor where a KL term's gradient is just 0."""
    tied = ragged(advantages=[0.0] * 6)
    for method, trajectories, computed in (
        (Grpo(), ragged(advantages=[None] * 6), False),
        (Grpo(), tied, True),
        (Grpo(kl_weight=0.1), tied, True),
    ):
        learner = make_learner(make_model(), method, updates=2)
        for part in learner.optimizer._parts:
            for group in part.param_groups:
                group["weight_decay"] = weight_decay
        learner.learn(make_batch(ragged()), version=0, progress=0.0)
        if learner.reference is not None:
            learner.reference.load_state_dict(learner.model.state_dict())
        before, state = copy_weights(learner.model), learner.optimizer.state()
        figures = learner.learn(make_batch(trajectories), version=1, progress=0.0)
        assert figures["skipped/no_gradient"] == 2.0
        assert ("grad_norm" in figures) == computed
        assert all(torch.equal(before[name], value) for name, value in learner.model.named_parameters())
        assert all(torch.equal(state[key], value) for key, value in learner.optimizer.state().items())
        assert learner.updates == 4


@pytest.mark.parametrize("old", ["engine", "recompute"])
@pytest.mark.parametrize("method", [Grpo(), Grpo(kl_weight=0.1), Gspo()], ids=["grpo", "reference", "gspo"])
def test_rows_that_do_not_fit_are_refused_before_anything_moves(old, method):
    """Also where others, which do fit, come before."""
    trajectories = ragged()
    rng = np.random.default_rng(1)
    trajectories.insert(3, sampled(rng, VOCAB, 30, [(20, 0)], advantage=1.0))
    learner = make_learner(make_model(), method, old_logprobs=old, max_tokens=40)
    before = copy_weights(learner.model)
    with pytest.raises(ValueError, match=r"^trajectory \d\.\d comes to \d+ tokens, more than learner\.max_tokens = 40"):
        learner.learn(make_batch(trajectories), version=0, progress=0.0)
    assert unmoved(learner, before)
    learner.config = learner.config.model_copy(update={"max_tokens": 50})
    learner.learn(make_batch(trajectories), version=1, progress=0.0)
    assert not unmoved(learner, before)


@pytest.mark.parametrize("wrong", [VOCAB, 150_000, -1])
@pytest.mark.parametrize("where", ["sampled", "told", "support"])
def test_a_token_that_the_model_does_not_have_is_named_before_anything_moves(wrong, where):
    trajectories = ragged()
    trajectories[2].group = 5
    (sample,) = trajectories[2].samples
    if where == "support":
        ids = np.concatenate([sample.ids[sample.mask], [wrong]]).astype(np.int32)
        counts = sample.mask.astype(np.int32)
        counts[np.flatnonzero(sample.mask)[-1]] = 2
        sample.support = Support(ids, counts)
    else:
        sample.ids[np.flatnonzero(sample.mask == (where == "sampled"))[0]] = wrong
    learner = make_learner(make_model())
    before, batch = copy_weights(learner.model), make_batch(trajectories)
    message = rf"trajectory 5\.2: it has the token {wrong}, and the model's vocabulary is of {VOCAB}\."
    with pytest.raises(ValueError, match=message):
        learner.learn(batch, version=0, progress=0.0)
    with pytest.raises(ValueError, match=message):
        learner.score(batch.rows)
    assert unmoved(learner, before)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("what", "method"), [("log π_old", Grpo()), ("log π_ref", Grpo(kl_weight=0.1)),
                                              ("a value of the critic", Ppo())])  # fmt: skip
def test_what_the_learner_computes_and_is_not_finite_is_named_before_anything_moves(what, method, value):
    """Of one trajectory among others: a token's row of the table is broken, or the critic."""
    model = make_model(tie_word_embeddings=False)
    trajectories = ragged()
    for trajectory in trajectories:
        trajectory.samples[0].ids[trajectory.samples[0].ids == 7] = 8
    trajectories[4].samples[0].ids[0] = 7
    recompute = what == "log π_old"
    learner = make_learner(model, method, old_logprobs="recompute" if recompute else "engine")
    with torch.no_grad():
        if what == "a value of the critic":
            next(learner.critic.parameters()).view(-1)[0] = value
        else:
            (model if recompute else learner.reference).get_input_embeddings().weight[7, 0] = value
    before = copy_weights(model)
    name = r"0\.\d" if what == "a value of the critic" else r"0\.4"
    assert learner.learn(make_batch(trajectories), version=0, progress=0.0) == {"skipped/non_finite": 1.0}
    assert re.fullmatch(rf"trajectory {name}: {what}(, as the learner computes it,)? is not finite", learner.not_finite)
    assert unmoved(learner, before)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("method", [Grpo(), Gspo(), Sft()], ids=["grpo", "gspo", "sft"])
def test_a_weight_that_is_not_a_number_moves_no_other(method, optimizer):
    model = make_model()
    learner = make_learner(model, method, optimizer=optimizer)
    batch = make_batch(ragged())
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = float("nan")
    before = copy_weights(model)
    for _ in range(3):
        assert learner.learn(batch, version=0, progress=0.0)["skipped/non_finite"] == 1.0
        assert re.fullmatch(r"trajectory 0\.\d: log π is not finite; 5 more in this batch", learner.not_finite)
    assert unmoved(learner, before)
