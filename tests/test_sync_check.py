"""An engine that samples from another policy is found out before anything is learned from it."""

import copy
import threading

import numpy as np
import pytest
import torch
from apart import Behind, Frozen, Hotter, Raw, Silent, sample_apart
from tiny import full_logprobs, make_model

from grpo_agents.chat import Chat
from grpo_agents.engines import EngineFailure
from grpo_agents.engines.settings import CheckConfig
from grpo_agents.engines.transformers import TransformersEngine
from grpo_agents.learner.learner import Learner
from grpo_agents.learner.settings import LearnerConfig
from grpo_agents.methods.grpo import Grpo
from grpo_agents.sync_check import QUESTIONS, TOKENS, SyncCheck
from grpo_agents.trainer import Trainer, resume, train
from runs import grpo, rows_of, sft


@pytest.fixture
def check(tokenizer):
    """Makes a check of an engine of some kind, on a copy of the learner's model."""

    def make(kind=TransformersEngine, *, temperature=1.0, seconds=60.0, same=True, **settings):
        model = make_model(vocab=len(tokenizer))
        chat = Chat(tokenizer)
        engine = kind(copy.deepcopy(model) if same else make_model(vocab=len(tokenizer), seed=9), chat.pad_id)
        learner = Learner(model, LearnerConfig(), Grpo(), steps=1, temperature=temperature)
        return SyncCheck(engine, learner, chat, CheckConfig(**settings), seconds=seconds, seed=0)

    return make


def move(check, by):
    with torch.no_grad():
        for parameter in check.learner.model.parameters():
            parameter += by * torch.randn_like(parameter)
    return dict(check.learner.model.named_parameters())


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_equal_weights_agree_to_rounding(check, temperature):
    mine = check(temperature=temperature)
    figures = mine.probe(0)
    assert 0 <= figures["sync/mean_difference"] <= figures["sync/max_difference"] < 1e-5
    mine.engine.update_weights(move(mine, 0.1), 1)
    assert mine.probe(1)["sync/max_difference"] < 1e-5


def test_what_is_compared_is_what_was_sampled(check):
    """Against whole logits in float64, of an engine with other weights."""
    mine, said = check(same=False, tolerance=1e9, mismatch=1e9), []
    submit = mine.engine.submit

    def overheard(requests, sampling, deliver):
        prompts = [list(request.ids) for request in requests]
        submit(requests, sampling, lambda c: (said.append((prompts[c.session], c)), deliver(c)))

    mine.engine.submit = overheard
    figures = mine.probe(0)
    assert len(said) == len(QUESTIONS)
    assert all(1 <= completion.tokens <= TOKENS for _, completion in said)
    differences = np.concatenate(
        [
            np.abs(full_logprobs(mine.learner.model, prompt + c.ids)[len(prompt) - 1 :] - c.logprobs)
            for prompt, c in said
        ]
    )
    assert figures["sync/max_difference"] == pytest.approx(differences.max(), rel=1e-4)
    assert figures["sync/mean_difference"] == pytest.approx(differences.mean(), rel=1e-4)
    assert not mine.engine._blocks  # it keeps nothing of it


@pytest.mark.parametrize(("kind", "temperature"), [(Hotter, 1.0), (Hotter, 0.5), (Raw, 0.6)])
def test_another_temperature_is_found(check, kind, temperature):
    with pytest.raises(ValueError, match=r"differ from the learner's by up to .* 0\.001 \(engine\.check\.tol.*\n.*"
                       rf"another temperature than {temperature:g}.*processed_logprobs"):  # fmt: skip
        check(kind, temperature=temperature).probe(0)


def test_other_weights_are_found_at_the_start(check):
    with pytest.raises(
        ValueError, match=r"differ from the learner's(?s:.)*did not arrive(?s:.)*Checkpoints are intact: "
    ):
        check(same=False).probe(0)


def test_weights_of_which_a_part_arrives_are_found_later(check):
    mine = check()
    mine.probe(0)
    moved = move(mine, 0.1)
    mine.engine.update_weights(dict(list(moved.items())[1:]), 50)
    with pytest.raises(ValueError, match=r"differ from the learner's(?s:.)*up to step 0, where a probe was good"):
        mine.probe(50)


def test_weights_that_stay_behind_are_found_though_they_moved_less_than_is_tolerated(check):
    """In bfloat16 the tolerance is wide and a learning rate of 1e-6 moves little: equal bits give it away."""
    mine = check(Frozen, tolerance=0.5)
    mine.probe(0)
    mine.engine.update_weights(move(mine, 0.0), 1)
    mine.probe(1)  # nothing was learned between them
    mine.engine.update_weights(move(mine, 1e-3), 2)
    with pytest.raises(ValueError, match=r"bit for bit those of version 1, while the learner's moved by up to 0\.0"):
        mine.probe(2)


