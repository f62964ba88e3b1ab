import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch
from tiny import full_logprobs, make_tokenizer, plain, save_start
from transformers import AutoModelForCausalLM

from grpo_agents.chat import Chat
from grpo_agents.engines import EngineFailure, Request, Sampling
from grpo_agents.engines.child import ChildEngine
from grpo_agents.engines.transformers import TransformersEngine, draw
from grpo_agents.engines.weights import Weights
from grpo_agents.envs.orchestra import OrchestraEnv
from grpo_agents.learner.model import adapter_config
from grpo_agents.rewards.component import RewardVector
from grpo_agents.rewards.cost import cost, latency
from grpo_agents.rollout import Rollout, RolloutConfig

pytestmark = pytest.mark.vllm
MAKE = "grpo_agents.engines.vllm:VllmEngine"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model that vLLM takes: heads of 32."""
    folder = tmp_path_factory.mktemp("model")
    save_start(folder, head_dim=32, scale=0.3)
    return folder


@pytest.fixture(scope="module")
def engine(folder):
    engine = ChildEngine(MAKE, {"model": str(folder), "dtype": "float32", "cpu_cache_gib": 1}, patience=60.0)
    yield engine
    engine.close()


@pytest.fixture
def model(folder, engine):
    """The learner's model, whose weights the engine has."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    engine.update_weights(Weights(dict(model.named_parameters()), 0))
    return model


def prompts(count, length=20):
    return np.random.default_rng(0).integers(10, 400, (count, length)).tolist()


def requests(count=8, limit=24, length=20):
    return [Request(session, ids, 100 + session, limit) for session, ids in enumerate(prompts(count, length))]


def sample(engine, asked, sampling=None):
    inbox = queue.SimpleQueue()
    engine.submit(asked, sampling or Sampling(), inbox.put)
    done = {}
    while len(done) < len(asked):
        completion = inbox.get(timeout=120)
        if isinstance(completion, EngineFailure):
            raise completion
        done[completion.session] = completion
    return done


def largest_difference(model, asked, done, temperature=1.0):
    return max(
        np.abs(full_logprobs(model, [*request.ids, *said.ids], temperature)[-len(said.ids) :] - said.logprobs).max()
        for request in asked
        for said in [done[request.session]]
    )


def test_greedy_tokens_are_those_of_transformers(engine, model):
    asked = requests()
    ours = sample(engine, asked, Sampling(0.0))
    theirs = sample(TransformersEngine(model, 0), asked, Sampling(0.0))
    assert {session: done.ids for session, done in ours.items()} == {key: done.ids for key, done in theirs.items()}
    for session, done in ours.items():
        assert done.logprobs == pytest.approx(theirs[session].logprobs, abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.5])
def test_log_probs_are_the_learners_own_at_the_temperature(engine, model, temperature):
    asked = requests(16, 40)
    assert largest_difference(model, asked, sample(engine, asked, Sampling(temperature)), temperature) < 1e-5


@pytest.mark.parametrize(
    "sampling",
    [Sampling(0.8, top_k=5), Sampling(1.0, top_p=0.6), Sampling(0.9, 12, 0.7), Sampling(1.0, 1), Sampling(1.5, 9999)],
)
def test_log_probs_are_of_the_support_that_was_sampled_from(engine, model, sampling):
    asked = requests(6, 12)
    for request, said in zip(asked, sample(engine, asked, sampling).values(), strict=True):
        ids = [*request.ids, *said.ids]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, len(request.ids) - 1 : -1].double() / sampling.temperature
        _, _, support = draw(logits.float() * sampling.temperature, sampling, np.full(len(logits), 0.5))
        if support is None:
            assert said.support is None
        else:
            supports = [set(part.ids.tolist()) for part in said.support.split(1)]
            assert supports == [set(kept[kept >= 0].tolist()) for kept in support]
        for row, token, logprob in zip(logits, said.ids, said.logprobs, strict=True):
            ordered, index = row.sort(descending=True)
            kept = ordered[: sampling.top_k or None]
            before = kept.softmax(-1).cumsum(-1) - kept.softmax(-1)
            kept = kept[before < sampling.top_p]
            assert token in index[: len(kept)].tolist()
            assert logprob == pytest.approx(float(row[token] - kept.logsumexp(-1)), abs=1e-5)


def test_a_seed_gives_the_same_tokens_whatever_is_in_the_batch(engine, model):
    asked = requests(12)
    whole = sample(engine, asked)
    assert sample(engine, asked[::-1]) == whole or {
        session: done.ids for session, done in sample(engine, asked[::-1]).items()
    } == {session: done.ids for session, done in whole.items()}
    for request in asked[:3]:
        assert sample(engine, [request])[request.session].ids == whole[request.session].ids
    other = sample(engine, [Request(0, asked[0].ids, 7, 24)])[0]
    assert other.ids != whole[0].ids


def test_the_stop_token_ends_a_turn_and_is_part_of_it(engine, model):
    (request,) = requests(1, 40)
    free = sample(engine, [request])[0]
    stop = free.ids[5]
    done = sample(engine, [request], Sampling(stop_ids=(stop,)))[0]
    assert done.ids == free.ids[: free.ids.index(stop) + 1]
    assert (done.finish_reason, free.finish_reason, len(free.ids)) == ("stop", "length", 40)


