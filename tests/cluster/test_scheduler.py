"""Groups are dealt to workers: none twice, none lost, none too early."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_agents.cluster.scheduler import Scheduler, horizon


@given(version=st.integers(0, 50), staleness=st.integers(0, 5), steps=st.integers(1, 60), batch=st.integers(1, 9))
def test_what_is_admitted_is_bounded_by_version_and_staleness(version, staleness, steps, batch):
    """AReaL's equation 3, in groups; and nothing is admitted that no step learns from."""
    admitted = {batch * step + number for v in range(version + 1) for step in horizon(v, staleness, steps)
                for number in range(batch)}  # fmt: skip
    assert len(admitted) <= (staleness + version + 1) * batch
    if version < steps:
        assert len(admitted) == min((staleness + version + 1), steps) * batch
        assert max(horizon(version, staleness, steps)) < steps


@given(staleness=st.integers(0, 5), steps=st.integers(1, 30))
def test_each_step_learns_from_what_is_at_most_so_many_steps_older(staleness, steps):
    for step in range(steps):
        first = min(version for version in range(steps) if step in horizon(version, staleness, steps))
        assert step - first == min(step, staleness)


def test_earlier_steps_begin_first_and_the_least_loaded_gets_them():
    scheduler = Scheduler(at_once=2)
    for name in "cd":
        scheduler.add(5, name)
    for name in "ab":
        scheduler.add(4, name)
    scheduler.add(-1, "evaluation")
    scheduler.join("one")
    scheduler.join("two")
    assert list(scheduler.assign()) == [("one", "evaluation"), ("two", "a"), ("one", "b"), ("two", "c")]
    assert scheduler.waiting == 1  # nobody has room for d
    scheduler.done("one", "b")
    assert list(scheduler.assign()) == [("one", "d")]


def test_what_a_lost_worker_played_comes_before_what_is_later():
    scheduler = Scheduler(at_once=2)
    scheduler.join("one")
    for step, name in enumerate("abcd"):
        scheduler.add(step, name)
    assert [group for _, group in scheduler.assign()] == ["a", "b"]
    assert scheduler.leave("one") == ["a", "b"]
    assert list(scheduler.assign()) == []
    scheduler.join("two")
    assert [group for _, group in scheduler.assign()] == ["a", "b"]


def test_who_is_retired_gets_nothing_more_and_keeps_what_it_has():
    scheduler = Scheduler(at_once=4)
    scheduler.join("one")
    scheduler.add(0, "a")
    list(scheduler.assign())
    scheduler.retire("one")
    scheduler.add(0, "b")
    assert list(scheduler.assign()) == []
    assert scheduler.load("one") == 1
    scheduler.join("two")
    assert list(scheduler.assign()) == [("two", "b")]
    assert scheduler.leave("one") == ["a"]


@pytest.mark.parametrize("seed", range(50))
def test_whatever_happens_to_workers_every_group_is_played_once(seed):
    chance = random.Random(seed)
    scheduler, groups = Scheduler(at_once=3), list(range(20))
    for group in groups:
        scheduler.add(group // 5, group)
    playing, played, number = {}, [], 0
    while len(played) < len(groups):
        event = chance.choice(["join", "leave", "done", "done"])
        if event == "join" or not playing:
            scheduler.join(number)
            playing[number] = []
            number += 1
        elif event == "leave" and len(playing) > 1:
            worker = chance.choice(sorted(playing))
            assert scheduler.leave(worker) == playing.pop(worker)
        else:
            busy = [worker for worker in sorted(playing) if playing[worker]]
            for worker in busy[:1]:
                group = playing[worker].pop(0)
                scheduler.done(worker, group)
                played.append(group)
        for worker, group in scheduler.assign():
            playing[worker].append(group)
        assert all(len(own) <= 3 for own in playing.values())
        assert scheduler.waiting + sum(map(len, playing.values())) + len(played) == len(groups)
    assert sorted(played) == groups
