"""examples/teacher/addition.py: the working is right, and the scripted anchor composes what no rollout said."""

import asyncio
import re

import numpy as np
import pytest
from scripts import script
from tiny import REPOSITORY

from grpo_agents.rewards.component import RewardVector
from grpo_agents.tasks import load_object
from grpo_agents.trajectory import Group, Step, Trajectory


def part(name):
    return load_object(f"{REPOSITORY / 'examples' / 'teacher' / 'addition.py'}:{name}")


@pytest.mark.parametrize("seed", range(50))
def test_the_working_is_that_of_columns_from_the_right(seed):
    task = part("draw")(np.random.default_rng(seed))
    a, b = (int(number) for number in task["question"].split("+"))
    *columns, total = part("working")(task["question"]).split(";")
    assert int(total) == a + b == int(task["answer"])
    for place, column in enumerate(columns):
        below = (a % 10**place + b % 10**place) // 10**place
        left, right = column.split("=")
        assert sum(int(digit) for digit in left.split("+")) == int(right)
        assert left == f"{a // 10**place % 10}+{b // 10**place % 10}" + ("+1" if below else "")


def test_the_anchor_is_right_where_every_rollout_is_wrong_and_says_only_sums_that_one_of_them_said():
    rollouts = [
        "5+9=14;8+1+1=10;7+2+1=10;4+1+1=7;7004",
        "5+9=14;8+1+1=11;7+2+1=10;4+1+1=6;6014",
        "5+9=13;8+1+1=10;7+2+1=10;4+1+1=6;6003",
    ]
    said = part("compose")([{"role": "user", "content": "\n\n".join(rollouts)}])
    assert said == "5+9=14;8+1+1=10;7+2+1=10;4+1+1=6;6004"  # 4785 + 1219
    written = {step for rollout in rollouts for step in re.findall(r"\d\+\d(?:\+1)?=\d+", rollout)}
    assert set(said.split(";")[:-1]) <= written


def test_its_reward_reads_no_gold_answer():
    """The answer of the task is wrong here, and changes nothing."""
    texts = ["5+2=7;1+1=2;27", "5+2=7;1+1=2;27", "5+2=8;1+1=2;28"]
    trajectories = [
        Trajectory(task={"question": "15+12", "answer": "28"}, steps=[Step({"content": text})]) for text in texts
    ]
    group = Group({"question": "15+12", "answer": "28"}, {}, trajectories)
    vector = part("taught")
    assert isinstance(vector, RewardVector)
    vector.score([group])
    assert [entry.rewards for entry in trajectories] == [{"reference": 1.0}, {"reference": 1.0}, {"reference": 0.0}]
    assert group.notes["reference"]["answer"] == "27"


def test_the_environment_wants_the_sum_behind_the_last_semicolon():
    env = part("Addition")()
    for said, outcome in (("5+2=7;1+1=2;27", 1.0), ("27", 1.0), ("27;", 0.0), ("", 0.0), ("5+2=7;1+1=2;28", 0.0)):
        env.reset(seed=0, options={"task": {"question": "15+12", "answer": "27"}})
        assert env.step(said)[4]["rewards"] == {"outcome": outcome}


def test_rollouts_without_working_give_no_reference():
    with pytest.raises(ValueError, match="states no answer"):
        asyncio.run(
            part("_reference")(
                Group({}, {}, [Trajectory(), Trajectory()]), anchor=part("ScriptedModel")(part("compose"))
            )
        )


def test_the_tables_of_the_page_are_those_of_the_runs_that_are_kept():
    assert len(list((REPOSITORY / "examples" / "teacher" / "results").glob("seed-*.json"))) == 5
    page = (REPOSITORY / "docs" / "teacher.md").read_text(encoding="utf-8")
    found = list(script("teacher/experiment.py").tables())
    assert len(found) == 3
    assert all(table in page for table in found)
