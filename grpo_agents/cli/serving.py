"""``serve-env``: an environment for other machines and other Pythons."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from grpo_agents.cli.commands import EnvName
from grpo_agents.cli.errors import console


def serve_env(
    env: EnvName,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Handed to the environment, as env.options.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen. Any but this machine wants a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token_variable: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment variable that holds the token clients show.")
    ] = None,
    sessions: Annotated[int, typer.Option(min=1, help="Environments at once; further clients are refused.")] = 256,
    step_timeout: Annotated[float, typer.Option(min=0.001, help="Seconds an answer may take.")] = 60.0,
    idle_timeout: Annotated[float, typer.Option(min=0.001, help="Seconds until an idle session ends.")] = 3600.0,
) -> None:
    """Serve an environment to runs elsewhere, which name it by its URL: `env.id = "http://host:8000"`.

    It speaks OpenEnv's protocol. A run holds `train.batch` times `rollout.group_size` sessions, and as many as
    `eval.tasks` beside.

    Example: `grpo-agents serve-env shop.py:Shop --port 8000`
    """
    from functools import partial

    from grpo_agents.config import read_value
    from grpo_agents.env import make_env
    from grpo_agents.remote.server import Limits, serve

    options = {}
    for text in option or ():
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"--option {text!r}: write key=value, as split=test")
        options[key.strip()] = read_value(value)
    token = os.environ.get(token_variable) if token_variable is not None else None
    if token_variable is not None and not token:
        raise ValueError(f"--token-variable {token_variable}: there is no token in it; set it before the server starts")
    make = partial(make_env, env, **options)
    make().close()  # what is wrong with it is said before anybody asks
    limits = Limits(sessions, step_timeout, idle_timeout, token)
    screen = console(stderr=True)

    def started(url: str) -> None:
        said = f"{env} at {url}, for at most {sessions} sessions. Ctrl-C ends it."
        screen.print(said, markup=False, highlight=False, soft_wrap=True)
        if not url.startswith(("http://127.", "http://localhost", "http://[::1]")):
            screen.print(
                "Others can reach it: who shows the token plays, and calls its tools with your rights. What is sent, "
                "the token too, can be read on the way, unless a proxy adds https.",
                style="yellow",
                highlight=False,
                soft_wrap=True,
            )

    serve(make, env, limits, host, port, started)
