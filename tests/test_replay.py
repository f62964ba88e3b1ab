"""Stored episodes played again."""

import json
import os
import threading
import time
from typing import ClassVar

import pytest
from tiny import make_tokenizer

from grpo_agents import store
from grpo_agents.chat import Chat
from grpo_agents.engines.chat_model import ScriptedModel
from grpo_agents.engines.scripted import ScriptedEngine
from grpo_agents.env import AgentEnv, Reply
from grpo_agents.envs.library_desk import LibraryDeskEnv
from grpo_agents.envs.teacher import TeacherEnv
from grpo_agents.replay import UNCHARGED, CannotReplay, Difference, Replay
from grpo_agents.rewards.component import RewardVector
from grpo_agents.rollout import Rollout, RolloutConfig
from grpo_agents.spaces import tool_call
from grpo_agents.tools import tool
from grpo_agents.trajectory import Message, Step, ToolRun, Trajectory


@tool(price=0.5, latency=2.0, timeout=None)
def search(words: str) -> str:
    """Looks something up, out there."""
    Market.searched.append(words)
    if words == "down":
        raise ConnectionError("no route")
    return f"{words} costs {len(Market.searched)}"


class Market(AgentEnv):
    """A haggle: prices are drawn, the purse is counted down, and words make things happen."""

    tasks: ClassVar = [{"do": "talk"}]
    components = ("outcome", "style")
    searched: ClassVar[list[str]] = []
    hang = threading.Event()

    def start(self, task):
        if task["do"] == "break":
            raise ValueError("no market today")
        if task["do"] == "hang":
            self.hang.wait(5)
        self.purse = int(self.np_random.integers(50, 100))
        return f"You have {self.purse}."

    @tool(price=1.0, latency=0.1, timeout=None)
    def pay(self, amount: int) -> str:
        """Pays."""
        self.purse -= amount
        return f"{self.purse} left, and a {self.np_random.integers(1000)}"

    tools = (search, pay)

    def respond(self, message: Message) -> Reply:
        said = message.get("content")
        if message.get("tool_calls"):
            return Reply(self.run_tools(message["tool_calls"]))
        if said == "raise":
            raise RuntimeError("the stall fell over")
        if said == "hang":
            self.hang.wait(5)
        if said == "bye":
            return Reply(rewards={"outcome": 1.0, "style": self.purse / 3}, terminated=True)
        return Reply([f"and? {self.np_random.random()}"], {"style": 0.1})


class Cheaper(Market):
    """Pays less for style, and asks for more in one message."""

    def respond(self, message):
        reply = super().respond(message)
        reply.rewards = {**reply.rewards, **({"style": 0.0} if reply.terminated else {})}
        return reply


class Timed(Market):
    """Says what time it is."""

    def respond(self, message):
        reply = super().respond(message)
        return Reply([*reply.messages, f"it is {time.time_ns()}"], reply.rewards, reply.terminated)


class Lucky(Market):
    """Opens with what the machine draws."""

    def start(self, task):
        return f"{super().start(task)} Your number is {os.urandom(8).hex()}."


class Dearer(Market):
    tools = (search, Market.tools[1].costing(price=3.0))


class Other(Market):
    tools = (search,)


class Eager(Market):
    """Ends the episode at the first word."""

    def respond(self, message):
        reply = super().respond(message)
        reply.terminated = True
        return reply


class Reaching(Market):
    """Calls a tool from outside itself."""

    def respond(self, message):
        return Reply([self.offer["search"](words="it")])


@pytest.fixture(autouse=True)
def _fresh():
    Market.searched.clear()
    Market.hang = threading.Event()
    yield
    Market.hang.set()


@pytest.fixture(scope="module")
def chat():
    return Chat(make_tokenizer(), tool_format="hermes")


def said(chat, *turns):
    """The ids of turns, each a text or the calls of tools."""
    for turn in turns:
        message = {"role": "assistant", "content": turn if isinstance(turn, str) else ""}
        if not isinstance(turn, str):
            message["tool_calls"] = [tool_call(name, arguments) for name, arguments in turn]
        yield [*chat.tokenizer.encode(chat.render_assistant(message), add_special_tokens=False), chat.stop_ids[0]]


