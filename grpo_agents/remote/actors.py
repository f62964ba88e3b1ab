"""The way to environments in actors of Ray: other processes, on this machine or on others of a cluster.

A few actors hold the environments of all episodes, each in a session and a thread of its own. Ray starts an actor that
died again; what it held is lost, and the next reset begins in a new session.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from grpo_agents.cluster.connection import join, own_address
from grpo_agents.cluster.versions import own_version
from grpo_agents.env import make_env
from grpo_agents.remote.answering import Answer
from grpo_agents.remote.place import Place
from grpo_agents.remote.sessions import Sessions
from grpo_agents.remote.wire import RemoteFailure, SessionLost

MOST_SESSIONS = 1024
"""Environments in one actor."""

PAUSE_SECONDS = 0.1
"""Between two looks whether an actor has been started again."""

GRACE_SECONDS = 30.0
"""What Ray may take beside an environment, to start an actor and to carry an answer."""


class Holder:
    """What an actor is: the sessions of one environment.

    Args:
        name: A Gymnasium id, ``module:Class`` or ``file.py:Class``.
        options: What each environment is made with.
    """

    def __init__(self, name: str, options: Mapping[str, Any]):
        self._sessions = Sessions(partial(make_env, name, **options), name, MOST_SESSIONS)
        self._version = own_version()

    def open(self, version: str) -> str:
        """Begins a session, and says what it is called.

        Raises:
            RemoteFailure: Here is another version of this package; others may differ (``env.place.runtime_env``).
        """
        if version != self._version:
            raise RemoteFailure(
                f"{socket.gethostname()} has grpo-agents {self._version} and not {version}, which the driver has. "
                "Install the same version on every machine of the cluster"
            )
        return self._sessions.open().key

    def ask(self, key: str, request: dict[str, Any], seconds: float) -> Answer:
        """What a session answers."""
        return self._sessions.ask(key, request, seconds)

    def close(self, key: str, seconds: float) -> None:
        """Ends a session; waits so long for its environment to be closed."""
        self._sessions.close(key, seconds)


class Actors:
    """The actors of one environment; each link is dealt the next of them. Joins a running Ray, or starts one here.

    Args:
        name: The environment's id.
        options: What it is made with.
        place: What each actor is given.

    Raises:
        ModuleNotFoundError: Ray is missing.
        ValueError: There should be a cluster, and it cannot be reached.
    """

    def __init__(self, name: str, options: Mapping[str, Any], place: Place):
        try:
            import ray
        except ModuleNotFoundError as error:
            message = f"ray:{name}: Ray is not installed, and it takes that: pip install 'grpo-agents[ray]'"
            raise ModuleNotFoundError(message, name=error.name) from None
        if not ray.is_initialized():
            join("auto" if own_address() else "local", f"the cluster of ray:{name}", "set RAY_ADDRESS=local")
        self.name = name
        self.version = own_version()
        kind = ray.remote(Holder).options(
            num_cpus=place.cpus,
            num_gpus=place.gpus,
            resources=place.resources or None,
            runtime_env=place.runtime_env or None,
            max_concurrency=MOST_SESSIONS,
            max_restarts=-1,
            enable_task_events=False,  # Ray's head node would keep a record of every call
        )
        self._actors = [kind.remote(name, dict(options)) for _ in range(place.actors)]
        self._turn = itertools.cycle(self._actors)

    def link(self, timeout: float) -> ActorLink:
        """A way to one of them."""
        return ActorLink(self, next(self._turn), timeout)


class ActorLink:
    """A session in an actor.

    Args:
        actors: Those of the environment.
        actor: The one that holds it.
        timeout: Seconds an answer may take.
    """

    def __init__(self, actors: Actors, actor: Any, timeout: float):
        self.where = f"ray:{actors.name}"
        self._actors, self._actor, self._timeout = actors, actor, timeout
        self._key: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a session, as far as is known here."""
        return self._key is not None

    def open(self, patience: float) -> None:
        """Begins a session; Ray waits for room, and for an actor that starts again."""
        from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError

        from grpo_agents.cluster.deaths import raised, unloadable

        deadline = time.monotonic() + patience + self._timeout
        try:
            while self._key is None:
                opened = self._actor.open.remote(self._actors.version)
                try:
                    self._key = self._get(opened, max(0.0, deadline - time.monotonic()))
                except ActorUnavailableError:  # it is being started again
                    time.sleep(PAUSE_SECONDS)
                except GetTimeoutError:
                    self._actor.close.remote(opened, 0.0)  # as soon as it has begun, and nobody knows its key
                    raise
        except GetTimeoutError:
            raise RemoteFailure(
                f"{self.where}: no actor began within {patience + self._timeout:g} s: has the cluster room for what "
                "env.place asks for? `ray status` shows it"
            ) from None
        except RayError as error:
            reason = unloadable(error) or raised(error) or _first_line(error)
            raise RemoteFailure(f"{self.where}: no session could be begun: {reason}") from None

    def ask(self, request: dict[str, Any]) -> Any:
        """What the session answers."""
        from ray.exceptions import GetTimeoutError, RayActorError, RayError

        from grpo_agents.cluster.deaths import reason_of

        try:
            reply = self._actor.ask.remote(self._key, request, self._timeout)
            return self._get(reply, self._timeout + GRACE_SECONDS)
        except GetTimeoutError:
            raise RemoteFailure(f"{self.where} gave no answer within {self._timeout + GRACE_SECONDS:g} s") from None
        except RayActorError as error:
            raise SessionLost(f"{self.where}: the actor died{reason_of(error)}") from None
        except RayError as error:
            raise RemoteFailure(f"{self.where}: {_first_line(error)}") from None

    def close(self, seconds: float = 0.0) -> None:
        """Ends the session; waits so long for its environment to be closed, as the actor ends with this program."""
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        key, self._key = self._key, None
        if key is not None and ray.is_initialized():
            closed = self._actor.close.remote(key, seconds)
            if seconds:
                with suppress(GetTimeoutError, RayError):  # it hangs, or is gone
                    self._get(closed, seconds + GRACE_SECONDS)

    def another(self) -> ActorLink:
        """A session of its own, in the next of the actors."""
        return self._actors.link(self._timeout)

    def _get(self, reference: Any, seconds: float) -> Any:
        import ray

        return ray.get(reference, timeout=seconds)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
