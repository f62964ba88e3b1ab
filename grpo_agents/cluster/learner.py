"""The learner on a cluster: its ranks are actors, and the trainer calls it as it calls its own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from grpo_agents.cluster.deaths import raised, reason_of, unloadable
from grpo_agents.cluster.remote_tensors import RemoteTensors
from grpo_agents.learner.batch import Batch, Row
from grpo_agents.learner.ranks import RankLost
from grpo_agents.writing import naming

MISSED_SECONDS = 60.0
"""So long may Ray take to see that a rank is gone, after another one has lost the connection to it."""


class RemoteLearner:
    """A :class:`~grpo_agents.learner.learner.Learner` in other processes.

    Files are written there, where this process must find them by the same path.

    Args:
        actors: One a rank.
        begin: What each is started with.

    Raises:
        ValueError: Something of the config does not exist or does not fit where a rank is.
        RankLost: A process ended.
    """

    def __init__(self, actors: Sequence[Any], begin: tuple[Any, ...]):
        self._actors = actors
        self._others: list[Any] = []
        meet = self._wait(actors[0].place.remote())
        with _mark(Path(begin[0]["run"]).absolute()) as mark:
            starting = [actor.start.remote(*begin, rank, meet, mark.name) for rank, actor in enumerate(actors)]
            first = starting[0]
            while starting:  # whoever cannot start says so first: the others would wait for it
                done, starting = ray.wait(starting)
                _result(done[0], starting)
        facts = self._wait(first)
        self._others = [actor.follow.remote() for actor in actors[1:]]
        self.why_padded: str = facts["why_padded"]
        self.dtype: str = facts["dtype"]
        self.temperature: float = facts["temperature"]
        self.counts: dict[str, Any] = facts["counts"]

    @property
    def ranks(self) -> RemoteLearner:
        """What holds its processes."""
        return self

    def learn(self, batch: Batch, *, version: int, progress: float, seed: int = 0) -> dict[str, float]:
        """All updates on a batch; see :meth:`~grpo_agents.learner.learner.Learner.learn`."""
        return self._call("learn", ray.put(batch), version=version, progress=progress, seed=seed)

    def score(self, rows: Sequence[Row]) -> list[tuple[Row, np.ndarray]]:
        """Log π of each row's trained tokens under the policy, (trained,), in no order."""
        return self._call("score", rows)

    def weights(self) -> RemoteTensors:
        """The policy's parameters by name, which stay where they are until somebody wants them."""
        return RemoteTensors(self)

    def stored_weights(self) -> Any:
        """A reference to copies of them in Ray's object store, as arrays by name."""
        reference, there = self._actors[0].weights.options(num_returns=2).remote()
        self._wait(there)  # as a reference says nothing of an actor that died: who has it would seem to have died
        return reference

    def send_weights(self, workers: Sequence[Any], version: int) -> list[Any]:
        """Sends them to many actors at once; gives what answers when each has them, and begins no turn before.

        The answers raise :class:`~grpo_agents.cluster.transfer.TransferFailed` where the weights did not come.
        """
        first, size = self._actors[0], len(workers) + 1
        meet = first.place.remote()
        first.send_weights.remote(meet, size)
        return [worker.receive_weights.remote(meet, rank, size, version) for rank, worker in enumerate(workers, 1)]

    def save_policy(self, folder: Path) -> None:
        """Writes the policy's weights for ``from_pretrained``."""
        self._call("save_policy", Path(folder).absolute())

    def save(self, folder: Path) -> None:
        """Writes what moves into a checkpoint's folder."""
        self._call("save", Path(folder).absolute())
        if not any(Path(folder).iterdir()):
            raise OSError(
                f"the learner's process wrote a checkpoint to {folder} on its own machine, and it is not here. Put the "
                "run folder where every machine of the cluster sees it by the same path"
            )

    def restore(self, folder: Path, counts: Mapping[str, Any]) -> None:
        """Brings back what was saved."""
        self._call("restore", Path(folder).absolute(), counts)

    def close(self) -> None:
        """Ends its processes."""
        for actor in self._actors:
            ray.kill(actor)

    def _call(self, name: str, *args: Any, **settings: Any) -> Any:
        found, self.counts = self._wait(self._actors[0].call.remote(name, *args, **settings))
        return found

    def _wait(self, answer: Any) -> Any:
        """What the first rank answers; as it computes with the others, it would wait for ever for one that is gone."""
        done, rest = ray.wait([answer, *self._others], num_returns=1, fetch_local=False)
        found = _result(done[0], rest)
        if done[0] != answer:
            raise RankLost("a process of the learner went home too early")
        return found


def _result(answer: Any, rest: list[Any]) -> Any:
    """What a rank answers, who computes with those that owe the rest."""
    try:
        return ray.get(answer)
    except RayError as error:
        said = _death(rest) or error if isinstance(raised(error), RuntimeError) else error
        if reason := unloadable(said):
            raise ValueError(f"a process of the learner: {reason}") from said
        if (own := raised(said)) is not None:
            raise own from said
        raise RankLost(f"a process of the learner died{reason_of(said)}") from said


def _death(rest: list[Any]) -> RayError | None:
    """What Ray says of a rank that died, which another one may have missed before Ray did; None where none did."""
    deadline = time.monotonic() + MISSED_SECONDS
    while rest and (seconds := deadline - time.monotonic()) > 0:
        done, rest = ray.wait(rest, num_returns=1, timeout=seconds, fetch_local=False)
        for answer in done:
            try:
                ray.get(answer)
            except RayError as error:
                if raised(error) is None:
                    return error
    return None


def _mark(run: Path) -> Any:
    """A file that ranks look for, until it is closed: in the run folder, or where that will be once all is loaded."""
    there = next(folder for folder in (run, *run.parents) if folder.exists())
    with naming(run):
        return NamedTemporaryFile(dir=there, prefix=".", suffix=".unfinished")
