"""What is said of a run where nobody watches a terminal."""

import pytest

from grpo_agents.display import PROBLEMS, Display
from grpo_agents.trajectory import Trajectory


@pytest.fixture
def said(capsys):
    """What was said since the last time, line by line."""
    return lambda: capsys.readouterr().err.splitlines()


def test_a_step_shows_what_is_missing(said):
    Display(1).step(0, {"reward": 0.5, "reward/outcome": 1.0, "missing/outcome": 3.0, "seconds/step": 2.0})
    assert said() == ["step 1/1  reward 0.5  outcome 1  missing outcome 3"]


def test_what_is_left_out_is_shown_where_anything_is(said):
    Display(1).step(0, {"reward": 0.5, "left_out": 0.0})
    Display(1).step(0, {"reward": 0.5, "left_out": 3.0})
    assert said() == ["step 1/1  reward 0.5", "step 1/1  reward 0.5  left_out 3"]


@pytest.mark.parametrize(
    ("name", "enough", "words"),
    [
        ("groups_tied", 1.0, "all episodes earned the same, so nothing was learned"),
        ("stopped/tokens", 0.5, "most episodes were cut short by rollout.max_turn_tokens"),
    ],
)
def test_a_run_that_learns_nothing_is_put_into_words_once(said, name, enough, words):
    display = Display(100)
    display.step(0, {name: enough - 0.1})
    assert said() == []
    for step in (1, 2):
        display.step(step, {name: enough})
    (line,) = said()
    assert line.startswith("step 2: ")
    assert words in line


@pytest.mark.parametrize(
    ("figures", "line"),
    [
        ({"reward": 0.5, "reward_low": 0.25, "reward_high": 0.75}, "reward 0.500 (95 % interval 0.250 to 0.750)"),
        ({"reward": 0.5, "reward_low": float("nan"), "reward_high": float("nan")}, "reward 0.500 (95 % interval n/a)"),
        (
            {"reward": 0.5, "reward_low": 0.25, "reward_high": 0.75, "missing/reward": 2.0},
            "reward 0.500 (95 % interval 0.250 to 0.750); 2 episodes have none",
        ),
        ({"cost": 0.5, "missing/reward": 6.0}, None),
    ],
)
def test_an_evaluation_is_never_taken_for_a_step(said, figures, line):
    Display(2).evaluation(2, {f"eval/{name}": value for name, value in figures.items()})
    expected = f"evaluation {line}" if line else "no evaluation reward; 6 episodes have none"
    assert said() == [f"step 2: {expected}"]


def test_each_problem_is_said_once_with_its_count(said):
    display = Display(5)
    broken = [Trajectory(stop_reason="error", error="shop.py:X: no", missing={"outcome": "no"}) for _ in range(2)]
    unjudged = Trajectory(missing={"rubric": "the judge is down"})
    display.problems("step 1", [*broken, unjudged, Trajectory()])
    assert said() == [
        "step 1: error: shop.py:X: no (2 of 4 episodes)",
        "step 1: no rubric: the judge is down (1 of 4 episodes)",
    ]
    display.problems("step 2", [*broken, unjudged, Trajectory(stop_reason="deadline", error="60 s")])
    assert said() == ["step 2: deadline: 60 s (1 of 4 episodes)"]


def test_problems_that_are_all_different_do_not_fill_the_screen(said):
    display = Display(5)
    for step in range(3):
        some = [Trajectory(error=f"{step} {number}") for number in range(PROBLEMS - 1)]
        display.problems(f"step {step + 1}", some)
    lines = said()
    assert len(lines) == PROBLEMS + 1
    assert "`grpo-agents evaluate` counts them all" in lines[-1]
