"""Who plays what while workers come and go; the actors are stand-ins, which answer when a test says so."""

import json
import time
from concurrent.futures import Future

import pytest
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError

from grpo_agents.cluster import errands
from grpo_agents.cluster import pool as module
from grpo_agents.cluster.engine import ClusterEngine
from grpo_agents.cluster.pool import Pool, outcome
from grpo_agents.cluster.settings import ClusterConfig
from grpo_agents.cluster.transfer import TransferFailed
from grpo_agents.cluster.worker import Pulse
from grpo_agents.engines import EngineFailure, Request, Sampling
from grpo_agents.learner.ranks import RankLost
from grpo_agents.rollout import Order
from grpo_agents.trajectory import Group

GIB = 2**30
ORDERS = [Order({"id": str(number)}, 7, number, 2) for number in range(6)]


class Call:
    """A method of an actor: keeps what it was called with, and the answer to be."""

    def __init__(self):
        self.calls = []

    def remote(self, *arguments):
        answer = Future()
        self.calls.append((arguments, answer))
        return type("Reference", (), {"future": lambda _: answer})()


class Actor:
    def __init__(self):
        self.start, self.play, self.update_weights, self.pulse, self.complete, self.close = (Call() for _ in range(6))


class NewWeights:
    """Stands for weights that are stored already."""

    def __init__(self, name, version):
        self.what = (name, version)

    def hand_over(self, actors):
        return [actor.update_weights.remote(*self.what) for actor in actors]

    def stored(self):
        done = Future()
        done.set_result(self.what)
        return done


class Stage:
    """A pool on stand-ins."""

    def __init__(self, monkeypatch, patience=60.0, close_seconds=60.0, **settings):
        self.made, self.killed, self.said, self.numbers = [], [], [], []
        monkeypatch.setattr(errands, "TICK_SECONDS", 0.01)
        monkeypatch.setattr(module, "PULSE_SECONDS", 0.02)
        monkeypatch.setattr(module, "PAUSE_SECONDS", 0.05)
        monkeypatch.setattr(module, "CLOSE_SECONDS", close_seconds)
        monkeypatch.setattr(module.ray, "kill", self.killed.append)
        config = ClusterConfig(kind="ray", **{"workers": 2, **settings})
        self.pool = Pool(
            self._make, ("config",), config, at_once=2, most_hanging=10, patience=patience, say=self.said.append
        )

    def _make(self, number):
        self.numbers.append(number)
        self.made.append(Actor())
        return self.made[-1]

    def until(self, what):
        """Waits for what the pool's thread does."""
        deadline = time.monotonic() + 10
        while not what():
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def start(self, *which, length=128, memory=0):
        for place in which:
            self.until(lambda place=place: len(self.made) > place and self.made[place].start.calls)
            self.made[place].start.calls[-1][1].set_result((length, Pulse(memory, 0, ())))

    def beat(self, memory=0, hanging=0, but=()):
        """Answers every question for a sign of life."""
        for actor in self.made:
            for _, answer in actor.pulse.calls:
                if not answer.done() and actor not in but:
                    answer.set_result(Pulse(memory, hanging, ()))

    def played(self, actor):
        return [arguments[1] for arguments, _ in actor.play.calls]


@pytest.fixture
def stage(monkeypatch):
    stages = []

    def make(**settings):
        stages.append(Stage(monkeypatch, **settings))
        return stages[-1]

    yield make
    for one in stages:
        one.pool._errands.close()


def group_of(order):
    return Group(order.task, {}, [])


def lost():
    return RayActorError()


def test_groups_go_to_those_that_are_up_and_come_back_to_who_asked(stage):
    one = stage()
    promised = one.pool.play(0, "training", ORDERS[:3])
    one.start(0, 1)
    assert one.pool.context_length() == 128
    first, second = one.made
    one.until(lambda: len(first.play.calls) + len(second.play.calls) == 3)
    for actor in one.made:
        for (_, order), answer in actor.play.calls:
            answer.set_result(group_of(order))
    assert [found.result(10).task["id"] for found in promised] == ["0", "1", "2"]


