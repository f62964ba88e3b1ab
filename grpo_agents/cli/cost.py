"""``cost``: what a run needs, before it is run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grpo_agents.cli.commands import ConfigFile, Overrides
from grpo_agents.cli.errors import console

if TYPE_CHECKING:
    from grpo_agents.config import Config
    from grpo_agents.cost import Compared, Estimate, Shape
    from grpo_agents.workload import Workload


def cost(
    config: ConfigFile,
    set_: Overrides = None,
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A run whose trajectories say how many tokens there are.")
    ] = None,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a prompt, which no budget bounds.")] = 512,
    observation: Annotated[int, typer.Option(min=0, help="Tokens told between two turns, as well.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON instead of tables.")] = False,
) -> None:
    """Estimate operations, memory and disk of a config's run, and of the other methods. Loads no weights.

    Example: `grpo-agents cost my.toml --run runs/tried`
    """
    import json
    from dataclasses import asdict

    from grpo_agents.config import load_config
    from grpo_agents.cost import compare, estimate
    from grpo_agents.learner.shape import load_judge, load_shape
    from grpo_agents.workload import budgeted

    settings = load_config(config, set_ or ())
    shape = load_shape(settings.model)
    judge = None if settings.reward_model is None else load_judge(settings.reward_model)
    size = None
    if run is None:
        work = budgeted(settings, shape, prompt=prompt, observation=observation)
    else:
        work, size = _of_run(settings, run)
    found = estimate(settings, shape, work, judge=judge, prompt=prompt, observation=observation, file_bytes=size)
    methods = compare(settings, shape, work, judge)
    if as_json:
        sums = {"flops": found.flops, "stored": found.on_disk}
        sums |= {when: found.needed(when) for when in found.moments}
        shown = {"total": sums, "shape": asdict(shape), **asdict(found), "methods": [asdict(row) for row in methods]}
        typer.echo(json.dumps(shown, indent=2))
        return
    _show(settings, shape, found, methods, run)


def _of_run(config: Config, run: Path) -> tuple[Workload, float]:
    """What the steps of a run computed on average, and the mean size of their files."""
    import numpy as np

    from grpo_agents import store
    from grpo_agents.run_folder import RunFolder
    from grpo_agents.workload import measured

    folder = RunFolder(run)
    trajectories = folder.trajectories
    files = sorted(trajectories.glob("train-*.parquet")) or sorted(trajectories.glob("frozen-*.parquet"))
    if not files:
        raise FileNotFoundError(
            f"{trajectories} holds no trajectories of training: name the folder of a run that samples, with "
            "train.store = true"
        )
    replaced = [row["groups_replaced"] for row in folder.read_metrics() if "groups_replaced" in row]
    work = measured(config, [store.read_groups(file) for file in files], replaced=float(np.mean(replaced or 0)))
    return work, float(np.mean([file.stat().st_size for file in files]))


def _show(config: Config, shape: Shape, found: Estimate, methods: list[Compared], run: Path | None) -> None:
    work, screen = found.workload, console()
    adapters = f" and {_short(shape.policy.adapters)} of adapters" if shape.policy.adapters else ""
    weights = f"{_short(shape.policy.count - shape.policy.adapters)} weights{adapters}"
    turns = f"{work.turns:.3g} turn{'s' * (work.turns != 1)}"
    said = f"{work.told:,.0f} tokens told and {work.sampled:,.0f} sampled in {turns}"
    lines = [
        f"{config.model.path}: {weights}, {shape.layers} layers, d = {shape.width}, {shape.vocabulary:,} words",
        f"{config.method['name']}: {work.rollouts} episodes a step, {said}, each",
        f"(means of {run})" if work.measured else _ASSUMED[config.source_kind in ("demonstrations", "pairs")],
    ]
    may = min(config.rollout.max_tokens, config.rollout.max_turns * config.rollout.max_turn_tokens)
    if not work.measured and work.sampled < may:
        lines += [
            f"The context leaves room for {work.sampled:,.0f} of the {may:,} tokens that an episode may sample:",
            "say how long prompts and observations are (--prompt, --observation), or take a run's (--run)",
        ]
    longest = config.learner.max_tokens
    if work.longest > longest:
        lines.append(f"An episode of {work.longest:,} tokens is refused: learner.max_tokens is {longest:,}")
    for line in lines:
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
    table = _table("operations", "tokens", "FLOPs", "times", "in the run")
    for phase in found.phases:
        run_flops = _short(phase.flops * phase.times)
        table.add_row(phase.name, _short(phase.tokens), _short(phase.flops), f"{phase.times:,}", run_flops)
    table.add_section()
    table.add_row("all", "", "", "", _short(found.flops))
    screen.print(table)
    table = _table("memory", "bytes", "while")
    for part in found.memory:
        table.add_row(part.name, _short(part.bytes), part.when)
    table.add_section()
    for when in found.moments:
        table.add_row("all but activations", _short(found.needed(when)), when)
    screen.print(table)
    table = _table("disk", "bytes", "files", "in the run")
    for entry in found.stored:
        table.add_row(entry.name, _short(entry.bytes), f"{entry.count:,}", _short(entry.bytes * entry.count))
    table.add_section()
    table.add_row("all", "", "", _short(found.on_disk))
    screen.print(table)
    tokens = _short(work.tokens)
    table = _table(f"methods, D = {tokens}", "FLOPs", "/ND", "textbook", "memory", "/N", "textbook")
    table.columns[0].no_wrap = False
    for row in methods:
        flops, size = row.textbook
        figures = (_short(row.flops), f"{row.per_token:.1f}", f"{flops:g}", _short(row.bytes), f"{row.per_weight:.1f}")
        table.add_row(", ".join(row.methods), *figures, str(size))
    screen.print(table)


_ASSUMED = {
    False: "(the most that the budgets of [rollout] allow; --prompt and --observation assumed)",
    True: "(no key bounds what people wrote: as long as episodes of [rollout], --prompt and --observation)",
}
"""Where tokens come from, by whether people wrote them."""


def _table(first: str, *others: str) -> Any:
    from rich.table import Table

    table = Table()
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _short(value: float) -> str:
    """Three digits and a prefix of thousands: 1.23 G.

    >>> _short(1234567.0), _short(12)
    ('1.23 M', '12')
    """
    power = 0
    while abs(value) >= 999.5:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {' kMGTPEZY'[power]}".strip()