@pytest.fixture
def stored(chat, tmp_path):
    """Plays an episode of the market, stores it and reads it."""

    def play(*turns, do="talk", env=Market, **config):
        ids = list(said(chat, *turns)) or [[1]]
        engine = ScriptedEngine(lambda session, turn: ids[min(turn, len(ids) - 1)])
        settings = RolloutConfig(**{"group_size": 1, **config})
        rollout = Rollout(env, chat, engine, RewardVector(["outcome", "style"]), settings, env_name="market.py:Market")
        store.write(tmp_path / "one.parquet", rollout.sample([{"do": do}], seed=3))
        rollout.close()
        (trajectory,) = store.read(tmp_path / "one.parquet")
        return trajectory

    return play


def replayed(trajectory, env=Market, timeout=60.0):
    replay = Replay(env, timeout)
    try:
        return replay.play(trajectory)
    finally:
        replay.close()


HAGGLE = [
    [("pay", {"amount": 7}), ("search", {"words": "pears"})],
    "hello",
    [("search", {"words": "down"}), ("nobody", {}), ("pay", {"amount": "much"}), ("search", {"wrods": "x"})],
    "bye",
]


def test_an_episode_replays_the_same_and_what_is_outside_is_not_called(stored):
    trajectory = stored(*HAGGLE)
    assert trajectory.stop_reason == "terminated"
    assert [run.error is None for run in trajectory.steps[2].tools] == [False] * 4
    assert Market.searched == ["pears", "down"]
    assert replayed(trajectory) is None
    assert Market.searched == ["pears", "down"]


@pytest.mark.parametrize(
    ("turns", "config", "ends"),
    [
        (["hello"], {"max_turns": 3}, "turns"),
        (["hello", "hello there, and much more than that"], {"max_turn_tokens": 12}, "tokens"),
        (["hello"], {"max_tokens": 14}, "tokens"),
        (["hello", "raise"], {}, "error"),
        (["hello", "<tool_call>{broken</tool_call>", "bye"], {}, "terminated"),
    ],
)
def test_an_episode_that_was_cut_short_or_failed_replays_as_far_as_it_went(stored, turns, config, ends):
    trajectory = stored(*turns, **config)
    assert (trajectory.stop_reason, len(trajectory.steps) > 1) == (ends, True)
    assert replayed(trajectory) is None


def test_a_reset_that_failed_has_to_fail_in_the_same_way(stored):
    trajectory = stored(do="break")
    assert trajectory.error == "market.py:Market reset: ValueError: no market today"
    assert replayed(trajectory) is None
    trajectory.error = "market.py:Market reset: ValueError: no stall"
    assert replayed(trajectory) == Difference("reset", "end", ["ValueError: no stall"], ["ValueError: no market today"])


def test_a_step_that_ran_out_of_time_is_not_waited_for_again(stored):
    trajectory = stored("hello", "hang", step_timeout=0.3)
    assert (trajectory.stop_reason, len(trajectory.steps)) == ("deadline", 2)
    began = time.monotonic()
    assert replayed(trajectory) is None
    assert time.monotonic() - began < 0.3
    with pytest.raises(CannotReplay, match="its reset gave no answer in time"):
        replayed(stored(do="hang", step_timeout=0.3))


def test_a_turn_that_could_not_be_charged_is_not_played(stored):
    """The environment never got it: a hosted model did not say of how many tokens it was."""
    trajectory = stored("hello", "raise")
    trajectory.error = f"market.py:Market{UNCHARGED}how many tokens were read is not known"
    assert trajectory.stop_reason == "error"
    assert replayed(trajectory) is None
    trajectory.steps[0].observation[0]["content"] = "otherwise"
    assert replayed(trajectory).where == "turn 0"


def test_a_step_that_hangs_now_is_given_up_and_the_next_episode_is_played(stored):
    trajectory, fine = stored("hello", "bye"), stored("bye")
    trajectory.steps[0].message = {"role": "assistant", "content": "hang"}
    replay = Replay(Market, 0.2)
    assert replay.play(trajectory) == Difference("turn 0", "end", ["goes on"], ["still running after 0.2 s"])
    assert replay.play(fine) is None
    replay.close()


