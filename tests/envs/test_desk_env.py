"""Whole episodes: an oracle, a lazy agent and a random one; Gymnasium; rollouts."""

import json
import warnings
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from tiny import make_tokenizer

from grpo_agents.chat import Chat
from grpo_agents.contract import check
from grpo_agents.engines import EngineFailure
from grpo_agents.engines.chat_model import Answer
from grpo_agents.engines.scripted import ScriptedEngine
from grpo_agents.env import make_env
from grpo_agents.envs.library_desk import LibraryDeskEnv
from grpo_agents.envs.library_desk.database import Library
from grpo_agents.envs.library_desk.oracle import oracle
from grpo_agents.envs.library_desk.tasks import LEVELS
from grpo_agents.replay import Replay
from grpo_agents.rewards.component import RewardVector
from grpo_agents.rewards.cost import cost
from grpo_agents.rollout import Rollout, RolloutConfig
from grpo_agents.spaces import tool_call

ID = "grpo_agents/LibraryDesk-v0"


def play(env, task, messages, seed=0):
    """One episode; its rewards and what its calls cost."""
    env.reset(seed=seed, options={"task": task})
    spent = 0.0
    for message in messages:
        _, _, terminated, _, info = env.step(message)
        spent += sum(run.dollars for run in env.runs)
        if terminated:
            return info["rewards"], spent
    raise AssertionError("the episode does not end")


def calls(tool, /, **arguments):
    return {"role": "assistant", "content": "", "tool_calls": [tool_call(tool, arguments)]}


@pytest.mark.parametrize("level", LEVELS)
def test_who_plays_the_solution_is_right_and_who_does_nothing_is_not(level):
    env = LibraryDeskEnv(levels=[level])
    for number in range(100):
        task = env.task_source[number]
        rewards, spent = play(env, task, oracle(task), seed=number)
        assert rewards == {"outcome": 1.0, "progress": 1.0}
        assert spent >= LibraryDeskEnv().expected_rewards(task)["solution"]["cost"] - 1e-9
        assert spent <= LibraryDeskEnv.maxima["cost"]
        assert play(env, task, ["Goodbye."] * 2)[0] == {"outcome": 0.0, "progress": 0.0}


def test_who_does_what_is_forbidden_is_not_right():
    """The unenforced rules: the system does it, and the end is another."""
    env, done = LibraryDeskEnv(levels=[4]), 0
    for number in range(60):
        task = env.task_source[number]
        forbidden = [call for wish in task["wishes"] for call in wish["forbidden"]]
        said = [*oracle(task)]
        wrong = [*said[:-1], *(calls(call["name"], **call["arguments"]) for call in forbidden), said[-1]]
        env.reset(seed=0, options={"task": task})
        refused = []
        for message in wrong:
            _, _, terminated, _, info = env.step(message)
            refused += [run.error is not None for run in env.runs]
        assert terminated
        allowed = not all(refused[-len(forbidden) :])
        done += allowed
        assert info["rewards"]["outcome"] == float(not allowed)
    assert done > 5


def test_random_writes_are_hardly_ever_right():
    env, right, progress = LibraryDeskEnv(), 0, []
    for number in range(300):
        task, rng = env.task_source[number], np.random.default_rng(number)
        database = Library.from_dict(task["database"])
        ids = {
            "card": [task["card"]],
            "copy": sorted(database.copies),
            "book": sorted(database.books),
            "cents": [20, 100, 200],
            "email": ["a@b.example"],
        }
        said = []
        for _ in range(len(task["wishes"])):
            tool = env.tools[3 + int(rng.integers(7))]
            keys = tool.schema["function"]["parameters"]["properties"]
            said.append(calls(tool.name, **{key: ids[key][int(rng.integers(len(ids[key])))] for key in keys}))
        rewards, _ = play(env, task, [*said, "Goodbye.", "Goodbye."])
        right += rewards["outcome"]
        progress.append(rewards["progress"])
    assert right <= 9
    assert np.mean(progress) < 0.1


def test_progress_is_the_share_of_what_has_to_change():
    env = LibraryDeskEnv(levels=[2])
    task = next(task for task in map(env.task_source.__getitem__, range(50)) if _changes(task, "change_email", "renew"))
    renew = next(call for wish in task["wishes"] for call in wish["calls"] if call["name"] == "renew")
    assert play(env, task, [calls("renew", **renew["arguments"]), "Goodbye."])[0] == {"outcome": 0.0, "progress": 0.5}
    elsewhere = next(iter(sorted(set(task["database"]["members"]) - {task["card"]})))
    harm = calls("change_email", card=elsewhere, email="a@b.example")
    assert play(env, task, [calls("renew", **renew["arguments"]), harm, "Goodbye."])[0]["progress"] == 0.0


def _changes(task, *names):
    return {call["name"] for wish in task["wishes"] for call in wish["calls"]} == set(names)


def test_calls_and_words_go_to_whom_they_are_meant_for():
    env = LibraryDeskEnv(levels=[1])
    opening, info = env.reset(seed=1)
    assert [message["role"] for message in opening] == ["system", "user"]
    assert f"Today is {info['task']['database']['today']}." in opening[0]["content"]
    assert len(info["tools"]) == 10
    observation, *_ = env.step({**calls("show_member", card=info["task"]["card"]), "content": "Goodbye."})
    assert [message["role"] for message in observation] == ["tool"]
    assert json.loads(observation[0]["content"])["card"] == info["task"]["card"]
    observation, *_ = env.step("What is your name?")
    assert observation == ({"role": "user", "content": f"My name is {info['task']['user']['name']}."},)


