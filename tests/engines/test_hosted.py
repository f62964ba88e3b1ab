import json
import pickle
import queue
import re
import time

import pytest
from fake_openai import Drop, Hang, refused, serving

from grpo_agents import evaluation, store
from grpo_agents.engines import EngineFailure, Sampling
from grpo_agents.engines.hosted import ChatRequest, HostedChat, HostedEngine
from grpo_agents.engines.settings import ServerConfig
from grpo_agents.env import AgentEnv, Reply
from grpo_agents.rewards.component import RewardVector
from grpo_agents.rewards.cost import cost
from grpo_agents.rollout import Rollout, RolloutConfig
from grpo_agents.tools import tool


def call(arguments, name="double", **fields):
    return {"id": "call_x7", "type": "function", "function": {"name": name, "arguments": arguments}, **fields}


def said(content=None, *calls, reason=None, tokens=5, **fields):
    """What an endpoint answers."""
    message = {"role": "assistant", "content": content, **fields}
    if calls:
        message["tool_calls"] = list(calls)
    reason = reason or ("tool_calls" if calls else "stop")
    answer = {"choices": [{"index": 0, "message": message, "finish_reason": reason}]}
    return answer if tokens is None else {**answer, "usage": {"completion_tokens": tokens, "prompt_tokens": 9}}


def in_turn(*answers):
    """One answer after the other; the last over and over."""
    left = list(answers)

    def answer(path, body):
        assert path == "/v1/chat/completions"
        now = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(now, type):
            raise now
        return now(body) if callable(now) else now

    return answer


class Asking:
    """An engine, and one request after the other."""

    def __init__(self, url, *, patience=5.0, model="large", **config):
        self.engine = HostedEngine(ServerConfig(url=url, model=model, **config), patience=patience)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.engine.close()

    def ask(self, count=1, sampling=None, messages=({"role": "user", "content": "go"},), tools=()):
        inbox = queue.SimpleQueue()
        requests = [ChatRequest(session, messages, tools, (1 << 40) + session, 64) for session in range(count)]
        self.engine.submit(requests, sampling or Sampling(), inbox.put)
        return [inbox.get(timeout=20) for _ in requests]

    def one(self, *arguments, **options):
        (answer,) = self.ask(1, *arguments, **options)
        return answer


class Shop(AgentEnv):
    tasks = [{"n": 1}]  # noqa: RUF012

    @tool(price=2.0, latency=0.5, timeout=None)
    def double(self, number: int) -> str:
        """Doubles a number."""
        return str(2 * number)

    tools = (double,)

    def start(self, task):
        return "go"

    def respond(self, message):
        if message.get("tool_calls"):
            return Reply(self.run_tools(message["tool_calls"]))
        return Reply(rewards={"outcome": float(message["content"] == "42")}, terminated=True)


def rollout(engine, **config):
    config = RolloutConfig(**{"group_size": 1, **config})
    return Rollout(Shop, HostedChat(), engine, RewardVector(["outcome", cost]), config, env_name="Shop")


# Whole episodes


def test_a_tool_episode_is_scored_stored_and_evaluated_and_not_trained(tmp_path):
    answers = [said(None, call('{"number": 21}'), call('{"number": ', reasoning=1)), said("42", tokens=7)]
    with serving(in_turn(*answers)) as fake, Asking(fake.url) as asking:
        playing = rollout(asking.engine)
        (group,) = playing.sample(Shop.tasks, seed=0)
        playing.close()
        first, second = fake.bodies("/v1/chat/completions")
    (trajectory,) = group.trajectories
    assert (trajectory.stop_reason, trajectory.rewards) == ("terminated", {"outcome": 1.0, "cost": 2.0})
    assert (trajectory.trainable, trajectory.sampled_tokens, trajectory.samples) == (False, 12, [])
    good, broken = trajectory.steps[0].message["tool_calls"]
    assert good == {"id": "call_x7", "type": "function", "function": {"name": "double", "arguments": {"number": 21}}}
    assert (broken["function"], broken["text"]) == ({"name": "double", "arguments": {}}, '{"number":')
    assert broken["invalid"].startswith("not a JSON object")
    assert [run.error is None for run in trajectory.steps[0].tools] == [True, False]
    assert first["tools"] == trajectory.tools
    assert first["messages"] == [{"role": "user", "content": "go"}]
    assistant, result, error = second["messages"][1:]
    assert json.loads(assistant["tool_calls"][0]["function"]["arguments"]) == {"number": 21}
    assert assistant["tool_calls"][1]["function"]["arguments"] == "{}"  # endpoints read what they are sent
    assert result == {"role": "tool", "tool_call_id": "call_x7", "content": "42"}
    assert "could not be read" in error["content"]
    store.write(tmp_path / "hosted.parquet", [group])
    (read,) = store.read(tmp_path / "hosted.parquet")
    assert [step.tokens for step in read.steps] == [5, 7]
    summary = evaluation.evaluate([read])
    assert (summary.untrainable, summary.sampled_tokens) == (1, 12)


