import gc
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import warnings

import fake_openai
import numpy as np
import pytest
import torch
from fake_openai import Drop, Hang, free_port, refused, sampled, serving, settings, vllm
from processes import eventually, gone
from safetensors.torch import load_file

from grpo_agents.engines import Completion, EngineFailure, Request, Sampling
from grpo_agents.engines.server import ServerEngine, process
from grpo_agents.engines.settings import ServerConfig
from grpo_agents.engines.weights import Weights


class Running:
    """An engine, what it delivered and what it said."""

    def __init__(self, url, *, patience=5.0, restarts=2, **config):
        self.said = []
        self.inbox = queue.SimpleQueue()
        self.engine = ServerEngine(
            ServerConfig(url=url, **config), patience=patience, restarts=restarts, say=self.said.append
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.engine.close()

    def submit(self, requests, sampling=None):
        self.engine.submit(requests, sampling or Sampling(), self.inbox.put)

    def take(self, count):
        return [self.inbox.get(timeout=20) for _ in range(count)]

    def sample(self, requests, sampling=None):
        self.submit(requests, sampling)
        return sorted(self.take(len(requests)), key=lambda completion: completion.session)


def requests(count, tokens=4):
    return [Request(session, [1, 2, session], 1000 + session, tokens) for session in range(count)]


def in_turn(*answers):
    """Answers of one request after the other, then those of a server in order."""
    left = list(answers)

    def complete(body):
        answer = left.pop(0) if left else sampled(body)
        if isinstance(answer, type):
            raise answer
        return answer

    return complete


# What is asked and what comes back


def test_ids_go_in_and_come_out():
    with serving(vllm()) as fake, Running(fake.url) as running:
        assert (running.engine.context_length, running.engine.lockstep) == (64, False)
        (completion,) = running.sample([Request(7, [5, 6], 99, 3)], Sampling(0.7, 5, 0.9, stop_ids=(3, 4)))
        support, completion.support = completion.support, None
        assert completion == Completion(7, [49, 0, 1], pytest.approx([-0.5] * 3), "length", 0)
        assert [part.ids.tolist() for part in support.split(1)] == [[49, 50], [0, 1], [1, 2]]
        (body,) = fake.bodies("/v1/completions")
    wanted = {
        "model": "tiny", "prompt": [5, 6], "max_tokens": 3, "seed": 99, "temperature": 0.7, "top_k": 5, "top_p": 0.9,
        "stop_token_ids": [3, 4], "ignore_eos": True, "min_p": 0.0, "repetition_penalty": 1.0, "logprobs": 5,
    }  # fmt: skip
    assert {name: body[name] for name in wanted} == wanted


def test_at_most_so_many_are_under_way_at_once():
    def slow(body):
        time.sleep(0.02)
        return sampled(body)

    with serving(vllm(slow)) as fake, Running(fake.url, concurrency=3) as running:
        assert [completion.session for completion in running.sample(requests(12))] == list(range(12))
        assert fake.most == 3


def test_what_it_cannot_sample_is_refused_at_once():
    with serving(vllm(in_turn(Hang))) as fake, Running(fake.url) as running:
        with pytest.raises(ValueError, match=r"rollout\.stop.*at a token"):
            running.submit(requests(1), Sampling(stop=("\n",)))
        with pytest.raises(ValueError, match="exceed the model's context of 64"):
            running.submit(requests(1, 62))
        running.submit(requests(1))
        with pytest.raises(ValueError, match="session 0: it has a request under way already"):
            running.submit(requests(1))


def test_released_sessions_are_not_delivered():
    def complete(body):
        if body["seed"] == 1000:
            raise Hang
        return sampled(body)

    with serving(vllm(complete)) as fake, Running(fake.url) as running:
        running.submit(requests(2))
        assert running.take(1)[0].session == 1
        running.engine.release([0, 1, 77])
        fake.closing.set()
        time.sleep(0.1)
        assert running.inbox.empty()
        assert running.said == []


def test_a_full_context_is_scored_to_its_last_token():
    def complete(body):
        prompt = [None, *({str(token): {"logprob": -token / 8}} for token in body["prompt"][1:])]
        last = {f"token_id:{token}": -token / 8 for token in body["logprob_token_ids"]}
        logprobs = {"top_logprobs": [{"token_id:1": -9.0, **last}]}
        return {"choices": [{"prompt_token_ids": body["prompt"], "prompt_logprobs": prompt, "logprobs": logprobs}]}

    with serving(vllm(complete)) as fake, Running(fake.url) as running:
        full, short, one, none = running.engine.score([range(64), [3, 2], [7], []])
    np.testing.assert_array_equal(full, -np.arange(64, dtype=np.float32) / 8)
    assert (short.tolist(), one.tolist(), none.tolist(), full.dtype) == ([0, -0.25], [0], [], np.float32)


# What a server must be


@pytest.mark.parametrize(
    ("others", "config", "problem"),
    [
        ({"/v1/models": {"data": [{"id": "gpt"}]}}, {}, r"gives no max_model_len.*vllm serve.*hosted"),
        ({"/v1/models": b"<html>"}, {}, r"did not answer with JSON"),
        ({}, {"model": "large"}, r"engine\.server\.model: there is no 'large' at http.*, only tiny"),
        ({"/v1/models": refused(401, "who?")}, {"key_variable": "NO_KEY"}, r"who\?.*NO_KEY.*is not set"),
        ({"/server_info?config_format=json": settings("raw_logprobs")}, {}, r"--logprobs-mode processed_logprobs"),
        ({"/server_info?config_format=json": refused(404, "")}, {"sync_folder": "x"}, r"VLLM_SERVER_DEV_MODE=1"),
        (
            {},
            {"sync": "nccl"},
            r"'nccl', but the server's is None.*--weight-transfer-config '\{\"backend\": \"nccl\"\}'",
        ),
    ],
)
def test_a_server_that_will_not_do_is_refused_with_what_to_do(others, config, problem):
    with serving(vllm(**others)) as fake, pytest.raises(EngineFailure, match=problem):
        Running(fake.url, **config)


def test_no_server_and_no_address():
    with pytest.raises(EngineFailure, match=r"no connection to .*engine\.server\.command"):
        Running(f"http://127.0.0.1:{free_port()}/v1")
    with pytest.raises(ValueError, match=r"engine\.server\.url is not set"):
        Running(None)


def test_without_development_mode_it_samples_all_the_same():
    answers = vllm(**{"/server_info?config_format=json": refused(404, "Not Found")})
    with serving(answers) as fake, Running(fake.url) as running:
        assert len(running.sample(requests(2))) == 2


# Answers that are none


def test_a_request_that_is_refused_is_its_own_fault():
    def complete(body):
        return refused(400, "Token id 99999 is out of vocabulary") if body["seed"] == 1001 else sampled(body)

    with serving(vllm(complete)) as fake, Running(fake.url) as running:
        running.submit(requests(3))
        (failure,) = [answer for answer in running.take(3) if isinstance(answer, EngineFailure)]
        assert re.search(r"refuses the request \(400\): Token id 99999", str(failure))
        assert len(fake.bodies("/v1/completions")) == 3
        assert running.said == []


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": []},
        {"choices": [{"text": "hello", "logprobs": None, "finish_reason": "stop"}]},
        {"choices": [{"token_ids": [1, 2], "logprobs": {"token_logprobs": [-1.0]}, "finish_reason": "stop"}]},
        [],
    ],
)
def test_an_answer_that_is_not_vllms(answer):
    with serving(vllm(in_turn(answer))) as fake, Running(fake.url) as running:
        running.submit(requests(1))
        (failure,) = running.take(1)
        assert re.search(r"has not the token ids and log-probs of vLLM .*vllm serve", str(failure))


