"""What goes wrong on the way to an environment elsewhere, and what is said of it."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from processes import eventually
from serving_envs import Trouble, free_port, served
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from tiny import make_tokenizer
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from grpo_agents.chat import Chat
from grpo_agents.engines.scripted import ScriptedEngine
from grpo_agents.env import make_env
from grpo_agents.envs.tool_math import ToolMathEnv
from grpo_agents.remote.server import Limits, serve
from grpo_agents.remote.websocket import WebSocketLink
from grpo_agents.remote.wire import MAX_BYTES, PROTOCOL, RemoteFailure, SessionLost, describe
from grpo_agents.rewards.component import RewardVector
from grpo_agents.rollout import Rollout, RolloutConfig
from grpo_agents.spaces import tool_call


@pytest.fixture(autouse=True)
def _fresh():
    Trouble.hang = threading.Event()
    Trouble.closed.clear()
    yield
    Trouble.hang.set()


def asked(url, *messages, **options):
    """What a server answers to these messages, as JSON or as they are."""
    with connect(url.replace("http", "ws") + "/ws", **options) as there:
        for message in messages:
            there.send(message if isinstance(message, str | bytes) else json.dumps(message))
            yield json.loads(there.recv())


TALK = {"task": {"do": "talk"}}


def talking(env):
    env.reset(seed=1, options=TALK)
    return env


def test_an_error_of_the_environment_reads_as_it_did_there():
    with served(Trouble) as url:
        env = make_env(url)
        with pytest.raises(RuntimeError) as caught:
            env.reset(options={"task": {"do": "raise"}})
        assert (type(caught.value).__name__, str(caught.value)) == ("KeyError", "'word'")
        assert caught.value.__notes__ == [f"raised by the environment at {url}"]
        for said, kind, words in (("raise", "LookupError", "it broke"), ("leave", "SystemExit", "3")):
            with pytest.raises(RuntimeError, match=words) as caught:
                talking(env).step(said)
            assert type(caught.value).__name__ == kind
        assert talking(env).step("and")[1] == 0.25  # in an environment of its own
    assert eventually(lambda: len(Trouble.closed) == 4)


@pytest.mark.parametrize("said", ["odd", "nan"])
def test_what_is_no_json_is_an_error(said):
    with served(Trouble) as url, pytest.raises(RuntimeError, match="JSON"):
        talking(make_env(url)).step(said)


def test_sessions_are_capped_and_one_that_ends_makes_room():
    with served(Trouble, limits=Limits(sessions=2)) as url:
        first, second = make_env(url), make_env(url)
        with pytest.raises(
            RemoteFailure, match=rf"{url}: all 2 sessions are taken. Serve more \(serve-env --sessions\)"
        ):
            make_env(url)
        first.close()
        assert eventually(lambda: len(Trouble.closed) == 1)
        third = make_env(url)
        assert talking(third).step("and")[1] == talking(second).step("and")[1]
        del second, third  # whoever forgets an environment ends its session
        assert eventually(lambda: len(Trouble.closed) == 3)


def test_many_sessions_play_at_once_each_for_itself():
    with served(Trouble) as url, ThreadPoolExecutor(16) as threads:
        envs = [make_env(url) for _ in range(16)]
        said = list(threads.map(lambda pair: pair[1].reset(seed=pair[0] % 4, options=TALK)[0], enumerate(envs)))
        assert said[:4] * 4 == said
        assert len({entry[0]["content"] for entry in said}) == 4


def test_a_step_past_its_deadline_is_given_up_and_the_place_kept_until_it_returns():
    with served(Trouble, limits=Limits(sessions=1, step_timeout=0.6)) as url:
        env = talking(make_env(url))
        with pytest.raises(
            RemoteFailure, match=r"no answer within 0.6 s. Give it more time \(serve-env --step-timeout\)"
        ):
            env.step("hang")
        with pytest.raises(RemoteFailure, match="all 1 sessions are taken"):
            env.reset(seed=0)
        Trouble.hang.set()
        assert eventually(lambda: len(Trouble.closed) == 1)
        assert talking(env).step("and")[1] == 0.25


def test_a_client_that_waits_no_longer_says_so():
    with served(Trouble) as url:
        env = talking(make_env(url, timeout=0.6))
        with pytest.raises(RemoteFailure, match=r"no answer to a step within 0.6 s.*\(env.options.timeout\)"):
            env.step("hang")
        Trouble.hang.set()


def test_an_idle_session_ends_and_the_next_reset_begins_another():
    with served(Trouble, limits=Limits(idle_timeout=0.5)) as url:
        env = talking(make_env(url))
        assert eventually(lambda: Trouble.closed)
        with pytest.raises(SessionLost, match=r"idle for 0.5 s \(serve-env --idle-timeout\)"):
            env.step("and")
        assert env.reset(seed=1)[0] == make_env(url).reset(seed=1)[0]


def test_a_server_that_dies_and_comes_back():
    port = free_port()
    with served(Trouble, port=port) as url:
        env, idle = talking(make_env(url, patience=0.0)), make_env(url, patience=0.0)
    with pytest.raises(SessionLost, match=f"{url} ended the session"):
        env.step("and")
    with pytest.raises(SessionLost, match="reset begins a new one"):
        _ = env.connection.go_on("step", message="and")
    with pytest.raises(RemoteFailure, match=f"{url} cannot be reached: .*serve-env"):
        env.reset(seed=1)
    with pytest.raises(RemoteFailure, match="cannot be reached"):
        make_env(url)
    with served(Trouble, port=port):
        assert talking(env).step("and")[1] == 0.25
        assert talking(idle).step("and")[1] == 0.25


def test_before_an_episode_a_server_that_is_away_is_waited_for():
    port = free_port()
    with served(Trouble, port=port) as url:
        env = make_env(url, patience=20.0).another()
    with ThreadPoolExecutor(1) as threads:
        begun = threads.submit(env.reset, seed=1)
        with served(Trouble, port=port):
            assert begun.result(20)[0][0]["content"].startswith("go ")


@contextmanager
def hanging_up(port, answer):
    """Something that answers those who come with a few bytes and hangs up; gives what says that somebody came."""
    came = threading.Event()
    with socket.create_server(("127.0.0.1", port)) as listening:

        def work():
            with suppress(OSError):  # it has been shut down
                while True:
                    line, _ = listening.accept()
                    with line:
                        line.recv(65536)
                        line.sendall(answer)
                    came.set()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield came
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


HUNG_UP = {"nothing": b"", "a line": b"HTTP/1.1 101", "half": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: webs"}


@pytest.mark.parametrize("answer", HUNG_UP.values(), ids=HUNG_UP)
def test_a_server_that_dies_while_it_lets_somebody_in_is_waited_for(answer):
    port = free_port()
    with served(Trouble, port=port) as url:
        env, hasty = make_env(url, patience=20.0).another(), make_env(url, patience=0.0).another()
    with ThreadPoolExecutor(1) as threads:
        with hanging_up(port, answer) as came:
            with pytest.raises(
                RemoteFailure,
                match=rf"{url} cannot be reached: did not receive a valid HTTP resp.* \(connection closed .*\)\. Is it",
            ):
                hasty.reset(seed=1)
            came.clear()
            begun = threads.submit(env.reset, seed=1)
            assert came.wait(20)
        with served(Trouble, port=port):
            assert begun.result(20)[0][0]["content"].startswith("go ")


def test_what_speaks_another_protocol_is_not_waited_for():
    port = free_port()
    with hanging_up(port, b"SSH-2.0-OpenSSH_9.6\r\n") as came:
        with pytest.raises(RemoteFailure, match=r"is no server of an environment: did not receive a valid HTTP resp"):
            WebSocketLink(f"http://127.0.0.1:{port}", timeout=1.0).open(3600.0)
        assert came.is_set()


def test_a_rollout_says_what_happened_and_goes_on_when_the_server_is_back():
    chat, port = Chat(make_tokenizer(), tool_format="hermes"), free_port()
    ids = [*chat.tokenizer.encode("bye", add_special_tokens=False), chat.stop_ids[0]]
    servers = [served(Trouble, port=port)]
    url = servers[0].__enter__()

    def script(session, turn):
        if session == 2:  # while the second episode's turn is sampled
            servers.pop().__exit__(None, None, None)
        return ids

    make = make_env(url, patience=0.2).another
    rollout = Rollout(
        make, chat, ScriptedEngine(script), RewardVector(["outcome"]), RolloutConfig(group_size=1), env_name=url
    )

    def one(do):
        ((group,),) = (rollout.sample([{"do": do}], seed=0),)
        return group.trajectories[0]

    assert one("talk").stop_reason == "terminated"
    died = one("talk")
    assert (died.stop_reason, died.steps[0].message["content"]) == ("error", "bye")
    assert died.error.startswith(f"{url} step 1: SessionLost: {url} ended the session")
    away = one("talk")
    assert (away.stop_reason, away.steps) == ("error", [])
    assert f"{url} reset: RemoteFailure: {url} cannot be reached" in away.error
    with served(Trouble, port=port):
        assert one("talk").rewards == {"outcome": 0.25}
        raised = one("raise")
        assert raised.error == f"{url} reset: KeyError: 'word'"
        rollout.close()


def test_a_token_is_wanted_where_there_is_one(monkeypatch):
    with served(Trouble, limits=Limits(token="s3cret")) as url:
        for variable, value, why in (
            ("GRPO_AGENTS_ENV_TOKEN", None, "GRPO_AGENTS_ENV_TOKEN is not set"),
            ("GRPO_AGENTS_ENV_TOKEN", "other", "the token in GRPO_AGENTS_ENV_TOKEN is not its token"),
            ("OURS", "s3crét", "the token in OURS is not its token"),
        ):
            if value is not None:
                monkeypatch.setenv(variable, value)
            with pytest.raises((RemoteFailure, ValueError), match=why) as caught:
                make_env(url, token_variable=variable)
            assert "s3cret" not in str(caught.value)
        monkeypatch.setenv("OURS", "s3cret")
        assert talking(make_env(url, token_variable="OURS")).step("and")[1] == 0.25


def test_web_pages_are_refused():
    with served(Trouble) as url, pytest.raises(InvalidStatus, match="403"):
        list(asked(url, {"type": "describe"}, origin="http://127.0.0.1"))


def test_others_are_let_in_with_a_token_only():
    with pytest.raises(ValueError, match=r"--host 0.0.0.0 lets others in.*--token-variable NAME"):
        serve(Trouble, "it", Limits(), host="0.0.0.0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen at 127.0.0.1, port {port}: .*--port"):
            serve(Trouble, "it", Limits(), port=port)


def test_requests_that_make_no_sense_are_said_to_and_change_nothing():
    step = {"type": "step", "data": {"message": "and"}}
    turn = {"message": {}, "observation": [], "tools": [], "dollars": 0}
    with served(Trouble) as url:
        sent = {
            "{": "INVALID_JSON",
            b"\x00": "INVALID_JSON",
            "[" * 100_000: "INVALID_JSON",
            "[]": "VALIDATION_ERROR",
            '{"type": "reset", "data": {"seed": -1}}': "VALIDATION_ERROR",
            '{"type": "eval", "data": {}}': "UNKNOWN_TYPE",
            json.dumps(step): "NO_EPISODE",
            json.dumps({"type": "replay_step", "data": turn}): "NO_EPISODE",
            '{"type": "vary", "data": {"generator": {"state": 1}}}': "EXECUTION_ERROR",
        }
        reset, user = {"type": "reset", "data": {"seed": 1}}, {"message": {"role": "user", "content": ""}}
        *answers, _, refused, stepped = asked(url, *sent, reset, {"type": "step", "data": user}, step)
    assert [answer["data"]["code"] for answer in answers] == list(sent.values())
    assert refused["data"]["code"] == "VALIDATION_ERROR"
    assert stepped["data"]["reward"] == 0.25


def test_what_is_too_long_is_not_read():
    with served(Trouble) as url:
        with pytest.raises(ConnectionClosed, match="1009"):
            list(asked(url, "x" * (MAX_BYTES + 1)))
        env = talking(make_env(url))
        with pytest.raises(RemoteFailure, match="bytes; 16,777,216 may be sent"):
            env.step("x" * MAX_BYTES)
        call = {"role": "assistant", "content": "", "tool_calls": [tool_call("look", {"word": "x" * 9})] * 400_000}
        talking(env)
        with pytest.raises(RemoteFailure, match=r"bytes; 16,777,216 may be sent"):
            env.step(call)


def answering(**answers):
    """An app that answers each type of request with what is said, as text or JSON."""

    async def session(web):
        await web.accept()
        while True:
            kind = (await web.receive_json())["type"]
            if kind == "close":
                await web.close()
                return
            answer = answers[kind]
            await web.send_text(answer if isinstance(answer, str) else json.dumps(answer))

    return Starlette(routes=[WebSocketRoute("/ws", session)])


def running_app(app):
    import uvicorn
    from serving_envs import running

    return running(uvicorn.Server(uvicorn.Config(app, ws="websockets-sansio", lifespan="off", log_level="critical")))


def begin_and_step(url):
    env = make_env(url)
    env.reset(seed=0, options={"task": {}})
    env.step("and")


DESCRIBED = describe(Trouble(), "some.py:Env", "1")
BEGUN = {"messages": [{"role": "user", "content": "go"}], "info": {"task": {}, "tools": [], "preference": {}}}
BEGUN |= {"offer": [], "allowance": None}
STEPPED = {"messages": [], "info": {"rewards": {}}, "runs": [], "spent": 0.0, "terminated": True, "truncated": False}


def said(**data):
    return {"type": "observation", "data": {"done": False, "reward": None, **data}}


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ({"describe": "hello"}, "answers what is no JSON: 'hello'"),
        ({"describe": {"hello": 1}}, "which has no type and data"),
        (
            {"describe": {"type": "answer", "data": [1]}},
            f"speaks version None of the protocol, and here it is {PROTOCOL}",
        ),
        (
            {"describe": {"type": "answer", "data": {**DESCRIBED, "protocol": 9}}},
            "install the same grpo-agents on both",
        ),
        ({"describe": {"type": "answer", "data": {**DESCRIBED, "maxima": 3}}}, "not promised: maxima: .*it is 3"),
        ({"reset": {"type": "state", "data": {}}}, "has no observation"),
        ({"reset": said(observation={**BEGUN, "messages": [{"role": "robot", "content": ""}]})}, "are no messages"),
        ({"reset": said(observation={**BEGUN, "info": {}})}, "without its task in info"),
        ({"reset": {"type": "error", "data": "no"}}, "answers with the error 'no'"),
        ({"step": said(observation=STEPPED)}, "a step without a reward"),
        ({"step": said(observation={**STEPPED, "spent": "much"}, reward=1.0)}, "not promised: spent"),
    ],
)
def test_answers_that_were_not_promised(answers, problem):
    usual = {"describe": {"type": "answer", "data": DESCRIBED}, "reset": said(observation=BEGUN)}
    with running_app(answering(**{**usual, **answers})) as url, pytest.raises(RemoteFailure, match=problem) as caught:
        begin_and_step(url)
    assert url in str(caught.value)


def test_a_server_of_another_environment_is_noticed():
    port = free_port()
    with served(Trouble, port=port) as url:
        env = talking(make_env(url))
    other = served(ToolMathEnv, name="other.py:Env", port=port)
    with other, pytest.raises(RemoteFailure, match=r"serves other.py:Env now, and served some.py:Env before"):
        env.reset(seed=0)


def test_addresses_that_are_none():
    with pytest.raises(ValueError, match=r"reads http://host:port"):
        make_env("http://")
    for url in ("http://me:pass@host", "http://:pass@host", "http://host?token=1"):
        with pytest.raises(ValueError, match=r"env.id holds a user, a password or a query.*token_variable") as raised:
            make_env(url)
        assert "pass@" not in str(raised.value)
    with running_app(Starlette()) as url, pytest.raises(RemoteFailure, match=r"no server of an environment|refuses"):
        make_env(url)
    with served(Trouble) as url, pytest.raises(ValueError, match=r"no option 'level'.*serve-env --option"):
        make_env(url, level=3)
    with pytest.raises(ValueError, match=r"env.place is of environments that Ray holds"):
        make_env("http://127.0.0.1:1", place={"actors": 2})
