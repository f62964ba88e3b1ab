"""A run's part of a Ray cluster: reached, checked, and reserved as a whole before anything is loaded."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from grpo_agents.cluster.actors import RankActor, WorkerActor
from grpo_agents.cluster.engine import ClusterEngine
from grpo_agents.cluster.learner import RemoteLearner
from grpo_agents.cluster.pool import Pool
from grpo_agents.cluster.rollout import ClusterRollout
from grpo_agents.cluster.room import Bundle, amounts, check_room, has_own_gpu, make_bundle, total
from grpo_agents.cluster.versions import versions
from grpo_agents.cluster.witness import Witness

if TYPE_CHECKING:
    from grpo_agents.config import Config
    from grpo_agents.rollout import Rollout

AT_ONCE = 2.0
"""Seconds in which Ray reserves what is free."""

PATIENCE = 60.0
"""Seconds to wait for machines that are there but in use."""

QUESTIONS = 100
"""So many may be under way at a worker beside the groups that it plays: signs of life, weights, probes, scores."""


class Cluster:
    """Processes of a run on a Ray cluster.

    Args:
        config: The run's.
        leave: Leaves the cluster in the end.
        learning: Whether a learner is to have processes.
        say: Told what the user should know meanwhile.

    Raises:
        ValueError: The cluster cannot be reached, or does not have what is asked; says what would fit.
    """

    def __init__(self, config: Config, leave: Callable[[], None], *, learning: bool, say: Callable[[str], None]):
        self.config = config
        self._leave = leave
        with ExitStack() as undo:
            self._reserve(undo, say, learning=learning)
            self._start_workers(undo, say)
            self._undo = undo.pop_all()

    def _reserve(self, undo: ExitStack, say: Callable[[str], None], *, learning: bool) -> None:
        """Takes the machines; notes what is to be undone in the end, or where something fails."""
        settings = self.config.cluster
        witness = Witness(
            "the run ended at once: Ray's head node is gone (`ray status`), or the process was killed. Checkpoints are "
            f"intact: go on with `grpo-agents train --resume {self.config.run}`; another cluster's address goes with "
            "it as --set cluster.address=…"
        )
        atexit.register(witness.dismiss)
        undo.callback(atexit.unregister, witness.dismiss)
        undo.callback(witness.dismiss)
        gpus = any(node["Resources"].get("GPU") for node in ray.nodes() if node["Alive"])
        learner = make_bundle(settings.learner_cpus, gpus)
        worker = make_bundle(settings.worker_cpus, gpus if settings.worker_gpus is None else settings.worker_gpus)
        self._ranks = settings.learner_ranks if learning else 0
        self._bundles = [learner] * self._ranks + [worker] * settings.workers
        check_room(self._bundles, self._ranks, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        self._group = _reserve(self._bundles, say)
        undo.callback(remove_placement_group, self._group)
        self._collective = settings.weights == "collective" or (
            settings.weights == "auto" and has_own_gpu(learner) and has_own_gpu(worker)
        )

    def _start_workers(self, undo: ExitStack, say: Callable[[str], None]) -> None:
        config, settings = self.config, self.config.cluster
        self._at_once = max(1, config.engine.max_rows // config.rollout.group_size)
        self._begin = (config.model_dump(mode="json"), os.getcwd(), versions())
        self.pool = Pool(
            self._make_worker,
            self._begin,
            settings,
            at_once=self._at_once,
            most_hanging=config.alarms.hanging,
            patience=config.engine.patience,
            say=say,
        )
        undo.callback(self.pool.close)
        say(f"{settings.workers} rollout workers are loading on the Ray cluster at {_address()}")
        self.engine = ClusterEngine(self.pool, collective=self._collective)

    def learner(self) -> RemoteLearner:
        """The learner, loaded by its processes.

        Raises:
            ValueError: Something of the config does not exist or does not fit.
        """
        return RemoteLearner([self._make(RankActor, rank) for rank in range(self._ranks)], self._begin)

    def rollout(self, own: Rollout, *, evaluating: bool) -> ClusterRollout:
        """The workers' rollout in place of one of this process."""
        return ClusterRollout(self.pool, "evaluation" if evaluating else "training", own)

    def close(self) -> None:
        """Ends the workers, gives the machines back and leaves the cluster."""
        try:
            self._undo.close()
        finally:
            self._leave()

    def _make_worker(self, number: int) -> Any:
        return self._make(WorkerActor, self._ranks + number, max_concurrency=self._at_once + QUESTIONS)

    def _make(self, kind: type, place: int, **options: Any) -> Any:
        """An actor at one place of what is reserved."""
        bundle = self._bundles[place]
        return (
            ray.remote(kind)
            .options(
                num_cpus=bundle["CPU"],
                num_gpus=bundle.get("GPU", 0),
                max_restarts=0,
                enable_task_events=False,  # Ray's head node would keep a record of every call
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, place),
                **options,
            )
            .remote()
        )


def _address() -> str:
    return ray.get_runtime_context().gcs_address


def _reserve(bundles: Sequence[Bundle], say: Callable[[str], None]) -> PlacementGroup:
    """Reserves room for every process, all or nothing.

    Raises:
        ValueError: The machines are in use.
    """
    group = placement_group(list(bundles), strategy="PACK")
    if group.wait(AT_ONCE):
        return group
    say(f"others use the Ray cluster at {_address()}: waiting for {PATIENCE:g} s")
    if not group.wait(PATIENCE):
        remove_placement_group(group)
        free = ", ".join(amounts(ray.available_resources()))
        raise ValueError(
            f"the Ray cluster would have room for this run, but others use it: {free or 'nothing'} is free, and "
            f"{', '.join(amounts(total(bundles)))} are asked for. Wait for them (`ray status`), or lower "
            "cluster.workers"
        )
    return group
