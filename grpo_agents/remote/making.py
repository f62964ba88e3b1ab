"""From an id, as ``http://host:8000`` or ``ray:file.py:Class``, to an environment that lives elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from grpo_agents.remote.client import RemoteEnv
from grpo_agents.remote.connection import RemoteSession
from grpo_agents.remote.openenv import FIELDS, OpenEnvEnv, is_openenv
from grpo_agents.remote.place import Place
from grpo_agents.remote.websocket import TOKEN_VARIABLE, WebSocketLink
from grpo_agents.section import problems

RAY = "ray:"
URLS = ("http://", "https://")

TIMEOUT = 120.0
"""Seconds that an answer may take."""

PATIENCE = 30.0
"""Seconds to wait for a server that has gone away, before an episode begins."""


def is_remote(name: str) -> bool:
    """Whether an id is of an environment that lives elsewhere."""
    return name.startswith((RAY, *URLS))


def make_remote(
    name: str,
    *,
    tasks: Any = None,
    render_mode: str | None = None,
    place: Place | Mapping[str, Any] | None = None,
    timeout: float = TIMEOUT,
    patience: float = PATIENCE,
    **options: Any,
) -> RemoteEnv | OpenEnvEnv:
    """Makes an environment that lives elsewhere.

    Args:
        name: ``http://…`` or ``https://…``: what a server serves, ours or one written with OpenEnv. ``ray:ENV``: any
            environment, in actors of Ray.
        tasks: Another task source than its own.
        render_mode: See :class:`~grpo_agents.env.AgentEnv`.
        place: What each of Ray's actors is given.
        timeout: Seconds an answer may take.
        patience: Seconds to wait for a server that has gone away, before an episode begins.
        **options: Of the environment, with Ray. Of a URL ``token_variable``, which names the environment variable that
            holds a token, and of a server written with OpenEnv ``action`` and ``observation``.

    Raises:
        ValueError: An option or an address that is none.
        RemoteFailure: It cannot be reached.
    """
    if name.startswith(RAY):
        from grpo_agents.remote.actors import Actors

        try:
            place = place if isinstance(place, Place) else Place(**(place or {}))
        except ValidationError as error:
            raise ValueError("\n".join(problems(error, Place, "env.place"))) from None
        actors = Actors(name.removeprefix(RAY), options, place)
        return RemoteEnv(RemoteSession(actors.link(timeout), patience=patience), tasks, render_mode=render_mode)
    if place is not None:
        raise ValueError(f"env.place is of environments that Ray holds (env.id = {RAY}…), and this one is {name}")
    variable = options.pop("token_variable", TOKEN_VARIABLE)
    link = WebSocketLink(name, timeout=timeout, token_variable=variable)
    if set(options) <= FIELDS and is_openenv(link):
        return OpenEnvEnv(link, tasks, render_mode=render_mode, patience=patience, **options)
    if options:
        link.close()
        raise ValueError(
            f"{name} takes no option {next(iter(options))!r}: what is served has the options that it was served with "
            "(serve-env --option). Here there are: tasks, timeout, patience, token_variable, render_mode"
        )
    return RemoteEnv(RemoteSession(link, patience=patience), tasks, render_mode=render_mode)
