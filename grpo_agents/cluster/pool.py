"""The rollout workers of a run: each group is played by one of them, whatever happens to them.

One thread owns all that is written here: what others ask for and what Ray answers are its errands. A worker that dies,
is silent for too long or has too much memory is replaced, and what it was playing is played again elsewhere: the same
groups, as their seeds are the same.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import ray
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayError, RayTaskError

from grpo_agents.cluster.deaths import raised, reason_of, unloadable
from grpo_agents.cluster.errands import Errands
from grpo_agents.cluster.new_weights import NewWeights
from grpo_agents.cluster.scheduler import Scheduler
from grpo_agents.cluster.settings import ClusterConfig
from grpo_agents.cluster.transfer import TransferFailed
from grpo_agents.cluster.worker import Pulse, Venue
from grpo_agents.engines import EngineFailure
from grpo_agents.learner.ranks import RankLost
from grpo_agents.rollout import Order
from grpo_agents.trajectory import Group

T = TypeVar("T")

PULSE_SECONDS = 2.0
"""How often a worker is asked for a sign of life."""

PAUSE_SECONDS = 10.0
"""So much longer is waited each time before one that was lost again is replaced: a lost machine takes time to miss."""

CLOSE_SECONDS = 10.0
"""So long may workers take to close their environments."""

LOAD_SECONDS = 1800.0
"""So long may a worker take to load its model."""


@dataclass(eq=False)
class _Group:
    """A group that somebody waits for."""

    venue: Venue
    order: Order
    promised: Future[Group]


@dataclass(eq=False)
class _Worker:
    """A worker's actor; one that replaces another has the same number."""

    number: int
    actor: Any
    started: float
    up: bool = False
    taking: bool = False  # new weights
    asked: float | None = None  # for a sign of life, of time.monotonic
    heard: float = 0.0
    retiring: str = ""  # why it is replaced when it is idle
    closing: Any = None  # Ray's reference of its end, where it was asked to
    replaced: float | None = None  # when it is gone and another one is to be made, of time.monotonic


@dataclass(eq=False)
class _Update:
    """New weights, and who has not taken them yet."""

    weights: NewWeights
    done: Future[None]
    missing: set[_Worker] = field(default_factory=set)


