"""What is said of a run, where nobody watches a terminal and where somebody does."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from grpo_agents.terminal.display import PROBLEMS, Display
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
        ("diversity/unanimous", 0.9, "in nine of ten groups all rollouts come to one answer"),
        ("stopped/tokens", 0.5, "most episodes were cut short by rollout.max_turn_tokens"),
    ],
)
def test_a_figure_that_is_not_plain_is_put_into_words_once(said, name, enough, words):
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


WATCHED = """
import sys, time
from grpo_agents.terminal.display import Display
from grpo_agents.trajectory import Trajectory

display = Display(8)
with display:
    display.begin(2, [{"step": step, "reward": 0.5, "seconds/step": 1.0} for step in range(2)])
    with display.evaluating(4) as ended:
        ended(4)
    display.evaluation(2, {"eval/reward": 0.25, "eval/reward_low": 0.125, "eval/reward_high": 0.375})
    for step in range(2, 6):
        display.episodes(4)
        display.problems(f"step {step + 1}", [Trajectory(), Trajectory(error="no pears", stop_reason="error")])
        display.step(step, {"reward": step / 4, "seconds/step": 1.0})
        time.sleep(0.3)
    print("a tool that prints")
"""


def watched(columns, lines):
    """What a terminal of this size is sent, as text."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    run = subprocess.Popen(
        [sys.executable, "-c", WATCHED], stdin=theirs, stdout=theirs, stderr=theirs, env={**variables, "TERM": "xterm"}
    )
    os.close(theirs)
    sent = b""
    try:
        while piece := os.read(ours, 1 << 16):
            sent += piece
    except OSError:  # how a terminal ends on Linux
        pass
    os.close(ours)
    assert run.wait() == 0, sent.decode()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent.decode())  # without colours and moves of the cursor


def test_a_terminal_shows_bars_figures_and_curves_and_each_message_once():
    sent = watched(100, 40)
    for message in (
        "step 2: evaluation reward 0.250 (95 % interval 0.125 to 0.375)",
        "step 3: error: no pears (1 of 2 episodes)",
        "a tool that prints",
    ):
        assert sent.count(message) == 1
    last = sent[sent.rindex("step  ") :]
    assert "6/8" in last
    assert "4 of 8 episodes failed" in last
    assert "▁▁▁▃▆█" in last
    assert "reward of 6 steps" in last
    assert "evaluation at 2: 0.250 (0.125 … 0.375)" in last


@pytest.mark.parametrize(("columns", "lines"), [(20, 4), (40, 2), (1, 1)])
def test_a_tiny_terminal_is_no_reason_to_stop(columns, lines):
    assert "a" in watched(columns, lines)


def test_a_run_that_goes_on_is_as_quick_as_its_own_steps():
    """Those that were done before it began took no time of it."""
    display = Display(100)
    display.begin(90, [])
    bar = display._progress.tasks[0]
    assert (bar.completed, bar.speed) == (90, None)
