"""A rollout worker: an engine with environments, which plays groups as they come. It knows nothing of Ray.

Weights change between turns: no turn begins before those under way are done and the new weights are there, and
episodes then go on. Each turn has the version of the weights that sampled it.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import psutil

from grpo_agents.build import build
from grpo_agents.config import Config
from grpo_agents.engines import Completion, EngineFailure, Request, Sampling
from grpo_agents.engines.weights import Weights
from grpo_agents.rewards.component import asked_by
from grpo_agents.rollout import Order, Rollout
from grpo_agents.threads import hanging
from grpo_agents.trajectory import Group

T = TypeVar("T")
Venue = Literal["evaluation", "training"]
"""What a group is played for; what waits for the first comes first."""

VENUES: tuple[Venue, ...] = ("evaluation", "training")

CLOSING = "the worker is closing"

PROBES = -(1 << 40)
"""Sessions from here downwards are probes."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """A worker's sign of life.

    Attributes:
        memory: Bytes in main memory, of it and all that it started.
        hanging: Threads that hang in steps of environments that were given up.
        said: What its engine told its user since the last one.
    """

    memory: int
    hanging: int
    said: tuple[str, ...]


class Worker:
    """Plays groups in a thread of its own.

    Args:
        config: The run's, of one process.

    Raises:
        ValueError: Something of the config does not exist or does not fit; says which key.
    """

    def __init__(self, config: Config):
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.parts = build(config, say=self._said.put)
        self._rollouts: dict[Venue, Rollout] = {
            venue: self.parts.own_rollout(evaluating=venue == "evaluation")[0] for venue in VENUES
        }
        self._changed = threading.Condition()  # of everything below
        self._waiting: dict[Venue, deque[Order]] = {venue: deque() for venue in VENUES}
        self._promised: dict[tuple[int, int], Future[Group]] = {}
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._closed = False
        self._engine = threading.Lock()  # of rewards that ask an engine of this process
        self._asks = self._rewards_ask()
        self._scorer = ThreadPoolExecutor(1, "grpo-agents-score")
        self._thread = threading.Thread(target=self._work, daemon=True, name="grpo-agents-worker")
        self._thread.start()

    @property
    def context_length(self) -> int:
        """The most tokens that its engine takes."""
        return self.parts.engine.context_length

    def play(self, venue: Venue, order: Order) -> Future[Group]:
        """Plays a group beside the others, and scores it."""
        promised: Future[Group] = Future()
        with self._changed:
            self._promised[order.seed, order.number] = promised
            self._waiting[venue].append(order)
            self._changed.notify()
        return promised

    def update_weights(self, named: Mapping[str, Any], version: int) -> Future[None]:
        """Takes over weights, tensors by name, as soon as the turns under way are done."""
        weights = Weights(named, version)
        return self._between_turns(lambda: self.parts.engine.update_weights(weights))

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> Future[list[Completion]]:
        """Samples a probe of the engine, in order, while no episode is being sampled."""

        def work() -> list[Completion]:
            inbox: queue.SimpleQueue[Completion | EngineFailure] = queue.SimpleQueue()
            sessions = [PROBES - place for place in range(len(requests))]
            apart = [replace(one, session=session) for one, session in zip(requests, sessions, strict=True)]
            found: dict[int, Completion] = {}
            self.parts.engine.submit(apart, sampling, inbox.put)
            try:
                while len(found) < len(apart):
                    done = inbox.get(timeout=self.parts.config.rollout.episode_timeout)
                    if isinstance(done, EngineFailure):
                        raise done
                    found[done.session] = done
            except queue.Empty:
                raise EngineFailure("the engine did not answer a probe") from None
            finally:
                self.parts.engine.release(sessions)
            pairs = zip(requests, sessions, strict=True)
            return [replace(found[session], session=one.session) for one, session in pairs]

        return self._between_turns(work)

    def score(self, sequences: Sequence[Sequence[int]]) -> Future[list[np.ndarray]]:
        """Log-probabilities; see :meth:`~grpo_agents.engines.TokenEngine.score`."""
        return self._between_turns(lambda: self.parts.engine.score(sequences))

    def pulse(self) -> Pulse:
        """A sign of life.

        Raises:
            EngineFailure: Its thread has ended, so that nothing is played any more.
        """
        if not (self._thread.is_alive() or self._closed):
            raise EngineFailure("the thread that plays its groups has ended (Ray's logs say of what)")
        own = psutil.Process()
        memory = 0
        for process in [own, *own.children(recursive=True)]:
            try:
                memory += process.memory_info().rss
            except psutil.NoSuchProcess:  # it has just ended
                continue
        return Pulse(memory, hanging(), tuple(self._said.get() for _ in range(self._said.qsize())))

    def close(self) -> None:
        """Ends the engine and the environments."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._scorer.shutdown(wait=False, cancel_futures=True)
        for promised, _ in self._jobs:
            promised.set_exception(EngineFailure(CLOSING))
        self.parts.close()

    # In its thread

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._jobs or any(self._waiting.values()))
            try:
                self._do_jobs()
                for venue in VENUES:
                    self._play_all(venue)
            except _Closed:
                return

    def _play_all(self, venue: Venue) -> None:
        """Plays what waits, and what comes meanwhile."""
        desk = _Desk(self, venue)
        try:
            self._rollouts[venue].play(desk)
        except _Closed:
            raise
        except (Exception, SystemExit) as error:  # each group that was under way gets it
            for order in desk.under_way:
                self._keep(order, partial(_raise, error))
        if venue == "evaluation":
            self._rollouts[venue].close()  # nobody needs its environments until the next one

    def take(self, venue: Venue) -> list[Order]:
        """What is to begin now; nothing of the training while an evaluation waits."""
        with self._changed:
            if self._closed:
                raise _Closed
            if venue == "training" and self._waiting["evaluation"]:
                return []
            taken = list(self._waiting[venue])
            self._waiting[venue].clear()
            return taken

    def finish(self, venue: Venue, order: Order, group: Group) -> None:
        """Scores a group and keeps the promise: beside what is played, where the engine takes questions meanwhile."""

        def work() -> None:
            with self._engine if self._asks else nullcontext():
                self._keep(order, lambda: self._scored(venue, group))

        if self.parts.engine.lockstep:
            work()
        else:
            self._scorer.submit(work)

    def _scored(self, venue: Venue, group: Group) -> Group:
        self._rollouts[venue].score([group])
        return group

    def _keep(self, order: Order, work: Callable[[], Group]) -> None:
        with self._changed:
            promised = self._promised.pop((order.seed, order.number))
        _settle(promised, work)

    def _between_turns(self, work: Callable[[], T]) -> Future[T]:
        promised: Future[T] = Future()
        with self._changed:
            if self._closed:
                promised.set_exception(EngineFailure(CLOSING))
            else:
                self._jobs.append((promised, work))
                self._changed.notify()
        return promised

    @property
    def between_turns(self) -> Callable[[], None] | None:
        """What waits for the turns under way."""
        return self._do_jobs if self._jobs or self._closed else None

    def _rewards_ask(self) -> bool:
        """Whether rewards ask an engine here; models elsewhere may be asked while weights change."""
        config = self.parts.config
        asked = [one.name for entry in (*self.parts.vector, *self.parts.watched) for one in asked_by(entry)]
        return any(name not in config.models or config.models[name].backend != "hosted" for name in asked)

    def _do_jobs(self) -> None:
        if self._closed:
            raise _Closed
        with self._engine:
            while self._jobs:
                _settle(*self._jobs.popleft())


class _Closed(Exception):
    """Nothing more is to be played."""


class _Desk:
    """The orders of one venue; see :class:`~grpo_agents.rollout.orders.Orders`."""

    def __init__(self, worker: Worker, venue: Venue):
        self._worker = worker
        self._venue: Venue = venue
        self.under_way: list[Order] = []

    def take(self) -> list[Order]:
        taken = self._worker.take(self._venue)
        self.under_way += taken
        return taken

    def hand_back(self, order: Order, group: Group) -> None:
        self.under_way.remove(order)
        self._worker.finish(self._venue, order, group)

    @property
    def between_turns(self) -> Callable[[], None] | None:
        return self._worker.between_turns


def _settle(promised: Future[T], work: Callable[[], T]) -> None:
    """Does some work for who waits."""
    try:
        promised.set_result(work())
    except (Exception, SystemExit) as error:  # whoever waits gets it
        promised.set_exception(_told(error))


def _told(error: Exception | SystemExit) -> Exception:
    """An error that others may be given: one that would end them in silence becomes another."""
    return (
        ValueError(f"code of a reward or an environment ended its process: {error!r}")
        if isinstance(error, SystemExit)
        else error
    )


def _raise(error: BaseException) -> Any:
    raise error