def test_what_a_lost_worker_played_is_played_by_another(stage):
    one = stage()
    one.start(0, 1)
    promised = one.pool.play(0, "training", ORDERS[:4])
    first, second = one.made
    one.until(lambda: len(first.play.calls) == len(second.play.calls) == 2)
    had = one.played(first)
    for _, answer in first.play.calls:
        answer.set_exception(lost())
    one.until(lambda: len(one.made) == 3)
    assert one.numbers == [0, 1, 0]
    assert one.killed == [first]
    assert one.said == ["rollout worker 0 died. It is replaced; 2 groups are played again"]
    one.start(2)
    one.until(lambda: len(one.made[2].play.calls) == 2)
    assert one.played(one.made[2]) == had
    assert one.pool.figures() == {"cluster/workers_replaced": 1.0, "cluster/groups_requeued": 2.0}
    assert one.pool.figures() == {}
    for actor in (second, one.made[2]):
        for (_, order), answer in actor.play.calls:
            answer.set_result(group_of(order))
    assert [found.result(10).task["id"] for found in promised] == ["0", "1", "2", "3"]


def test_what_a_worker_says_while_it_loads_and_later_is_passed_on(stage):
    one = stage(workers=1)
    one.until(lambda: one.made and one.made[0].start.calls)
    one.made[0].start.calls[0][1].set_result((128, Pulse(0, 0, ("judge: beside the policy",))))
    one.until(lambda: one.made[0].pulse.calls)
    one.made[0].pulse.calls[0][1].set_result(Pulse(0, 0, ("the engine starts again",)))
    one.until(lambda: len(one.said) == 2)
    assert one.said == ["rollout worker 0: judge: beside the policy", "rollout worker 0: the engine starts again"]


def test_one_that_gives_no_sign_of_life_is_replaced(stage):
    one = stage(patience=1.0)
    one.start(0, 1)
    silent = one.made[1]

    def silent_is_gone():
        one.beat(but=[silent])
        return silent in one.killed

    one.until(silent_is_gone)
    assert one.killed == [silent]
    assert one.said == ["rollout worker 1 gave no sign of life for 1 s (engine.patience). It is replaced"]


@pytest.mark.parametrize(("pulse", "why"), [
    ({"memory": 3 * GIB}, "had more memory than cluster.worker_memory_gib"),
    ({"hanging": 10}, "had 10 threads that hang in environments (alarms.hanging)"),
])  # fmt: skip
def test_one_that_outgrows_its_limits_plays_to_the_end_and_is_replaced(stage, pulse, why):
    one = stage(workers=1, worker_memory_gib=2.0)
    one.start(0)
    (promised,) = one.pool.play(0, "training", ORDERS[:1])
    one.until(lambda: one.made and one.made[0].play.calls and one.made[0].pulse.calls)
    (actor,) = one.made
    one.beat(**pulse)
    later = one.pool.play(1, "training", ORDERS[1:2])
    one.until(lambda: one.pool._workers[0].retiring)
    one.until(lambda: one.pool._scheduler.waiting)
    assert (len(actor.play.calls), one.killed) == (1, [])  # it gets nothing more, and keeps what it has
    actor.play.calls[0][1].set_result(group_of(ORDERS[0]))
    assert promised.result(10).task == ORDERS[0].task
    one.until(lambda: actor.close.calls)
    assert one.killed == []  # what its environments hold is given back first
    actor.close.calls[0][1].set_result(None)
    one.until(lambda: len(one.made) == 2)
    assert one.killed == [actor]
    assert one.said == [f"rollout worker 0 {why}. It is replaced"]
    one.start(1)
    one.until(lambda: one.made[1].play.calls)
    one.made[1].play.calls[0][1].set_result(group_of(ORDERS[1]))
    assert later[0].result(10).task == ORDERS[1].task


def test_one_that_does_not_close_is_ended(stage):
    one = stage(workers=1, worker_memory_gib=2.0, close_seconds=0.1)
    one.start(0)
    one.until(lambda: one.made and one.made[0].pulse.calls)
    one.beat(memory=3 * GIB)
    one.until(lambda: len(one.made) == 2)
    assert one.killed == one.made[:1]


