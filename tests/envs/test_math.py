import re
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit

import grpo_agents.envs  # noqa: F401  registers them
from grpo_agents.envs.math import MathEnv, draw_task

IDS = ["grpo_agents/Math-v0", "grpo_agents/ToolMath-v0"]


@pytest.mark.parametrize("name", IDS)
def test_gymnasium_has_nothing_to_complain_of(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(name).unwrapped)
        check_env(gymnasium.make(name, render_mode="ansi").unwrapped)


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_vector_environments(name, kind):
    def make():
        return gymnasium.make(name)

    if kind == "sync":
        envs = SyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode.DISABLED)
    else:
        envs = AsyncVectorEnv([make] * 2, shared_memory=False, autoreset_mode=AutoresetMode.DISABLED)
    try:
        observations, info = envs.reset(seed=[4, 5])
        alone = gymnasium.make(name)
        assert observations == (alone.reset(seed=4)[0], alone.reset(seed=5)[0])
        answers = [f"\\boxed{{{answer}}}" for answer in info["task"]["answer"]]
        actions = tuple({"role": "assistant", "content": content} for content in (answers[0], "no"))
        _, rewards, terminated, truncated, _ = envs.step(actions)
        assert (rewards.tolist(), terminated.tolist(), truncated.tolist()) == ([1, 0], [True, True], [False, False])
    finally:
        envs.close()


@pytest.mark.parametrize("name", IDS)
def test_wrappers(name):
    env = RecordEpisodeStatistics(TimeLimit(gymnasium.make(name), 3))
    _, info = env.reset(seed=0)
    *_, terminated, truncated, end = env.step(f"\\boxed{{{info['task']['answer']}}}")
    assert (terminated, truncated) == (True, False)
    assert (end["episode"]["r"], end["episode"]["l"]) == (1.0, 1)


def test_time_limit_cuts_an_episode_of_calls():
    env = TimeLimit(gymnasium.make("grpo_agents/ToolMath-v0"), 2)
    env.reset(seed=0)
    call = {"id": "call00000", "type": "function", "function": {"name": "calculator", "arguments": {"expression": "1"}}}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    assert env.step(message)[2:4] == (False, False)
    assert env.step(message)[2:4] == (False, True)


def test_generated_answers_are_right():
    levels = set()
    for seed in range(300):
        task = draw_task(np.random.default_rng(seed))
        question, answer = task["question"], int(task["answer"])
        numbers = [int(number) for number in re.findall(r"[0-9]+", question)]
        levels.add(task["level"])
        if task["level"] == 1:
            assert eval(question.removeprefix("What is ").removesuffix("?")) == answer
        elif task["level"] == 2:
            assert numbers[0] * numbers[1] + numbers[2] == answer
        else:
            assert numbers[0] * answer + numbers[1] == numbers[2]
    assert levels == {1, 2, 3}


def test_the_prompt_holds_the_question_and_asks_for_a_box():
    observation, _ = MathEnv([{"question": "How many?", "answer": "3"}]).reset(seed=0)
    assert "How many?" in observation[-1]["content"]
    assert r"\boxed{}" in observation[-1]["content"]


@pytest.mark.parametrize(
    ("said", "outcome"),
    [(r"\boxed{1/2}", 1.0), (r"\boxed{0.5}", 1.0), (r"\boxed{2}", 0.0), ("1/2", 0.0), ("", 0.0), (r"\boxed{", 0.0)],
)
def test_one_turn_ends_the_episode(said, outcome):
    env = MathEnv([{"question": "?", "answer": "0.5"}])
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(said)
    assert (reward, terminated, truncated, info["rewards"]) == (outcome, True, False, {"outcome": outcome})


def test_a_call_where_no_tool_is_offered_still_is_the_one_turn():
    env = MathEnv([{"question": "?", "answer": "0.5"}])
    env.reset(seed=0)
    call = {"id": "call00000", "type": "function", "function": {"name": "calculator", "arguments": {}}}
    _, reward, terminated, _, _ = env.step({"role": "assistant", "content": r"\boxed{0.5}", "tool_calls": [call]})
    assert (reward, terminated) == (1.0, True)


def test_the_marker_is_read_in_task_and_answer():
    env = MathEnv([{"question": "?", "answer": "3 + 4 = 7\n#### 7"}], marker="####")
    for said, outcome in [("#### 7", 1.0), (r"\boxed{7}", 1.0), ("7", 0.0), ("#### 8", 0.0)]:
        env.reset(seed=0)
        assert env.step(said)[1] == outcome


def test_a_gold_answer_that_cannot_be_read_is_our_failure():
    env = MathEnv([{"question": "?", "answer": r"\unknown{x}"}])
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"gold answer .* cannot be read"):
        env.step(r"\boxed{1}")
