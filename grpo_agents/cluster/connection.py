"""How a process comes to a Ray cluster: a run (``[cluster]``), or environments in actors (``ray:``)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_agents.cluster.settings import ClusterConfig

ANSWER_SECONDS = 10.0
"""So long may a head node take to answer; Ray itself would ask for many minutes."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How HTTP/2 begins, which a head node speaks: with settings, of which there are none here (RFC 9113, 3.4)."""


def check_address(address: str, name: str) -> None:
    """Refuses what is no address.

    Raises:
        ValueError: Says what to write.
    """
    if address.startswith("ray://"):
        raise ValueError(
            f"{name} is {address!r}, an address for Ray's client, which is not supported: start the run on a machine "
            "of the cluster with 'auto', or with the head node's own address (host:6379, unless `ray start --head` was "
            "given another port)"
        )
    host, _, port = address.rpartition(":")
    is_there = host and "/" not in host and port.isdecimal() and 0 < int(port) < 2**16
    if address not in ("auto", "local") and not is_there:
        raise ValueError(f"{name} is {address!r}: write auto, local or host:port, as '10.0.0.1:6379'")


def connect(settings: ClusterConfig) -> Callable[[], None]:
    """Joins a run's cluster, or starts it, unless this process is in it already; gives what leaves it again.

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
    return join(
        settings.address,
        "cluster.address",
        "let the run start its own: cluster.address = 'local'",
        log_to_driver=False,
        logging_level="ERROR",
    )


def join(address: str, name: str, or_else: str, **settings: Any) -> Callable[[], None]:
    """Joins a Ray cluster, or starts one; gives what leaves it again.

    Args:
        address: ``local``, ``host:port``, or ``auto``: the cluster that this machine belongs to.
        name: What holds the address, for messages.
        or_else: What may be done where there is no cluster.
        **settings: Of ``ray.init``.

    Raises:
        ValueError: It cannot be reached, wants another token, or has other versions.
    """
    import ray
    from ray.exceptions import RayError

    asked, said = address, f"{name} is {address!r}"
    if address == "auto" and (known := own_address()):
        address, source = known
        check_address(address, source)
        said += f" ({source}: {address})"
    if address == "local":
        ray.init("local", include_dashboard=False, **settings)
        return ray.shutdown
    try:
        if address != "auto":
            _probe(address)
        ray.init(asked, **settings)  # with 'auto' Ray shows its token by itself
    except (OSError, RuntimeError, ValueError, RayError) as error:
        text = str(error).strip()
        if text.startswith("Version mismatch"):
            ray.shutdown()  # what it had begun
            raise ValueError(
                f"{said}: {' '.join(text.split())}. Install the same Ray and Python on every machine of the cluster"
            ) from error
        if "AuthenticationError" in f"{type(error).__name__} {error.__cause__}":  # Ray's, of which it keeps the text
            raise ValueError(
                f"{said}, and that cluster wants a token, which this process does not show: set RAY_AUTH_MODE=token, "
                "and RAY_AUTH_TOKEN (or ~/.ray/auth_token) to the token of the cluster"
            ) from error
        reason = text.partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{said}, and no Ray cluster answers there ({reason}). Start one (`ray start --head` on its first machine, "
            f"`ray start --address …` on others; this has to be one of them), or {or_else}"
        ) from error
    return ray.shutdown


def own_address() -> tuple[str, str] | None:
    """The address of the cluster that this machine is said to belong to, and what says so."""
    if address := os.environ.get("RAY_ADDRESS"):
        return address, "RAY_ADDRESS"
    temporary = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    started = Path(temporary, "ray", "ray_current_cluster")  # by `ray start`
    if started.is_file() and (address := started.read_text().strip()):
        return address, str(started)
    return None


def _probe(address: str) -> None:
    """Looks whether a head node may be there.

    Raises:
        OSError: Nobody answers, or something else.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS) as line:
        if os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true"):
            return  # it answers to nobody without a certificate
        line.sendall(PREFACE)
        with line.makefile("rb") as answer:
            begun = answer.read(4)
    if begun[3:] != b"\x04":  # the type of a frame of settings
        raise ConnectionError("something else listens there")
