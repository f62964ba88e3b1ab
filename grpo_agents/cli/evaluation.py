"""``evaluate``: numbers from what is stored, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grpo_agents.cli.errors import console

if TYPE_CHECKING:
    from grpo_agents.rewards.component import RewardVector
    from grpo_agents.scoring import Scoring
    from grpo_agents.trajectory import Group, Trajectory


def evaluate_files(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Trajectory files, folders of them, or runs.")],
    rewards: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Components with commas between them, or one file.py:vector: computed anew, but for what the "
            "environment gave. Else what is stored.",
        ),
    ] = None,
    env: Annotated[
        str | None, typer.Option(metavar="ENV", help="Whose maxima scale costs. Else those that are stored.")
    ] = None,
    gate: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Component that multiplies the rest, '' for none. Else the one stored."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON instead of tables.")] = False,
) -> None:
    """Numbers from stored trajectories, with intervals clustered by task. Needs no model.

    Example: `grpo-agents evaluate runs/my/trajectories/eval-000100.parquet`
    """
    import json

    from grpo_agents import store
    from grpo_agents.evaluation import evaluate

    files = [folder if (folder := file / "trajectories").is_dir() else file for file in files]  # of a run folder, those
    stored = store.read_scoring(files)
    vector: RewardVector | None
    if rewards is None:
        trajectories = store.read(files)
        vector = stored.vector if stored else _vector_by_names(trajectories)
    else:
        groups = store.read_groups(files)
        trajectories = [trajectory for group in groups for trajectory in group.trajectories]
        vector = _vector(rewards, trajectories, stored)
        _score_anew(vector, groups)
    if vector is None and gate:
        raise ValueError(f"--gate {gate} needs a vector to gate: add --rewards file.py:vector")
    maxima = stored.maxima if stored and env is None else _maxima(env, trajectories)
    if gate is None and stored and stored.gate:
        gate = stored.gate if vector and stored.gate in vector.names else None
        if gate is None:
            typer.echo(f"no gate: the stored one, {stored.gate}, is not among these rewards", err=True)
    steps = store.read_steps(files)
    if len(steps) > 1:
        typer.echo(
            f"these episodes are of {len(steps)} policies, of steps {', '.join(map(str, steps[:-1]))} and {steps[-1]}, "
            "and are pooled here: name one file to see one",
            err=True,
        )
    summary = evaluate(trajectories, vector or (), maxima, gate or None)
    if as_json:
        typer.echo(json.dumps(summary.as_dict(), indent=2))
        return
    console().print(summary.as_table())
    if vector is None:
        typer.echo(
            "no scalar reward: whether more of a component of your own is better is known to its vector. "
            "Add --rewards file.py:vector"
        )


def _given(trajectories: Sequence[Trajectory]) -> list[str]:
    """The components that the environment itself gave."""
    return list(dict.fromkeys(name for entry in trajectories for step in entry.steps for name in step.rewards))


def _vector_by_names(trajectories: Sequence[Trajectory]) -> RewardVector | None:
    """The vector of a file that does not say it, as far as names tell; None where the direction of one is not known."""
    from grpo_agents.rewards import BUILT_IN
    from grpo_agents.rewards.component import RewardVector, from_environment

    known = {**{name: from_environment(name) for name in _given(trajectories)}, **BUILT_IN}
    names = dict.fromkeys(name for trajectory in trajectories for name in trajectory.rewards)
    return RewardVector([known[name] for name in names]) if names and known.keys() >= names.keys() else None


def _vector(names: str, trajectories: Sequence[Trajectory], stored: Scoring | None) -> RewardVector:
    """The vector that a person named: of what is built in, what the environment gave, and what is stored."""
    from grpo_agents.rewards import BUILT_IN, as_vector
    from grpo_agents.rewards.component import from_environment
    from grpo_agents.tasks import load_object

    given = {name: from_environment(name) for name in _given(trajectories)}
    given |= {entry.name: entry for entry in (stored.vector if stored else ()) if entry.name not in BUILT_IN}
    one = ":" in names and "," not in names
    wanted = load_object(names) if one else [name.strip() for name in names.split(",")]
    return as_vector(wanted, given, f"--rewards {names}")


def _score_anew(vector: RewardVector, groups: Sequence[Group]) -> None:
    """Computes what can be computed; a component without a function stays as it is stored, where it is."""
    from grpo_agents.rewards.component import RewardVector

    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    stored = {name for trajectory in trajectories for name in trajectory.rewards}
    kept = {entry.name for entry in vector if entry.function is None and entry.name in stored}
    for trajectory in trajectories:
        trajectory.rewards = {name: value for name, value in trajectory.rewards.items() if name in kept}
        trajectory.missing = {name: reason for name, reason in trajectory.missing.items() if name in kept}
    if computed := [entry for entry in vector if entry.name not in kept]:
        RewardVector(computed).score(groups)


def _maxima(env: str | None, trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """The environment's, or those of the built-in one that was played: no code is run because a data file names it."""
    from grpo_agents.env import make_env
    from grpo_agents.scoring import check_maxima

    played = {trajectory.env for trajectory in trajectories}
    if env is None and len(played) == 1 and (name := played.pop()).startswith("grpo_agents/"):
        env = name
    if not env:
        return {}
    made = make_env(env)
    check_maxima(made.maxima, made.components)
    return dict(made.maxima)