def test_the_models_own_end_of_sequence_is_a_token_like_others_unless_it_is_named(engine, model, folder):
    """Which tokens end a turn is the chat's to say."""
    eos = json.loads((folder / "config.json").read_text())["eos_token_id"]
    with torch.no_grad():
        weights = dict(model.named_parameters())
        weights = {name: value.clone() for name, value in weights.items()}
        weights["model.embed_tokens.weight"] *= 0
        weights["model.embed_tokens.weight"][eos] += 1e-3  # a tied output layer: all others are equal, and few are eos
    engine.update_weights(Weights(weights, 1))
    done = sample(engine, requests(4, 200))
    assert {completion.finish_reason for completion in done.values()} == {"length"}
    assert any(eos in completion.ids for completion in done.values())
    stopped = sample(engine, requests(4, 200), Sampling(stop_ids=(eos,)))
    assert any(completion.ids[-1] == eos and completion.finish_reason == "stop" for completion in stopped.values())


def test_nobody_waits_for_the_slowest(engine, model):
    """A short request is done long before a long one, and a second turn joins the batch meanwhile."""
    inbox = queue.SimpleQueue()
    engine.submit([Request(0, [5] * 10, 1, 230), Request(1, [6] * 10, 2, 4)], Sampling(), inbox.put)
    short = inbox.get(timeout=60)
    engine.submit([Request(1, [6] * 10 + short.ids + [9], 3, 4)], Sampling(), inbox.put)
    assert [short.session, inbox.get(timeout=60).session, inbox.get(timeout=60).session] == [1, 1, 0]


def test_scores_are_the_models_own(engine, model):
    given = [*prompts(3), [5]]
    for ids, scores in zip(given, engine.score(given), strict=True):
        assert scores.dtype == np.float32
        assert scores[0] == 0
        assert scores[1:] == pytest.approx(full_logprobs(model, ids), abs=1e-5)


def test_two_hundred_updates_and_no_stale_token(engine, model):
    """The same prompts each time: a prefix cache that outlived an update would show at once."""
    asked = requests(4, 6, length=40)
    generator = torch.Generator().manual_seed(0)
    for version in range(1, 201):
        with torch.no_grad():
            for value in model.parameters():
                value += 0.002 * torch.randn(value.shape, generator=generator)
        engine.update_weights(Weights(dict(model.named_parameters()), version))
        done = sample(engine, asked)
        assert {completion.version for completion in done.values()} == {version}
        assert largest_difference(model, asked, done) < 1e-5


def test_requests_under_way_keep_the_weights_as_they_are(engine, model):
    inbox = queue.SimpleQueue()
    engine.submit([Request(0, [5] * 10, 1, 240)], Sampling(), inbox.put)
    with pytest.raises(ValueError, match="1 requests are under way; release them before new weights"):
        engine.update_weights(Weights(dict(model.named_parameters()), 9))
    engine.release([0])
    engine.update_weights(Weights(dict(model.named_parameters()), 9))
    assert sample(engine, requests(1))[0].version == 9
    assert inbox.empty()


@pytest.mark.parametrize(
    ("ids", "limit", "message"),
    [([], 5, "session 3: the prompt is empty"), ([1], 0, "session 3: max_tokens is 0"),
     ([1] * 250, 7, r"session 3: 250 prompt and 7 new tokens exceed the model's context of 256")],
)  # fmt: skip
def test_requests_that_cannot_be_met_are_refused(engine, ids, limit, message):
    with pytest.raises(ValueError, match=message):
        engine.submit([Request(3, ids, 0, limit)], Sampling(), print)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [(Sampling(stop_ids=(99999,)), "stop token 99999 is none of the model's 454 tokens"),
     (Sampling(stop=("end",)), r"rollout\.stop: vLLM is handed token ids alone")],
)  # fmt: skip
def test_sampling_that_cannot_be_met_is_refused(engine, model, sampling, message):
    with pytest.raises(EngineFailure, match=message):
        sample(engine, requests(2), sampling)
    assert len(sample(engine, requests(2))) == 2


def test_a_model_that_is_not_there():
    with pytest.raises(ValueError, match=r"(?s)the engine's process says: vLLM cannot load '/no/such/model': "):
        ChildEngine(MAKE, {"model": "/no/such/model", "dtype": "float32"})


# Whole rollouts


def play(engine, *, seed=0, meanwhile=lambda: None, **settings):
    chat = Chat(make_tokenizer())
    config = RolloutConfig(**{"group_size": 4, "max_turns": 3, "max_turn_tokens": 30, **settings})
    rollout = Rollout(
        OrchestraEnv, chat, engine, RewardVector(["outcome", cost, latency]), config, env_name="Orchestra"
    )
    meanwhile()
    groups = rollout.sample([OrchestraEnv().task_source[number] for number in range(6)], seed=seed)
    rollout.close()
    return [trajectory for group in groups for trajectory in group.trajectories]