def test_budgets_and_a_full_context_end_episodes():
    turn = said(None, call('{"number": 1}'), tokens=30)
    full = refused(400, "This model's maximum context length is 8192 tokens.", code="context_length_exceeded")
    with serving(in_turn(turn)) as fake, Asking(fake.url) as asking:
        playing = rollout(asking.engine, max_tokens=50)
        (group,) = playing.sample(Shop.tasks, seed=0)
        assert group.trajectories[0].stop_reason == "tokens"
        assert [body["max_tokens"] for body in fake.bodies("/v1/chat/completions")] == [50, 20]
        fake.answer = in_turn(turn, full)
        (group,) = playing.sample(Shop.tasks, seed=0)
        assert (group.trajectories[0].stop_reason, group.trajectories[0].sampled_tokens) == ("context", 30)
        playing.close()


# One request


def test_what_is_asked():
    with serving(in_turn(said("hi"))) as fake, Asking(fake.url) as asking:
        asking.one(Sampling(0.5, 7, 0.9, stop=("###",)))
        asking.one()
        first, second = fake.bodies("/v1/chat/completions")
    wanted = {"model": "large", "temperature": 0.5, "top_p": 0.9, "top_k": 7, "stop": ["###"], "max_tokens": 64}
    assert {name: first[name] for name in wanted} == wanted
    assert 0 <= first["seed"] < 1 << 31
    assert not {"stop", "top_k", "tools"} & second.keys()


@pytest.mark.parametrize(
    ("answer", "message", "reason", "tokens"),
    [
        (said("hi"), {"content": "hi"}, "stop", 5),
        (said(None, refusal="I will not"), {"content": "I will not"}, "stop", 5),
        (said("hi", reasoning_content="hm"), {"content": "hi", "reasoning_content": "hm"}, "stop", 5),
        (said("hi", reasoning="hm", tokens=None), {"content": "hi", "reasoning_content": "hm"}, "stop", None),
        (said("cut", call('{"numb'), reason="length"), {"content": "cut"}, "length", 5),
        (said("", reason="content_filter"), {"content": ""}, "stop", 5),
    ],
)
def test_what_comes_back(answer, message, reason, tokens):
    with serving(in_turn(answer)) as fake, Asking(fake.url) as asking:
        completion = asking.one()
    assert completion.message == {"role": "assistant", **message}
    assert (completion.finish_reason, completion.counted, completion.tokens) == (reason, tokens, tokens or 0)


@pytest.mark.parametrize(
    ("arguments", "read", "invalid"),
    [
        ('{"number": 3}', {"number": 3}, None),
        ("", {}, None),
        ("[3]", {}, "must be an object, not list"),
        ('{"number": 3} and more', {}, "not a JSON object: ' and more' follows it"),
        ('{"number": NaN}', {}, "not a JSON object"),
    ],
)
def test_arguments_that_are_no_object_are_marked(arguments, read, invalid):
    with serving(in_turn(said(None, call(arguments, id=None)))) as fake, Asking(fake.url) as asking:
        earlier = {"role": "assistant", "content": "", "tool_calls": [{**call({}), "id": "call00000"}]}
        (found,) = asking.one(messages=[{"role": "user", "content": "go"}, earlier]).message["tool_calls"]
    assert (found["function"]["arguments"], found["id"]) == (read, "call00001")
    assert ("invalid" in found) == (invalid is not None)
    if invalid:
        assert invalid in found["invalid"]
        assert found["text"] == arguments


