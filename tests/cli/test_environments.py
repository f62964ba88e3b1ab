"""Environments without a model."""

import re

import pytest
from shell import BROKEN


def test_envs_lists_tools_prices_and_rewards(run):
    listed = run("envs").stdout
    for text in (
        "grpo_agents/Math-v0",
        "grpo_agents/ToolMath-v0",
        "grpo_agents/Orchestra-v0",
        "grpo_agents/LibraryDesk-v0",
        "expert $10, 0.3 s",
        "outcome",
    ):
        assert text in listed


@pytest.mark.parametrize("name", ["Math", "ToolMath", "Orchestra", "LibraryDesk"])
def test_the_built_in_environments_keep_the_contract(run, name):
    result = run("check", f"grpo_agents/{name}-v0")
    assert result.exit_code == 0, result.output
    assert "all is well" in result.stdout


@pytest.mark.parametrize(
    ("name", "problem", "remedy"),
    [
        ("Unmakeable", "RuntimeError: no shop today", "broken.py, line"),
        ("OddTasks", "task 0 is not plain JSON", "use text, numbers"),
        ("OtherTasks", "task 0 is another one the second time", "draw with the generator"),
        ("TwoTools", "two tools have one name: look, look", "rename one"),
        ("Forgetful", "gives another observation", "no clocks"),
        ("Silent", "neither ends nor goes on", "terminated=True"),
        ("Cut", "an answer truncates the episode", "terminate it"),
        ("Undeclared", "gives the reward 'style'", "components = ('outcome', 'style')"),
        ("Sparing", "without the reward 'style'", "0 where it earned nothing"),
        ("Costs", "'costs' is no reward component. Did you mean 'cost'", "the most an episode can sensibly cost"),
        ("Free", "'cost' is 0.0, and the most an episode can cost is a positive number", "set `maxima`"),
        ("Endless", "outcome = inf", "a finite number"),
        ("Secretive", "the opening messages are the same", "describe_preference"),
        ("Raises", "KeyError: 'wrod'", "broken.py, line"),
    ],
)
def test_check_says_what_is_broken_and_what_to_do(run, tmp_path, name, problem, remedy):
    (tmp_path / "broken.py").write_text(BROKEN)
    result = run("check", f"broken.py:{name}")
    assert result.exit_code == 1, result.output
    lines = result.stdout.splitlines()
    place = next(place for place, line in enumerate(lines) if problem in line)
    assert any(line.startswith("✗") for line in lines[:place])
    assert any("→" in line and remedy in line for line in lines[place:])


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (
            "def finish(self, task, message): return 1.0",
            "It.finish returned a float; return a dict such as {'outcome': 1",
        ),
        ("def finish(self, task, message): pass", "It.finish returned nothing; return a dict"),
        ("def finish(self, task, message): return 'good'", "It.finish returned a str; return a dict"),
        (
            "def finish(self, task, message): return {'outcome': 'good'}",
            "It gave the reward 'outcome' as 'good', which is",
        ),
        ("def respond(self, message): pass", "It.respond returned nothing; return a Reply"),
        ("def start(self, task): pass", "It.start returned nothing; return the opening text"),
        ("def start(self, task): return ({'role': 'robot', 'content': '?'},)", "not {'role': 'robot'"),
        ("start = AgentEnv.start", "It does not define start(task)"),
        ("def start(self, task): return task['wrod']", "KeyError: 'wrod'"),
    ],
)
def test_a_common_mistake_is_named_once(run, tmp_path, body, problem):
    (tmp_path / "broken.py").write_text(f"{BROKEN}\n\nclass It(Good):\n    {body}\n")
    result = run("check", "broken.py:It")
    assert result.stdout.count(problem) == 1, result.stdout
    assert re.search(r"broken\.py:It: 1 of \d+ checks failed", result.stdout)


def test_names_are_never_made_into_pictures(run, tmp_path):
    (tmp_path / "hello.py").write_text(BROKEN + "\nX = Good\n")
    assert "hello.py:X: all is well" in run("check", "hello.py:X").stdout


def test_check_passes_what_is_well(run, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    assert run("check", "broken.py:Good").exit_code == 0


def test_a_person_can_play(run):
    typed = ['/call calculator {"expression": "47*83"}', "", "/call", "/call calculator {x}", "/call calculator [1]"]
    lines = [f"{line}\n" for line in (*typed, "/call expert", "3")]
    result = run("play", "grpo_agents/Orchestra-v0", "--seed", 1, stdin="".join(lines))
    assert result.exit_code == 0, result.output
    shown = result.stdout
    assert "tool calculator(expression: string)  $1, 3 s" in shown
    assert "[calculator: $1, 3 s]\ntool: 3901" in shown
    assert shown.count("not understood") == 3
    assert "[expert: $10, 0.3 s]" in shown
    assert "rewards: outcome 0" in shown
    assert "the episode is over; reward 0 under the preference" in shown


@pytest.mark.parametrize("lines", ["/quit\n", ""])
def test_a_person_can_leave(run, lines):
    result = run("play", "grpo_agents/Math-v0", stdin=lines)
    assert result.exit_code == 0
    assert result.stdout.endswith("left before the end\n")
