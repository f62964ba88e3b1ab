import gymnasium
import numpy as np
import pytest

from grpo_agents.env import AgentEnv, Reply, VectorReward, make_env
from grpo_agents.rewards.preference import Choices, Simplex
from grpo_agents.spaces import Action, Messages, tool_call
from grpo_agents.tools import tool


@tool(price=0.5, latency=2.0, timeout=None)
def shout(text: str) -> str:
    """Says it louder."""
    return text.upper()


@tool(timeout=None)
def whisper(text: str) -> str:
    """Says it more quietly."""
    return text.lower()


class Echo(AgentEnv):
    """Says a word and wants it back."""

    tasks = ({"word": "tree"}, {"word": "stone"})
    tools = (shout, whisper)
    components = ("outcome", "short")

    def start(self, task):
        return f"Repeat: {task['word']}"

    def offered(self, task):
        return [shout] if task["word"] == "loud" else self.tools

    def finish(self, task, message):
        return {"outcome": float(message["content"] == task["word"]), "short": 0.25}


class Weighed(Echo):
    """The same for users who differ."""

    preferences = Simplex(("outcome", "short"))


class Guess(AgentEnv):
    """Talks back until the number is found."""

    tasks = [{"number": 3}]  # noqa: RUF012

    def start(self, task):
        return ({"role": "system", "content": "A game."}, {"role": "user", "content": "Guess."})

    def respond(self, message):
        if message["content"] == str(self.task["number"]):
            return Reply(rewards={"outcome": 1.0}, terminated=True)
        return Reply(messages=["No."], rewards={"outcome": -0.1})


def test_reset_poses_the_task():
    env = Echo()
    observation, info = env.reset(seed=0, options={"task": {"word": "leaf"}})
    assert observation == ({"role": "user", "content": "Repeat: leaf"},)
    assert info == {"task": {"word": "leaf"}, "tools": [shout.schema, whisper.schema], "preference": {}}
    assert env.observation_space.contains(observation)


def test_tools_may_differ_by_task():
    env = Echo()
    assert env.reset(options={"task": {"word": "loud"}})[1]["tools"] == [shout.schema]
    action = {"role": "assistant", "content": "", "tool_calls": [tool_call("whisper", {"text": "A"})]}
    assert "no tool 'whisper'. Available: shout" in env.step(action)[0][0]["content"]


def test_a_step_with_calls_runs_them_and_one_without_ends_the_episode():
    env = Echo()
    env.reset(seed=0, options={"task": {"word": "leaf"}})
    calls = [tool_call("whisper", {"text": "A"}, 0), tool_call("shout", {"text": "b"}, 1)]
    observation, reward, terminated, truncated, info = env.step(
        {"role": "assistant", "content": None, "tool_calls": calls}
    )
    assert [(message["role"], message["content"]) for message in observation] == [("tool", "a"), ("tool", "B")]
    assert [message["tool_call_id"] for message in observation] == [entry["id"] for entry in calls]
    assert (reward, terminated, truncated, info["rewards"]) == (0.0, False, False, {})
    assert [(run.name, run.dollars, run.error) for run in env.runs] == [("whisper", 0.0, None), ("shout", 0.5, None)]
    observation, reward, terminated, truncated, info = env.step("leaf")
    assert (observation, reward, terminated, truncated) == ((), 1.25, True, False)
    assert info == {"rewards": {"outcome": 1.0, "short": 0.25}}
    assert env.runs == []


def test_info_has_no_clock():
    assert "latency" not in str(Echo().reset(seed=0)[1])


def test_preference_is_shown_and_weighs_the_reward():
    env = Echo()
    observation, info = env.reset(options={"task": {"word": "leaf"}, "preference": {"outcome": 0.5, "short": 2.0}})
    assert observation[-1]["content"] == "Repeat: leaf\nPreference: outcome 0.5, short 2"
    assert info["preference"] == {"outcome": 0.5, "short": 2.0}
    assert env.step("leaf")[1] == 0.5 * 1.0 + 2.0 * 0.25
    env.reset(options={"task": {"word": "leaf"}, "preference": {"outcome": 0.5}})
    assert env.step("leaf")[1] == 0.5  # what is not named weighs nothing


def test_one_message_is_an_opening():
    class Brief(Guess):
        def start(self, task):
            return {"role": "system", "content": "Guess."}

    assert Brief().reset(seed=0)[0] == ({"role": "system", "content": "Guess."},)


def test_preference_is_shown_on_the_last_message_only():
    observation, _ = Guess().reset(options={"preference": {"outcome": 1.0}})
    assert [message["content"] for message in observation] == ["A game.", "Guess.\nPreference: outcome 1"]


def test_same_seed_same_everything():
    def play(seed):
        env, said = Weighed(), []
        said.append(env.reset(seed=seed))
        said.append(env.step("tree"))
        said.append(env.reset())
        said.append(env.step({"role": "assistant", "content": "", "tool_calls": [tool_call("shout", {"text": "x"})]}))
        return said

    assert play(3) == play(3)
    assert any(play(3) != play(seed) for seed in range(4, 10))


