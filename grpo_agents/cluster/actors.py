"""What runs in Ray's processes: a rollout worker, or a rank of the learner. Importing this imports no Ray."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grpo_agents.cluster.versions import check_versions
from grpo_agents.config import Config, make_config
from grpo_agents.engines import Completion, Request, Sampling
from grpo_agents.rollout import Order
from grpo_agents.trajectory import Group

if TYPE_CHECKING:
    from grpo_agents.cluster.worker import Worker


def enter(folder: str, versions: dict[str, str]) -> None:
    """Goes to where the driver was started, so that paths mean the same.

    Raises:
        ValueError: There is no such folder on this machine, or other code than the driver's.
    """
    check_versions(versions)
    if not Path(folder).is_dir():
        raise ValueError(
            f"{socket.gethostname()} has no folder {folder}, in which the run was started: put the project where every "
            "machine of the cluster sees it by the same path"
        )
    os.chdir(folder)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # Ray's memory is shared


class WorkerActor:
    """A :class:`~grpo_agents.cluster.worker.Worker` behind Ray."""

    _worker: Worker

    async def start(self, config: dict[str, Any], folder: str, versions: dict[str, str]) -> tuple[int, Any]:
        """Loads engine and environments; gives the most tokens that the engine takes, and a first sign of life.

        Raises:
            ValueError: Something of the config does not exist or does not fit here.
        """

        def work() -> None:
            enter(folder, versions)
            from grpo_agents.cluster.worker import Worker

            self._worker = Worker(local(make_config(config)))

        await asyncio.to_thread(work)
        return self._worker.context_length, self._worker.pulse()

    async def play(self, venue: Any, order: Order) -> Group:
        """Plays a group beside the others, and scores it."""
        return await asyncio.wrap_future(self._worker.play(venue, order))

    async def update_weights(self, named: dict[str, np.ndarray], version: int) -> None:
        """Takes over weights as soon as the turns under way are done."""
        import torch

        tensors = {name: torch.from_numpy(array) for name, array in named.items()}
        await asyncio.wrap_future(self._worker.update_weights(tensors, version))

    async def receive_weights(self, meet: tuple[str, int], rank: int, size: int, version: int) -> None:
        """The same with weights that the learner sends to many.

        Raises:
            TransferFailed: They did not come.
        """
        from grpo_agents.cluster import transfer

        patience = self._worker.parts.config.engine.patience
        tensors = await asyncio.to_thread(transfer.receive, meet, rank, size, patience)
        await asyncio.wrap_future(self._worker.update_weights(tensors, version))

    async def complete(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Samples a probe."""
        return await asyncio.wrap_future(self._worker.complete(requests, sampling))

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probabilities."""
        return await asyncio.wrap_future(self._worker.score(sequences))

    async def pulse(self) -> Any:
        """A sign of life."""
        return self._worker.pulse()

    async def close(self) -> None:
        """Ends what it started."""
        await asyncio.to_thread(self._worker.close)


class RankActor:
    """One of the processes that share a learner."""

    def place(self) -> tuple[str, int]:
        """The address of this machine, and a free port of it: where the ranks meet."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def start(
        self, config: dict[str, Any], folder: str, versions: dict[str, str], rank: int, meet: tuple[str, int], mark: str
    ) -> dict[str, Any]:
        """Loads the learner; gives what the driver wants to know of it.

        ``mark`` is a file that the driver has just made where the run folder is or will be.

        Raises:
            ValueError: Something of the config does not exist or does not fit here, or the run folder is not shared.
        """
        enter(folder, versions)
        if not Path(mark).exists():
            raise ValueError(
                f"{socket.gethostname()} does not see what the driver writes in {Path(mark).parent}, and would save "
                f"the checkpoints of {config['run']} where nobody finds them: put the run folder where every machine "
                "of the cluster sees it by the same path (--set run=…)"
            )
        import torch

        from grpo_agents.learner import ranks
        from grpo_agents.learner.model import load_model
        from grpo_agents.trainer import make_learner

        made = local(make_config(config))
        size = config["cluster"]["learner_ranks"]
        self._patience = made.engine.patience
        if size > 1:
            ranks.join(rank, size, meet)
        torch.manual_seed(made.seed)
        self._learner = make_learner(made, load_model(made.model))
        return {name: getattr(self._learner, name) for name in ("why_padded", "dtype", "temperature", "counts")}

    def call(self, name: str, *args: Any, **settings: Any) -> tuple[Any, dict[str, Any]]:
        """What a method of the learner gives, and the learner's counts after it; the first rank's work."""
        given = getattr(self._learner, name)(*args, **settings)
        return given, self._learner.counts

    def weights(self) -> tuple[dict[str, np.ndarray], bool]:
        """The policy's parameters by name, in main memory; and that they are there, for who does not fetch them."""
        return {name: tensor.float().cpu().numpy() for name, tensor in self._learner.weights().items()}, True

    def send_weights(self, meet: tuple[str, int], size: int) -> None:
        """Sends them to workers that are there at the same time."""
        from grpo_agents.cluster import transfer

        transfer.send(self._learner.weights(), meet, size, self._patience)

    def follow(self) -> None:
        """Makes the calls that the first rank makes, until that sends it home; the others' work."""
        from grpo_agents.learner import ranks

        ranks.follow(self._learner)


def local(config: Config) -> Config:
    """The config of one process of a run."""
    return config.model_copy(update={"cluster": type(config.cluster)()})
