"""``rescore``: stored trajectories with other rewards, or under another preference."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from grpo_agents.cli.commands import of_runs, parse_weights
from grpo_agents.cli.errors import console


def rescore_files(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Trajectory files, folders of them, or runs.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The Parquet file to write; those read stay as they are.")],
    reward: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Components with commas between them, or one file.py:vector: computed anew, but for what the "
            "environment gave. Those that are stored beside them stay.",
        ),
    ] = None,
    preference: Annotated[
        str | None,
        typer.Option(metavar="WEIGHTS", help="What every trajectory is weighed by instead, as outcome=1,cost=0.2."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that compute. Else one a core.")] = None,
) -> None:
    """Compute rewards of stored trajectories, or weigh them otherwise, into a new file. Stopped, it can go on.

    Example: `grpo-agents rescore runs/my/trajectories --reward matters.py:vector --out runs/rescored.parquet`
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from grpo_agents.rescoring import rescore

    files = of_runs(files)
    screen = console(stderr=True)
    columns = (TextColumn("trajectories"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=screen, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("trajectories")
            done = rescore(
                files,
                out,
                vector=reward,
                preference=None if preference is None else parse_weights(preference),
                workers=workers or os.cpu_count() or 1,
                progress=lambda count, total: bar.update(task, completed=count, total=total),
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; what is computed is kept, and the same command goes on with it") from None
    lines = []
    if done.resumed:
        lines.append(f"{done.resumed} trajectories had been scored when this was stopped, and were not scored again")
    if done.replaced:
        lines.append(f"replaced in {out}, and as it was in the files read: {', '.join(done.replaced)}")
    lines += [
        f"no {name}: {missing.count} of {done.trajectories} trajectories; the first is row {missing.row} of "
        f"{missing.file}: {missing.reason}"
        for name, missing in done.missing.items()
    ]
    if done.other_preference:
        lines.append(
            "the policy was not shown this preference: training from the file wants source.other_preference = true"
        )
    for line in lines:
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
    typer.echo(f"stored {done.trajectories} trajectories in {out}")
