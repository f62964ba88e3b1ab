"""How far a run scales: the scheduler of `[cluster]` with simulated clocks, to 1,000 GPUs.

Workers, the learner and the driver are simulated; which worker plays which group and how far sampling runs ahead is
decided by `grpo_agents.cluster.scheduler`, as in a run. Writes simulation.json and prints its table::

    python examples/cluster/simulate.py
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from grpo_agents.cluster.scheduler import Scheduler, horizon

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Job:
    """What is simulated; seconds, tokens, GPUs.

    Attributes:
        gpus: All of them: the learner's, and a worker each.
        learner_share: Of them that are the learner's.
        batch: Groups of a step.
        group_size: Episodes of a group.
        staleness: cluster.max_staleness.
        steps: How many are simulated.
        at_once: Episodes that a worker plays at once (engine.max_rows).
        turns: Of an episode, on average.
        turn_tokens: Sampled in a turn, on average; both are lognormal, as lengths are.
        spread: Their σ.
        tool_seconds: What a tool takes, on average; lognormal with σ 1.
        engine_rate: Tokens a second of an engine with many sequences.
        sequence_rate: Tokens a second of one sequence, at most.
        learner_rate: Tokens a second that a GPU of the learner learns from.
        context_tokens: Tokens of an episode that are computed and not sampled: prompt and tools' answers.
        collective: Whether new weights go to all workers at once (cluster.weights), or through Ray's object store.
        machine_gpus: GPUs of a machine.
        parameters: Of the model.
        tensors: Of the model; each is sent by itself.
        link_rate: Bytes a second of the network from GPU to GPU, by which shards are gathered and weights sent.
        host_rate: Bytes a second between a GPU and main memory.
        store_rate: Bytes a second that a machine sends from its object store.
        hop_seconds: From one worker to the next in the ring by which NCCL broadcasts (it knows no other way).
        meet_seconds: What each worker takes to come to the sender, as they meet anew for every update.
        driver_seconds: The driver's own work for a group: it is one process.
    """

    gpus: int
    learner_share: float = 0.25
    batch: int = 512
    group_size: int = 8
    staleness: int = 0
    steps: int = 9
    at_once: int = 128
    turns: float = 4.0
    turn_tokens: float = 400.0
    spread: float = 0.6
    tool_seconds: float = 2.0
    engine_rate: float = 6000.0
    sequence_rate: float = 90.0
    learner_rate: float = 9000.0
    context_tokens: float = 1000.0
    collective: bool = True
    machine_gpus: int = 8
    parameters: float = 7.6e9
    tensors: int = 339
    link_rate: float = 25e9
    host_rate: float = 10e9
    store_rate: float = 5e9
    hop_seconds: float = 10e-6
    meet_seconds: float = 0.002
    driver_seconds: float = 0.004

    @property
    def learners(self) -> int:
        """GPUs of the learner."""
        return max(1, round(self.gpus * self.learner_share))

    @property
    def workers(self) -> int:
        """GPUs that sample."""
        return max(1, self.gpus - self.learners)

    @property
    def weights_seconds(self) -> float:
        """From an update until all workers have its weights, which are bfloat16, and float32 in the object store.

        Either way they are gathered from the learner's ranks into main memory. From there they go to the sender's GPU
        and, as in a pipeline, from worker to worker; or into the object store, from it once to each machine, one copy
        after the other, and onto the GPUs.
        """
        small, large = 2 * self.parameters, 4 * self.parameters
        gathered = small / self.link_rate + small / self.host_rate
        if self.collective:
            hops = self.tensors * self.workers * self.hop_seconds
            return gathered + self.workers * self.meet_seconds + small / self.host_rate + small / self.link_rate + hops
        machines = math.ceil(self.workers / self.machine_gpus)
        return gathered + large / self.host_rate + machines * large / self.store_rate + large / self.host_rate


class Worker:
    """An engine that shares its rate among the episodes that are sampling; the others wait for tools.

    ``clock`` counts the tokens that each sampling sequence has got so far, so that a turn is done at a clock known when
    it begins, however many sequences come and go meanwhile.
    """

    def __init__(self, job: Job):
        self.job = job
        self.clock = self.tokens = 0.0
        self.at = 0.0
        self.blocked_until = 0.0
        self.turns: list[tuple[float, int]] = []  # a heap: clock at which the turn is done, episode
        self.number = 0  # grows whenever the next end moves

    @property
    def rate(self) -> float:
        """Tokens a second of each sequence now."""
        return min(self.job.sequence_rate, self.job.engine_rate / max(1, len(self.turns)))

    def advance(self, now: float) -> None:
        """Lets time pass."""
        began = max(self.at, min(self.blocked_until, now))
        passed = (now - began) * self.rate
        self.clock += passed
        self.tokens += passed * len(self.turns)
        self.at = now

    def next_end(self) -> float:
        """When the next turn is done, if nothing comes between."""
        if not self.turns:
            return math.inf
        return max(self.at, self.blocked_until) + max(0.0, self.turns[0][0] - self.clock) / self.rate


@dataclass
class Episode:
    """One under way."""

    worker: int
    group: int
    turns: list[tuple[float, float]]  # tokens, and seconds of the tool after them


def simulate(job: Job, seed: int = 0) -> dict[str, float]:
    """Plays a run's clock.

    Returns:
        ``step_seconds``: of a step, on average once the first are over. ``worker_use`` and ``learner_use``: the shares
        of what engines and learner could do that they did. ``driver_use``: of the driver's time. ``staleness``: mean
        of the groups that were learned from; ``tokens_a_second``: sampled.
    """
    return _Run(job, np.random.default_rng(seed)).play()


class _Run:
    def __init__(self, job: Job, rng: np.random.Generator):
        self.job, self.rng, self.now = job, rng, 0.0
        self.scheduler: Scheduler[int, int] = Scheduler(max(1, job.at_once // job.group_size))
        self.workers = [Worker(job) for _ in range(job.workers)]
        for number in range(job.workers):
            self.scheduler.join(number)
        self.events: list[tuple[float, int, str, tuple[int, ...]]] = []
        self.count = 0
        self.episodes: dict[int, Episode] = {}
        self.left: dict[int, int] = {}  # episodes under way, by group
        self.born: dict[int, int] = {}  # version at which a group began
        self.done: set[int] = set()
        self.admitted: set[int] = set()
        self.version = 0
        self.learning = False
        self.learned: list[float] = []
        self.driver_free = self.driver_busy = self.learner_busy = 0.0
        self.ages: list[int] = []

    def at(self, when: float, kind: str, *what: int) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, kind, what))

    def play(self) -> dict[str, float]:
        self.admit()
        while self.version < self.job.steps:
            self.now, _, kind, what = heapq.heappop(self.events)
            getattr(self, f"on_{kind}")(*what)
        first = self.job.steps // 3  # the pipeline is full by then
        seconds = self.now - self.learned[first - 1]
        tokens = sum(worker.tokens for worker in self.workers)
        return {
            "step_seconds": seconds / (self.job.steps - first),
            "worker_use": tokens / (self.now * self.job.workers * self.job.engine_rate),
            "learner_use": self.learner_busy / self.now,
            "driver_use": self.driver_busy / self.now,
            "staleness": float(np.mean(self.ages)),
            "tokens_a_second": tokens / self.now,
        }

    # What happens

    def admit(self) -> None:
        """Begins the batches that may be under way now, as a run's source does."""
        for step in horizon(self.version, self.job.staleness, self.job.steps):
            if step not in self.admitted:
                self.admitted.add(step)
                for number in range(self.job.batch):
                    self.scheduler.add(step, step * self.job.batch + number)
        self.deal()

    def deal(self) -> None:
        """Hands out what waits; the driver has some work with each group."""
        touched = set()
        for worker, group in self.scheduler.assign():
            self.busy_driver()
            self.left[group], self.born[group] = self.job.group_size, self.version
            for index in range(self.job.group_size):
                number = group * self.job.group_size + index
                self.episodes[number] = Episode(worker, group, self.draw())
                self.begin_turn(number)
            touched.add(worker)
        for worker in touched:
            self.look(worker)

    def draw(self) -> list[tuple[float, float]]:
        """Turns of an episode: tokens, seconds."""
        job = self.job
        turns = 1 + int(self.rng.poisson(job.turns - 1))
        tokens = self.rng.lognormal(math.log(job.turn_tokens) - job.spread**2 / 2, job.spread, turns)
        seconds = self.rng.lognormal(math.log(job.tool_seconds) - 0.5, 1.0, turns)
        return list(zip(tokens.tolist(), seconds.tolist(), strict=True))

    def begin_turn(self, number: int) -> None:
        episode = self.episodes[number]
        worker = self.workers[episode.worker]
        worker.advance(self.now)
        heapq.heappush(worker.turns, (worker.clock + episode.turns[0][0], number))

    def look(self, place: int) -> None:
        """Comes back when the worker's next turn is done."""
        worker = self.workers[place]
        worker.number += 1
        if (end := worker.next_end()) < math.inf:
            self.at(end, "turn", place, worker.number)

    def on_turn(self, place: int, number: int) -> None:
        worker = self.workers[place]
        if number != worker.number:
            return  # others came or went since
        worker.advance(self.now)
        while worker.turns and worker.turns[0][0] <= worker.clock + 1e-6:
            _, episode = heapq.heappop(worker.turns)
            _, seconds = self.episodes[episode].turns.pop(0)
            self.at(self.now + seconds, "tool", episode)
        self.look(place)

    def on_tool(self, number: int) -> None:
        episode = self.episodes[number]
        if episode.turns:
            self.begin_turn(number)
            self.look(episode.worker)
            return
        del self.episodes[number]
        self.left[episode.group] -= 1
        if not self.left[episode.group]:
            self.scheduler.done(episode.worker, episode.group)
            self.busy_driver()
            self.at(self.driver_free, "group", episode.group)
            self.deal()

    def busy_driver(self) -> None:
        self.driver_free = max(self.driver_free, self.now) + self.job.driver_seconds / 2
        self.driver_busy += self.job.driver_seconds / 2

    def on_group(self, group: int) -> None:
        self.done.add(group)
        self.learn()

    def learn(self) -> None:
        """Begins a step once its batch is there."""
        wanted = range(self.version * self.job.batch, (self.version + 1) * self.job.batch)
        if self.learning or not self.done.issuperset(wanted):
            return
        self.done.difference_update(wanted)
        self.ages += [self.version - self.born[group] for group in wanted]
        job = self.job
        tokens = job.batch * job.group_size * (job.turns * job.turn_tokens + job.context_tokens)
        seconds = tokens / (job.learners * job.learner_rate)
        self.learning = True
        self.learner_busy += seconds
        self.at(self.now + seconds, "update")

    def on_update(self) -> None:
        """New weights: workers take them between turns."""
        self.learned.append(self.now)
        self.version += 1
        self.learning = False
        until = self.now + self.job.weights_seconds
        for place, worker in enumerate(self.workers):
            worker.advance(self.now)
            worker.blocked_until = until
            self.look(place)
        self.at(until, "weights")

    def on_weights(self) -> None:
        self.admit()
        self.learn()