def told(trajectories):
    return [
        ([sample.ids.tolist() for sample in trajectory.samples], trajectory.stop_reason, plain(trajectory.rewards))
        for trajectory in trajectories
    ]


@pytest.mark.slow  # test_trainer_vllm.py kills one, too
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_killed_or_stopped_in_mid_rollout_every_episode_ends_as_if_nothing_had_been(engine, model, number):
    undisturbed = play(engine)
    engine._patience = 5.0
    before = engine.pid
    lost = threading.Timer(0.15, os.kill, (before, number))
    disturbed = play(engine, meanwhile=lost.start)
    engine._patience = 60.0
    lost.join()
    assert engine.pid != before
    assert told(disturbed) == told(undisturbed)
    for trajectory in disturbed:
        for sample_ in trajectory.samples:
            own = full_logprobs(model, sample_.ids)
            assert sample_.logprobs[sample_.mask] == pytest.approx(own[sample_.mask[1:]], abs=1e-5)


def test_a_context_that_is_full_ends_the_episode(engine, model):
    full = [trajectory for trajectory in play(engine, max_turn_tokens=400) if trajectory.stop_reason == "context"]
    assert full
    for trajectory in full:
        assert len(trajectory.samples[-1].ids) >= engine.context_length
        assert max(step.span[1] for step in trajectory.steps) <= engine.context_length
        assert trajectory.truncated


def test_an_episode_past_its_deadline_ends_and_its_request_with_it(engine, model):
    began = time.monotonic()
    trajectories = play(engine, max_turn_tokens=200, episode_timeout=0.2)
    assert time.monotonic() - began < 20
    late = [trajectory for trajectory in trajectories if trajectory.stop_reason == "deadline"]
    assert len(late) > len(trajectories) / 2  # some may have said their few words
    assert {trajectory.error for trajectory in late} == {"the episode took longer than 0.2 s (rollout.episode_timeout)"}
    engine.update_weights(Weights(dict(model.named_parameters()), 3))  # nothing is under way any more


# Other ways to run it


@pytest.mark.slow
def test_an_adapter_alone_is_sent(folder):
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    settings = {"model": str(folder), "dtype": "float32", "cpu_cache_gib": 1, "lora": adapter_config(model)}
    engine = ChildEngine(MAKE, settings)
    asked = requests()
    try:
        for version in range(3):
            engine.update_weights(Weights(dict(model.named_parameters()), version))
            done = sample(engine, asked)
            assert {completion.version for completion in done.values()} == {version}
            assert largest_difference(model, asked, done) < 1e-5
            with torch.no_grad():
                for name, value in model.named_parameters():
                    if "lora_" in name:
                        value += 0.1 * torch.randn_like(value)
        base = [dataclasses.replace(request, adapter=False) for request in asked]
        said = sample(engine, base)
        assert largest_difference(model, base, said) > 1e-2
        with model.disable_adapter():
            assert largest_difference(model, base, said) < 1e-5
        os.kill(engine.pid, signal.SIGKILL)
        assert sample(engine, asked)[0].version == 2  # and the new process has the adapter, as it is by now
        assert largest_difference(model, asked, sample(engine, asked)) < 1e-5
        with pytest.raises(ValueError, match=r"no weight of one was handed over"):
            engine.update_weights(Weights({"model.norm.weight": torch.zeros(32)}, 4))
    finally:
        engine.close()


def test_in_this_process_a_group_shares_its_prefix_and_a_failure_reaches_everybody_who_waits(folder):
    """In a process of the test's own: vLLM binds the threads of the one it runs in."""
    script = f"""
        import queue
        from grpo_agents.engines import EngineFailure, Request, Sampling
        from grpo_agents.engines.vllm import VllmEngine
        from grpo_agents.engines.weights import Weights

        engine = VllmEngine({str(folder)!r}, dtype="float32", cpu_cache_gib=1, patience=5.0)
        inbox, cached, step = queue.SimpleQueue(), [], engine._engine.step

        def watched():
            outputs = step()
            cached.extend(output.num_cached_tokens for output in outputs if output.finished)
            return outputs

        engine._engine.step = watched
        prompt = list(range(10, 170))
        engine.submit([Request(session, prompt, session, 8) for session in range(8)], Sampling(), inbox.put)
        sampled = {{tuple(inbox.get(timeout=60).ids) for _ in range(8)}}
        assert len(sampled) > 1
        assert sum(count >= 128 for count in cached) >= 7, cached

        engine.submit([Request(0, [5] * 9, 1, 8)], Sampling(), inbox.put)
        engine._engine.step = lambda: 1 / 0
        failures = [inbox.get(timeout=60)]
        assert isinstance(failures[0], EngineFailure), failures
        asks = [
            lambda: engine.submit([], Sampling(), print),
            lambda: engine.score([[1, 2]]),
            lambda: engine.update_weights(Weights({{}}, 1)),
        ]
        for ask in asks:
            try:
                ask()
            except EngineFailure as error:
                failures.append(error)
        assert len(failures) == 4
        assert "vLLM failed: ZeroDivisionError" in str(failures[0])
        print("fine")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stdout.endswith("fine\n"), done.stdout + done.stderr