class Pool:
    """Rollout workers as actors of Ray.

    Args:
        make: Makes the actor of a number.
        begin: What an actor is started with.
        settings: How many there are, and when they are replaced.
        at_once: Groups that each plays at once.
        most_hanging: Threads that may hang in a worker before it is replaced.
        patience: Seconds without a sign of life after which a worker counts as lost.
        say: Told of every replacement, and what the workers' engines say.

    Attributes:
        arrivals: How many workers have begun to play so far, those that replaced others among them.
    """

    def __init__(
        self,
        make: Callable[[int], Any],
        begin: tuple[Any, ...],
        settings: ClusterConfig,
        *,
        at_once: int,
        most_hanging: int,
        patience: float,
        say: Callable[[str], None],
    ):
        self._make = make
        self._begin = begin
        self._settings = settings
        self._most_hanging = most_hanging
        self._patience = patience
        self._say = say
        self._scheduler: Scheduler[_Worker, _Group] = Scheduler(at_once)
        self._workers: dict[int, _Worker] = {}
        self._losses = dict.fromkeys(range(settings.workers), 0)  # in a row, without a group
        self._update: _Update | None = None
        self.arrivals = 0
        self._counts: Counter[str] = Counter()
        self._told: Counter[str] = Counter()
        self._length = 0
        self._later: list[Callable[[], None]] = []  # once a worker is up
        self._errands = Errands(self._look_after, "grpo-agents-pool")
        self._context: Future[int] = self._errands.promise()
        for number in range(settings.workers):
            self._errands.put(partial(self._start, number))
        self._errands.begin()

    def context_length(self) -> int:
        """The most tokens that every worker's engine takes; waits until all of them are up.

        Raises:
            ValueError: Something of the config does not exist or does not fit where a worker is.
            EngineFailure: Workers were lost too often.
        """
        return outcome(self._context)

    def play(self, step: int, venue: Venue, orders: Sequence[Order]) -> list[Future[Group]]:
        """Has groups played; those of earlier steps begin first."""
        promised = [_Group(venue, order, self._errands.promise()) for order in orders]
        self._errands.put(partial(self._admit, step, promised))
        return [group.promised for group in promised]

    def update_weights(self, weights: NewWeights) -> Future[None]:
        """Has every worker take over weights; done when all that are there have."""
        update = _Update(weights, self._errands.promise())
        self._errands.put(partial(self._tell, update))
        return update.done

    def ask(self, number: int, method: str, *arguments: Any) -> Future[Any]:
        """Has one of the workers do something; where it is lost meanwhile, its successor does it."""
        promised = self._errands.promise()
        self._errands.put(partial(self._ask, number, method, arguments, promised))
        return promised

    def present(self) -> list[int]:
        """The workers that are there, by number; all of them where none is."""
        return [one.number for one in list(self._workers.values()) if self._scheduler.knows(one)] or [*self._losses]

    def figures(self) -> dict[str, float]:
        """What happened to workers since this was asked last; nothing where nothing did."""
        counts = self._counts.copy()
        since, self._told = counts - self._told, counts
        return {f"cluster/{name}": float(count) for name, count in since.items()}

    def close(self) -> None:
        """Ends the workers."""
        self._errands.close()
        closing = [one.closing or one.actor.close.remote() for one in self._workers.values() if one.up or one.closing]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)
        for worker in self._workers.values():
            ray.kill(worker.actor)

    # In its thread

    def _look_after(self) -> None:
        """Replaces whom it has to, and deals what waits."""
        self._look_after_workers()
        for worker, group in self._scheduler.assign():
            self._call(worker.actor.play.remote(group.venue, group.order), partial(self._played, worker, group))

    def _call(self, answer: Any, then: Callable[[Future[Any]], None]) -> None:
        """Goes on when Ray has an answer."""
        self._errands.when(answer.future(), then)

    def _start(self, number: int) -> None:
        worker = _Worker(number, self._make(number), time.monotonic())
        self._workers[number] = worker
        self._call(worker.actor.start.remote(*self._begin), partial(self._loaded, worker))

    def _loaded(self, worker: _Worker, done: Future[tuple[int, Pulse]]) -> None:
        """A worker is up, but for the weights."""
        if worker.replaced is not None or (loaded := self._answer(worker, done)) is None:
            return
        length, pulse = loaded
        self._pass_on(worker, pulse)
        if self._outgrows(pulse):
            raise ValueError(
                f"cluster.worker_memory_gib is {self._settings.worker_memory_gib:g}, and rollout worker "
                f"{worker.number} has {pulse.memory / 2**30:.2f} GiB when it has but loaded: allow for more"
            )
        self._length = min(self._length or length, length)
        worker.heard, worker.up = time.monotonic(), True
        if self._update is not None:
            self._hand_to(worker, self._update)
        else:
            self._join(worker)
        if all(one.up for one in self._workers.values()) and not self._context.done():
            self._context.set_result(self._length)

    def _join(self, worker: _Worker) -> None:
        """A worker has the weights of now, and may be asked for what they give."""
        self._scheduler.join(worker)
        self.arrivals += 1
        for work in self._later:
            self._errands.put(work)
        self._later.clear()

    def _admit(self, step: int, groups: Sequence[_Group]) -> None:
        for group in groups:
            self._scheduler.add(step, group)

    def _tell(self, update: _Update) -> None:
        self._update = update
        up = [worker for worker in self._workers.values() if worker.up]
        update.missing.update(up)  # who is still taking earlier ones is given these afterwards, never before them
        there = [worker for worker in up if not worker.taking]
        for worker in there:
            worker.taking = True
        for worker, told in zip(there, update.weights.hand_over([one.actor for one in there]), strict=True):
            self._call(told, partial(self._taken, worker, update))

    def _hand_to(self, worker: _Worker, update: _Update) -> None:
        """One that comes later has its weights from the object store."""
        update.missing.add(worker)
        worker.taking = True

        def go_on(stored: Future[tuple[Any, int]]) -> None:
            told = worker.actor.update_weights.remote(*stored.result())
            self._call(told, partial(self._taken, worker, update))

        self._errands.when(update.weights.stored(), go_on)

    def _taken(self, worker: _Worker, update: _Update, done: Future[None]) -> None:
        """A worker has the new weights."""
        worker.taking = False
        if worker.replaced is not None:
            return
        error = done.exception()
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, TransferFailed):
            if not self._counts["transfers_missed"]:
                self._say(f"rollout worker {worker.number} has new weights from Ray's object store instead: {cause}")
            self._counts["transfers_missed"] += 1
            self._hand_to(worker, update)
            return
        if isinstance(cause, ObjectLostError) or (cause is not error and isinstance(cause, RayError)):
            self._errands.fail(RankLost("a machine was lost, and with it the weights of the learner"))
            return  # no worker can help it
        if self._answer(worker, done, default=True) is None:
            return
        if self._update is not None and self._update is not update:  # newer ones have come meanwhile
            self._hand_to(worker, self._update)
        elif not self._scheduler.knows(worker):
            self._join(worker)
        self._settle(update, worker)

    def _settle(self, update: _Update, worker: _Worker) -> None:
        """A worker has the weights, or is gone."""
        update.missing.discard(worker)
        if not update.missing and not update.done.done() and any(map(self._scheduler.knows, self._workers.values())):
            update.done.set_result(None)

    def _played(self, worker: _Worker, group: _Group, done: Future[Group]) -> None:
        if worker.replaced is not None:
            return  # it was lost, and the group is played elsewhere
        played = self._answer(worker, done)
        if played is not None:
            self._losses[worker.number] = 0
            self._scheduler.done(worker, group)
            if not group.promised.done():
                group.promised.set_result(played)

    def _ask(self, number: int, method: str, arguments: tuple[Any, ...], promised: Future[Any]) -> None:
        worker = self._workers[number]
        if not self._scheduler.knows(worker):
            self._later.append(partial(self._ask, number, method, arguments, promised))
            return

        def answered(done: Future[Any]) -> None:
            found = self._answer(worker, done)
            if found is not None:
                promised.set_result(found)
            elif self._errands.failure is None:
                self._ask(number, method, arguments, promised)

        self._call(getattr(worker.actor, method).remote(*arguments), answered)

    def _answer(self, worker: _Worker, done: Future[Any], default: Any = None) -> Any:
        """What a worker answered; None where it did not. One that is lost is replaced; any other error ends the run."""
        try:
            found = done.result()
        except RayError as error:
            if reason := unloadable(error):
                self._errands.fail(ValueError(f"rollout worker {worker.number}: {reason}"))
            elif (own := raised(error)) is None:
                ended = "was ended by Ray, as its machine ran out of memory"
                self._lose(worker, ended if isinstance(error, OutOfMemoryError) else f"died{reason_of(error)}")
            elif isinstance(own, EngineFailure):
                self._lose(worker, f"says: {own}")
            else:
                self._errands.fail(own)
        else:
            return default if found is None else found
        return None

    def _lose(self, worker: _Worker, why: str) -> None:
        """Replaces a worker, unless its like were lost too often."""
        if worker.replaced is not None or self._errands.failure is not None:
            return
        self._losses[worker.number] += 1
        if self._losses[worker.number] > self._settings.restarts:
            self._errands.fail(
                EngineFailure(
                    f"rollout worker {worker.number} was replaced {self._settings.restarts} times without a group "
                    f"between (cluster.restarts); lastly it {why}"
                )
            )
        else:
            ray.kill(worker.actor)
            self._replace(worker, why, PAUSE_SECONDS * (self._losses[worker.number] - 1))

    def _replace(self, worker: _Worker, why: str, pause: float) -> None:
        """Another one in its place, so many seconds later; what it was playing is played by who has room."""
        lost = self._scheduler.leave(worker)
        self._counts["groups_requeued"] += len(lost)
        self._counts["workers_replaced"] += 1
        again = f"; {len(lost)} groups are played again" if lost else ""
        self._say(f"rollout worker {worker.number} {why}. It is replaced{again}")
        worker.up, worker.replaced = False, time.monotonic() + pause
        if self._update is not None:
            self._settle(self._update, worker)

    def _look_after_workers(self) -> None:
        """Asks workers for a sign of life, and gives up those that gave none."""
        now = time.monotonic()
        for worker in list(self._workers.values()):
            if worker.replaced is not None:
                if now >= worker.replaced:
                    if worker.retiring:
                        ray.kill(worker.actor)  # closed by now, or never
                    self._start(worker.number)
            elif not worker.up:
                if now - worker.started > LOAD_SECONDS:
                    self._lose(worker, f"did not load its model within {LOAD_SECONDS:g} s")
            elif worker.asked is None:
                if now - worker.heard > PULSE_SECONDS:
                    worker.asked = now
                    self._call(worker.actor.pulse.remote(), partial(self._heard, worker))
            elif now - worker.asked > self._patience:
                self._lose(worker, f"gave no sign of life for {self._patience:g} s (engine.patience)")
            if worker.up and worker.retiring and not worker.taking and not self._scheduler.load(worker):
                worker.closing = worker.actor.close.remote()
                self._replace(worker, worker.retiring, CLOSE_SECONDS)
                self._call(worker.closing, partial(self._closed, worker))

    def _closed(self, worker: _Worker, done: Future[None]) -> None:
        """A worker that retired has closed its environments; another one may come."""
        worker.replaced = 0.0

    def _outgrows(self, pulse: Pulse) -> bool:
        most = self._settings.worker_memory_gib
        return most is not None and pulse.memory > most * 2**30

    def _pass_on(self, worker: _Worker, pulse: Pulse) -> None:
        """Says what a worker's engine and models said."""
        for line in pulse.said:
            self._say(f"rollout worker {worker.number}: {line}")

    def _heard(self, worker: _Worker, done: Future[Pulse]) -> None:
        pulse = self._answer(worker, done)
        if pulse is None:
            return
        worker.asked, worker.heard = None, time.monotonic()
        self._pass_on(worker, pulse)
        others = [other for other in self._workers.values() if other is not worker]
        if worker.retiring or not all(other.up and not other.retiring for other in others):
            return  # one after the other: somebody goes on playing
        if self._outgrows(pulse):
            worker.retiring = "had more memory than cluster.worker_memory_gib"
        elif pulse.hanging >= self._most_hanging:
            worker.retiring = f"had {pulse.hanging} threads that hang in environments (alarms.hanging)"
        if worker.retiring:
            self._scheduler.retire(worker)


def outcome(promised: Future[T]) -> T:
    """What was promised, or what went wrong, as said here: it is for a person to read."""
    try:
        return promised.result()
    except (EngineFailure, ValueError) as error:
        known = next(kind for kind in (RankLost, EngineFailure, ValueError) if isinstance(error, kind))
        named = type(error) in (known, EngineFailure)  # others may not be made of a message alone
        raise known(str(error) if named else f"{type(error).__name__}: {error}") from error
