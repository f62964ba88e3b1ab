import queue
import threading
import time
import weakref

import pytest

from grpo_agents.threads import Abandoned, StepThreads


@pytest.fixture
def release():
    """Lets every job that hangs end with the test."""
    event = threading.Event()
    yield event
    event.set()


def alive():
    return {thread for thread in threading.enumerate() if thread.name == "grpo-agents-step"}


def run(threads, jobs, timeout):
    """The results of all jobs, in their order."""
    inbox = queue.SimpleQueue()
    threads.start(list(enumerate(jobs)), timeout, inbox.put)
    results = {}
    while len(results) < len(jobs):
        threads.abandon_late()
        try:
            outcome = inbox.get(timeout=0.01)
        except queue.Empty:
            continue
        assert outcome.key not in results
        results[outcome.key] = outcome.result
    assert inbox.empty()
    return [results[number] for number in range(len(jobs))]


def test_every_job_has_its_result():
    threads = StepThreads(4)

    def job(number):
        return lambda: (time.sleep(0.002 * (7 * number % 5)), number)[1]

    for _ in range(3):
        assert run(threads, [job(number) for number in range(30)], 5.0) == list(range(30))
    threads.close()


def test_as_many_jobs_at_once_as_threads_and_no_more():
    threads, lock, seen, running = StepThreads(3), threading.Lock(), [], [0]
    together = threading.Barrier(3)

    def job():
        with lock:
            running[0] += 1
            seen.append(running[0])
        together.wait(20)  # would break if fewer than three ran
        with lock:
            running[0] -= 1

    assert run(threads, [job] * 12, 30.0) == [None] * 12
    assert max(seen) == 3
    threads.close()


def test_what_a_job_raises_is_its_outcome():
    def bad():
        raise KeyError("there")

    def worse():
        raise SystemExit(3)

    threads = StepThreads(2)
    first, error, end, last = run(threads, [lambda: 1, bad, worse, lambda: 4], 5.0)
    assert (first, last) == (1, 4)
    assert isinstance(error, KeyError)
    assert isinstance(end, SystemExit)
    assert run(threads, [lambda: 5], 5.0) == [5]
    threads.close()


@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_job_that_hangs_is_abandoned_and_the_others_finish(count, release):
    """Even where every thread hangs: others take their place."""
    threads = StepThreads(count)
    jobs = [
        (lambda: release.wait(60)) if number in (0, 1, 5) else (lambda number=number: number) for number in range(9)
    ]
    began = time.monotonic()
    found = run(threads, jobs, 0.6)
    assert time.monotonic() - began < 10
    assert [number for number, one in enumerate(found) if isinstance(one, Abandoned)] == [0, 1, 5]
    assert [one for one in found if not isinstance(one, Abandoned)] == [2, 3, 4, 6, 7, 8]
    assert "still running after 0.6 s" in str(found[0])
    assert run(threads, [lambda: 1, lambda: 2], 5.0) == [1, 2]  # and it goes on
    threads.close()


def test_a_job_that_ends_after_its_deadline_changes_nothing(release):
    threads = StepThreads(2)
    late = threading.Event()

    def job():
        release.wait(60)
        late.set()
        return "late"

    found = run(threads, [job, lambda: "in time"], 0.5)
    release.set()
    assert late.wait(5)
    time.sleep(0.02)
    assert isinstance(found[0], Abandoned)
    assert found[1] == "in time"
    assert run(threads, [lambda: "next"] * 3, 5.0) == ["next"] * 3
    threads.close()


def test_a_job_that_hangs_keeps_no_other_of_its_wave_in_memory(release):
    """Nor its key: with one environment that hangs, the episodes of a whole batch would stay."""
    threads, inbox = StepThreads(2), queue.SimpleQueue()
    others = [lambda: None for _ in range(5)]
    seen = [weakref.ref(job) for job in others]
    threads.start([(None, lambda: release.wait(60)), *((job, job) for job in others)], 0.5, inbox.put)
    del others
    results = []
    while len(results) < 6:
        threads.abandon_late()
        while not inbox.empty():
            results.append(inbox.get().result)
    assert any(isinstance(result, Abandoned) for result in results)
    assert run(threads, [lambda: 1] * 4, 5.0) == [1] * 4  # threads that are free let go of what they had
    assert [job() for job in seen] == [None] * 5
    threads.close()


def test_the_clock_of_a_job_starts_when_it_starts():
    """Ten jobs of 0.05 s on one thread take longer together than the timeout of each."""
    threads = StepThreads(1)
    found = run(threads, [lambda: time.sleep(0.05)] * 10, 0.4)
    assert found == [None] * 10
    threads.close()


def test_what_is_given_up_begins_no_more_and_says_when_it_returns(release):
    threads, inbox, returned = StepThreads(2), queue.SimpleQueue(), queue.SimpleQueue()
    begun = queue.SimpleQueue()
    jobs = [(number, lambda number=number: (begun.put(number), release.wait(60))) for number in range(5)]
    threads.start(jobs, 60.0, inbox.put, returned.put)
    running = {begun.get(timeout=5), begun.get(timeout=5)}
    assert set(threads.give_up()) == running
    given_up = [inbox.get(timeout=5) for _ in running]
    assert {outcome.key for outcome in given_up} == running
    assert all(isinstance(outcome.result, Abandoned) for outcome in given_up)
    assert run(threads, [lambda: 1] * 3, 5.0) == [1] * 3  # others take their place
    assert returned.empty()
    release.set()
    assert {returned.get(timeout=5) for _ in running} == running
    assert begun.empty()
    threads.close()


def test_no_jobs():
    assert run(StepThreads(2), [], 1.0) == []


def test_closing_ends_the_threads():
    before = alive()
    threads = StepThreads(4)
    run(threads, [lambda: time.sleep(0.01)] * 4, 5.0)
    own = alive() - before  # those of other tests may still be ending
    assert len(own) == 4
    threads.close()
    for thread in own:
        thread.join(5)
    assert not own & alive()
    assert run(threads, [lambda: 1], 5.0) == [1]  # closed is not broken
    threads.close()


def test_an_outcome_is_delivered_before_the_other_jobs_of_its_wave_are_done(release):
    threads, inbox = StepThreads(2), queue.SimpleQueue()
    threads.start([("slow", lambda: release.wait(60)), ("fast", lambda: 1)], 60.0, inbox.put)
    assert inbox.get(timeout=5).key == "fast"
    threads.start([("next", lambda: 2)], 60.0, inbox.put)
    assert inbox.get(timeout=5).key == "next"
    release.set()
    assert inbox.get(timeout=5).key == "slow"
    threads.close()
