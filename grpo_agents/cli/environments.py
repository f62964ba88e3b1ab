"""``envs``, ``check`` and ``play``: environments without a model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from grpo_agents.cli.commands import EnvName
from grpo_agents.cli.errors import console


def envs() -> None:
    """List the environments that come with the package: what they ask, tools and prices, rewards.

    Example: `grpo-agents envs`
    """
    import gymnasium
    from rich.table import Table

    from grpo_agents.env import make_env
    from grpo_agents.play import describe_costs

    table = Table(show_lines=True)
    for column in ("environment", "what happens", "tools (a call)", "rewards"):
        table.add_column(column, no_wrap=column == "environment")
    for name in sorted(name for name in gymnasium.registry if name.startswith("grpo_agents/")):
        env = make_env(name)
        tools = [f"{tool.name} {describe_costs(tool)}" for tool in env.tools]
        line = (type(env).__doc__ or "").strip().split("\n")[0].replace("``", "")
        table.add_row(name, line, "\n".join(tools) or "none", ", ".join(env.components))
    console().print(table)


def check(env: EnvName) -> None:
    """Check that an environment keeps the contract. Plays it with made-up answers: its tools are really called.

    Example: `grpo-agents check shop.py:Shop`
    """
    from grpo_agents.contract import check as check_contract
    from grpo_agents.env import make_env

    findings = check_contract(lambda: make_env(env))
    screen = console()
    for finding in findings:
        mark, style = ("✓", "green") if finding.problem is None else ("✗", "red")
        screen.print(f"[{style}]{mark}[/{style}]", finding.checked, highlight=False)
        if finding.problem is not None:
            remedy = f"\n  → {finding.remedy}" if finding.remedy else ""
            screen.print(f"  {finding.problem}{remedy}", markup=False, highlight=False, soft_wrap=True)
    broken = sum(finding.problem is not None for finding in findings)
    screen.print(f"{env}: {f'{broken} of {len(findings)} checks failed' if broken else 'all is well'}", highlight=False)
    if broken:
        raise typer.Exit(1)


def play(env: EnvName, seed: Annotated[int | None, typer.Option(help="The same episode every time.")] = None) -> None:
    """Be the policy yourself, for one episode; lines may also be piped in.

    Example: `grpo-agents play grpo_agents/Orchestra-v0 --seed 1`
    """
    from grpo_agents.env import make_env
    from grpo_agents.play import play as play_episode

    play_episode(make_env(env), _typed(), typer.echo, seed=seed)


def _typed() -> Iterator[str]:
    """Lines of stdin, with a prompt where a person sits at it."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    while True:
        try:
            yield input("> ")
        except EOFError:
            return
