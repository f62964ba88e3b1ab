"""An environment that is served, and the commands that play it."""

import os
import re
import signal
import subprocess
import sys

import pytest
from shell import refused
from tiny import REPOSITORY

from grpo_agents import store
from grpo_agents.env import make_env
from grpo_agents.trajectory import Group, Step, Trajectory

TASK = {"question": "What is 6 times 7?", "answer": "42"}


@pytest.fixture(scope="module")
def url():
    """The URL of a server in a process of its own, which a token opens."""
    option = 'tasks=[{question = "What is 6 times 7?", answer = "42"}]'
    command = [sys.executable, "-m", "grpo_agents", "serve-env", "grpo_agents/Math-v0", "--port", "0"]
    server = subprocess.Popen(
        [*command, "--option", option, "--token-variable", "OURS"],
        env={**os.environ, "OURS": "s3cret", "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"},
        stderr=subprocess.PIPE,
        text=True,
    )
    with server:
        line = server.stderr.readline()
        yield re.search(r"at (http://127.0.0.1:\d+), for at most 256 sessions", line)[1]
        server.send_signal(signal.SIGTERM)
        assert "Traceback" not in server.stderr.read()
    assert server.returncode == -signal.SIGTERM


@pytest.fixture
def _token(monkeypatch):
    monkeypatch.setenv("GRPO_AGENTS_ENV_TOKEN", "s3cret")


def test_without_the_token_nothing_is_played(run, url):
    assert "GRPO_AGENTS_ENV_TOKEN is not set" in refused(run("play", url))


@pytest.mark.usefixtures("_token")
def test_check_and_play_play_it(run, url):
    assert "all is well" in run("check", url).stdout
    said = run("play", url, stdin="\\boxed{42}\n").stdout
    assert "What is 6 times 7?" in said
    assert "the episode is over; reward 1" in said


@pytest.mark.usefixtures("_token")
def test_replay_plays_stored_episodes_there(run, url):
    observation, _ = make_env("grpo_agents/Math-v0", tasks=[TASK]).reset(seed=1)
    step = Step({"role": "assistant", "content": r"\boxed{42}"}, rewards={"outcome": 1.0})
    right = Trajectory(env="here", task=TASK, seed=1, prompt=observation, steps=[step], rewards={"outcome": 1.0})
    store.write("stored.parquet", [Group(TASK, {}, [right])], step=0, phase="eval")
    result = run("replay", "stored.parquet", "--env", url)
    assert result.exit_code == 0, result.output
    step.rewards = {"outcome": 0.0}
    store.write("stored.parquet", [Group(TASK, {}, [right])], step=0, phase="eval")
    result = run("replay", "stored.parquet", "--env", url)
    assert result.exit_code == 1
    assert "+outcome: 1.0" in result.stdout


def test_what_cannot_be_served_is_said(run, monkeypatch):
    assert "--option 'split': write key=value" in refused(run("serve-env", "grpo_agents/Math-v0", "--option", "split"))
    assert "takes no option 'level'" in refused(run("serve-env", "grpo_agents/ToolMath-v0", "--option", "level=3"))
    served = ("serve-env", "grpo_agents/ToolMath-v0")
    assert "there is no token in it" in refused(run(*served, "--token-variable", "NONE_SUCH"))
    assert "lets others in" in refused(run(*served, "--host", "0.0.0.0"))
