"""``evaluate``: numbers from what is stored, without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grpo_agents.cli.commands import of_runs, parse_weights
from grpo_agents.cli.errors import console

if TYPE_CHECKING:
    from grpo_agents.env import AgentEnv
    from grpo_agents.evaluation import Best
    from grpo_agents.evaluation.episodes import Episodes
    from grpo_agents.evaluation.summary import Summary
    from grpo_agents.evaluation.tables import Table
    from grpo_agents.rewards.component import Component, RewardVector

NAMED = 10
"""Of more steps than these a message does not name each."""

Files = Annotated[list[Path], typer.Argument(metavar="FILE", help="Trajectory files, folders of them, or runs.")]
Reward = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Components with commas between them, or one file.py:vector: computed anew, but for what the environment "
        "gave. Else what is stored.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="WEIGHTS", help="As outcome=1,cost=0.2: what every user weighs. Else what each did."),
]
EnvOption = Annotated[
    str | None,
    typer.Option(metavar="ENV", help="Whose maxima scale costs, and whose best there is. Else as it is stored."),
]
Gate = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Component that multiplies the rest, '' for none. Else the one stored."),
]


def evaluate_files(
    files: Files,
    reward: Reward = None,
    preference: Weights = None,
    env: EnvOption = None,
    gate: Gate = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="Split by a key of the tasks, or by preference, run, step, env, file or phase."
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="OTHER", help="Compare with these, paired by task: a file, a folder or a run."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON instead of tables.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown instead.")] = False,
) -> None:
    """Numbers from stored trajectories, with 95 % intervals clustered by task. Needs no model.

    Example: `grpo-agents evaluate runs/my/trajectories/eval-000100.parquet --by level`

    Is it better? `grpo-agents evaluate runs/new --against runs/old`
    """
    from grpo_agents.evaluation.comparison import compare
    from grpo_agents.evaluation.summary import parts_table

    problems: list[str] = []
    side = load(files, problems.append, reward, preference, env, gate)
    summary = side.evaluated(side.episodes)
    tables, found = summary.tables(), summary.as_dict()
    if by is not None:
        parts = {label: side.evaluated(side.episodes.where(mask)) for label, mask in side.episodes.parts(by).items()}
        tables.append(parts_table(by, parts))
        found["by"] = {label: part.as_dict() for label, part in parts.items()}
    elif len(steps := sorted(set(side.episodes.step.tolist()))) > 1:
        which = ", ".join(map(str, steps[:-1])) if len(steps) <= NAMED else f"{steps[0]}, {steps[1]} …"
        typer.echo(
            f"these episodes are of {len(steps)} policies, of steps {which} and {steps[-1]}, "
            "and are pooled here: name one file to see one, or add --by step",
            err=True,
        )
    if against is not None:
        other = load([against], problems.append, reward, preference, env, gate)
        comparison = compare(side.episodes, other.episodes, side.vector, side.maxima, side.gate)
        tables += comparison.tables()
        found["against"] = {"files": str(against), **comparison.as_dict()}
    _print(tables, found, as_json, as_markdown)
    if not side.vector:
        typer.echo(
            "no scalar reward: whether more of a component of your own is better is known to its vector. "
            "Add --reward file.py:vector",
            err=True,
        )
    _end(problems)


def pareto(
    files: Files,
    by: Annotated[
        str,
        typer.Option(
            metavar="KEY",
            help="A point for each preference, run, step, file, or value of a key of the tasks; several with commas.",
        ),
    ] = "preference",
    axes: Annotated[
        str, typer.Option(metavar="NAMES", help="Components that count; else outcome and what costs.")
    ] = "",
    reward: Reward = None,
    env: EnvOption = None,
    gate: Gate = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON instead of tables.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown instead.")] = False,
) -> None:
    """Accuracy against cost against latency: the Pareto front over preferences, models or runs, and its hypervolume.

    Example: `grpo-agents pareto runs/my/trajectories/eval-000100.parquet`

    Runs: `grpo-agents pareto runs/*/trajectories/eval-000100.parquet --by run`
    """
    from grpo_agents.evaluation.pareto import sweep

    problems: list[str] = []
    side = load(files, problems.append, reward, None, env, gate)
    judge = side.gate or "outcome"
    known = [entry.name for entry in side.vector]
    if not axes and judge not in known:
        there = ", ".join(known) or "none, as no vector says which way they count: add --reward"
        raise ValueError(f"no component is called {judge!r}: name those that count with --axes; there are: {there}")
    costs = [entry.name for entry in side.vector if entry.direction == "min"]
    names = [name.strip() for name in axes.split(",")] if axes else [judge, *costs]
    parts = {label: side.evaluated(side.episodes.where(mask)) for label, mask in side.episodes.parts(by).items()}
    found = sweep(by, parts, names, side.vector, side.maxima)
    _print(found.tables(), found.as_dict(), as_json, as_markdown)
    _end(problems)


def _print(tables: Sequence[Table], found: dict[str, Any], as_json: bool, as_markdown: bool) -> None:
    """Figures as a person asked for them."""
    import json

    from grpo_agents.evaluation.tables import as_markdown as to_markdown
    from grpo_agents.evaluation.tables import drawn

    if as_json:
        typer.echo(json.dumps(found, indent=2))
    elif as_markdown:
        typer.echo(to_markdown(tables))
    else:
        console().print(drawn(tables))


def _end(problems: Sequence[str]) -> None:
    """Says what was left out, and fails where something was."""
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Side:
    """Episodes, and what makes one number of their rewards."""

    episodes: Episodes
    vector: Sequence[Component]
    maxima: dict[str, float]
    gate: str | None
    best: Best | None

    def evaluated(self, episodes: Episodes) -> Summary:
        """The summary of some of them."""
        from grpo_agents.evaluation import evaluate

        return evaluate(episodes, self.vector, self.maxima, self.gate, self.best)


def load(
    files: Sequence[Path],
    problem: Callable[[str], None],
    reward: str | None = None,
    preference: str | None = None,
    env: str | None = None,
    gate: str | None = None,
) -> Side:
    """Reads episodes as options say.

    Args:
        files: Files, folders, runs.
        problem: Told what is left out.
        reward: See :data:`Reward`.
        preference: See :data:`Weights`.
        env: See :data:`EnvOption`.
        gate: See :data:`Gate`.

    Raises:
        ValueError: Options that do not fit what is stored; says which.
    """
    from grpo_agents import store
    from grpo_agents.evaluation.episodes import Episodes
    from grpo_agents.rescoring import given_by, read_vector, with_rewards

    files = of_runs(files)
    with console(stderr=True).status("reading") as status:
        episodes = Episodes.read(files, problem, lambda count: status.update(f"{count:,} episodes read"))
        read = episodes.file.values  # what could be
        stored = store.read_scoring(read)
        if reward is None:
            vector = stored.vector if stored else _vector_by_names(episodes, read)
        else:
            status.update(f"computing {reward}")
            given = given_by(stored, _given(read))
            vector = read_vector(reward, given, f"--reward {reward}")
            episodes = with_rewards(episodes, vector, given)
    if vector is None and gate:
        raise ValueError(f"--gate {gate} needs a vector to gate: add --reward file.py:vector")
    if preference is not None:
        if vector is None:
            raise ValueError("--preference weighs components that no vector says how to weigh: add --reward")
        weights = parse_weights(preference)
        vector.check_preference(weights)
        episodes = episodes.preferring(weights)
    if gate is None and stored and stored.gate:
        gate = stored.gate if vector and stored.gate in vector.names else None
        if gate is None:
            typer.echo(f"no gate: the stored one, {stored.gate}, is not among these rewards", err=True)
    made = _environment(env, episodes)
    maxima = stored.maxima if stored and env is None else {} if made is None else dict(made.maxima)
    return Side(episodes, vector or (), maxima, gate or None, _best(made, vector or (), maxima, gate or None))


def _given(files: Sequence[str]) -> list[str]:
    """The components that the environment itself gave."""
    from grpo_agents import store

    names: dict[str, None] = {}
    for file in store.files(files):
        for batch in store.scan(file, ["steps.rewards.name"], 4096):
            rewards = batch["steps"].flatten().flatten()[0]
            names |= dict.fromkeys(rewards.flatten().flatten()[0].unique().to_pylist())
    return list(names)


def _vector_by_names(episodes: Episodes, files: Sequence[str]) -> RewardVector | None:
    """The vector of files that do not say it, as far as names tell; None where the direction of one is not known."""
    from grpo_agents.rewards import BUILT_IN, USES, uses
    from grpo_agents.rewards.component import RewardVector, from_environment

    known = {**{name: from_environment(name) for name in _given(files)}, **BUILT_IN}
    names = episodes.rewards.keys()
    known |= {name: uses(name.removeprefix(USES)) for name in names if name.startswith(USES)}
    return RewardVector([known[name] for name in names]) if names and known.keys() >= names else None


def _environment(env: str | None, episodes: Episodes) -> AgentEnv | None:
    """The environment that is named, or the built-in one that was played.

    No code is run because a data file names it.
    """
    from grpo_agents.env import make_env
    from grpo_agents.scoring import check_maxima

    played = {name for name, _ in episodes.task.values}
    if env is None and len(played) == 1 and (name := played.pop()).startswith("grpo_agents/"):
        env = name
    if not env:
        return None
    made = make_env(env)
    check_maxima(made.maxima, made.components)
    return made


def _best(
    made: AgentEnv | None, vector: Sequence[Component], maxima: Mapping[str, float], gate: str | None
) -> Best | None:
    """What the scalar reward can come to, where the environment says it."""
    from grpo_agents.env import AgentEnv
    from grpo_agents.evaluation import best_of

    if made is None or type(made).expected_rewards is AgentEnv.expected_rewards:
        return None
    return best_of(made.expected_rewards, vector, maxima, gate)
