"""Threads that step environments, and go on without one that hangs."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

HANGING = "grpo-agents-hanging"
"""What a thread is called from the moment it is given up."""


class Abandoned(Exception):
    """A job that was still running at its deadline.

    Its thread is left behind and what it holds must not be used again.
    """


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job.

    Attributes:
        key: The job's.
        result: What it returned, the exception that it raised, or :class:`Abandoned`.
    """

    key: Any
    result: Any


def hanging() -> int:
    """How many threads of this process, whoever started them, are still in a job that was given up.

    Nothing can end them; each goes when its job returns.
    """
    return sum(thread.name == HANGING for thread in threading.enumerate())


class StepThreads:
    """Runs jobs and delivers their outcomes, each as soon as it is there.

    Jobs are handed over in waves: that costs one hop for each thread rather than one for each job.

    Args:
        count: How many jobs may run at once.
    """

    def __init__(self, count: int):
        self._waves: queue.SimpleQueue[_Wave | None] = queue.SimpleQueue()
        self._under_way: list[_Wave] = []
        self._count = 0
        self._most = count

    def start(
        self,
        jobs: Sequence[tuple[Any, Callable[[], Any]]],
        timeout: float,
        deliver: Callable[[Outcome], None],
        returned: Callable[[Any], None] = lambda _: None,
    ) -> None:
        """Runs every job once, and returns at once.

        Args:
            jobs: A key and what to run.
            timeout: Seconds each may take; see :meth:`abandon_late`.
            deliver: Called with each outcome, from any thread.
            returned: Called with the key of a job that was given up, when it returns after all, in its thread;
                nobody hears of what it raises.
        """
        if not jobs:
            return
        wave = _Wave(jobs, timeout, deliver, returned)
        self._under_way.append(wave)
        hands = min(self._most, len(jobs))
        while self._count < hands:
            self._spawn()
        for _ in range(hands):
            self._waves.put(wave)

    def abandon_late(self) -> None:
        """Gives up jobs past their deadline. To be called now and then by who waits for outcomes."""
        self._under_way = [wave for wave in self._under_way if not wave.done]
        for wave in self._under_way:
            for _ in range(wave.abandon_late()):
                self._count -= 1
                self._spawn()
                self._waves.put(wave)

    def give_up(self) -> list[Any]:
        """Gives up all that runs and drops what has not begun; gives the keys of what runs."""
        running = [key for wave in self._under_way for key in wave.give_up()]
        self._count -= len(running)
        self._under_way.clear()
        return running

    def close(self) -> None:
        """Lets the threads end; one that hangs is left behind."""
        for _ in range(self._count):
            self._waves.put(None)
        self._count = 0

    def _spawn(self) -> None:
        self._count += 1
        threading.Thread(target=_work, args=(self._waves,), daemon=True, name="grpo-agents-step").start()


_SETTLED: tuple[Any, Callable[[], Any]] = (None, lambda: None)


class _Wave:
    """Jobs handed over together; threads take the next one until none is left."""

    def __init__(
        self,
        jobs: Sequence[tuple[Any, Callable[[], Any]]],
        timeout: float,
        deliver: Callable[[Outcome], None],
        returned: Callable[[Any], None],
    ):
        self.done = False
        self._jobs = list(jobs)  # each is let go with its outcome: a job that hangs keeps only itself in memory
        self._timeout = timeout
        self._deliver = deliver
        self._returned = returned
        self._next = 0
        self._lock = threading.Lock()
        self._left = len(jobs)
        self._running: dict[int, tuple[float, threading.Thread]] = {}  # job → when it began, and where

    def work(self) -> bool:
        """Takes jobs until none is left; False where this thread was given up meanwhile."""
        while (index := self._take()) is not None:
            key, job = self._jobs[index]
            try:
                result = job()
            except BaseException as error:  # handed back as the job's outcome
                result = error
            if not self._settle(index, result):
                with suppress(Exception):
                    self._returned(key)
                return False
        return True

    def give_up(self) -> list[Any]:
        """Gives up the jobs that run, and drops the others; gives the keys of the first."""
        with self._lock:
            self._next = len(self._jobs)
            running = [(self._jobs[index][0], index, thread) for index, (_, thread) in self._running.items()]
        return [key for key, index, thread in running if self._abandon(index, thread, "given up")]

    def _take(self) -> int | None:
        """The next job, if there is one: it runs from now on."""
        with self._lock:
            index = self._next
            if index == len(self._jobs):
                return None
            self._next += 1
            self._running[index] = time.monotonic(), threading.current_thread()
        return index

    def abandon_late(self) -> int:
        """Gives up the jobs that have run for longer than the timeout; says how many."""
        now = time.monotonic()
        late = [entry for entry in list(self._running.items()) if now - entry[1][0] > self._timeout]
        why = f"still running after {self._timeout:g} s"
        return sum(self._abandon(index, thread, why) for index, (_, thread) in late)

    def _abandon(self, index: int, thread: threading.Thread, why: str) -> bool:
        """Gives up a job; False where it has just ended."""
        if given_up := self._settle(index, Abandoned(why)):
            thread.name = HANGING
        return given_up

    def _settle(self, index: int, result: Any) -> bool:
        """Delivers a job's outcome; False where it has one already."""
        with self._lock:
            if self._running.pop(index, None) is None:
                return False
            key, self._jobs[index] = self._jobs[index][0], _SETTLED
            self._left -= 1
            self.done = self._left == 0
        self._deliver(Outcome(key, result))
        return True


def _work(waves: queue.SimpleQueue[_Wave | None]) -> None:
    while (wave := waves.get()) is not None:
        if not wave.work():
            return
