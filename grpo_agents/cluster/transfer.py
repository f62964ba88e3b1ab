"""Weights from one process to many at once, tensor by tensor: NCCL between GPUs, Gloo between processors.

For every update the processes meet anew, at a port of the sender: whoever is there is given the weights, and one that
died since the last time is missed by nobody. Names, shapes and types are in the store at which they meet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta

import torch
from torch.distributed import PrefixStore, ProcessGroup, TCPStore  # pyright: ignore[reportPrivateImportUsage]

Meet = tuple[str, int]
"""Address and port of the sender."""

LAYOUT, DONE = "layout", "done"

MEET_SECONDS = 15.0
"""So long is waited for somebody to come; one that died since the last time does not."""


class TransferFailed(RuntimeError):
    """Some of the processes did not come, or went away in the middle; the weights have to be sent in another way."""


def send(named: Mapping[str, torch.Tensor], meet: Meet, size: int, patience: float) -> None:
    """Gives everybody the weights.

    Args:
        named: The tensors by name.
        meet: Where the others come to, on this machine.
        size: How many processes there are with this one.
        patience: Seconds to wait for the others.

    Raises:
        TransferFailed: Somebody is missing.
    """
    device = _device()
    try:
        group, store = _join(meet, 0, size, patience)
        layout = [(name, list(value.shape), str(value.dtype).removeprefix("torch.")) for name, value in named.items()]
        store.set(LAYOUT, json.dumps(layout))
        for value in named.values():
            group.broadcast(value.detach().to(device).contiguous(), 0).wait()
        store.wait([DONE], timedelta(seconds=patience))  # the store ends with its sender
    except RuntimeError as error:  # of torch.distributed, which has no other
        raise TransferFailed(f"the weights could not be sent to {size - 1} workers: {error}") from error


def receive(meet: Meet, rank: int, size: int, patience: float) -> dict[str, torch.Tensor]:
    """Takes the weights, onto the GPU where there is one; see :func:`send`.

    Args:
        meet: Where the sender is.
        rank: Which of the processes this is, from 1 on.
        size: How many there are with the sender.
        patience: Seconds to wait for the others.

    Raises:
        TransferFailed: Somebody is missing.
    """
    device = _device()
    try:
        group, store = _join(meet, rank, size, patience)
        named = {}
        for name, shape, dtype in json.loads(store.get(LAYOUT)):
            named[name] = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
            group.broadcast(named[name], 0).wait()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if store.add("received", 1) == size - 1:
            store.set(DONE, "")
    except RuntimeError as error:
        raise TransferFailed(f"the weights did not come: {error}") from error
    return named


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def _join(meet: Meet, rank: int, size: int, patience: float) -> tuple[ProcessGroup, TCPStore]:
    """A group of its own, beside that of the learner's ranks."""
    wait = timedelta(seconds=patience)
    store = TCPStore(
        meet[0], meet[1], size, is_master=rank == 0, timeout=timedelta(seconds=min(patience, MEET_SECONDS))
    )
    if torch.cuda.is_available():
        from torch.distributed import ProcessGroupNCCL

        options = ProcessGroupNCCL.Options()
        options._timeout = wait
        return ProcessGroupNCCL(PrefixStore("weights", store), rank, size, options), store  # type: ignore[return-value]
    from torch.distributed import ProcessGroupGloo

    return ProcessGroupGloo(PrefixStore("weights", store), rank, size, wait), store  # type: ignore[return-value]