GPUS = (8, 16, 32, 64, 128, 256, 512, 1000)
TURNED = {
    "as it is": {},
    "max_staleness 2": {"staleness": 2},
    "max_staleness 5": {"staleness": 5},
    "batch 2048": {"batch": 2048},
    "batch 2048, max_staleness 2": {"batch": 2048, "staleness": 2},
    "max_staleness 2, weights by the store": {"staleness": 2, "collective": False},
}
"""What is turned, one after the other."""


def main() -> None:
    """Simulates every size, as it is and with something turned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "simulation.json", help="Where the figures go.")
    parser.add_argument(
        "--driver-ms", type=float, help="The driver's milliseconds for a group, instead of those measured."
    )
    arguments = parser.parse_args()
    base = Job(gpus=8)
    if arguments.driver_ms is not None:
        base = replace(base, driver_seconds=arguments.driver_ms / 1000)
    asked = [(name, replace(base, gpus=gpus, **turned)) for name, turned in TURNED.items() for gpus in GPUS]
    rows = []
    with ProcessPoolExecutor() as processes:
        for (name, job), found in zip(asked, processes.map(simulate, [job for _, job in asked]), strict=True):
            figures = {key: round(value, 4) for key, value in found.items()}
            settings = {"gpus": job.gpus, "batch": job.batch, "collective": job.collective}
            settings["weights_seconds"] = round(job.weights_seconds, 4)
            rows.append({"turned": name, **settings, **figures})
            print(name, job.gpus, figures, flush=True)
    arguments.out.write_text(json.dumps({"job": asdict(base), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
