"""Keys and passwords are in nothing that a run says or leaves, whatever a server repeats."""

import base64
import sys
import textwrap
import traceback

import pytest
from fake_openai import Drop, serving
from leaks import ANSWERS, BASIC, BEARER, ECHO, HEADERS, KEY, LIKED, TRAINED, holds_key, leaks, said, served
from shell import refused as refused_by_us
from tiny import save_start
from typer.testing import CliRunner

from grpo_agents import store
from grpo_agents.cli import app
from grpo_agents.config import load_config, make_config
from grpo_agents.credentials import Credentials, without_keys
from grpo_agents.engines.child import ChildEngine
from grpo_agents.engines.openai_client import Client
from grpo_agents.engines.settings import ServerConfig
from grpo_agents.loggers import Loggers
from grpo_agents.tools import McpServer


def test_what_looks_for_the_key_finds_it():
    for found in (KEY, BEARER, BASIC, f"x {BEARER} y", BEARER.encode()):
        assert holds_key(found)
    assert not holds_key(KEY[:-1])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a command in a folder with a tiny model; what it said and left must not hold the key."""
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "WANDB_API_KEY"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setattr("grpo_agents.engines.hosted.FIRST_PAUSE", 0.01)

    def go(*arguments):
        result = CliRunner().invoke(app, [str(entry) for entry in arguments])
        shown = result.output
        if result.exception is not None:
            shown += "".join(traceback.format_exception(result.exception))
        assert not holds_key(shown), shown
        return result

    yield go
    assert leaks(tmp_path) == []


HOSTED = """
run = "runs/a"
model.path = "start"
env.id = "grpo_agents/Orchestra-v0"
rewards.vector = ["outcome", "cost", "latency"]
rollout = { group_size = 2, max_turns = 2, max_turn_tokens = 8 }
engine = { backend = "hosted", patience = 0.2, server = { url = "URL", model = "m" } }
"""


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("debug", [pytest.param(False, id="", marks=pytest.mark.slow), pytest.param(True, id="debug")])
def test_an_evaluation_of_a_hosted_model(run, tmp_path, answer, debug):
    with serving(served(ANSWERS[answer])) as fake:
        (tmp_path / "hosted.toml").write_text(HOSTED.replace("URL", fake.url))
        options = ["--debug"] * debug
        result = run(*options, "rollout", "hosted.toml", "--tasks", "2", "--out", "some.parquet")
        assert fake.asked, result.output
    if answer == "an answer":
        assert result.exit_code == 0, result.output
        assert "[hidden]" in store.read("some.parquet")[0].steps[0].message["content"]
        for command in (["report"], ["evaluate"], ["export", "--out", "some.jsonl"], ["replay"]):
            run(command[0], "some.parquet", *command[1:])
    else:
        assert result.exit_code != 0


@pytest.mark.parametrize("answer", ["an answer", "401", pytest.param("500", marks=pytest.mark.slow)])
def test_a_training_run_with_a_hosted_judge(run, tmp_path, answer):
    save_start(tmp_path / "start")
    (tmp_path / "liked.py").write_text(LIKED)
    with serving(served(ANSWERS[answer])) as fake:
        (tmp_path / "trained.toml").write_text(TRAINED.replace("URL", fake.url))
        result = run("train", "trained.toml")
        assert fake.asked, result.output
    assert result.exit_code == 0, result.output
    run("report", "runs/a")
    assert (tmp_path / "runs/a/metrics.jsonl").exists()
    assert list((tmp_path / "runs/a/tensorboard").iterdir())


@pytest.mark.parametrize("end", ["\n", " ", "\r\n"])
def test_a_key_with_the_end_of_a_line_is_a_key(end, monkeypatch):
    """As files have it: in a header it would be refused, and shown."""
    monkeypatch.setenv("SOME_API_KEY", KEY + end)
    with serving(served(said("hi"))) as fake:
        client = Client(fake.url, "SOME_API_KEY", 1)
        assert client._client.api_key == KEY
    monkeypatch.setenv("SOME_API_KEY", f"{KEY}\n{KEY}")
    with pytest.raises(ValueError, match="SOME_API_KEY holds characters that no key has"):
        Client("http://localhost/v1", "SOME_API_KEY", 1)


@pytest.mark.parametrize(
    "url",
    [f"http://user:{KEY}@HOST/v1", f"http://{KEY}@HOST/v1", f"http://HOST/v1?api_key={KEY}", f"http://HOST?{KEY}"],
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(run, tmp_path, url):
    (tmp_path / "hosted.toml").write_text(HOSTED.replace('"URL"', "'URL'"))
    override = f"engine.server.url={url.replace('HOST', 'localhost:1')}"
    for command in (["rollout", "--out", "some.parquet"], ["train"], ["cost"]):
        message = refused_by_us(run(*command[:1], "hosted.toml", *command[1:], "--set", override))
        assert "server.url holds a user, a password or a query" in message
    with pytest.raises(ValueError, match="holds a user"):
        Client(url, "NO_KEY", 1)


def test_a_key_in_place_of_its_variables_name_is_refused_and_not_repeated(run, tmp_path):
    (tmp_path / "hosted.toml").write_text(HOSTED)
    override = f"engine.server.key_variable={KEY}"
    message = refused_by_us(run("rollout", "hosted.toml", "--out", "some.parquet", "--set", override))
    assert "server.key_variable is no name of an environment variable" in message


def test_a_key_among_the_variables_of_rays_actors_is_refused_and_not_repeated():
    env = {"id": "ray:shop.py:Shop", "place": {"runtime_env": {"env_vars": {"DEBUG": "1", "SHOP_API_KEY": KEY}}}}
    with pytest.raises(ValueError, match="env_vars has SHOP_API_KEY, and what a config holds is stored") as refused:
        make_config({"model": {"path": "x"}, "env": env})
    assert not holds_key(str(refused.value))


def test_the_config_of_a_run_holds_the_name_of_the_variable_alone(run, tmp_path):
    (tmp_path / "hosted.toml").write_text(HOSTED.replace("URL", "http://localhost:1/v1"))
    config = load_config("hosted.toml").model_dump(mode="json")  # what loggers are handed as well
    assert config["engine"]["server"]["key_variable"] == "OPENAI_API_KEY"
    assert not holds_key(repr(config))


def test_a_connection_that_breaks(run, tmp_path):
    def drop(path, body):
        raise Drop

    with serving(drop) as fake:
        (tmp_path / "hosted.toml").write_text(HOSTED.replace("URL", fake.url))
        assert run("--debug", "rollout", "hosted.toml", "--tasks", "1", "--out", "some.parquet").exit_code != 0


def test_secrets_of_an_mcp_server_are_in_nothing_that_it_is_quoted_with(tmp_path):
    """Which it writes as it ends, and which its address has."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        import base64, os, sys
        key = os.environ["TOKEN"]
        print("no, not with", key, base64.b64encode(key.encode()).decode(), file=sys.stderr)
        print("OPENAI_API_KEY" in os.environ, file=sys.stderr)
    """)
    )
    server = McpServer(command=[sys.executable, str(program)], env={"TOKEN": KEY}, timeout=20.0)
    with pytest.raises(ConnectionError, match=r"not with \[hidden\] .*False") as caught:
        server.tools()
    assert not holds_key("".join(traceback.format_exception(caught.value)))
    with serving(served((401, {"error": ECHO}, HEADERS))) as fake:
        server = McpServer(url=f"{fake.url}/mcp?api_key={KEY.replace('+', '%2B').replace('/', '%2F')}", timeout=5.0)
        with pytest.raises(ConnectionError, match=r"mcp\?api_key=\[hidden\]") as caught:
            server.tools()
    assert not holds_key("".join(traceback.format_exception(caught.value)))


class RefusesItsKey:
    """A logger whose service repeats the key."""

    def log(self, step, figures):
        raise ValueError(f"no user has the key {KEY}")

    def close(self):
        pass


def test_a_logger_that_fails_is_quoted_without_the_key(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    said = []
    loggers = Loggers([], said.append)
    loggers._running = {"wandb": RefusesItsKey()}
    loggers.log(0, {"loss": 1.0})
    assert said[0].startswith("wandb failed, and the run goes on without it: ValueError: no user has the key [hidden].")


class TellsItsEnvironment:
    """An engine that cannot be made, and says what it saw."""

    def __init__(self):
        import os

        raise ValueError(" ".join(sorted(os.environ)))


def test_the_process_of_an_engine_sees_no_keys(monkeypatch, request):
    monkeypatch.setenv("PYTHONPATH", ":".join([str(request.path.parent), *sys.path]))
    monkeypatch.setenv("SOME_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", "needed to load models")
    with pytest.raises(ValueError, match="the engine's process says") as caught:
        ChildEngine("test_secrets:TellsItsEnvironment", {}, patience=60.0, restarts=0, say=print)
    assert "HF_TOKEN" in str(caught.value)
    assert "SOME_API_KEY" not in str(caught.value)
    assert without_keys({"a_api_key": "1", "KEYS": "2", "HF_TOKEN": "3"}) == {"KEYS": "2", "HF_TOKEN": "3"}


@pytest.mark.parametrize("before", ["", "x", "Basic ", "Bearer "])
@pytest.mark.parametrize("after", ["", "!", "??"])
def test_a_secret_is_hidden_however_it_is_written(before, after):
    hide = Credentials(KEY).hide
    for altered in (None, b"-_"):
        text = base64.b64encode(f"{before}{KEY}{after}".encode(), altered).decode()
        assert not holds_key(hide(text))
    assert hide(f"{before}{KEY}{after}") == f"{before}[hidden]{after}"
    assert Credentials(KEY).hide_in({"a": [KEY, 3, None, {KEY: 0.5}]}) == {
        "a": ["[hidden]", 3, None, {"[hidden]": 0.5}]
    }
    assert Credentials("none", None).hide("none is a word") == "none is a word"


def test_names_of_sections_are_checked_where_no_file_is():
    with pytest.raises(ValueError, match=r"server\.url holds") as caught:
        ServerConfig(url=f"http://a:{KEY}@host/v1")
    assert "server.url" in str(caught.value)
