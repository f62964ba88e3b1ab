"""The server engine with vLLM itself, on a tiny model and a CPU: started once for all tests, and again by the last."""

import os
import queue
import signal
import sys

import numpy as np
import pytest
import torch
from fake_openai import free_port
from soak_verdicts import left_in_shm
from tiny import copy_weights, full_logprobs, make_model, make_tokenizer, save_start
from transformers import AutoModelForCausalLM

from grpo_agents.chat import Chat
from grpo_agents.engines import EngineFailure, Request, Sampling
from grpo_agents.engines.server import ServerEngine
from grpo_agents.engines.settings import ServerConfig
from grpo_agents.engines.transformers import TransformersEngine, draw
from grpo_agents.engines.weights import Weights
from grpo_agents.env import AgentEnv, Reply
from grpo_agents.rewards.component import RewardVector
from grpo_agents.rollout import Rollout, RolloutConfig

pytestmark = pytest.mark.vllm

SHAPE = {"head_dim": 32, "tie_word_embeddings": False}  # what vLLM can run, and update, on a CPU


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    save_start(folder, **SHAPE)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def engine(folder, tmp_path_factory, said):
    port = free_port()
    command = [
        "env", "VLLM_SERVER_DEV_MODE=1", "VLLM_CPU_KVCACHE_SPACE=1", sys.executable, "-m",
        "vllm.entrypoints.openai.api_server", "--model", str(folder), "--host", "127.0.0.1", "--port", str(port),
        "--dtype", "float32", "--enforce-eager", "--logprobs-mode", "processed_logprobs", "--no-enable-chunked-prefill",
        "--max-num-batched-tokens", "8192", "--enable-prefix-caching", "--distributed-executor-backend", "uni",
        "--max-logprobs", "40",
    ]  # fmt: skip
    sync = tmp_path_factory.mktemp("sync")
    config = ServerConfig(url=f"http://127.0.0.1:{port}/v1", command=command, sync_folder=str(sync))
    before = set(os.listdir("/dev/shm"))
    engine = ServerEngine(config, patience=60, restarts=1, say=said.append)
    yield engine
    killed = {os.path.basename(path) for path in left_in_shm(before)}  # what is left of one that a test has killed
    engine.close()
    assert not left_in_shm(before | killed)  # one that ends gives back its shared memory


def sample(engine, requests, sampling):
    inbox = queue.SimpleQueue()
    engine.submit(requests, sampling, inbox.put)
    done = [inbox.get(timeout=60) for _ in requests]
    for failure in done:
        if isinstance(failure, EngineFailure):
            raise failure
    return sorted(done, key=lambda completion: completion.session)


def requests(count, tokens=24):
    return [Request(session, [5, 6, 7, 8 + session % 5], 1000 + session, tokens) for session in range(count)]


def assert_logprobs_are_of(model, asked, completions, temperature=1.0):
    for request, completion in zip(asked, completions, strict=True):
        expected = full_logprobs(model, [*request.ids, *completion.ids], temperature)[len(request.ids) - 1 :]
        np.testing.assert_allclose(completion.logprobs, expected, atol=1e-5)


def test_greedy_tokens_are_those_of_transformers(engine, model):
    greedy = Sampling(temperature=0, stop_ids=(438,))
    ours = sample(engine, requests(8), greedy)
    theirs = sample(TransformersEngine(model, 0), requests(8), greedy)
    assert [completion.ids for completion in ours] == [completion.ids for completion in theirs]
    assert_logprobs_are_of(model, requests(8), ours)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_of_the_distribution_sampled_from(engine, model, temperature):
    stops = tuple(range(430, 446))
    sampling = Sampling(temperature, stop_ids=stops)
    completions = sample(engine, requests(32), sampling)
    assert_logprobs_are_of(model, requests(32), completions, temperature)
    ended = {completion.finish_reason: completion for completion in completions}
    assert ended["stop"].ids[-1] in stops  # the token that ended it is part of it
    assert len(ended["length"].ids) == 24
    again = sample(engine, requests(32), sampling)
    assert [completion.ids for completion in again] == [completion.ids for completion in completions]


@pytest.mark.parametrize("sampling", [Sampling(0.8, top_k=5), Sampling(1.3, 40, 0.9)])
def test_supports_are_those_of_transformers(engine, model, sampling):
    for request, said in zip(requests(6), sample(engine, requests(6), sampling), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*request.ids, *said.ids]])).logits[0, len(request.ids) - 1 : -1]
        _, _, support = draw(logits, sampling, np.full(len(logits), 0.5))
        supports = [part.ids.tolist() for part in said.support.split(1)]
        assert [set(kept) for kept in supports] == [set(kept[kept >= 0].tolist()) for kept in support]
        expected = [
            torch.log_softmax(row[kept] / sampling.temperature, -1)[kept.index(token)]
            for row, kept, token in zip(logits, supports, said.ids, strict=True)
        ]
        np.testing.assert_allclose(said.logprobs, expected, atol=1e-5)


def test_more_likeliest_tokens_than_the_server_gives(engine):
    with pytest.raises(EngineFailure, match="greater than max allowed: 40"):
        sample(engine, requests(2), Sampling(top_k=41))


def test_scores_are_the_models_own(engine, model):
    sequences = [list(range(256)), [5, 6, 7], [9]]
    for ids, scores in zip(sequences, engine.score(sequences), strict=True):
        np.testing.assert_allclose(scores[1:], full_logprobs(model, ids) if len(ids) > 1 else [], atol=1e-5)


def test_new_weights_arrive(engine, model):
    other = make_model(vocab=model.config.vocab_size, seed=5, scale=0.3, **SHAPE)
    engine.update_weights(Weights(copy_weights(other), 1))
    completions = sample(engine, requests(8), Sampling())
    assert {completion.version for completion in completions} == {1}
    assert_logprobs_are_of(other, requests(8), completions)


class Talk(AgentEnv):
    tasks = [{"say": "one"}, {"say": "two"}]  # noqa: RUF012

    def start(self, task):
        return task["say"]

    def respond(self, message):
        return Reply([{"role": "user", "content": "and"}], {"outcome": 1.0})


@pytest.mark.slow  # test_server.py has it with a server of its own, and in no time
def test_a_server_killed_in_a_rollout_changes_nothing_of_it(engine, model, said):
    other = make_model(vocab=model.config.vocab_size, seed=6, scale=0.3, **SHAPE)
    engine.update_weights(Weights(copy_weights(other), 2))
    config = RolloutConfig(group_size=4, max_turns=3, max_turn_tokens=12)
    chat = Chat(make_tokenizer())
    chat.stop_ids += tuple(range(100, 200))  # a model that knows nothing would rarely end a turn
    rollout = Rollout(Talk, chat, engine, RewardVector(["outcome"]), config)

    def play():
        groups = rollout.sample(Talk.tasks, seed=3)
        trajectories = [trajectory for group in groups for trajectory in group.trajectories]
        assert {step.version for trajectory in trajectories for step in trajectory.steps} == {2}
        assert max(len(trajectory.steps) for trajectory in trajectories) == 3
        return [[sample.ids.tolist() for sample in trajectory.samples] for trajectory in trajectories]

    undisturbed = play()
    submit, calls = engine.submit, []

    def submit_and_kill(*arguments):
        submit(*arguments)
        calls.append(1)
        if len(calls) == 3:
            os.killpg(engine._server._process._process.pid, signal.SIGKILL)

    engine.submit = submit_and_kill
    try:
        assert play() == undisturbed
    finally:
        engine.submit = submit
        rollout.close()
    assert len(said) == 1
    assert "The server is started again (1 of 1)" in said[0]