def test_somebody_goes_on_playing_while_others_are_replaced(stage):
    one = stage(worker_memory_gib=2.0)
    one.start(0, 1)
    first, second = one.made
    one.until(lambda: first.pulse.calls and second.pulse.calls)
    one.beat(memory=3 * GIB)
    one.until(lambda: first.close.calls or second.close.calls)
    retired, other = (first, second) if first.close.calls else (second, first)
    retired.close.calls[0][1].set_result(None)
    one.until(lambda: len(one.made) == 3)
    asked = len(other.pulse.calls)
    one.until(lambda: one.beat(memory=3 * GIB) or len(other.pulse.calls) > asked + 1)
    assert not other.close.calls  # its successor is not up yet
    one.start(2)
    one.until(lambda: one.beat(memory=3 * GIB) or other.close.calls)


def test_one_that_retires_while_weights_come_to_it_keeps_nobody_waiting(stage):
    one = stage(worker_memory_gib=2.0)
    one.start(0, 1)
    first, second = one.made
    one.pool.context_length()
    done = one.pool.update_weights(NewWeights("sent", 1))
    one.until(lambda: first.update_weights.calls and second.update_weights.calls)
    one.until(lambda: first.pulse.calls and second.pulse.calls)
    one.beat(memory=3 * GIB, but=[second])
    one.until(lambda: one.pool._workers[0].retiring)
    first.update_weights.calls[0][1].set_exception(RayTaskError("receive", "…", TransferFailed("nobody came")))
    one.until(lambda: len(first.update_weights.calls) == 2)
    assert not first.close.calls
    first.update_weights.calls[1][1].set_result(None)
    second.update_weights.calls[0][1].set_result(None)
    assert done.result(10) is None
    one.until(lambda: first.close.calls)


def test_the_shortest_context_of_all_workers_counts(stage):
    one = stage()
    one.start(0, length=64)
    one.start(1, length=128)
    assert one.pool.context_length() == 64


def test_what_a_worker_raises_is_said_as_it_is_or_in_its_words(stage):
    one = stage(workers=1)
    one.start(0)
    (promised,) = one.pool.play(0, "training", ORDERS[:1])
    one.until(lambda: one.made[0].play.calls)
    broken = json.JSONDecodeError("Expecting value", "x", 0)
    one.made[0].play.calls[0][1].set_exception(RayTaskError("play", "…", broken))
    with pytest.raises(ValueError, match=r"^JSONDecodeError: Expecting value: line 1 column 1 \(char 0\)$"):
        outcome(promised)


def test_a_learner_that_is_lost_during_a_probe_is_the_learners_loss(stage):
    one = stage(workers=1)
    one.start(0)
    engine, heard = ClusterEngine(one.pool, collective=False), []
    engine.submit([Request(0, [1, 2], 3, 0)], Sampling(1.0), heard.append)
    one.until(lambda: one.made[0].complete.calls)
    one.pool._errands.fail(RankLost("a machine was lost"))
    one.until(lambda: heard)
    assert isinstance(heard[0], RankLost)


def test_a_limit_below_what_a_worker_needs_to_load_is_named_with_its_need(stage):
    one = stage(workers=1, worker_memory_gib=2.0)
    one.start(0, memory=3 * GIB)
    with pytest.raises(ValueError, match=r"worker_memory_gib is 2, and rollout worker 0 has 3.00 GiB when it has but"):
        outcome(one.pool.play(0, "training", ORDERS[:1])[0])


@pytest.mark.parametrize(("error", "why"), [
    (OutOfMemoryError("killed"), "was ended by Ray, as its machine ran out of memory"),
    (ObjectLostError("00", None, ""), "died"),
])  # fmt: skip
def test_whatever_ray_has_lost_of_a_worker_it_is_replaced(stage, error, why):
    """Its result may be gone with its machine, too."""
    one = stage()
    one.start(0, 1)
    one.pool.play(0, "training", ORDERS[:1])
    one.until(lambda: one.made[0].play.calls)
    one.made[0].play.calls[0][1].set_exception(error)
    one.until(lambda: len(one.made) == 3)
    assert one.said == [f"rollout worker 0 {why}. It is replaced; 1 groups are played again"]