# Trouble


@pytest.mark.parametrize("trouble", [refused(429, "slow down"), refused(503, "away"), Drop])
def test_trouble_that_passes_is_waited_out(trouble, monkeypatch):
    monkeypatch.setattr("grpo_agents.engines.hosted.FIRST_PAUSE", 0.01)
    with serving(in_turn(trouble, trouble, trouble, said("hi"))) as fake, Asking(fake.url) as asking:
        assert asking.one().message["content"] == "hi"
        assert len(fake.asked) == 4


def test_it_comes_back_when_the_endpoint_says():
    with serving(in_turn((429, {"error": "wait"}, {"retry-after": "0.3"}), said("hi"))) as fake:
        began = time.monotonic()
        with Asking(fake.url) as asking:
            assert asking.one().message["content"] == "hi"
        assert 0.3 <= time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("trouble", "patience", "problem"),
    [
        (refused(429, "slow down"), 0.2, r"429: slow down\. No request was answered for 0 s, and the next try"),
        (Hang, 0.3, r"gave no answer in time.*engine\.patience is 0\.3"),
        ((429, {"error": "daily quota"}, {"retry-after": "3600"}), 5, r"daily quota.*next try would be in 3600 s"),
        (refused(401, "wrong key"), 5, r"wrong key\. The environment variable NO_SUCH_KEY.*is not set"),
        (refused(404, "no such model"), 5, r"no such model.*engine\.server\.model"),
        (refused(400, "'temperature' does not support 0.5", param="temperature"), 5, r"does not support 0\.5"),
        ({"choices": []}, 5, r"did not answer with a chat completion \(IndexError"),
        (b"<html>", 5, r"did not answer with JSON"),
    ],
)
def test_trouble_that_does_not_pass_is_a_failure_with_its_reason(trouble, patience, problem):
    with serving(in_turn(trouble)) as fake, Asking(fake.url, patience=patience, key_variable="NO_SUCH_KEY") as asking:
        failure = asking.one(Sampling(0.5))
    assert isinstance(failure, EngineFailure)
    assert re.search(problem, str(failure))
    again = pickle.loads(pickle.dumps(failure))  # as from a worker of Ray
    assert (type(again), str(again), vars(again)) == (type(failure), str(failure), vars(failure))


def test_what_an_endpoint_does_not_take_is_left_out_where_nothing_is_lost():
    """As OpenAI's newer models: another name for the limit, no seed, a temperature that is not to be named."""
    wants = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."

    def strict(path, body):
        if "max_tokens" in body:
            return refused(400, wants, param="max_tokens", code="unsupported_parameter")
        for name in ("seed", "temperature"):
            if name in body:
                return refused(400, f"Unsupported value: '{name}'", param=None)
        return said(str(body["max_completion_tokens"]))

    with serving(strict) as fake, Asking(fake.url, concurrency=4) as asking:
        assert [completion.message["content"] for completion in asking.ask(8)] == ["64"] * 8
        before = len(fake.asked)
        asking.one()
        assert len(fake.asked) == before + 1  # it is remembered


def test_released_episodes_and_closing():
    with serving(in_turn(Hang)) as fake, Asking(fake.url) as asking:
        inbox = queue.SimpleQueue()
        asking.engine.submit([ChatRequest(1, (), (), 0, 8)], Sampling(), inbox.put)
        asking.engine.release([1])
        asking.engine.submit([ChatRequest(2, (), (), 0, 8)], Sampling(), inbox.put)
        asking.engine.close()
        assert inbox.empty()


@pytest.mark.parametrize("config", [{"url": None}, {"url": "http://localhost/v1", "model": None}])
def test_an_endpoint_must_be_named(config):
    with pytest.raises(ValueError, match=r"engine\.server\.url and engine\.server\.model"):
        Asking(**config)
