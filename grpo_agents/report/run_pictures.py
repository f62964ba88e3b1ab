"""The pictures of a run, drawn into its folder."""

from __future__ import annotations

from pathlib import Path

from grpo_agents import store
from grpo_agents.evaluation import evaluate
from grpo_agents.report.pictures import curves, tool_use
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
