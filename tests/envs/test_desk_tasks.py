"""Generated tasks: levels, splits, and that what is no task is dropped."""

import json

import numpy as np
import pytest

from grpo_agents.envs.library_desk import LibraryDeskEnv
from grpo_agents.envs.library_desk.checking import NotAllowed, carry_out, expected_end, problem, solution
from grpo_agents.envs.library_desk.database import Library
from grpo_agents.envs.library_desk.tasks import LEVELS, Generator, draw, held_out
from grpo_agents.envs.library_desk.tools import WRITES
from grpo_agents.envs.library_desk.wishes import CONDITIONAL, FORBIDDEN, PLAIN, Draft, call
from grpo_agents.envs.library_desk.world import draw_library


def generated(count, **options):
    source = LibraryDeskEnv(**options).task_source
    return [source[number] for number in range(count)]


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_has_what_makes_it_hard(level):
    for task in generated(60, levels=[level]):
        database, wishes, user = Library.from_dict(task["database"]), task["wishes"], task["user"]
        name, born = user["name"], database.members[task["card"]].born
        assert task["level"] == level
        assert len(wishes) == {1: 1, 2: 2, 3: 2, 4: 3, 5: 4}[level]
        assert sum(bool(wish["forbidden"]) for wish in wishes) == (level >= 4)
        assert len(solution(task)) >= {1: 1, 2: 2, 3: 2, 4: 2, 5: 3}[level]
        assert (task["card"] in user["says"]) == (level <= 2)
        assert sum(entry.name == name for entry in database.members.values()) == (2 if level >= 3 else 1)
        assert (born in user["says"]) == (level == 3)
        assert bool(user["details"]) == (level >= 4)
        assert [wish["later"] for wish in wishes] == [False] * (len(wishes) - 1) + [level == 5]
        if level < 4:
            assert not any(wish["details"] for wish in wishes)


def test_a_task_is_json_and_its_id_is_its_content():
    tasks = generated(100)
    assert {task["level"] for task in tasks} == set(LEVELS)
    assert json.loads(json.dumps(tasks)) == tasks
    assert len({task["id"] for task in tasks}) == 100
    assert Library.from_dict(tasks[0]["database"]).as_dict() == tasks[0]["database"]


def test_the_splits_have_no_task_in_common():
    ids = {split: {task["id"] for task in generated(150, split=split, levels=[1, 2])} for split in ("train", "test")}
    assert not ids["train"] & ids["test"]
    assert all(map(held_out, ids["test"]))
    share = np.mean([held_out(task["id"]) for task in generated(400, levels=[1])])
    assert 0.12 < share < 0.28


def test_the_end_is_another_than_the_start_and_every_replay_leads_there():
    for task in generated(100):
        start, end = Library.from_dict(task["database"]), expected_end(task)
        assert start.differences(end)
        assert carry_out(start, solution(task)) == end
        assert not expected_end(json.loads(json.dumps(task))).differences(end)


def test_every_kind_of_wish_and_every_tool_that_writes_occurs():
    used = {entry["name"] for task in generated(200) for entry in solution(task)}
    assert used == {tool.name for tool in WRITES}
    for kind in (*PLAIN, *CONDITIONAL, *FORBIDDEN):
        rng = np.random.default_rng(3)
        library = draw_library(rng)
        card = sorted(library.members)[0]
        wish = kind(Draft(library, card, rng, sorted(library.books)))
        assert bool(wish.calls) != bool(wish.forbidden)
        Library.from_dict(library.as_dict())  # sound


@pytest.mark.parametrize("kind", FORBIDDEN)
def test_a_forbidden_wish_is_refused_by_the_system_or_by_the_policy(kind):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        library = draw_library(rng)
        card = sorted(library.members)[seed % 6]
        wish = kind(Draft(library, card, rng, rng.permutation(sorted(library.books)).tolist()))
        for entry in wish.forbidden:
            with pytest.raises(NotAllowed):
                carry_out(library, [entry])


def with_calls(task, *calls, forbidden=()):
    wish = {**task["wishes"][0], "calls": list(calls), "forbidden": list(forbidden)}
    return {**task, "wishes": [wish]}


def test_what_is_no_task_is_said():
    (task,) = generated(1, levels=[1])
    card, library = task["card"], Library.from_dict(task["database"])
    copy = next(copy for book in library.books if book not in library.holds for copy in library.on_shelf(book))
    lend, back = call("lend", card=card, copy=copy), call("return_copy", copy=copy)
    to, fro = (call("change_email", card=card, email=email) for email in ("a@b.example", "c@d.example"))
    assert problem(with_calls(task, lend)) is None
    assert "nothing is to be done" in problem(with_calls(task, forbidden=[call("lend", card=card, copy="C999")]))
    assert "nothing is to be done" in problem(with_calls(task, lend, back))
    assert problem(with_calls(task, back)) == (
        f"it cannot be solved: return_copy({{'copy': '{copy}'}}): tool 'return_copy' failed: "
        f"Refused: copy {copy} is not on loan"
    )
    assert problem(with_calls(task, to, fro)) == "its end depends on the order of actions"
    said = problem(with_calls(task, to, forbidden=[lend]))
    assert said.startswith("it forbids what is allowed after 0 actions: lend")
    with pytest.raises(ValueError, match=rf"task '{task['id']}': return_copy.*is not on loan"):
        expected_end(with_calls(task, back))


def test_the_generator_drops_what_is_no_task():
    """Of three draws, one needs no action and one cannot be solved."""
    drawn = []

    def mixed(rng, level):
        task = draw(rng, level)
        kind = int(rng.integers(3))
        drawn.append(kind)
        impossible = call("return_copy", copy="C999")
        return {0: task, 1: with_calls(task), 2: with_calls(task, impossible)}[kind]

    generator = Generator([1], draw=mixed)
    tasks = [generator(np.random.default_rng(seed)) for seed in range(40)]
    assert [problem(task) for task in tasks] == [None] * 40
    assert {1, 2} <= set(drawn)
    assert drawn.count(0) == 40


def test_a_generator_without_tasks_says_why():
    generator = Generator([1], draw=lambda rng, level: with_calls(draw(np.random.default_rng(0), level)))
    with pytest.raises(RuntimeError, match="level 1: 1000 draws, and no task among them; of the last, nothing is to"):
        generator(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"levels": [0]}, "there is no level 0; there are 1, 2, 3, 4, 5"),
        ({"levels": []}, "levels: none is named"),
        ({"split": "dev"}, "split: 'dev' is none"),
    ],
)
def test_wrong_options_are_named(options, said):
    with pytest.raises(ValueError, match=said):
        LibraryDeskEnv(**options)
