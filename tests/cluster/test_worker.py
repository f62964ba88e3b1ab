"""A rollout worker in this process: it plays what it is given, between changes of weights, and scores it."""

import sys
import threading

import numpy as np
import pytest
from processes import eventually

from grpo_agents.background import in_background
from grpo_agents.build import build
from grpo_agents.cluster.worker import Worker
from grpo_agents.engines import EngineFailure, Request, Sampling
from grpo_agents.rollout import Order
from runs import grpo


@pytest.fixture(scope="module")
def config(warm, tmp_path_factory):
    return grpo(tmp_path_factory.mktemp("worker") / "run", warm, **{"model.threads": 1})


@pytest.fixture
def worker(config):
    made = Worker(config)
    yield made
    made.close()


@pytest.fixture(scope="module")
def orders(config):
    _, tasks = build(config).own_rollout(evaluating=False)
    return [Order(tasks[number], 7, number, 3) for number in range(6)]


def ids_of(group):
    return [[sample.ids.tolist() for sample in trajectory.samples] for trajectory in group.trajectories]


def test_groups_are_those_of_a_rollout_whenever_they_come(config, orders, worker):
    parts = build(config)
    rollout, _ = parts.own_rollout(evaluating=False)
    expected = rollout.sample([order.task for order in orders], seed=7)
    promised = [worker.play("training", order) for order in reversed(orders)]
    found = [one.result(60) for one in reversed(promised)]
    for mine, theirs in zip(expected, found, strict=True):
        assert ids_of(theirs) == ids_of(mine)
        assert theirs.preference == mine.preference
        assert [one.rewards for one in theirs.trajectories] == [one.rewards for one in mine.trajectories]
        assert [one.id for one in theirs.trajectories] == [one.id for one in mine.trajectories]


def test_weights_change_between_turns_and_each_turn_says_which_it_had(orders, worker, monkeypatch):
    """New ones come whenever a turn is being sampled, and are there before the next one."""
    engine, updates = worker.parts.engine, []
    named = {name: value.detach().clone() for name, value in worker.parts.engine.model.named_parameters()}
    submit = engine.submit

    def submit_and_update(*arguments):
        updates.append(worker.update_weights({name: value.clone() for name, value in named.items()}, len(updates) + 1))
        submit(*arguments)

    monkeypatch.setattr(engine, "submit", submit_and_update)
    groups = [one.result(60) for one in [worker.play("training", order) for order in orders]]
    turns = [[turn.version for turn in one.steps] for group in groups for one in group.trajectories]
    assert all(own == sorted(set(own)) for own in turns)  # never twice the same
    assert {version for own in turns for version in own} == set(range(len(updates)))
    assert len(updates) > 1
    for update in updates:
        update.result(60)
    assert engine.version == len(updates)


def test_a_probe_is_what_the_engine_says_and_disturbs_nothing(config, orders, worker):
    request = Request(3, [5, 6, 7], seed=11, max_tokens=4)
    alone = worker.complete([request], Sampling()).result(60)
    promised = [worker.play("training", order) for order in orders]
    amid = worker.complete([request], Sampling()).result(60)
    assert [one.session for one in amid] == [3]
    assert amid[0].ids == alone[0].ids
    assert len([one.result(60) for one in promised]) == len(orders)
    (scored,) = worker.score([[5, 6, 7]]).result(60)
    assert scored.shape == (3,)
    assert scored[0] == 0


def test_an_evaluation_is_played_before_more_of_the_training(config, orders, worker):
    """Both come while a group is being played, the training first."""
    ended, promised, submit = [], [], worker.parts.engine.submit

    def play(venue, order, name):
        promised.append(worker.play(venue, order))
        promised[-1].add_done_callback(lambda _: ended.append(name))

    def submit_and_play(*arguments):
        if len(promised) == 1:
            play("training", orders[1], "later")
            play("evaluation", Order(orders[5].task, 1, 0, 1, 0.0), "evaluation")
        submit(*arguments)

    worker.parts.engine.submit = submit_and_play
    play("training", orders[0], "under way")
    assert eventually(lambda: len(ended) == 3, 60)
    assert ended == ["under way", "evaluation", "later"]
    (trajectory,) = promised[2].result().trajectories
    assert set(trajectory.rewards) >= {"outcome"}


def test_code_that_would_end_its_process_ends_what_it_was_for(config, orders):
    """``sys.exit`` in a reward, or where an environment is made, would end a thread in silence."""
    worker = Worker(config)
    worker._rollouts["training"].score = lambda groups: sys.exit(3)
    with pytest.raises(ValueError, match=r"code of a reward or an environment ended its process: SystemExit\(3\)"):
        worker.play("training", orders[0]).result(60)
    worker._rollouts["training"]._environments._make = lambda: sys.exit(4)
    with pytest.raises(ValueError, match=r"SystemExit\(4\)"):
        worker.play("training", Order(orders[1].task, 7, 1, 12)).result(60)
    worker.close()


def test_one_that_is_closed_breaks_off_and_leaves_nobody_waiting(config, orders):
    worker = Worker(config)
    submitted, release = threading.Event(), threading.Event()
    submit = worker.parts.engine.submit

    def submit_and_wait(*arguments):
        submitted.set()
        release.wait(60)
        submit(*arguments)

    worker.parts.engine.submit = submit_and_wait
    promised = worker.play("training", orders[0])
    assert submitted.wait(60)
    probe = worker.score([[1, 2, 3]])
    closing = in_background(worker.close)
    assert eventually(lambda: worker._closed)
    release.set()
    closing.result(60)
    for waiting in (probe, worker.score([[1, 2, 3]])):
        with pytest.raises(EngineFailure, match="the worker is closing"):
            waiting.result(0)
    assert not promised.done()  # whoever waits for it has it played elsewhere


def test_what_cannot_be_scored_is_said_to_who_waits_and_the_rest_is_played(config, orders, worker, monkeypatch):
    rollout = worker._rollouts["training"]
    with monkeypatch.context() as patch:
        patch.setattr(rollout.vector, "check_preference", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            worker.play("training", orders[1]).result(60)
    with monkeypatch.context() as patch:
        patch.setattr(rollout, "score", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            worker.play("training", orders[2]).result(60)
    assert len(worker.play("training", orders[0]).result(60).trajectories) == 3


def test_its_pulse_tells_the_memory_of_its_process(worker):
    pulse = worker.pulse()
    assert np.log2(pulse.memory) == pytest.approx(30, abs=3)  # torch and a tiny model: a gigabyte or so
    assert pulse.said == ()
