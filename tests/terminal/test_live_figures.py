"""What the terminal shows beneath the bars."""

import threading
from io import StringIO

import pytest
from rich.console import Console

from grpo_agents.terminal.live_figures import LiveFigures

STEP = {"seconds/step": 2.0, "seconds/rollout": 1.0, "seconds/learn": 0.5, "tokens": 500.0}


def shown(figures, width=100, height=40):
    screen = Console(file=StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    screen.print(figures.picture(width, height))
    return screen.file.getvalue().rstrip("\n").splitlines()


def filled(steps=20, **more):
    figures = LiveFigures()
    figures.add(0, {"eval/reward": 0.25, "eval/reward_low": 0.125, "eval/reward_high": 0.375})
    for step in range(steps):
        figures.add(
            step, {"reward": step / 10, "reward/outcome": 1.0, "loss": -step, "groups_tied": 0.0, **STEP, **more}
        )
    return figures


def row(lines, name):
    return next(line for line in lines if line.startswith(name)).split()


def test_nothing_is_shown_before_there_is_anything():
    assert shown(LiveFigures()) == []


def test_a_row_has_the_value_now_the_mean_of_the_last_ten_and_how_it_went():
    lines = shown(filled())
    _, now, last, line = row(lines, "reward")
    assert (now, last) == ("1.9", "1.45")
    assert (line[0], line[-1], len(line)) == ("▁", "█", 20)
    assert row(lines, "loss")[1:3] == ["-19", "-14.5"]
    assert lines[0] == "250 tokens a second · 2 s a step · 50 % sampling · 25 % learning"
    assert not any(line.startswith("groups tied") for line in lines)


def test_the_latest_evaluation_is_shown_with_its_interval():
    figures = filled()
    assert any("evaluation at 0: 0.250 (0.125 … 0.375)" in line for line in shown(figures))
    figures.add(20, {"eval/reward": 0.5, "eval/reward_low": None, "eval/reward_high": None})
    assert any(line.rstrip().endswith("evaluation at 20: 0.500") for line in shown(figures))


def test_episodes_that_failed_come_first():
    figures = filled()
    figures.count(10, 0)
    assert "failed" not in shown(figures)[0]
    figures.count(10, 3)
    assert shown(figures)[0].startswith("3 of 20 episodes failed · 250 tokens")


def test_what_a_step_does_not_tell_of_is_none_of_it():
    figures = filled()
    figures.add(20, {"reward": 1.0, "stopped/tokens": 0.5, **STEP})
    figures.add(21, {"reward": 1.0, **STEP})
    _, _, now, last, line = row(shown(figures), "stopped")
    assert (now, last) == ("0", "0.05")
    assert line == "▁" * 20 + "█▁"


def test_a_value_that_is_not_finite_is_said_so():
    figures = filled()
    figures.add(20, {"reward": None, "loss": float("nan"), **STEP})
    assert row(shown(figures), "loss")[1:3] == ["n/a", "-15"]


@pytest.mark.parametrize("width", [10, 39, 40, 60, 72, 80, 100, 120, 240])
@pytest.mark.parametrize("height", [1, 2, 3, 5, 8, 12, 20, 60])
def test_it_never_takes_more_room_than_there_is(width, height):
    many = {f"reward/component_with_a_long_name_{number}": 1e9 for number in range(6)}
    figures = filled(**many, kl=1e-12, entropy=-1234567.0)
    figures.count(10**9, 10**9)
    lines = shown(figures, width, height)
    assert len(lines) <= height
    assert max((len(line) for line in lines), default=0) <= width


def test_the_figures_before_a_resume_are_drawn_with_those_after():
    figures = LiveFigures()
    for step in range(5):
        figures.add(step, {"step": step, "reward": 0.0, **STEP})
    figures.add(5, {"reward": 1.0, **STEP})
    assert row(shown(figures), "reward")[-1] == "▁▁▁▁▁█"


def test_it_is_drawn_while_figures_come_in():
    figures, stop, errors = LiveFigures(), threading.Event(), []

    def draw():
        while not stop.is_set():
            try:
                shown(figures)
            except Exception as error:
                errors.append(error)

    drawer = threading.Thread(target=draw)
    drawer.start()
    for step in range(300):
        figures.add(step, {f"reward/{step}": 1.0, "reward": 1.0, **STEP})
    stop.set()
    drawer.join()
    assert errors == []
