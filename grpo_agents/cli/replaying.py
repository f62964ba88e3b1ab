"""``replay``: whether environments still do what is stored of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grpo_agents.cli.errors import console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.table import Table

    from grpo_agents.replay import Replay, Tally
    from grpo_agents.trajectory import Trajectory

SHOWN = 5
"""So many differences are shown of a file."""

_STYLES = {"@": "cyan", "+": "green", "-": "red"}


def replay(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Trajectory files, folders of them, or runs.")],
    env: Annotated[
        str | None,
        typer.Option(
            metavar="ENV",
            help="Plays all of them. Else the one that each episode names, where it is built in: "
            "no code is run because a file names it.",
        ),
    ] = None,
    only: Annotated[str | None, typer.Option(metavar="ID", help="Only the episodes of this id, as 3.1.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON instead of text.")] = False,
) -> None:
    """Play stored episodes again, without a model: does the environment say, reward and end the same?

    It is reset with the stored task, seed and preference and stepped with the stored actions. Tools that belong to it
    (its methods, and sessions of Python) are run again. Others are from outside, and not called: the policy reads the
    stored result. Options of the environment are those of RUN/config.toml, for files of a run. Ends with 1 where
    anything differs, with 2 where nothing could be replayed.

    Example: `grpo-agents replay runs/my`
    """
    import json

    from rich.progress import MofNCompleteColumn, Progress, TextColumn

    tallies: dict[Path, Tally] = {}
    everything = list(_files(files))
    with Progress(
        TextColumn("replaying"),
        MofNCompleteColumn(),
        TextColumn("files  {task.fields[figures]}"),
        console=(screen := console(stderr=True)),
        transient=True,
        disable=not screen.is_terminal,
    ) as progress:
        bar, began = progress.add_task("", total=len(everything), figures=""), progress.get_time()
        done = 0
        for number, path in enumerate(everything):
            for tally in _replay_file(path, env, only):
                tallies[path] = tally
                done += 1
                speed = done / max(progress.get_time() - began, 1e-9)
                progress.update(bar, completed=number, figures=f"{done:,} episodes, {speed:,.0f} a second")
    if not tallies:
        raise ValueError(f"no episode has the id {only}" if only else "there are no episodes to replay")
    if as_json:
        typer.echo(json.dumps({str(path): _as_dict(tally) for path, tally in tallies.items()}, indent=2))
    else:
        _show(tallies)
    if not any(tally.replayed for tally in tallies.values()):
        raise typer.Exit(2)
    if any(tally.differences for tally in tallies.values()):
        raise typer.Exit(1)


def _files(paths: list[Path]) -> Iterator[Path]:
    """The files of folders and runs, one by one."""
    for path in paths:
        folder = inner if (inner := path / "trajectories").is_dir() else path
        yield from sorted(folder.glob("*.parquet")) or [folder]


def _replay_file(path: Path, env: str | None, only: str | None) -> Iterator[Tally]:
    """Replays the episodes of a file; the tally after each of them."""
    from grpo_agents import store
    from grpo_agents.replay import CannotReplay, Tally

    tally = Tally()
    players: dict[tuple[str, str], Replay] = {}
    try:
        for row, (place, trajectory) in enumerate(zip(store.read_places(path), store.iterate(path), strict=True)):
            if only is not None and trajectory.id != only:
                continue
            try:
                difference = _player(players, path, place["phase"], trajectory, env).play(trajectory)
            except CannotReplay as reason:
                tally.not_replayed[row, trajectory.id] = str(reason)
            else:
                if difference is None:
                    tally.same += 1
                else:
                    tally.differences[row, trajectory.id] = difference
            yield tally
    finally:
        for player in players.values():
            player.close()


def _player(
    players: dict[tuple[str, str], Replay], path: Path, phase: str, trajectory: Trajectory, env: str | None
) -> Replay:
    """What replays an episode: one for each environment and phase of a file."""
    from grpo_agents.replay import STEP_SECONDS, CannotReplay, Replay

    name = env or trajectory.env
    if not name:
        raise CannotReplay("it names no environment: say it, --env ENV")
    if env is None and not name.startswith("grpo_agents/"):
        raise CannotReplay(f"its environment is not built in: add --env {name} to run its code")
    if (name, phase) not in players:
        options, seconds = _of_run(path, trajectory.env, phase)
        if env is None and (code := _code_in(options)):
            raise CannotReplay(f"the options of its environment name code, {code!r}: add --env {name} to run it")
        seconds = STEP_SECONDS if seconds is None else seconds
        players[name, phase] = Replay(_maker(name, options, trajectory), seconds)
    return players[name, phase]


def _of_run(path: Path, env: str, phase: str) -> tuple[dict[str, Any], float | None]:
    """The options of an environment, and the seconds of a step, in the config of the run that a file lies in.

    Read as bare TOML, as to check a config may run code that it names.
    """
    import tomllib

    config = path.parent.parent / "config.toml"
    if path.parent.name != "trajectories" or not config.is_file():
        return {}, None
    data = tomllib.loads(config.read_text(encoding="utf-8"))
    if data.get("env", {}).get("id") != env:
        return {}, None
    options = data["env"].get("options", {})
    if phase == "eval":
        options = data.get("eval", {}).get("env_options") or options
    if "place" in data["env"]:
        options = {**options, "place": data["env"]["place"]}
    return options, data.get("rollout", {}).get("step_timeout")


def _code_in(options: Any) -> str | None:
    """What among options an environment may load as ``module:name`` or ``file.py:name``."""
    if isinstance(options, str):
        return options if ":" in options else None
    entries = options.values() if isinstance(options, dict) else options if isinstance(options, list) else ()
    return next((code for entry in entries if (code := _code_in(entry)) is not None), None)


def _maker(name: str, options: dict[str, Any], trajectory: Trajectory) -> Callable[[], Any]:
    """Makes an environment; one without tasks of its own is given one, as each is handed its task at reset."""
    from grpo_agents.env import AgentEnv, make_env

    def make() -> AgentEnv:
        try:
            return make_env(name, **options)
        except ValueError as error:
            if "has no tasks" not in str(error):
                raise
            return make_env(name, **{**options, "tasks": [trajectory.task]})

    return make


def _show(tallies: dict[Path, Tally]) -> None:
    """The differences of each file, and what came of its episodes."""
    screen = console()
    for path, tally in tallies.items():
        for number, ((_, name), difference) in enumerate(tally.differences.items()):
            if number == SHOWN:
                screen.print(
                    f"{len(tally.differences) - SHOWN} others of {path} differ; --json has all",
                    style="bold",
                    soft_wrap=True,
                )
                break
            screen.print(
                f"{path}, {name}, {difference.where}: other {difference.what}",
                style="bold", markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip
            for line in difference.lines():
                style = _STYLES.get(line[:1]) if line[:3] not in ("---", "+++") else "bold"
                screen.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
        for reason, count in Counter(tally.not_replayed.values()).items():
            screen.print(f"{path}: {count} not replayed: {reason}", markup=False, highlight=False, soft_wrap=True)
    screen.print(_table(tallies))


def _table(tallies: dict[Path, Tally]) -> Table:
    """How many episodes came out how: of each file that is not all the same, and of all."""
    from rich.table import Table

    table = Table("", "replayed", "the same", "different", "not replayed")
    for column in table.columns[1:]:
        column.justify = "right"
    for path, tally in tallies.items():
        if tally.differences or tally.not_replayed:
            table.add_row(str(path), *_counts([tally]))
    if table.rows:
        table.add_section()
    table.add_row(f"all of {len(tallies):,} file{'s' * (len(tallies) != 1)}", *_counts(list(tallies.values())))
    return table


def _counts(tallies: list[Tally]) -> list[str]:
    counts = [(tally.replayed, tally.same, len(tally.differences), len(tally.not_replayed)) for tally in tallies]
    return [f"{sum(column):,}" for column in zip(*counts, strict=True)]


def _as_dict(tally: Tally) -> dict[str, Any]:
    """For JSON."""
    return {
        "replayed": tally.replayed,
        "same": tally.same,
        "different": [
            {"row": row, "id": name, **asdict(difference)} for (row, name), difference in tally.differences.items()
        ],
        "not_replayed": [{"row": row, "id": name, "reason": why} for (row, name), why in tally.not_replayed.items()],
    }