def test_preferences_are_drawn_from_the_seed():
    env = Weighed()
    drawn = [tuple(env.reset(seed=seed)[1]["preference"].values()) for seed in range(40)]
    assert len(set(drawn)) > 3
    assert all(abs(sum(weights) - 1) < 1e-9 for weights in drawn)
    assert Choices([{"outcome": 1.0}]).draw(np.random.default_rng(0)) == {"outcome": 1.0}


def test_rewards_of_several_turns():
    env = Guess()
    env.reset(seed=0)
    observation, reward, terminated, _, _ = env.step("5")
    assert (observation, reward, terminated) == (({"role": "user", "content": "No."},), -0.1, False)
    assert env.step("3")[1:3] == (1.0, True)


def test_a_step_without_an_episode_is_refused():
    env = Echo()
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"Echo: call reset\(\) before step\(\)"):
        env.step("tree")
    env.reset(seed=0)
    env.step("tree")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("tree")


@pytest.mark.parametrize(
    "action", [None, 3, {"content": "no role"}, {"role": "user", "content": "x"}, {"role": "assistant"}]
)
def test_what_is_no_action_is_refused(action):
    env = Echo()
    env.reset(seed=0)
    assert not env.action_space.contains(action)
    with pytest.raises(TypeError, match="an action is text or an assistant message"):
        env.step(action)


def test_spaces():
    space = Messages(seed=0)
    assert space.contains(space.sample())
    assert not space.contains([{"role": "user", "content": "x"}])
    assert not space.contains(({"role": "oracle", "content": "x"},))
    assert space == Messages()
    actions = Action([shout], seed=0)
    drawn = [actions.sample() for _ in range(40)]
    assert all(actions.contains(action) for action in drawn)
    assert {"tool_calls" in action for action in drawn} == {True, False}
    assert Action([shout], seed=5).sample() == Action([shout], seed=5).sample()
    assert actions == Action([shout])
    assert actions != Action([whisper])


def test_render():
    env = Echo(render_mode="ansi")
    env.reset(seed=0, options={"task": {"word": "leaf"}})
    env.step({"role": "assistant", "content": "hm", "tool_calls": [tool_call("shout", {"text": "b"})]})
    assert env.render() == "user: Repeat: leaf\nassistant: hm → shout({'text': 'b'})\ntool: B"
    assert Echo().render() is None


def test_an_environment_without_tasks_says_what_to_do():
    class Bare(AgentEnv):
        def start(self, task):
            return "?"

    with pytest.raises(ValueError, match="Bare has no tasks: set the class attribute `tasks` or pass `tasks=`"):
        Bare()
    env = Bare([{"id": "a"}])
    env.reset(seed=0)
    with pytest.raises(TypeError, match="defines neither finish"):
        env.step("x")


def test_vector_reward():
    env = VectorReward(Echo())
    env.reset(seed=0, options={"task": {"word": "leaf"}, "preference": {"outcome": 0.5}})
    calls = {"role": "assistant", "content": "", "tool_calls": [tool_call("shout", {"text": "b"})]}
    assert env.step(calls)[1].tolist() == [0.0, 0.0]
    reward = env.step("leaf")[1]
    assert reward.tolist() == [1.0, 0.25]  # unweighed
    assert env.reward_space.contains(reward)


def test_make_env_by_id_and_by_code(tmp_path):
    assert type(make_env("grpo_agents/Math-v0")).__name__ == "MathEnv"
    assert make_env("grpo_agents/Math-v0", marker="####").marker == "####"
    assert type(make_env("grpo_agents.envs.tool_math:ToolMathEnv")).__name__ == "ToolMathEnv"
    file = tmp_path / "mine.py"
    file.write_text(
        "from grpo_agents.env import AgentEnv\n"
        "class Mine(AgentEnv):\n"
        "    tasks = [{'a': 1}]\n"
        "    def start(self, task):\n"
        "        return 'hello'\n"
    )
    assert make_env(f"{file}:Mine").reset(seed=0)[0][0]["content"] == "hello"


def test_make_env_errors(tmp_path):
    with pytest.raises(
        ValueError, match=r"unknown environment 'grpo_agents/Maths-v0'\. Did you mean grpo_agents/Math-v0"
    ):
        make_env("grpo_agents/Maths-v0")
    with pytest.raises(ValueError, match="there is no file"):
        make_env(f"{tmp_path}/none.py:Mine")
    with pytest.raises(ValueError, match=r"grpo_agents\.envs\.math defines no 'Nothing'"):
        make_env("grpo_agents.envs.math:Nothing")
    with pytest.raises(ValueError, match=r"defines no 'MathEvn'\. Did you mean 'MathEnv'\?"):
        make_env("grpo_agents.envs.math:MathEvn")
    (tmp_path / "shop.py").write_text("")
    with pytest.raises(ValueError, match=r"there is no file .*/shpo\.py\. Did you mean shop\.py\?"):
        make_env(f"{tmp_path}/shpo.py:Mine")
    with pytest.raises(TypeError, match=r"grpo_agents\.AgentEnv was expected"):
        make_env("CartPole-v1")
