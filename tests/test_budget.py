"""What an episode may spend, and what its own tokens cost."""

import math

import pytest
from fake_openai import serving
from tiny import make_tokenizer

from grpo_agents import store
from grpo_agents.chat import Chat
from grpo_agents.engines.hosted import HostedChat, HostedEngine
from grpo_agents.engines.scripted import ScriptedEngine
from grpo_agents.engines.settings import ServerConfig
from grpo_agents.env import AgentEnv, Reply
from grpo_agents.evaluation.episodes import Episodes
from grpo_agents.replay import Replay
from grpo_agents.rewards.component import RewardVector
from grpo_agents.rewards.cost import cost
from grpo_agents.rollout import Rollout, RolloutConfig
from grpo_agents.spaces import tool_call
from grpo_agents.tools import Price, ToolResult, tool


class Shop(AgentEnv):
    """Sells hints, and takes what is said last for the answer."""

    tasks = [{"question": "?"}]  # noqa: RUF012
    budget = 2.0

    @tool(price=1.0, latency=0.5, timeout=None)
    def hint(self) -> str:
        """Gives a hint."""
        return "It is 7."

    @tool(price=Price(written=0.5), latency=0.5, timeout=None)
    def essay(self, words: int) -> ToolResult:
        """Writes as long as it likes."""
        return ToolResult("It is 7.", 0, words)

    tools = (hint, essay)

    def start(self, task):
        return task["question"]

    def allowance(self, task):
        return task.get("allowance", self.budget)

    def finish(self, task, message):
        return {"outcome": float(message["content"] == "7")}


def asks(name, content="", **arguments):
    return {"role": "assistant", "content": content, "tool_calls": [tool_call(name, arguments)]}


def begun(**task):
    env = Shop()
    env.reset(seed=0, options={"task": {"question": "?", **task}})
    return env


def test_a_call_that_would_overdraw_is_refused_and_the_episode_goes_on():
    env = begun()
    for left in (1.0, 0.0):
        _, _, terminated, truncated, info = env.step(asks("hint"))
        assert (env.left, terminated, truncated, info) == (left, False, False, {"rewards": {}})
    observation, _, terminated, _, _ = env.step(asks("hint"))
    assert observation[0]["content"] == "Error: 'hint' can cost $1, and $0 of the budget is left"
    assert (env.spent, env.runs[0].dollars, terminated) == (2.0, 0.0, False)
    _, reward, terminated, _, info = env.step("7")
    assert (reward, terminated, info) == (1.0, True, {"rewards": {"outcome": 1.0}})


def test_an_overdrawn_budget_ends_the_episode_and_its_last_message_is_judged():
    for content, outcome in (("", 0.0), ("7", 1.0)):
        env = begun()
        env.step(asks("hint"))
        observation, reward, terminated, truncated, info = env.step(asks("essay", content, words=3))
        assert observation[0]["content"] == "It is 7."
        assert (env.left, reward, terminated, truncated) == (-0.5, outcome, True, False)
        assert info == {"rewards": {"outcome": outcome}, "stop_reason": "budget"}


def test_what_is_used_up_to_the_cent_is_not_overdrawn():
    env = begun(allowance=0.3)
    env.charge(0.1 + 0.2)  # 0.30000000000000004
    assert env.step(asks("essay", words=0))[2] is False


def test_a_task_may_have_another_budget_and_each_episode_has_its_own():
    env = begun(allowance=None)
    for _ in range(9):
        assert env.step(asks("hint"))[2] is False
    assert (env.left, env.spent) == (None, 9.0)
    env.reset(options={"task": {"question": "?"}})
    assert (env.left, env.spent) == (2.0, 0.0)


@pytest.mark.parametrize("amount", [-1.0, math.nan])
def test_an_impossible_budget_is_refused(amount):
    with pytest.raises(ValueError, match=rf"Shop: the budget is {amount}"):
        begun(allowance=amount)


def test_an_environment_that_only_responds_is_told_what_a_budget_needs():
    class Talks(Shop):
        finish = AgentEnv.finish

        def respond(self, message):
            return Reply(self.run_tools(message["tool_calls"]))

    env = Talks()
    env.reset(seed=0)
    with pytest.raises(TypeError, match="Talks defines neither finish"):
        env.step(asks("essay", words=9))


def test_two_tools_of_one_name_are_refused():
    class Twice(Shop):
        tools = (Shop.hint, Shop.essay.called("hint"))

    with pytest.raises(ValueError, match=r"Twice offers two tools that are called 'hint'"):
        Twice().reset(seed=0)


# The policy's own tokens


@pytest.fixture(scope="module")
def chat():
    return Chat(make_tokenizer(), tool_format="hermes")


def say(chat, message):
    return [*chat.tokenizer.encode(chat.render_assistant(message), add_special_tokens=False), chat.stop_ids[0]]


def played(env, chat, *messages, task=None, **config):
    turns = [say(chat, message) for message in messages]
    engine = ScriptedEngine(lambda session, turn: turns[turn], 1 << 20)
    vector = RewardVector(["outcome", cost])
    rollout = Rollout(env, chat, engine, vector, RolloutConfig(group_size=1, **config), env_name="Shop")
    (group,) = rollout.sample([task or {"question": "?"}], seed=0)
    rollout.close()
    return group.trajectories[0], turns


