"""Threads that step environments, and go on without one that hangs."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

POLL_SECONDS = 0.05
"""How often a wave that is late is looked at."""


class Abandoned(Exception):
    """A job that was still running at its deadline.

    Its thread is left behind and what it holds must not be used again.
    """


class StepThreads:
    """Runs waves of jobs. Handing a whole wave over costs one hop for each thread rather than one for each job.

    Args:
        count: How many jobs may run at once.
    """

    def __init__(self, count: int):
        self._waves: queue.SimpleQueue[_Wave | None] = queue.SimpleQueue()
        self._count = 0
        self._most = count

    def run(self, jobs: Sequence[Callable[[], Any]], timeout: float) -> list[Any]:
        """Runs every job once.

        Args:
            jobs: What to run.
            timeout: Seconds each may take.

        Returns:
            For each job, in order, its result, the exception that it raised, or :class:`Abandoned`.
        """
        if not jobs:
            return []
        wave = _Wave(jobs)
        hands = min(self._most, len(jobs))
        while self._count < hands:
            self._spawn()
        for _ in range(hands):
            self._waves.put(wave)
        while not wave.done.wait(min(POLL_SECONDS, timeout)):
            for _ in wave.abandon_late(timeout):
                self._count -= 1
                self._spawn()
                self._waves.put(wave)
        return wave.results

    def close(self) -> None:
        """Lets the threads end; one that hangs is left behind."""
        for _ in range(self._count):
            self._waves.put(None)
        self._count = 0

    def _spawn(self) -> None:
        self._count += 1
        threading.Thread(target=_work, args=(self._waves,), daemon=True, name="grpo-agents-step").start()


class _Wave:
    """Jobs under way together; threads take the next one until none is left."""

    def __init__(self, jobs: Sequence[Callable[[], Any]]):
        self.jobs = jobs
        self.results: list[Any] = [None] * len(jobs)
        self.done = threading.Event()
        self._next = itertools.count()
        self._lock = threading.Lock()
        self._left = len(jobs)
        self._running: dict[int, float] = {}  # job → when it began

    def work(self) -> bool:
        """Takes jobs until none is left; False where this thread was given up meanwhile."""
        while (index := next(self._next)) < len(self.jobs):
            self._running[index] = time.monotonic()
            try:
                result = self.jobs[index]()
            except BaseException as error:  # handed back as the job's outcome
                result = error
            with self._lock:
                if self._running.pop(index, None) is None:
                    return False
                self._settle(index, result)
        return True

    def abandon_late(self, timeout: float) -> list[int]:
        """Gives up the jobs that have run for longer than the timeout."""
        now = time.monotonic()
        with self._lock:
            late = [index for index, began in list(self._running.items()) if now - began > timeout]
            for index in late:
                del self._running[index]
                self._settle(index, Abandoned(f"still running after {timeout:g} s"))
        return late

    def _settle(self, index: int, result: Any) -> None:
        self.results[index] = result
        self._left -= 1
        if self._left == 0:
            self.done.set()


def _work(waves: queue.SimpleQueue[_Wave | None]) -> None:
    while (wave := waves.get()) is not None:
        if not wave.work():
            return