def test_newer_weights_come_after_those_that_are_under_way_to_a_worker(stage):
    """Messages to an actor may overtake each other."""
    one = stage(workers=1)
    one.start(0)
    (actor,) = one.made
    one.pool.context_length()
    first = one.pool.update_weights(NewWeights("first", 1))
    one.until(lambda: actor.update_weights.calls)
    second = one.pool.update_weights(NewWeights("second", 2))
    promised = one.pool.play(0, "training", ORDERS[:1])
    one.until(lambda: one.pool._update.missing)
    actor.update_weights.calls[0][1].set_result(None)
    one.until(lambda: len(actor.update_weights.calls) == 2)
    assert first.result(10) is None
    assert actor.update_weights.calls[1][0] == ("second", 2)
    assert not second.done()
    actor.update_weights.calls[1][1].set_result(None)
    assert second.result(10) is None
    one.until(lambda: actor.play.calls)
    actor.play.calls[0][1].set_result(group_of(ORDERS[0]))
    assert promised[0].result(10).task == ORDERS[0].task


def test_one_that_is_lost_too_often_ends_the_run_for_whoever_waits(stage):
    one = stage(workers=1, restarts=2)
    (promised,) = one.pool.play(0, "training", ORDERS[:1])
    for place in range(3):
        one.start(place)
        one.until(lambda place=place: one.made[place].play.calls)
        one.made[place].play.calls[0][1].set_exception(lost())
    with pytest.raises(EngineFailure, match=r"worker 0 was replaced 2 times without a group between .*lastly it died"):
        promised.result(10)
    with pytest.raises(EngineFailure):
        one.pool.play(1, "training", ORDERS[1:2])[0].result(10)
    assert len(one.made) == 3


def test_a_worker_whose_engine_fails_is_replaced_and_any_other_error_is_the_runs(stage):
    one = stage()
    one.start(0, 1)
    promised = one.pool.play(0, "training", ORDERS[:2])
    first, second = one.made
    one.until(lambda: first.play.calls and second.play.calls)
    first.play.calls[0][1].set_exception(
        RayTaskError("play", "…", EngineFailure("the engine was started again 3 times"))
    )
    one.until(lambda: len(one.made) == 3)
    assert one.said[0].startswith(
        "rollout worker 0 says: the engine was started again 3 times. It is replaced; 1 groups"
    )
    second.play.calls[0][1].set_exception(RayTaskError("play", "…", ValueError("rewards.vector: no such thing")))
    for found in promised:
        with pytest.raises(ValueError, match=r"rewards\.vector: no such thing"):
            found.result(10)


def test_what_a_worker_cannot_load_is_said_to_who_waits_for_it(stage):
    one = stage(workers=1)
    one.until(lambda: one.made and one.made[0].start.calls)
    one.made[0].start.calls[0][1].set_exception(
        RayTaskError("start", "…", ValueError("model.path: there is no folder"))
    )
    with pytest.raises(ValueError, match=r"model.path: there is no folder"):
        one.pool.context_length()


def test_new_weights_are_there_when_all_who_are_up_have_them_and_who_comes_later_begins_with_them(stage):
    one = stage()
    one.start(0)
    first = one.made[0]
    done = one.pool.update_weights(NewWeights("the first", 1))
    one.until(lambda: first.update_weights.calls)
    second = one.made[1]
    one.start(1)  # meanwhile
    one.until(lambda: second.update_weights.calls)
    promised = one.pool.play(0, "training", ORDERS[:2])
    first.update_weights.calls[0][1].set_result(None)
    time.sleep(0.05)
    assert not done.done()
    assert (len(first.play.calls), len(second.play.calls)) == (2, 0)  # who has old weights plays nothing
    second.update_weights.calls[0][1].set_result(None)
    assert done.result(10) is None
    assert [arguments for arguments, _ in second.update_weights.calls] == [("the first", 1)]
    for (_, order), answer in first.play.calls:
        answer.set_result(group_of(order))
    assert len([found.result(10) for found in promised]) == 2