# Death and return


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (refused(500, "EngineCore died"), r"answered 500: EngineCore died\. The server is waited for \(1 of 2\)"),
        (refused(429, "busy"), r"answered 429: busy"),
        (Hang, r"has answered no request for 0\.3 s \(engine\.patience\)"),
        ({"choices": [{"token_ids": [], "logprobs": {"token_logprobs": []}, "finish_reason": "abort"}]}, r"'abort'"),
    ],
)
def test_what_was_under_way_is_asked_again_with_the_same_seeds(trouble, said):
    with serving(vllm(in_turn(trouble))) as fake, Running(fake.url, patience=0.3 if trouble is Hang else 5) as running:
        completions = running.sample(requests(8))
        assert [completion.ids[0] for completion in completions] == [(1000 + session) % 50 for session in range(8)]
        assert len(running.said) == 1
        assert re.search(said, running.said[0])


def test_a_kept_connection_that_was_closed_is_no_death():
    with serving(vllm(in_turn(Drop))) as fake, Running(fake.url) as running:
        assert len(running.sample(requests(1))) == 1
        assert running.said == []
        assert len(fake.bodies("/v1/completions")) == 2


def test_a_server_that_does_not_come_back_is_a_failure_of_all():
    with serving(vllm()) as fake:
        running = Running(fake.url, patience=0.3)
    with running:
        running.submit(requests(3))
        for failure in running.take(3):
            assert re.search(r"did not answer within 0\.3 s\. The server was waited for 2 times in a row", str(failure))
        assert [re.search(r"\((. of .)\)$", line)[1] for line in running.said] == ["1 of 2", "2 of 2"]
        with pytest.raises(EngineFailure):
            running.engine.score([[1, 2]])


