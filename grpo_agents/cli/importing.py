"""``import`` and ``export``: trajectories as others write them, and as JSON, one a line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grpo_agents.cli.commands import of_runs
from grpo_agents.cli.errors import console

SHOWN = 20
"""So many bad lines are said one by one."""


def import_files(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="JSON, one value a line; or folders that verifiers saved.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The Parquet file to write.")],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="own, openai, verifiers or verifiers-traces. Else what the lines look like.",
        ),
    ] = None,
) -> None:
    """Store trajectories from chat logs, verifiers' rollouts or our own export. Bad lines are named and left out.

    Such logs have no token ids: they are evaluated like others, and refused for training.

    Example: `grpo-agents import logs.jsonl --out logs.parquet`
    """
    from grpo_agents.importers import import_files as store_them

    done = store_them(files, out, format_)
    screen = console(stderr=True)

    def say(text: str) -> None:
        screen.print(text, highlight=False, markup=False, soft_wrap=True)

    for file, said in done.formats.items():
        say(f"{file}: {said}")
    for problem in done.bad[:SHOWN]:
        say(problem)
    if len(done.bad) > SHOWN:
        say(f"and {len(done.bad) - SHOWN} other lines")
    if done.trajectories:
        tasks = f" of {done.groups} task{'s' * (done.groups > 1)}" if done.groups else ""
        typer.echo(f"stored {done.trajectories} trajector{'ies' if done.trajectories > 1 else 'y'}{tasks} in {out}")
    else:
        say(f"nothing is good, and {out} is not written")
    if done.bad:
        say(f"{len(done.bad)} line{'s are' if len(done.bad) > 1 else ' is'} left out")
    if done.bad or not done.trajectories:
        raise typer.Exit(1)


def export(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Trajectory files, folders of them, or runs.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write.")],
) -> None:
    """Write stored trajectories as JSON, one a line, with all that is stored; `import` reads them back as they were.

    Example: `grpo-agents export runs/my/trajectories/eval-000100.parquet --out eval.jsonl`
    """
    from grpo_agents.jsonl import export as write_lines

    files = of_runs(files)
    typer.echo(f"wrote {write_lines(files, out)} trajectories to {out}")
