"""A run's part of a Ray cluster: reached, checked, and reserved as a whole before anything is loaded."""

from __future__ import annotations

import atexit
import math
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

try:
    import ray
except ImportError as error:
    raise ImportError(
        "cluster.kind is 'ray', and Ray is not installed: pip install 'grpo-agents[ray]'", name="ray"
    ) from error
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from grpo_agents.cluster.actors import RankActor, WorkerActor
from grpo_agents.cluster.engine import ClusterEngine
from grpo_agents.cluster.learner import RemoteLearner
from grpo_agents.cluster.pool import Pool
from grpo_agents.cluster.rollout import ClusterRollout
from grpo_agents.cluster.settings import ClusterConfig
from grpo_agents.cluster.versions import versions
from grpo_agents.cluster.witness import Witness

if TYPE_CHECKING:
    from grpo_agents.config import Config
    from grpo_agents.rollout import Rollout

CONNECT_SECONDS = 10.0
"""So long may the head node take to answer."""

PATIENCE = 60.0
"""Seconds to wait for machines that are there but in use."""

Bundle = dict[str, float]
"""What one process takes: CPU, GPU."""


class Cluster:
    """Processes of a run on a Ray cluster.

    Args:
        config: The run's.
        learning: Whether a learner is to have processes.
        say: Told what the user should know meanwhile.

    Raises:
        ImportError: Ray is not installed.
        ValueError: The cluster cannot be reached, or does not have what is asked; says what would fit.
    """

    def __init__(self, config: Config, *, learning: bool, say: Callable[[str], None]):
        self.config = config
        settings = config.cluster
        self._witness = Witness(
            "the run ended at once: Ray's head node is gone (`ray status`), or the process was killed. Checkpoints are "
            f"intact: go on with `grpo-agents train --resume {config.run}`; another cluster's address goes with it as "
            "--set cluster.address=…"
        )
        atexit.register(self._witness.dismiss)
        self._ours = not ray.is_initialized()
        if self._ours:
            _connect(settings)
        gpus = any(node["Resources"].get("GPU") for node in ray.nodes() if node["Alive"])
        learner = _bundle(settings.learner_cpus, float(gpus))
        worker = _bundle(settings.worker_cpus, float(gpus) if settings.worker_gpus is None else settings.worker_gpus)
        self._ranks = settings.learner_ranks if learning else 0
        bundles = [learner] * self._ranks + [worker] * settings.workers
        check_room(bundles, self._ranks, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        self._bundles = bundles
        self._group = _reserve(bundles)
        self._begin = (config.model_dump(mode="json"), os.getcwd(), versions())
        self.pool = Pool(
            self._make_worker,
            self._begin,
            settings,
            at_once=max(1, config.engine.max_rows // config.rollout.group_size),
            most_hanging=config.alarms.hanging,
            patience=config.engine.patience,
            say=say,
        )
        say(f"{settings.workers} rollout workers are loading on the Ray cluster at {_address()}")
        collective = settings.weights == "collective" or (
            settings.weights == "auto" and bool(learner.get("GPU")) and bool(worker.get("GPU"))
        )
        self.engine = ClusterEngine(self.pool, settings.workers, collective=collective)

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
        """Ends what was started, and gives the machines back."""
        remove_placement_group(self._group)
        if self._ours:
            ray.shutdown()
        self._witness.dismiss()
        atexit.unregister(self._witness.dismiss)

    def _make_worker(self, number: int) -> Any:
        return self._make(WorkerActor, self._ranks + number)

    def _make(self, kind: type, place: int) -> Any:
        """An actor at one place of what is reserved."""
        bundle = self._bundles[place]
        return (
            ray.remote(kind)
            .options(
                num_cpus=bundle["CPU"],
                num_gpus=bundle.get("GPU", 0),
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, place),
            )
            .remote()
        )


def _connect(settings: ClusterConfig) -> None:
    """Joins the cluster.

    Raises:
        ValueError: It cannot be reached.
    """
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    if settings.address == "local":
        ray.init("local", include_dashboard=False, **quiet)
        return
    address = os.environ.get("RAY_ADDRESS", "auto") if settings.address == "auto" else settings.address
    try:
        if ":" in address:  # Ray would try for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        ray.init(address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"cluster.address is {settings.address!r}, and no Ray cluster answers there ({reason}). Start one (`ray "
            "start --head` on its first machine), or let the run start its own: cluster.address = 'local'"
        ) from error


def _address() -> str:
    return ray.get_runtime_context().gcs_address


def _bundle(cpus: float, gpus: float) -> Bundle:
    return {"CPU": float(cpus), **({"GPU": gpus} if gpus else {})}


def check_room(bundles: Sequence[Bundle], ranks: int, nodes: Sequence[Mapping[str, float]]) -> None:
    """Refuses more than the machines have.

    Args:
        bundles: What each process takes: those of the learner, then the workers.
        ranks: How many are of the learner.
        nodes: What each machine has in all.

    Raises:
        ValueError: Says what there is, and what would fit.
    """
    free = [dict(node) for node in nodes]
    fitting = 0
    for bundle in bundles:
        place = next((node for node in free if all(node.get(key, 0) >= need for key, need in bundle.items())), None)
        if place is None:
            break
        for key, need in bundle.items():
            place[key] -= need
        fitting += 1
    if fitting == len(bundles):
        return
    has = ", ".join(_amounts({key: math.fsum(node.get(key, 0) for node in nodes) for key in ("CPU", "GPU")}))
    asked = [f"{len(bundles) - ranks} rollout workers of {' and '.join(_amounts(bundles[-1]))} each"]
    if ranks:
        asked.insert(0, f"{ranks} ranks of the learner of {' and '.join(_amounts(bundles[0]))} each")
    fits = (
        f"At most cluster.workers = {fitting - ranks} fit"
        if fitting > ranks
        else "Not even one worker fits: ask for less with cluster.worker_cpus, worker_gpus and learner_ranks"
    )
    raise ValueError(
        f"[cluster] asks for {' and '.join(asked)}, and the Ray cluster has {has or 'no processors'} on "
        f"{len(nodes)} machines. {fits}, or add machines (`ray start --address …`)"
    )


def _amounts(bundle: Mapping[str, float]) -> list[str]:
    return [f"{amount:g} {key}s" if amount != 1 else f"1 {key}" for key, amount in bundle.items() if amount]


def _reserve(bundles: Sequence[Bundle]) -> PlacementGroup:
    """Reserves room for every process, all or nothing.

    Raises:
        ValueError: The machines are in use.
    """
    group = placement_group(list(bundles), strategy="PACK")
    if not group.wait(PATIENCE):
        remove_placement_group(group)
        free = ", ".join(_amounts({key: ray.available_resources().get(key, 0) for key in ("CPU", "GPU")}))
        raise ValueError(
            f"the Ray cluster would have room for this run, but others use it: {free or 'nothing'} is free, and "
            f"{', '.join(_amounts(_total(bundles)))} are asked for. Wait for them (`ray status`), or lower "
            "cluster.workers"
        )
    return group


def _total(bundles: Sequence[Bundle]) -> Bundle:
    return {key: math.fsum(bundle.get(key, 0) for bundle in bundles) for key in ("CPU", "GPU")}
