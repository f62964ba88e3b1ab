"""Weights that go straight from the trainer's GPU to a server: NCCL between GPUs, CUDA IPC on one that both share.

vLLM's own trainer-side API (``vllm.distributed.weight_transfer``, as read in 0.32) does it. The server is started with
``--weight-transfer-config '{"backend": "nccl"}'`` or ``"ipc"``; for IPC also with
``VLLM_ALLOW_INSECURE_SERIALIZATION=1``, as memory handles come to it pickled.

Tested are its calls and their order, with stand-ins for what needs a GPU. It takes one to move a tensor this way, and
it **has been run on none yet**.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from grpo_agents.engines.openai_client import Trouble

if TYPE_CHECKING:
    import torch


class TensorSource:
    """What vLLM calls a ``WeightSource``: the tensors of the present version, to be gone through any number of times.

    Attributes:
        weights: The tensors by name.
    """

    def __init__(self) -> None:
        self.weights: Mapping[str, torch.Tensor] = {}

    def metadata(self) -> list[Any]:
        """Name, type and shape of each, in the order in which they come."""
        from vllm.distributed.weight_transfer import ParamMeta  # type: ignore

        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.weights.items()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self.weights.items():
            yield name, tensor.detach()


class WeightTransfer:
    """The trainer's end of a transfer.

    Args:
        backend: ``nccl`` or ``ipc``.
        root: The server's address without ``/v1``.
        seconds: How long the server may take for each step.

    Raises:
        ImportError: vLLM is not installed here.
    """

    def __init__(self, backend: Literal["nccl", "ipc"], root: str, seconds: float):
        from vllm.distributed.weight_transfer import HTTPVLLMWeightSyncClient  # type: ignore

        self.backend = backend
        self.root = root
        self._client = HTTPVLLMWeightSyncClient(root, timeout=seconds)
        self._source = TensorSource()
        self._engine: Any = None

    def send(self, weights: Mapping[str, torch.Tensor], world_size: int) -> None:
        """Replaces the server's weights; connects first where that has not been done.

        Args:
            weights: On this process's GPU, named as in the model's checkpoint.
            world_size: How many GPUs the server runs on.

        Raises:
            Trouble: The server did not go along.
        """
        from requests import RequestException  # type: ignore
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory  # type: ignore

        self._source.weights = weights
        try:
            if self._engine is None:
                self._engine = WeightTransferTrainerFactory.trainer_init(
                    self._meeting(world_size),
                    client=self._client,
                    source=self._source,  # type: ignore  # has what is used of vLLM's abstract class
                )
            self._engine.send_weights()
        except RequestException as error:
            raise Trouble(f"the {self.backend} weight transfer failed: {error}") from error

    def disconnect(self) -> None:
        """Forgets a server that is no more; the next transfer connects to the new one."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    def _meeting(self, world_size: int) -> Any:
        """Where both ends meet: this process is rank 0, the server's GPUs come after it."""
        if self.backend == "ipc":
            from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo  # type: ignore

            return IPCTrainerInitInfo(rank=0, packed=True)
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo  # type: ignore

        address = _own_address(self.root)
        with socket.socket() as listener:  # a port that is free now
            listener.bind((address, 0))
            port = listener.getsockname()[1]
        return NCCLTrainerInitInfo(address, port, 1 + world_size, rank=0)


def _own_address(root: str) -> str:
    """The address under which a server sees this machine."""
    parts = urlsplit(root)
    port = parts.port or {"https": 443}.get(parts.scheme, 80)
    with socket.create_connection((parts.hostname, port)) as connection:
        return connection.getsockname()[0]
