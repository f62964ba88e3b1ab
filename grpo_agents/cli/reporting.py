"""``report``: a page and pictures of what is stored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from grpo_agents.report.sources import Source


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, or a folder or file of trajectories.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The page. Else report.html in the folder.")] = None,
    limit: Annotated[
        int, typer.Option(min=1, metavar="N", help="The most trajectories on the page; evaluations come first.")
    ] = 5000,
    pictures: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Only draw pictures, each as PNG and as SVG.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve the page on 127.0.0.1 while the run goes on. Ctrl-C ends it.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="Of --watch; 0 takes a free one.")] = 0,
) -> None:
    """Write one HTML file with curves, distributions, fronts and every trajectory to read. It needs no network.

    Example: `grpo-agents report runs/my`

    While the run goes on: `grpo-agents report runs/my --watch`
    """
    from grpo_agents.report.document import write_report
    from grpo_agents.report.sources import find_source

    if pictures is not None and (watch or out):
        raise ValueError("--pictures draws pictures and no page: leave out --watch and --out, or call it twice")
    source = find_source(run)
    if pictures is not None:
        from grpo_agents.report.run_pictures import draw_report

        for path in draw_report(source, pictures):
            typer.echo(path)
    elif watch:
        _watch(source, out or source.out, limit, port)
    else:
        page = out or source.out
        size = write_report(source, page, limit)
        typer.echo(f"{page} ({size / 1e6:.1f} MB)")


def _watch(source: Source, out: Path, limit: int, port: int) -> None:
    from grpo_agents.report.watch import Watch

    with Watch(source, out, limit, port, lambda text: typer.echo(text, err=True)) as served:
        typer.echo(f"{served.url} shows {source.path} as it goes on; Ctrl-C ends it")
        served.run()
