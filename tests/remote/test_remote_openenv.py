"""Servers that speak OpenEnv's protocol, as those that were written with it do."""

import json
import socket
import urllib.request

import pytest
from serving_envs import running
from starlette.applications import Starlette
from starlette.responses import JSONResponse, RedirectResponse
from starlette.routing import Route, WebSocketRoute

from grpo_agents.contract import check
from grpo_agents.env import make_env
from grpo_agents.remote.wire import RemoteFailure

TEXT = {"type": "string"}
META = {"metadata": {"type": "object"}, "done": {"type": "boolean"}, "reward": {"type": "number"}}


def app(action, observation, say, token=None):
    """An app whose sessions answer ``say(session, data)``: an observation, a reward and whether it is over.

    Its schemas are for those who show the token, where there is one.
    """

    async def session(web):
        await web.accept()
        held = {}
        while True:
            message = await web.receive_json()
            if message["type"] == "close":
                await web.close()
                return
            if message["type"] not in ("reset", "step"):
                answer = {"type": "error", "data": {"message": "Unknown message type", "code": "UNKNOWN_TYPE"}}
            else:
                if message["type"] == "reset":
                    held = {"goal": (message["data"].get("seed") or 0) % 3}
                try:
                    observed, reward, done = say(held, message)
                    answer = {"type": "observation", "data": {"observation": observed, "reward": reward, "done": done}}
                except KeyError as error:
                    answer = {"type": "error", "data": {"message": str(error), "code": "EXECUTION_ERROR"}}
            await web.send_text(json.dumps(answer))

    async def schema(request):
        if token is not None and request.headers.get("authorization") != f"Bearer {token}":
            return JSONResponse({"shown": request.headers.get("authorization")}, 401)
        shown = {"action": action, "observation": observation}
        return JSONResponse({name: {"properties": {**META, **fields}} for name, fields in shown.items()})

    return Starlette(routes=[Route("/schema", schema), WebSocketRoute("/ws", session)])


def running_app(served):
    import uvicorn

    config = uvicorn.Config(served, ws="websockets-sansio", lifespan="off", log_level="critical")
    return running(uvicorn.Server(config))


def served_app(*arguments):
    return running_app(app(*arguments))


def guess(held, message):
    if message["type"] == "reset":
        return {"text": "Guess."}, None, False
    right = int(message["data"]["guess"]) == held["goal"]
    return {"text": "Yes." if right else "No."}, 1.0 if right else None, right


def chat(held, message):
    """Repeats the messages so far, as servers of chats do."""
    if message["type"] == "reset":
        held["said"] = [{"role": "system", "content": "A chat."}, {"role": "user", "content": "Hello?"}]
        return {"messages": held["said"]}, None, False
    held["said"] += [{"role": "assistant", "content": message["data"]["message"]}, {"role": "user", "content": "And?"}]
    return {"messages": held["said"], "length": len(held["said"])}, 0.5, len(held["said"]) > 4


def test_one_that_speaks_in_text():
    with served_app({"guess": TEXT}, {"text": TEXT}, guess) as url:
        env = make_env(url)
        observation, info = env.reset(seed=0, options={"task": {"seed": 4}})
        assert observation == ({"role": "user", "content": "Guess."},)
        assert (info["task"], info["tools"]) == ({"seed": 4}, [])
        assert env.step("0") == (({"role": "user", "content": "No."},), 0.0, False, False, {"rewards": {}})
        assert env.step("1")[1:] == (1.0, True, False, {"rewards": {"outcome": 1.0}})
        other = make_env(url, action="word")
        other.reset(seed=0)
        with pytest.raises(RemoteFailure, match=f"{url}: 'guess' .EXECUTION_ERROR"):
            other.step("1")
        assert other.reset(seed=0)[0] == observation


def test_one_that_speaks_in_messages_says_what_is_new():
    with served_app({"message": TEXT, "tokens": {"type": "array"}}, {"messages": {"type": "array"}}, chat) as url:
        assert [
            finding for finding in check(lambda: make_env(url)) if finding.problem and "ends" not in finding.checked
        ] == []
        env = make_env(url)
        assert [message["role"] for message in env.reset(seed=0)[0]] == ["system", "user"]
        assert env.step("I am here.")[:3] == (({"role": "user", "content": "And?"},), 0.5, False)
        assert env.step("Still.")[:3] == (({"role": "user", "content": "And?"},), 0.5, True)


def test_fields_that_are_to_be_named():
    two = {"code": TEXT, "language": TEXT}
    with served_app(two, {"text": TEXT}, guess) as url:
        with pytest.raises(ValueError, match=rf"{url}: the action has the fields code, language; .*env.options.action"):
            make_env(url)
        assert make_env(url, action="code").reset(seed=0)[0][0]["content"] == "Guess."
        with pytest.raises(RemoteFailure, match=r"observation's 'board' is None.*env.options.observation"):
            make_env(url, action="code", observation="board").reset(seed=0)


def test_schemas_are_asked_with_the_token_that_is_the_servers(monkeypatch):
    monkeypatch.setenv("GRPO_AGENTS_ENV_TOKEN", "anothers")
    monkeypatch.setenv("OURS", "s3cret")
    with served_app({"guess": TEXT}, {"text": TEXT}, guess, "s3cret") as url:
        with pytest.raises(RemoteFailure, match=rf"{url}/schema does not say .*401"):
            make_env(url)
        env = make_env(url, token_variable="OURS")
        assert env.reset(seed=0)[0][0]["content"] == "Guess."


def test_no_proxy_is_between_a_server_of_this_machine_and_its_token(monkeypatch):
    monkeypatch.setenv("GRPO_AGENTS_ENV_TOKEN", "s3cret")
    urllib.request.install_opener(None)  # else there may be one that knows of no proxy, from before
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with served_app({"guess": TEXT}, {"text": TEXT}, guess, "s3cret") as url:
            assert make_env(url).reset(seed=0)[0][0]["content"] == "Guess."
        proxy.settimeout(0)
        with pytest.raises(BlockingIOError):  # nobody has come
            proxy.accept()


def test_a_token_does_not_follow_a_server_that_sends_elsewhere(monkeypatch):
    monkeypatch.setenv("GRPO_AGENTS_ENV_TOKEN", "s3cret")
    shown = []

    async def elsewhere(request):
        shown.append(request.headers.get("authorization"))
        return JSONResponse({name: {"properties": {"text": TEXT}} for name in ("action", "observation")})

    other = Starlette(routes=[Route("/schema", elsewhere)])
    with running_app(other) as target:
        sending = app({"guess": TEXT}, {"text": TEXT}, guess)
        sending.routes[0] = Route("/schema", lambda _: RedirectResponse(f"{target}/schema"))
        with running_app(sending) as url:
            make_env(url)
    assert shown == [None]
