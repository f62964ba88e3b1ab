"""The pictures of a run: those that it leaves in its folder, and all of them for a paper."""

from __future__ import annotations

from pathlib import Path

from grpo_agents import store
from grpo_agents.evaluation import evaluate
from grpo_agents.report import figures
from grpo_agents.report.collecting import calls_by_preference, collect, find_focus
from grpo_agents.report.pictures import curves, distributions, keys_of_curves, pareto, tool_use
from grpo_agents.report.sources import Source, find_batches
from grpo_agents.run_folder import RunFolder


def draw_run(path: str | Path) -> list[Path]:
    """Draws ``curves.png``, and ``tool_use.png`` of the last evaluation where there was one that had tools.

    Args:
        path: The run folder.

    Returns:
        The pictures that were drawn.

    Raises:
        ValueError: The run has no figures yet.
    """
    folder = RunFolder(path)
    pictures = [folder.curves]
    curves(folder.read_metrics(), folder.curves)
    evaluations = sorted(folder.trajectories.glob("eval-*.parquet"))
    if evaluations:
        calls = evaluate(store.iterate(evaluations[-1])).tool_calls_by_preference
        if any(calls.values()):
            pictures.append(folder.tool_use)
            tool_use(calls, folder.tool_use)
    return pictures


def draw_report(source: Source, folder: str | Path) -> list[Path]:
    """Draws curves, distributions, fronts and tool use, each as PNG and as SVG, as far as there is something to draw.

    Args:
        source: What they are of.
        folder: Where they go.

    Returns:
        The files.

    Raises:
        ValueError: There is nothing to draw; says what to do.
    """
    focus = find_focus(find_batches(source.files))
    found = collect([], focus, {})
    last = list(found.sets.values())[-1] if found.sets else []
    rows, calls = source.metrics(), calls_by_preference(focus)
    drawn = {}
    if keys_of_curves(rows):
        drawn["curves"] = lambda *paths: curves(rows, *paths)
    if histograms := figures.histograms(found.sets, found.scoring):
        drawn["distributions"] = lambda *paths: distributions(histograms, *paths)
    front = figures.pareto(last, found.scoring)
    if not front.why_not:
        drawn["pareto"] = lambda *paths: pareto(front, *paths)
    if calls:
        drawn["tool_use"] = lambda *paths: tool_use(calls, *paths)
    if not drawn:
        raise ValueError(f"{source.path}: there is nothing to draw yet. Let the run finish a step.")
    written = []
    for name, draw in drawn.items():
        paths = [Path(folder) / f"{name}.{kind}" for kind in ("png", "svg")]
        draw(*paths)
        written += paths
    return written