@pytest.mark.parametrize(
    ("env", "where", "what"),
    [
        (Timed, "turn 0", "messages"),
        (Lucky, "reset", "messages"),
        (Cheaper, "turn 3", "rewards"),
        (Dearer, "turn 0", "dollars"),
        (Other, "reset", "tools on offer"),
        (Eager, "turn 0", "end"),
    ],
)
def test_another_environment_is_told_by_what_it_does_first(stored, env, where, what):
    found = replayed(stored(*HAGGLE), env)
    assert (found.where, found.what) == (where, what)


@pytest.mark.parametrize("env", [Timed, Lucky])
def test_an_environment_with_a_clock_or_dice_of_its_own_is_caught_on_its_own_episodes(stored, env):
    assert replayed(stored("hello", "bye", env=env), env) is not None


def test_a_difference_shows_both_line_by_line(stored):
    trajectory = stored("hello", "bye")
    first = Replay(Cheaper)
    found = first.play(trajectory)
    style = trajectory.steps[1].rewards["style"]
    assert found == Difference(
        "turn 1", "rewards", ["outcome: 1.0", f"style: {style!r}"], ["outcome: 1.0", "style: 0.0"]
    )
    assert found.lines() == [
        "--- stored", "+++ now", "@@ -1,2 +1,2 @@", " outcome: 1.0", f"-style: {style!r}", "+style: 0.0",
    ]  # fmt: skip
    first.close()


def test_a_seed_a_task_and_a_preference_are_those_that_are_stored(stored):
    trajectory = stored("hello", "bye")
    trajectory.preference = {"outcome": 1.0}
    assert replayed(trajectory).now[-1] == "Preference: outcome 1"
    trajectory.preference, trajectory.seed = {}, trajectory.seed + 1
    assert (replayed(trajectory).where, replayed(trajectory).what) == ("reset", "messages")


def test_an_environment_that_plays_another_is_replayed_without_a_call_outside(stored):
    def teacher():
        return TeacherEnv(env=f"{__name__}:Market")

    trajectory = stored(*HAGGLE, env=teacher)
    assert trajectory.steps[-1].rewards.keys() == {"gold_outcome", "gold_style"}
    assert Market.searched == ["pears", "down"]
    assert replayed(trajectory, teacher) is None
    assert Market.searched == ["pears", "down"]


def test_an_environment_in_which_a_model_plays_a_part_is_not_replayed():
    asked = []
    model = ScriptedModel(lambda messages: asked.append(messages) or "Hello")

    def desk():
        return LibraryDeskEnv(user=model)

    env = desk()
    opening, info = env.reset(seed=0)
    asked.clear()
    trajectory = Trajectory(task=info["task"], prompt=opening, tools=info["tools"])
    with pytest.raises(CannotReplay, match="a language model plays a part in its environment"):
        replayed(trajectory, desk)
    assert not asked


def test_a_tool_from_outside_that_an_environment_calls_itself_cannot_be_replayed(stored):
    trajectory = stored("hello", env=Reaching, max_turns=2)
    with pytest.raises(CannotReplay, match="calls a tool from outside itself"):
        replayed(trajectory, Reaching)


def test_a_turn_whose_results_are_not_stored_cannot_be_replayed():
    calls = [tool_call("search", {"words": "pears"})]
    env = Market()
    opening, info = env.reset(seed=0)
    step = Step({"role": "assistant", "content": "", "tool_calls": calls}, tools=[ToolRun("search")])
    trajectory = Trajectory(task=env.task, prompt=opening, tools=info["tools"], steps=[step])
    with pytest.raises(CannotReplay, match="a turn has 1 tool calls, and 0 results of them are stored"):
        replayed(trajectory)


def test_lone_surrogates_are_compared_as_a_file_gives_them_back(tmp_path):
    class Odd(Market):
        def start(self, task):
            return "half a \ud83d"

    opening, info = Odd().reset(seed=0)
    store.write(tmp_path / "odd.parquet", [Trajectory(task={"do": "talk"}, prompt=opening, tools=info["tools"])])
    (read,) = store.read(tmp_path / "odd.parquet")
    assert json.dumps(read.prompt) != json.dumps(opening)
    assert replayed(read, Odd) is None
