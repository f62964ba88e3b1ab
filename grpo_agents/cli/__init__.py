"""The command line. Whatever is heavy is imported inside the command that needs it, so that help is quick."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import grpo_agents
from grpo_agents.cli.commands import Command, Group
from grpo_agents.cli.cost import cost
from grpo_agents.cli.environments import check, envs, play
from grpo_agents.cli.errors import Commands
from grpo_agents.cli.evaluation import evaluate_files, pareto
from grpo_agents.cli.explaining import explain
from grpo_agents.cli.importing import export, import_files
from grpo_agents.cli.replaying import replay
from grpo_agents.cli.reporting import report
from grpo_agents.cli.rescoring import rescore_files
from grpo_agents.cli.serving import serve_env
from grpo_agents.cli.starting import keys, new_env, new_reward
from grpo_agents.cli.training import reward_model, rollout, train
from grpo_agents.cli.verification import verify

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train language models that use tools: define an environment, train, evaluate.\n\n"
    "Each command's --help has an example.",
)
new = typer.Typer(cls=Group, no_args_is_help=True, help="Write a short starting file that runs as it is.")
app.add_typer(new, name="new")
app.command(cls=Command)(train)
app.command(cls=Command)(rollout)
app.command("reward-model", cls=Command)(reward_model)
app.command("evaluate", cls=Command)(evaluate_files)
app.command(cls=Command)(pareto)
app.command("rescore", cls=Command)(rescore_files)
app.command("import", cls=Command)(import_files)
app.command(cls=Command)(export)
app.command(cls=Command)(replay)
app.command(cls=Command)(report)
app.command(cls=Command)(explain)
app.command(cls=Command)(cost)
app.command(cls=Command, context_settings={"ignore_unknown_options": True})(verify)  # -5 is an answer
app.command(cls=Command)(envs)
app.command(cls=Command)(check)
app.command(cls=Command)(keys)
app.command(cls=Command)(play)
app.command("serve-env", cls=Command)(serve_env)
new.command("env", cls=Command)(new_env)
new.command("reward", cls=Command)(new_reward)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"grpo-agents {grpo_agents.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="GRPO_AGENTS_DEBUG", help="Show where an error comes from.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Options before the command."""


def main() -> None:
    """The console script."""
    sys.path.append(os.getcwd())  # configs name a user's own modules; last, so that a calendar.py hides nobody's
    app()
