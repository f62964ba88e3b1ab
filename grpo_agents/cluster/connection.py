"""How a run comes to its Ray cluster."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from grpo_agents.cluster.settings import ClusterConfig

CONNECT_SECONDS = 10.0
"""So long may the head node take to answer."""


def connect(settings: ClusterConfig) -> Callable[[], None]:
    """Joins the cluster, or starts it, unless this process is in it already; gives what leaves it again.

    Raises:
        ImportError: Ray is not installed.
        ValueError: The cluster cannot be reached, or this process is in another one.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "cluster.kind is 'ray', and Ray is not installed: pip install 'grpo-agents[ray]'", name="ray"
        ) from error
    if ray.is_initialized():
        here = ray.get_runtime_context().gcs_address
        if ":" in settings.address and settings.address != here:
            raise ValueError(
                f"cluster.address is {settings.address!r}, and this process is in the Ray cluster at {here} already"
            )
        return lambda: None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if settings.address == "local":
        ray.init("local", include_dashboard=False, **quiet)
        return ray.shutdown
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
    return ray.shutdown
