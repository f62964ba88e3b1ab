import numpy as np
import pytest

from grpo_agents.envs.tool_math import ToolMathEnv, draw_task
from grpo_agents.spaces import tool_call

TASK = {"question": "What is 47 * 83 - 12?", "answer": "3889", "level": 2}


def calls(*expressions):
    made = [tool_call("calculator", {"expression": expression}, at) for at, expression in enumerate(expressions)]
    return {"role": "assistant", "content": "", "tool_calls": made}


def test_an_episode_of_three_turns():
    env = ToolMathEnv()
    observation, info = env.reset(seed=0, options={"task": TASK})
    assert TASK["question"] in observation[-1]["content"]
    assert [schema["function"]["name"] for schema in info["tools"]] == ["calculator"]
    observation, reward, terminated, *_ = env.step(calls("47 * 83", "1/0"))
    assert [message["content"] for message in observation] == [
        "3901",
        "Error: tool 'calculator' failed: ValueError: the expression has a division by zero",
    ]
    assert (reward, terminated) == (0.0, False)
    assert env.step(calls("3901 - 12"))[0][0]["content"] == "3889"
    assert env.step(r"It is \boxed{3889}.")[1:3] == (1.0, True)


@pytest.mark.parametrize(
    ("said", "outcome"),
    [("3889", 1.0), (" 3,889\n", 1.0), ("It is 3889.", 0.0), (r"3889, or \boxed{3888}", 0.0), ("", 0.0), ("3901", 0.0)],
)
def test_the_answer_is_boxed_or_the_whole_message(said, outcome):
    env = ToolMathEnv()
    env.reset(options={"task": TASK})
    assert env.step(said)[1] == outcome


def test_generated_answers_are_right():
    levels = set()
    for seed in range(300):
        task = draw_task(np.random.default_rng(seed))
        expression = task["question"].removeprefix("What is ").removesuffix("?")
        assert eval(expression) == int(task["answer"])
        levels.add(task["level"])
        assert sum(expression.count(sign) for sign in "+-*") == task["level"]
    assert levels == {1, 2, 3}