def test_an_episode_leaves_nothing_behind():
    env = LibraryDeskEnv()
    task = env.task_source[0]
    before = json.dumps(task)
    for _ in range(2):
        assert play(env, task, oracle(task))[0]["outcome"] == 1.0
    assert json.dumps(task) == before


def test_a_task_of_ones_own_that_is_none_is_named():
    task = {**LibraryDeskEnv().task_source[0], "id": "mine"}
    with pytest.raises(ValueError, match="task 'mine': nothing is to be done"):
        LibraryDeskEnv([{**task, "wishes": []}]).reset(seed=0)
    broken = {**task, "database": {**task["database"], "today": 7}}
    with pytest.raises(ValueError, match="task 'mine': the database, today: Input should be a valid string"):
        LibraryDeskEnv([broken]).reset(seed=0)


def test_what_can_be_expected_is_what_the_writes_cost():
    (task,) = (LibraryDeskEnv(levels=[2]).task_source[number] for number in range(1))
    writes = sum(len(wish["calls"]) for wish in task["wishes"])
    assert LibraryDeskEnv().expected_rewards(task) == {
        "solution": {
            "outcome": 1.0,
            "progress": 1.0,
            "cost": pytest.approx(0.02 * writes),
            "latency": pytest.approx(0.5 * writes),
            "tool_calls": writes,
        }
    }
    assert LibraryDeskEnv().expected_rewards({"question": "?"}) == {}


def test_gymnasiums_checker_has_nothing_to_say():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(ID, disable_env_checker=True).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("options", [{}, {"levels": [1], "split": "train"}, {"levels": [5], "split": "test"}])
def test_the_contract_is_kept(options):
    assert [finding for finding in check(lambda: make_env(ID, **options)) if finding.problem] == []


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_vector_environments(kind):
    """One of two plays the solution, the other only looks."""
    task = LibraryDeskEnv(levels=[2]).task_source[0]
    make = partial(gymnasium.make, ID, tasks=[task])
    if kind == "sync":
        envs = SyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode.DISABLED)
    else:
        envs = AsyncVectorEnv([make] * 2, shared_memory=False, autoreset_mode=AutoresetMode.DISABLED)
    try:
        observations, _ = envs.reset(seed=5)
        assert observations == (make().reset(seed=5)[0], make().reset(seed=6)[0])
        *right, bye = oracle(task)
        for message in right:
            _, _, terminated, *_ = envs.step((message, calls("show_member", card=task["card"])))
            assert not terminated.any()
        _, rewards, terminated, *_ = envs.step((bye, bye))
        assert (rewards.tolist(), terminated.tolist()) == ([2.0, 0.0], [True, True])
    finally:
        envs.close()


# In a rollout


def rollout_of(make, texts):
    """Group 0 of a rollout in which the policy says these texts."""
    chat = Chat(make_tokenizer())
    ids = [[*chat.tokenizer(text, add_special_tokens=False)["input_ids"], chat.stop_ids[0]] for text in texts]
    engine = ScriptedEngine(lambda session, turn: ids[min(turn, len(ids) - 1)])
    vector = RewardVector(["outcome", "progress", cost])
    config = RolloutConfig(group_size=2, max_turns=4, max_turn_tokens=4096, max_tokens=20_000)
    rollout = Rollout(make, chat, engine, vector, config, env_name=ID)
    try:
        (group,) = rollout.sample([LibraryDeskEnv(levels=[1]).task_source[0]], seed=0)
    finally:
        rollout.close()
    return group.trajectories


def written(message):
    if not message.get("tool_calls"):
        return message["content"]
    function = message["tool_calls"][0]["function"]
    return f"<tool_call>{json.dumps({'name': function['name'], 'arguments': function['arguments']})}</tool_call>"


def test_a_rollout_scores_what_the_database_became():
    said = [written(message) for message in oracle(LibraryDeskEnv(levels=[1]).task_source[0])]
    for trajectory in rollout_of(LibraryDeskEnv, [said[-2], said[-1]]):
        assert (trajectory.stop_reason, trajectory.error) == ("terminated", None)
        assert trajectory.rewards == {"outcome": 1.0, "progress": 1.0, "cost": pytest.approx(0.02)}
        assert Replay(LibraryDeskEnv).play(trajectory) is None  # its tools are its own, and are called again
    for trajectory in rollout_of(LibraryDeskEnv, ["What is your name?"]):
        assert trajectory.stop_reason == "turns"
        assert (trajectory.rewards["outcome"], trajectory.rewards["progress"]) == (0.0, 0.0)


class Gone:
    """A model that cannot be asked any more after the first message."""

    async def complete(self, messages, tools=(), **settings):
        if len(messages) > 2:
            raise EngineFailure("the server is gone")
        return Answer({"role": "assistant", "content": "Hello."})


def test_a_users_model_that_fails_is_not_the_policys_fault():
    for trajectory in rollout_of(lambda: LibraryDeskEnv(user=Gone()), ["Good morning."]):
        assert trajectory.stop_reason == "error"
        assert "EngineFailure: the server is gone" in trajectory.error
        assert trajectory.rewards["outcome"] is None