class Priced(Shop):
    budget = None
    token_price = Price(call=0.25, read=0.001, written=0.1)


ANSWER = {"role": "assistant", "content": "7"}


def test_each_turn_is_charged_for_its_prompt_and_for_what_it_writes(chat):
    trajectory, turns = played(Priced, chat, asks("hint"), ANSWER)
    prompts = [len(chat.start(trajectory.prompt, trajectory.tools).ids), trajectory.steps[1].span[0]]
    assert prompts[1] > prompts[0] + len(turns[0])
    for step, read, ids in zip(trajectory.steps, prompts, turns, strict=True):
        assert step.dollars == pytest.approx(0.25 + 0.001 * read + 0.1 * len(ids))
    own = sum(step.dollars for step in trajectory.steps)
    assert trajectory.usage.dollars == pytest.approx(own + 1.0)
    assert trajectory.rewards["cost"] == trajectory.usage.dollars
    assert trajectory.usage.latency == 0.5


def test_what_is_stored_and_read_in_columns_agrees(chat, tmp_path):
    trajectory, _ = played(Priced, chat, asks("hint"), ANSWER)
    store.write(tmp_path / "a.parquet", [trajectory])
    (read,) = store.read(tmp_path / "a.parquet")
    assert [step.dollars for step in read.steps] == [step.dollars for step in trajectory.steps]
    assert read.usage == trajectory.usage
    assert Episodes.read(tmp_path / "a.parquet", pytest.fail).dollars.tolist() == [trajectory.usage.dollars]


def test_own_tokens_draw_on_the_budget_and_can_end_an_episode(chat):
    class Poor(Priced):
        budget = 2.0

    trajectory, turns = played(Poor, chat, asks("hint"), ANSWER)
    assert 0.1 * len(turns[0]) > 1.0  # so that the hint cannot be paid
    assert "can cost $1" in trajectory.steps[0].tools[0].error
    trajectory, _ = played(Poor, chat, asks("hint", "7"), ANSWER, task={"question": "?", "allowance": 0.5})
    assert (trajectory.stop_reason, trajectory.truncated, len(trajectory.steps)) == ("budget", True, 1)
    assert trajectory.rewards["outcome"] == 1.0
    worst, _ = played(Poor, chat, asks("hint", "7"), task={"question": "?", "allowance": 0.5}, truncated="worst")
    assert (worst.rewards["outcome"], worst.rewards["cost"]) == (0.0, trajectory.rewards["cost"])


def test_an_episode_that_its_budget_ended_replays_as_it_was(chat):
    class Poor(Priced):
        budget = 2.0

    trajectory, _ = played(Poor, chat, asks("essay", words=5))
    assert trajectory.stop_reason == "budget"
    replay = Replay(Poor)
    assert replay.play(trajectory) is None
    trajectory.stop_reason = "terminated"
    found = replay.play(trajectory)
    replay.close()
    assert found is not None
    assert (found.what, found.stored, found.now) == ("end", ["terminated"], ["budget"])


@tool(price=Price(written=0.5), timeout=None)
def outside(words: int) -> ToolResult:
    """Writes as long as it likes."""
    return ToolResult("It is 7.", 0, words)


def test_what_a_tool_from_outside_was_found_to_cost_is_not_asked_again(chat):
    class Far(Shop):
        tools = (outside.called("far"),)

    trajectory, _ = played(Far, chat, asks("far", words=3), ANSWER)
    (run,) = trajectory.steps[0].tools
    assert (run.name, run.called, run.dollars) == ("outside", "far", 1.5)
    replay = Replay(Far)
    assert replay.play(trajectory) is None
    replay.close()


@pytest.mark.parametrize("usage", [{"prompt_tokens": 30, "completion_tokens": 4}, None])
def test_a_hosted_policy_is_charged_as_its_endpoint_counts(usage, tmp_path):
    answer = {"choices": [{"index": 0, "message": ANSWER, "finish_reason": "stop"}], "usage": usage}
    with serving(lambda path, body: answer) as fake:
        engine = HostedEngine(ServerConfig(url=fake.url, model="m"), patience=5.0)
        vector = RewardVector(["outcome", cost])
        rollout = Rollout(Priced, HostedChat(), engine, vector, RolloutConfig(group_size=1), env_name="Shop")
        (group,) = rollout.sample([{"question": "?"}], seed=0)
        rollout.close()
        engine.close()
    (trajectory,) = group.trajectories
    if usage is None:
        assert trajectory.stop_reason == "error"
        assert trajectory.error == (
            "Shop: a turn cannot be charged (token_price): its tokens have a price, and nobody counted them"
        )
        assert trajectory.rewards["cost"] is None
        return
    assert trajectory.rewards["cost"] == pytest.approx(0.25 + 30 * 0.001 + 4 * 0.1)
    store.write(tmp_path / "a.parquet", [trajectory])
    (read,) = store.read(tmp_path / "a.parquet")
    assert (read.steps[0].read, read.steps[0].tokens, read.usage) == (30, 4, trajectory.usage)
