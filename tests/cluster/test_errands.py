"""What one thread does in order, and what becomes of promises."""

import threading
from concurrent.futures import Future

import pytest

from grpo_agents.cluster import errands as module
from grpo_agents.cluster.errands import Errands


@pytest.fixture
def made():
    """Makes errands, which are closed in the end."""
    all_ = []

    def make(look_after=lambda: None):
        all_.append(Errands(look_after, "errands"))
        all_[-1].begin()
        return all_[-1]

    yield make
    for one in all_:
        one.close()


def test_everything_is_done_in_order_by_one_thread_which_looks_after_things_each_time(made):
    seen = []
    errands = made(lambda: seen.append("look"))
    for number in range(3):
        errands.put(lambda number=number: seen.append((number, threading.current_thread().name)))
    errands.close()
    assert seen == [step for number in range(3) for step in ((number, "errands"), "look")]


def test_it_looks_after_things_while_nothing_comes(made, monkeypatch):
    monkeypatch.setattr(module, "TICK_SECONDS", 0.01)
    looked = threading.Semaphore(0)
    made(looked.release)
    assert all(looked.acquire(timeout=10) for _ in range(3))


def test_what_waits_for_something_is_given_it_in_the_thread(made):
    errands, done, seen = made(), Future(), Future()
    errands.when(done, lambda done: seen.set_result((done.result(), threading.current_thread().name)))
    assert not seen.done()
    done.set_result(7)
    assert seen.result(10) == (7, "errands")


def test_what_one_raises_is_told_to_all_who_wait_and_to_who_comes_later(made):
    errands, wrong = made(), ValueError("no such thing")
    kept, waiting = errands.promise(), errands.promise()
    kept.set_result("kept")

    def fail():
        raise wrong

    errands.put(fail)
    with pytest.raises(ValueError, match="no such thing"):
        waiting.result(10)
    assert kept.result() == "kept"
    assert errands.failure is wrong
    with pytest.raises(ValueError, match="no such thing"):
        errands.promise().result(10)


def test_the_first_failure_is_the_one_that_is_told_later_and_the_thread_goes_on(made):
    errands, seen = made(), Future()
    errands.fail(ValueError("first"))
    errands.fail(OSError("second"))
    errands.put(lambda: seen.set_result(True))
    assert seen.result(10)
    with pytest.raises(ValueError, match="first"):
        errands.promise().result(10)
