"""The processes of a learner: each holds a shard of it and computes a share of every batch.

`torchrun --nproc-per-node 4 -m grpo_agents train CONFIG` starts them. The first rank runs the trainer; where it calls
the learner, every rank makes that call. One process alone is a rank of one, for which nothing here costs anything.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch
import torch.distributed
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from grpo_agents.engines import EngineFailure

PATIENCE = timedelta(days=7)
"""How long ranks wait for the first one, which samples in the meantime."""


class RankLost(EngineFailure):
    """A process that held a share of the learner is gone: what it held is in the last checkpoint."""


T = TypeVar("T")
Given = ParamSpec("Given")


class Ranks:
    """Which of how many processes this is; of one, where torch.distributed is not initialised.

    Args:
        patience: How long to wait for the first rank's next call.
    """

    def __init__(self, patience: timedelta = PATIENCE):
        self.rank = 0 if alone() else torch.distributed.get_rank()
        self.size = 1 if alone() else torch.distributed.get_world_size()
        self._calls: Any = torch.distributed.new_group(backend="gloo", timeout=patience) if self.size > 1 else None

    def shard(self, module: torch.nn.Module, layers: frozenset[str]) -> None:
        """Has every rank hold a shard of each parameter; gradients of their shares add up.

        Args:
            module: What one forward pass computes.
            layers: Names of the classes whose parameters are gathered together, and let go again, layer by layer.
        """
        if self.size == 1:
            return
        for tensor in module.state_dict().values():  # new adapters are drawn at random
            torch.distributed.broadcast(tensor, 0)
        for part in list(module.modules()):
            if type(part).__name__ in layers:
                fully_shard(part)
        fully_shard(module)
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.set_gradient_divide_factor(1.0)  # a sum: normalisers are those of the whole batch
                part.set_force_sum_reduction_for_comms(True)

    def gather(self, own: T) -> list[T]:
        """What every rank gives, in their order, at each of them."""
        if self.size == 1:
            return [own]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, own, group=self._calls)
        return found

    def announce(self, call: tuple[str, tuple[Any, ...], Mapping[str, Any]] | None) -> None:
        """Tells the others of a call that the first rank is about to make; None sends them home."""
        if self.size > 1 and self.rank == 0:
            torch.distributed.broadcast_object_list([call], group=self._calls)

    def close(self) -> None:
        """Sends the others home."""
        self.announce(None)

    def hear(self) -> tuple[str, tuple[Any, ...], Mapping[str, Any]] | None:
        """Waits for what the first rank announces."""
        heard: list[Any] = [None]
        torch.distributed.broadcast_object_list(heard, group=self._calls)
        return heard[0]


class Ranked(Protocol):
    """What has ranks."""

    ranks: Ranks


Self_ = TypeVar("Self_", bound=Ranked)


def collective(method: Callable[Concatenate[Self_, Given], T]) -> Callable[Concatenate[Self_, Given], T]:
    """A method that every rank has to run: where the first rank calls it, the others, in :func:`follow`, do as well."""

    @wraps(method)
    def call(self: Self_, *args: Given.args, **kwargs: Given.kwargs) -> T:
        self.ranks.announce((method.__name__, args, kwargs))
        return method(self, *args, **kwargs)

    return call


def follow(target: Ranked) -> None:
    """Makes the calls that the first rank makes, until it sends the others home.

    What a call refuses, it refuses at every rank: the first one says it.
    """
    while (call := target.ranks.hear()) is not None:
        name, args, kwargs = call
        with suppress(ValueError, FloatingPointError):
            getattr(type(target), name).__wrapped__(target, *args, **kwargs)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor of which ranks hold shards, in main memory; any other as it is. Every rank must call it."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def put(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """Writes a whole value into a tensor, or this rank's shard of it."""
    with torch.no_grad():
        tensor.copy_(shared_as(value, tensor))


def shared_as(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole value, on the device of ``like`` and in shards where that one is."""
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements) if isinstance(like, DTensor) else value


def begin() -> None:
    """Joins the processes that torchrun started, if it did."""
    started = torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()
    if not started or not alone():
        return
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    atexit.register(torch.distributed.destroy_process_group)


def join(rank: int, size: int, meet: tuple[str, int]) -> None:
    """Joins processes that nobody's torchrun started.

    Args:
        rank: Which of them this is.
        size: How many there are.
        meet: Address and port of the first one.
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend, f"tcp://{meet[0]}:{meet[1]}", rank=rank, world_size=size)


def alone() -> bool:
    """Whether this process is the only one."""
    return not (torch.distributed.is_available() and torch.distributed.is_initialized())


def first() -> bool:
    """Whether this process is alone, or the first of several."""
    return alone() or torch.distributed.get_rank() == 0
