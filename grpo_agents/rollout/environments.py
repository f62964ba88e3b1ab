"""The environments of a rollout: made as they are needed, stepped in threads, used again, and closed in the end."""

from __future__ import annotations

import math
import queue
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from grpo_agents.background import in_background
from grpo_agents.env import AgentEnv
from grpo_agents.rollout.episode import Episode
from grpo_agents.threads import Abandoned, Outcome, StepThreads

T = TypeVar("T")

POLL_SECONDS = 0.05
"""How often deadlines are looked at while nothing happens."""


class Environments:
    """As many as there are episodes at once.

    Args:
        make: Makes one.
        name: What they are called.
        threads: How many are stepped at once.
        timeout: Seconds that a step may take (``rollout.step_timeout``).
        patience: Seconds that making one may take (``rollout.episode_timeout``).
    """

    def __init__(self, make: Callable[[], AgentEnv], name: str, threads: int, timeout: float, patience: float):
        self.name = name
        self.timeout = timeout
        self._make = make
        self._patience = patience
        self._threads = StepThreads(threads)
        self._idle: list[AgentEnv] = []
        self._ending: set[Future[None]] = set()  # closing those that failed

    @contextmanager
    def borrowed(self, count: int) -> Iterator[list[AgentEnv]]:
        """So many, which stay with the caller unless this ends with an error."""
        envs: list[AgentEnv] = []
        try:
            envs += (self.take() for _ in range(count))
            yield envs
        except BaseException:
            self._idle += envs
            raise

    def take(self) -> AgentEnv:
        """One that is idle, or a new one.

        Raises:
            TimeoutError: It takes too long to make one.
        """
        if self._idle:
            return self._idle.pop()
        made = in_background(self._make)
        if not wait([made], self._patience).done:
            made.add_done_callback(lambda made: made.exception() or made.result().close())
            raise TimeoutError(
                f"{self.name}: an environment was not made within {self._patience:g} s (rollout.episode_timeout): look "
                "at what its __init__ waits for"
            )
        return made.result()

    def ask(self, job: Callable[[], T]) -> T:
        """What one says for a whole group, before it begins.

        Raises:
            TimeoutError: It takes longer than a step may.
        """
        asked = in_background(job)
        if not wait([asked], self.timeout).done:
            raise TimeoutError(
                f"{self.name}: vary, or the drawing of a preference, took longer than {self.timeout:g} s "
                "(rollout.step_timeout): look at what it waits for"
            )
        return asked.result()

    def take_back(self, env: AgentEnv, failed: BaseException | None = None) -> None:
        """Keeps one for another episode; has it closed where it failed. One that hangs closes when it returns."""
        if failed is None:
            self._idle.append(env)
        elif not isinstance(failed, Abandoned):
            ending = in_background(env.close)
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    def start(self, jobs: Sequence[tuple[Episode, Callable[[], Any]]], deliver: Callable[[Outcome], None]) -> None:
        """Has environments of episodes do something, in threads; returns at once.

        Args:
            jobs: What, for each episode.
            deliver: Called with each outcome, from any thread; its key is the episode.
        """
        self._threads.start(jobs, self.timeout, deliver, lambda episode: episode.env.close())

    def receive(self, inbox: queue.SimpleQueue[T]) -> Iterator[T]:
        """What has come in, waiting a moment for the first of it; gives up what takes too long."""
        with suppress(queue.Empty):
            yield inbox.get(timeout=POLL_SECONDS)
        self._threads.abandon_late()
        for _ in range(inbox.qsize()):
            yield inbox.get()

    def run(self, job: Callable[[AgentEnv], Any]) -> Any:
        """Has one do something for no episode, and takes it back; gives what that returned, or what went wrong."""
        try:
            env = self.take()
        except Exception as error:  # whoever made it
            return error
        inbox: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._threads.start([(env, lambda: job(env))], self.timeout, inbox.put, lambda env: env.close())
        (result,) = self._results(inbox, 1)
        self.take_back(env, result if isinstance(result, BaseException) else None)
        return result

    def break_off(self, episodes: Sequence[Episode]) -> None:
        """Takes back those of episodes that do not go on; one that is at work closes when it returns."""
        at_work = self._threads.give_up()
        for episode in episodes:
            if not any(episode is one for one in at_work):
                self.take_back(episode.env, episode.failed)

    def close(self) -> None:
        """Closes them, for which they have the time of a step, and ends the threads; warns of what fails."""
        envs, self._idle = self._idle, []
        inbox: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        deadline = time.monotonic() + self.timeout
        self._threads.start([(env, env.close) for env in envs], self.timeout, inbox.put)
        results = self._results(inbox, len(envs), deadline)
        wait(list(self._ending), max(0.0, deadline - time.monotonic()))
        self._threads.give_up()
        self._threads.close()
        failed = [result for result in results if isinstance(result, BaseException)]
        if left := len(envs) - len(results) + len(failed):
            why = repr(failed[0]) if failed else f"not within {self.timeout:g} s (rollout.step_timeout)"
            warnings.warn(f"{self.name}: {left} of {len(envs)} environments were not closed: {why}", stacklevel=2)

    def _results(self, inbox: queue.SimpleQueue[Outcome], count: int, deadline: float = math.inf) -> list[Any]:
        """What so many jobs return or raise until then, of ``time.monotonic``, in no order."""
        results: list[Any] = []
        while len(results) < count and time.monotonic() < deadline:
            results += [outcome.result for outcome in self.receive(inbox)]
        return results
