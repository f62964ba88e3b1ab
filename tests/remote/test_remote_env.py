"""An environment behind a server is the environment."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from serving_envs import served
from tiny import make_tokenizer

from grpo_agents.chat import Chat
from grpo_agents.contract import check
from grpo_agents.engines.scripted import ScriptedEngine
from grpo_agents.env import AgentEnv, make_env
from grpo_agents.envs.library_desk import LibraryDeskEnv
from grpo_agents.envs.math import MathEnv
from grpo_agents.envs.orchestra import OrchestraEnv
from grpo_agents.envs.teacher import TeacherEnv
from grpo_agents.envs.tool_math import ToolMathEnv
from grpo_agents.rewards.component import RewardVector
from grpo_agents.rewards.cost import cost, latency
from grpo_agents.rollout import Rollout, RolloutConfig
from grpo_agents.spaces import tool_call

QUESTIONS = [{"question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(9)]
MARKET = {"prices": {"expert": [1.0, 2.0]}, "latencies": {"novice": [0.1, 9.0]}, "aliases": ["a", "b", "c"]}


class Moody:
    """Preferences of a kind of their own."""

    def draw(self, rng):
        return {"outcome": float(rng.random()), "cost": 0.5}


class Weighed(ToolMathEnv):
    preferences = Moody()


MADE = {
    "math": lambda **more: MathEnv(**{"tasks": QUESTIONS, **more}),
    "tool_math": ToolMathEnv,
    "library_desk": LibraryDeskEnv,
    "orchestra": lambda **more: OrchestraEnv(
        market=MARKET, budget=1.5, token_price={"read": 1e-3, "written": 2e-3}, **more
    ),
    "teacher": lambda **more: TeacherEnv(env="grpo_agents/ToolMath-v0", **more),
    "weighed": Weighed,
}


@pytest.fixture(scope="module", params=MADE)
def pair(request):
    """A maker of an environment, and the URL of a server of it."""
    with served(MADE[request.param]) as url:
        yield MADE[request.param], url


def actions(env):
    """Each tool once, with words that may do for arguments; a tool that is none; then words."""
    for name, tool in env.offer.items():
        keys = tool.schema["function"]["parameters"].get("properties", {})
        yield {"role": "assistant", "content": "so", "tool_calls": [tool_call(name, dict.fromkeys(keys, "3 + 4"))]}
    yield {"role": "assistant", "content": None, "tool_calls": [tool_call("nothing", {"é": "\ud800"})]}
    yield from ["\\boxed{7}", "7", "bye"] * 8


def timeless(runs):
    """Tool calls without seconds that are measured, of which no two are the same."""
    return [replace(run, latency=0.0 if run.name == "calculator" else run.latency) for run in runs]


def played(env, **reset):
    """Everything that an episode shows."""
    observation, info = env.reset(**reset)
    offer = {name: (tool.name, tool.schema, tool.prices, tool.latency) for name, tool in env.offer.items()}
    seen = [(observation, info, env.task, env.preference, offer, env.left)]
    for action in actions(env):
        env.charge(0.1)
        env.charge(0.2)
        outcome = env.step(action)
        seen.append((outcome, timeless(env.runs), env.acting.spent, env.acting.left))
        if outcome[2]:
            return [*seen, env.render()]
    return seen


def test_its_episodes_are_the_same_bit_for_bit(pair):
    make, url = pair
    here, there = make(render_mode="ansi"), make_env(url, render_mode="ansi")
    for seed in range(5):
        expected = played(here, seed=seed)
        assert len(expected) > 2
        assert played(there, seed=seed) == expected
    assert played(there) == played(here)  # both go on drawing
    task = here.task_source[3]
    options = {"task": task, "preference": {"outcome": 0.25}}
    assert played(there, seed=1, options=options) == played(here, seed=1, options=options)


def test_what_it_exposes_is_the_same(pair):
    make, url = pair
    here, there = make(), make_env(url)
    for name in ("components", "hidden", "gold", "maxima", "budget", "token_price", "repeats"):
        assert getattr(there, name) == getattr(here, name), name
    assert there.action_space == here.action_space
    assert [(tool.name, tool.schema, tool.prices, tool.latency) for tool in there.tools] == [
        (tool.name, tool.schema, tool.prices, tool.latency) for tool in here.tools
    ]
    assert there.task_source.count == here.task_source.count
    task = here.task_source[2]
    assert there.task_source[2] == task
    assert there.allowance(task) == here.allowance(task)
    assert there.expected_rewards(task) == here.expected_rewards(task)
    assert there.describe_preference({"outcome": 0.5}) == here.describe_preference({"outcome": 0.5})
    assert [tool.schema for tool in there.offered(task)] == [tool.schema for tool in here.offered(task)]
    one, other = np.random.default_rng(4), np.random.default_rng(4)
    assert there.vary(task, one) == here.vary(task, other)
    if here.preferences is not None:
        assert there.preferences.draw(one) == here.preferences.draw(other)
    assert one.random() == other.random()


def test_it_keeps_the_contract(pair):
    _, url = pair
    assert [finding for finding in check(lambda: make_env(url)) if finding.problem] == []
    check_env(make_env(url), skip_render_check=True)


@pytest.mark.parametrize("name", ["tool_math", "library_desk", "orchestra", "weighed"])
def test_trajectories_of_a_rollout_are_the_same(name):
    chat = Chat(make_tokenizer(), tool_format="hermes")
    call = {"role": "assistant", "content": "", "tool_calls": [tool_call("calculator", {"expression": "3 * 4"})]}
    said = [chat.render_assistant(message) for message in (call, {"role": "assistant", "content": "12"})]
    turns = [[*chat.tokenizer.encode(text, add_special_tokens=False), chat.stop_ids[0]] for text in said]

    def sampled(make):
        engine = ScriptedEngine(lambda session, turn: turns[min((turn + session) % 3, 1)])
        vector = RewardVector(["outcome", cost, latency])
        rollout = Rollout(make, chat, engine, vector, RolloutConfig(group_size=2, max_turns=4), env_name="it")
        tasks = [MADE[name]().task_source[index] for index in range(3)]
        groups = [*rollout.sample(tasks, seed=0), *rollout.sample(tasks, seed=1)]
        rollout.close()
        for trajectory in (entry for group in groups for entry in group.trajectories):
            trajectory.seconds, trajectory.rewards["latency"] = 0.0, None
            trajectory.samples = [(s.ids.tolist(), s.mask.tolist(), s.logprobs.tolist()) for s in trajectory.samples]
            for step in trajectory.steps:
                step.seconds, step.tools = 0.0, timeless(step.tools)
        return groups

    with served(MADE[name]) as url:
        there = sampled(make_env(url).another)
    here = sampled(MADE[name])
    assert there == here
    assert any(run for group in here for entry in group.trajectories for step in entry.steps for run in step.tools)


def test_tasks_of_ones_own_are_drawn_as_they_are_here():
    tasks = [{"question": f"{n} - 1?", "answer": str(n - 1)} for n in range(50)]
    with served(MADE["math"]) as url:
        here, there = MathEnv(tasks), make_env(url, tasks=tasks)
        for seed in (3, 4, None, None):
            assert played(there, seed=seed) == played(here, seed=seed)
        assert there.task_source[7] == tasks[7]


def test_generated_tasks_follow_the_seed_of_a_run():
    with served(ToolMathEnv) as url:
        there, here = make_env(url).task_source, ToolMathEnv().task_source
        assert replace(there, seed=5)[3] == replace(here, seed=5)[3] != here[3] == there[3]


def test_a_step_without_an_episode_is_refused_here():
    with served(ToolMathEnv) as url:
        env = make_env(url)
        with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
            env.step("7")
        env.reset(seed=0)
        with pytest.raises(TypeError, match="an action is text or an assistant message"):
            env.step({"role": "user", "content": "7"})
        with pytest.raises(TypeError, match="'calculator' runs where its environment lives"):
            env.offer["calculator"](expression="1")


def test_wrappers_of_gymnasium_work_on_it():
    with served(ToolMathEnv) as url:
        env = gymnasium.wrappers.TimeLimit(make_env(url), 1)
        env.reset(seed=0)
        call = {"role": "assistant", "content": "", "tool_calls": [tool_call("calculator", {"expression": "1"})]}
        _, _, terminated, truncated, _ = env.step(call)
        assert (terminated, truncated) == (False, True)
        assert isinstance(env.unwrapped, AgentEnv)