def test_completions_between_begin_the_count_anew():
    down = refused(503, "away")
    once = sampled({"seed": 1, "max_tokens": 1})
    with serving(vllm(in_turn(down, once, down, down))) as fake, Running(fake.url) as running:
        assert running.sample(requests(1))[0].ids == [1]
        assert running.sample(requests(1))[0].ids == [0, 1, 2, 3]
        assert len(running.said) == 3


def test_closing_with_requests_under_way():
    with serving(vllm(in_turn(Hang, Hang))) as fake, Running(fake.url) as running:
        running.submit(requests(2))
        assert eventually(lambda: len(fake.bodies("/v1/completions")) == 2)
        running.engine.close()
        running.engine.close()
        assert running.inbox.empty()
    assert not [thread for thread in threading.enumerate() if thread.name == "grpo-agents-requests"]


# Weights and memory


def test_weights_go_through_the_folder_and_again_to_a_server_that_came_back(tmp_path):
    success = iter([False, True, True, True])
    answers = vllm(in_turn(refused(500, "died")), **{"/reset_prefix_cache": lambda body: {"success": next(success)}})
    weights = {"lm_head.weight": torch.arange(6.0).view(2, 3).t(), "x": torch.ones(2)}
    with serving(answers) as fake, Running(fake.url, sync_folder=str(tmp_path / "sync")) as running:
        running.engine.update_weights(Weights({"lm_head.weight": torch.zeros(1)}, 3))
        running.engine.update_weights(Weights(weights, 4))
        assert os.listdir(tmp_path / "sync") == ["weights-4"]
        (path,) = tmp_path.glob("sync/weights-4/*")
        assert load_file(path)["lm_head.weight"].tolist() == [[0, 3], [1, 4], [2, 5]]
        fake.asked.clear()
        (completion,) = running.sample(requests(1))
        assert completion.version == running.engine.version == 4
        reload = ("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(path.parent)}})
        assert [entry for entry in fake.asked if entry[0] not in ("/v1/models", "/v1/completions")] == [
            reload, ("/reset_prefix_cache", {}), ("/update_weight_version", {"new_version": "4"})]  # fmt: skip


def test_weights_are_refused_while_requests_are_under_way_and_without_a_way(tmp_path):
    with serving(vllm(in_turn(Hang))) as fake:
        with Running(fake.url) as running, pytest.raises(ValueError, match=r"engine\.server\.sync_folder is not set"):
            running.engine.update_weights(Weights({"lm_head.weight": torch.ones(1)}, 1))
        with Running(fake.url, sync_folder=str(tmp_path)) as running:
            with pytest.raises(ValueError, match="tied embeddings"):
                running.engine.update_weights(Weights({"embed": torch.ones(1)}, 1))
            running.submit(requests(1))
            with pytest.raises(ValueError, match="update_weights while 1 requests are under way"):
                running.engine.update_weights(Weights({"lm_head.weight": torch.ones(1)}, 1))
            assert running.engine.version == 0
            assert list(tmp_path.iterdir()) == []


def test_a_transfer_is_made_again_with_a_server_that_came_back(monkeypatch):
    class Transfer:
        def __init__(self, backend, root, seconds):
            calls.append((backend, root == fake.url.removesuffix("/v1"), seconds))

        def send(self, weights, world_size):
            calls.append((sorted(weights), world_size))

        def disconnect(self):
            calls.append("disconnect")

    calls = []
    monkeypatch.setattr("grpo_agents.engines.server.weight_transfer.WeightTransfer", Transfer)
    info = settings(backend="nccl", device="cuda")
    told = {"/server_info?config_format=json": info, "/get_world_size": {"world_size": 2}}
    with serving(vllm(in_turn(refused(500, "died")), **told)) as fake, Running(fake.url, sync="nccl") as running:
        running.engine.update_weights(Weights({"a": torch.ones(1)}, 1))
        assert fake.paths()[-3:] == ["/get_world_size", "/reset_prefix_cache", "/update_weight_version"]
        assert len(running.sample(requests(2))) == 2
    assert calls == [("nccl", True, 5.0), (["a"], 2), "disconnect", (["a"], 2)]


@pytest.mark.parametrize("able", [True, False])
def test_it_sleeps_where_the_server_can_and_wakes_for_new_weights(able, tmp_path):
    info = settings(sleep=able, device="cuda")
    told = {"/sleep?level=1": {}, "/wake_up": {}, "/server_info?config_format=json": info}
    with serving(vllm(**told)) as fake, Running(fake.url, sync_folder=str(tmp_path)) as running:
        running.engine.sleep()
        running.engine.wake()
        running.engine.sleep()
        running.engine.update_weights(Weights({"tied": torch.ones(1)}, 1))
        told = [path for path in fake.paths() if path in ("/sleep?level=1", "/wake_up", "/collective_rpc")]
    both = ["/sleep?level=1", "/wake_up"]
    assert told == ([*both, *both, "/collective_rpc"] if able else ["/collective_rpc"])


# A server that the engine starts

SCRIPT = """
import os, sys, time
sys.path.insert(0, {tests!r})
from fake_openai import sampled, serving, vllm
open({folder!r} + "/started", "a").write(f"{{os.getpid()}}\\n")
def complete(body):
    if body["seed"] == 1002 and not os.path.exists({folder!r} + "/died"):
        open({folder!r} + "/died", "w").close()
        os._exit(3)
    time.sleep(0.05)
    return sampled(body)
with serving(vllm(complete), {port}) as fake:
    fake.thread.join()
"""


@pytest.fixture
def command(tmp_path):
    """Starts a server in a process of its own, which dies of one request; its port, its pids."""
    port = free_port()
    tests = os.path.dirname(fake_openai.__file__)
    code = SCRIPT.format(tests=tests, folder=str(tmp_path), port=port)
    config = {"url": f"http://127.0.0.1:{port}/v1", "command": [sys.executable, "-c", code]}
    return config, lambda: [int(line) for line in (tmp_path / "started").read_text().split()]


def test_a_server_is_started_again_when_it_dies(command):
    config, pids = command
    with Running(**config) as running:
        completions = running.sample(requests(6))
        assert [completion.ids[0] for completion in completions] == [(1000 + session) % 50 for session in range(6)]
        assert len(running.said) == 1
        assert "The server is started again (1 of 2)" in running.said[0]
        first, second = pids()
        assert gone(first)
        assert not gone(second)
    assert eventually(lambda: gone(second))


def test_connections_to_a_server_that_died_are_closed(command, tmp_path):
    config, _ = command
    (tmp_path / "died").touch()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        with Running(**config) as running:
            running.sample(requests(40))  # each over a connection of its own, which is kept
            (tmp_path / "died").unlink()
            running.sample(requests(8))
            assert "started again" in running.said[0]
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_a_server_that_somebody_else_has_started_is_not_taken_for_ones_own():
    with serving(vllm()) as fake, pytest.raises(EngineFailure, match=r"this run has not started answers at"):
        Running(fake.url, command=[sys.executable, "-c", "pass"])


def test_a_command_that_starts_no_server_says_what_it_said():
    code = "print('no such model'); raise SystemExit(5)"
    with pytest.raises(EngineFailure, match=r"(?s)ended with exit code 5; all it wrote is in .*\.log:\nno such model"):
        Running(f"http://127.0.0.1:{free_port()}/v1", command=[sys.executable, "-c", code])


HOLDING = """
import pathlib, signal, sys, time
held = pathlib.Path(sys.argv[1])
held.touch()

def give_back(*_):
    held.unlink()
    sys.exit()

signal.signal(signal.SIGTERM, {handler})
print("up", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("handler", "held"), [("give_back", False), ("signal.SIG_IGN", True)])
def test_a_server_may_give_back_what_it_holds_before_it_is_killed(tmp_path, monkeypatch, handler, held):
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.5 if held else 60.0)
    code, file = HOLDING.replace("{handler}", handler), tmp_path / "held"
    server = process.ServerProcess([sys.executable, "-c", code, str(file)])
    server.start()
    assert eventually(lambda: "up" in server.log.read_text())
    server.kill()
    assert file.exists() == held
    assert server.death() is None  # there is none


def test_a_server_ends_with_the_run_however_that_ends(command):
    config, pids = command
    code = f"""
import time
from grpo_agents.engines.server import ServerEngine, process
from grpo_agents.engines.settings import ServerConfig
ServerEngine(ServerConfig(**{config!r}), patience=5, restarts=0, say=print)
print("up", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "up\n"
        (pid,) = pids()
        assert not gone(pid)
        run.send_signal(signal.SIGKILL)
    assert eventually(lambda: gone(pid))
