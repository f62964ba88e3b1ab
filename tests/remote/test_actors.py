"""Environments in actors of Ray."""

import os
import sys

import pytest
import ray
from processes import eventually

from grpo_agents.contract import check
from grpo_agents.env import make_env
from grpo_agents.envs.library_desk import LibraryDeskEnv
from grpo_agents.remote import actors
from grpo_agents.remote.client import RemoteEnv
from grpo_agents.remote.connection import RemoteSession
from grpo_agents.remote.place import Place
from grpo_agents.remote.wire import RemoteFailure, SessionLost
from grpo_agents.spaces import tool_call

LOST = """
import os, signal
from grpo_agents import AgentEnv, Reply

class Mortal(AgentEnv):
    tasks = [{"n": 1}]

    def start(self, task):
        return "go"

    def respond(self, message):
        if message["content"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if message["content"] == "raise":
            raise LookupError("it broke")
        return Reply([str(os.getpid())], {"outcome": 0.5}, message["content"] == "bye")
"""


@pytest.fixture(scope="module", autouse=True)
def _ray():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


def test_episodes_are_the_same_bit_for_bit():
    here = LibraryDeskEnv(levels=[1, 2])
    there = make_env("ray:grpo_agents/LibraryDesk-v0", levels=[1, 2], place={"actors": 2})
    call = {"role": "assistant", "content": "", "tool_calls": [tool_call("find_members", {"name": "Ada"})]}
    for env in (there, there.another()):
        for seed in range(3):
            assert env.reset(seed=seed) == here.reset(seed=seed)
            for action in (call, "Done?", "Goodbye."):
                outcome = here.step(action)
                assert (env.step(action), env.runs, env.spent) == (outcome, here.runs, here.spent)
                if outcome[2]:
                    break
    assert [finding for finding in check(there.another) if finding.problem] == []


SLOW = """
import time
from pathlib import Path
from grpo_agents import AgentEnv

class SlowToClose(AgentEnv):
    tasks = [{"n": 1}]

    def start(self, task):
        return "go"

    def close(self):
        time.sleep(0.5)
        Path(__file__).with_name("closed").touch()
"""


def test_one_that_is_closed_is_closed_before_its_actor_may_end(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    env = make_env(f"ray:{tmp_path}/slow.py:SlowToClose")
    env.reset(seed=0)
    env.close()
    assert (tmp_path / "closed").exists()


def test_an_actor_that_dies_takes_its_episodes_and_the_next_reset_begins_again(tmp_path):
    (tmp_path / "mortal.py").write_text(LOST)
    env = make_env(f"ray:{tmp_path}/mortal.py:Mortal")
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="it broke") as caught:
        env.step("raise")
    assert type(caught.value).__name__ == "LookupError"
    env.reset(seed=0)
    first = env.step("and")[0][0]["content"]
    assert first != str(os.getpid())
    with pytest.raises(SessionLost, match=r"ray:.*mortal.py:Mortal: the actor died"):
        env.step("die")
    env.reset(seed=0)
    assert env.step("and")[0][0]["content"] != first


def test_what_cannot_be_made_or_placed_is_said():
    with pytest.raises(RuntimeError, match=r"takes no option 'level' .*Did you mean 'levels'"):
        make_env("ray:grpo_agents/LibraryDesk-v0", level=[1])
    with pytest.raises(ValueError, match=r"unknown key env.place.actor. Did you mean 'actors'"):
        make_env("ray:grpo_agents/Math-v0", place={"actor": 2})
    with pytest.raises(RemoteFailure, match=r"no actor began within 1 s.*`ray status`"):
        make_env("ray:grpo_agents/ToolMath-v0", place={"resources": {"browser": 1}}, timeout=1.0, patience=0.0)


COUNTING = """
import threading
from grpo_agents import AgentEnv, Reply

class Counting(AgentEnv):
    tasks = [{"n": 1}]

    def start(self, task):
        return "go"

    def respond(self, message):
        threads = [thread for thread in threading.enumerate() if thread.name == "grpo-agents-session"]
        return Reply([f"{len(threads)} sessions"])
"""


def test_a_session_that_came_too_late_is_ended(tmp_path):
    (tmp_path / "counting.py").write_text(COUNTING)
    blocker = ray.remote(object).options(num_cpus=2).remote()
    held = actors.Actors(f"{tmp_path}/counting.py:Counting", {}, Place(cpus=2))
    for _ in range(2):
        with pytest.raises(RemoteFailure, match=r"no actor began within 0\.2 s"):
            held.link(0.2).open(0.0)
    ray.kill(blocker)
    env = RemoteEnv(RemoteSession(held.link(60.0)))
    env.reset(seed=0)
    assert eventually(lambda: env.step("How many?")[0][0]["content"] == "1 sessions")


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        ModuleNotFoundError,
        match=r"ray:grpo_agents/Math-v0: Ray is not installed, and it takes that: pip install 'grpo-agents\[ray\]'",
    ):
        make_env("ray:grpo_agents/Math-v0")


def test_another_version_of_this_package_there_is_refused(monkeypatch):
    own = actors.own_version()
    monkeypatch.setattr(actors, "own_version", lambda: "9.0 (abc)")
    with pytest.raises(
        RemoteFailure, match=r"begun: .* has grpo-agents .* and not 9.0 \(abc\), which the driver"
    ) as caught:
        make_env("ray:grpo_agents/Math-v0")
    assert own in str(caught.value)


def test_a_machine_without_this_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "lacked_by_ray.py").write_text(
        "class Holder:\n    def __init__(self, name, options): ...\n\n    def open(self, version): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import lacked_by_ray

    monkeypatch.setattr(actors, "Holder", lacked_by_ray.Holder)
    with pytest.raises(
        RemoteFailure, match=r"machine [\d.]+ cannot load the code \(.*'lacked_by_ray'\)\. Install grpo-agents with"
    ):
        make_env("ray:grpo_agents/Math-v0")


def test_a_cluster_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(
        ValueError,
        match=r"ray:grpo_agents/Math-v0 is 'auto' \(RAY_ADDRESS: 127.0.0.1:1\), and no Ray cluster answers there "
        r"\(.*refused\)\. Start one .*, or set RAY_ADDRESS=local$",
    ):
        make_env("ray:grpo_agents/Math-v0")