def test_a_worker_that_dies_over_new_weights_keeps_nobody_waiting(stage):
    one = stage()
    one.start(0, 1)
    first, second = one.made
    one.pool.context_length()
    done = one.pool.update_weights(NewWeights("new", 1))
    one.until(lambda: first.update_weights.calls and second.update_weights.calls)
    second.update_weights.calls[0][1].set_result(None)
    first.update_weights.calls[0][1].set_exception(lost())
    assert done.result(10) is None
    one.start(2)
    one.until(lambda: one.made[2].update_weights.calls)
    assert one.made[2].update_weights.calls[0][0] == ("new", 1)


def test_who_missed_what_the_learner_sent_to_all_has_it_from_the_store(stage):
    one = stage()
    one.start(0, 1)
    first, second = one.made
    one.pool.context_length()
    done = one.pool.update_weights(NewWeights("sent", 1))
    one.until(lambda: first.update_weights.calls and second.update_weights.calls)
    first.update_weights.calls[0][1].set_result(None)
    second.update_weights.calls[0][1].set_exception(RayTaskError("receive", "…", TransferFailed("nobody came")))
    one.until(lambda: len(second.update_weights.calls) == 2)
    assert not done.done()
    second.update_weights.calls[1][1].set_result(None)
    assert done.result(10) is None
    assert one.killed == []
    assert one.said == ["rollout worker 1 has new weights from Ray's object store instead: nobody came"]
    assert one.pool.figures() == {"cluster/transfers_missed": 1.0}


def test_what_one_is_asked_its_successor_answers(stage):
    one = stage(workers=1)
    asked = one.pool.ask(0, "complete", "a probe")
    one.start(0)
    (first,) = one.made
    one.until(lambda: first.complete.calls)
    first.complete.calls[0][1].set_exception(lost())
    one.until(lambda: len(one.made) == 2)
    one.start(1)
    one.until(lambda: one.made[1].complete.calls)
    assert one.made[1].complete.calls[0][0] == ("a probe",)
    one.made[1].complete.calls[0][1].set_result(["completion"])
    assert asked.result(10) == ["completion"]


def test_a_worker_that_came_after_the_last_probe_is_known_as_such(stage):
    """An engine that nobody has probed may sample from another policy."""
    one = stage(workers=1)
    one.start(0)
    engine = ClusterEngine(one.pool, collective=False)
    one.until(lambda: engine.unprobed)
    engine.submit([Request(0, [1, 2], 3, 0)], Sampling(1.0), print)
    assert not engine.unprobed
    one.pool.play(0, "training", ORDERS[:1])
    one.until(lambda: one.made[0].play.calls)
    one.made[0].play.calls[0][1].set_exception(lost())
    one.until(lambda: len(one.made) == 2)
    assert not engine.unprobed  # it is loading
    one.start(1)
    one.until(lambda: engine.unprobed)


def test_earlier_steps_are_played_first_and_no_worker_has_more_than_it_may(stage):
    one = stage(workers=1)
    one.pool.play(1, "training", ORDERS[:4])
    one.pool.play(-1, "evaluation", ORDERS[4:5])
    one.pool.play(0, "training", ORDERS[5:])
    one.start(0)
    (actor,) = one.made
    one.until(lambda: len(actor.play.calls) == 2)
    time.sleep(0.05)
    assert [arguments for arguments, _ in actor.play.calls] == [("evaluation", ORDERS[4]), ("training", ORDERS[5])]


def gone():
    return ObjectLostError("00", None, "")


@pytest.mark.parametrize(
    "error",
    [
        gone(),
        RayTaskError("update_weights", "…", gone()),
        RayTaskError("receive_weights", "…", lost()),  # where to meet: the learner was to say so
    ],
)
def test_weights_that_are_lost_with_a_machine_are_the_learners_loss_and_no_workers(stage, error):
    one = stage()
    one.start(0, 1)
    waits = one.pool.update_weights(NewWeights("weights", 1))
    one.until(lambda: all(actor.update_weights.calls for actor in one.made))
    one.made[0].update_weights.calls[0][1].set_exception(error)
    with pytest.raises(RankLost, match="the weights of the learner"):
        waits.result(10)
    assert len(one.made) == 2