def test_where_single_tokens_are_rounded_the_mean_counts(check):
    """As in bfloat16."""
    with pytest.raises(ValueError, match=r"on average, and at most 50 \(engine\.check\.tolerance\) and 0\.1 "):
        check(Hotter, tolerance=50).probe(0)


def test_an_old_version_is_found(check):
    mine = check(Behind)
    mine.engine.update_weights(move(mine, 0.0), 4)
    with pytest.raises(ValueError, match=r"version 4 of the weights was handed to it, and it samples with version 3"):
        mine.probe(4)


def test_log_probabilities_that_are_no_numbers_are_refused(check):
    mine = check()
    with torch.no_grad():
        next(mine.learner.model.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="differ from the learner's by up to nan"):
        mine.probe(0)


def test_an_engine_that_does_not_deliver_has_a_deadline(check):
    mine = check(Silent, seconds=0.3)
    with pytest.raises(EngineFailure, match=r"delivered 3 of the 4 completions of a probe in 0\.3 s"):
        mine.probe(0)
    assert not mine.engine._blocks  # they are released


def test_an_engine_that_delivers_late_and_in_any_order_is_waited_for(check):
    mine, at_once = check(), check().probe(0)
    submit = mine.engine.submit

    def late(requests, sampling, deliver):
        completions = []
        submit(requests, sampling, completions.append)
        for place, completion in enumerate(reversed(completions)):
            threading.Timer(0.1 * place, deliver, [completion]).start()

    mine.engine.submit = late
    assert mine.probe(0) == at_once


def test_what_an_engine_failed_of_is_raised(check):
    mine = check()
    mine.engine.submit = lambda requests, sampling, deliver: deliver(EngineFailure("out of memory"))
    with pytest.raises(EngineFailure, match="out of memory"):
        mine.probe(0)


# In a run


def probes(folder):
    return [row["step"] for row in rows_of(folder) if "sync/max_difference" in row]


def test_a_run_probes_at_the_start_every_so_often_and_before_evaluations(warm, start, tmp_path, monkeypatch):
    settings = {"train.steps": 5, "eval.tasks": 1}
    folder = train(grpo(tmp_path / "grpo", warm, **settings, **{"engine.check.every": 2, "eval.every": 3}))
    assert probes(folder) == [0, 2, 3, 4, 5]
    folder = train(sft(tmp_path / "sft", start, **settings, **{"engine.check.every": 2, "eval.every": 3}))
    assert probes(folder) == [0, 3, 5]  # it samples nothing else


def test_a_run_that_goes_on_is_probed_before_it_samples(warm, tmp_path, monkeypatch):
    config = grpo(tmp_path / "run", warm, **{"eval.every": 99, "eval.tasks": 1, "train.steps": 3})
    folder = train(config)
    (folder / "checkpoints" / "step-000003" / "manifest.json").unlink()
    sample_apart(monkeypatch, Frozen)  # it loaded the model that the run began with
    with pytest.raises(ValueError, match="version 2 of the weights differ"):
        resume(folder)
    assert probes(folder) == [0]  # an unbroken run has none at step 2


@pytest.mark.parametrize(
    ("kind", "step", "message"),
    [
        (Frozen, 1, r"bit for bit those of version 0.*the weights of version 1 did not arrive"),
        (Behind, 0, r"version 0 of the weights was handed to it, and it samples with version -1"),
        (Hotter, 0, r"with version 0 of the weights differ from the learner's"),
    ],
)
def test_a_run_stops_before_it_learns_from_the_wrong_policy(warm, tmp_path, monkeypatch, kind, step, message):
    sample_apart(monkeypatch, kind)
    config = grpo(tmp_path / "run", warm, **{"engine.check.every": 1, "eval.every": 99, "eval.tasks": 1})
    with pytest.raises(ValueError, match=message):
        train(config)
    assert [row["step"] for row in rows_of(tmp_path / "run") if "lr" in row] == list(range(step))


def test_between_probes_every_batch_is_looked_at(warm, tmp_path, monkeypatch):
    """Old versions by what the turns say, other policies by their log-probabilities."""
    monkeypatch.setattr(SyncCheck, "probe", lambda self, version: {})
    settings = {"eval.every": 99, "eval.tasks": 1}
    sample_apart(monkeypatch, Behind)
    with pytest.raises(
        ValueError, match=r"step 1: version -1 of the weights sampled a turn of trajectory 0\.0, not 0\. "
    ):
        train(grpo(tmp_path / "behind", warm, **settings))
    sample_apart(monkeypatch, Hotter)
    runner = Trainer(grpo(tmp_path / "hotter", warm, **settings, **{"engine.check.mismatch": 0.01}))
    with pytest.raises(ValueError, match=r"engine\.check\.mismatch is 0\.01\. Nothing was learned from it"):
        runner.train()
    assert runner.weights.version == 0
