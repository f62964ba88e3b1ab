"""``explain``: what methods make of single tokens."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grpo_agents.cli.commands import Overrides
from grpo_agents.cli.errors import console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table
    from rich.text import Text

    from grpo_agents.lens import Explanation

LONG = 120
"""Sampled tokens from which on a trajectory of several turns is shown by turns."""

CLIPPED = "✂"


def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    trajectory: Annotated[str, typer.Option(metavar="ID", help="Which, by group and rollout: 3.0.")],
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="As dapo, or grpo,kl_weight=0.1,clip_low=0.3; run is the run's own. Else the run's own and the "
            "paper's six. May be given several times.",
        ),
    ] = None,
    step: Annotated[
        int | None, typer.Option(metavar="N", help="Of this training step. Else the last step that has the id.")
    ] = None,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="Of this trajectory file.")] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="π: a model or a checkpoint. Else the run's last one.")
    ] = None,
    turn: Annotated[int | None, typer.Option(min=0, metavar="N", help="Only this turn, counted from 0.")] = None,
    gradient: Annotated[
        bool, typer.Option("--gradient", help="Show −∂loss/∂log π itself, with the batch's divisors.")
    ] = False,
    save: Annotated[
        bool, typer.Option("--save", help="Also write a Parquet table into RUN/lens, to join with trajectories.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON instead of tables.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV: a line a token.")] = False,
    set_: Overrides = None,
) -> None:
    """Show, token by token, how hard each method would push a stored trajectory.

    A column holds a method's gradient coefficient: −∂loss/∂log π by differentiation, its own group being the whole
    batch, times |o| and the trajectories (DPO: pairs) that the loss averages over. That is the coefficient of
    DeepSeekMath's unified table, where the loss is a mean over trajectories of means over their tokens; with other
    aggregations it shows what they do to lengths.

    Example: `grpo-agents explain runs/my --trajectory 3.0`
    """
    if as_json and as_csv:
        raise ValueError("choose one of --json and --csv")
    from transformers.utils import logging

    logging.disable_progress_bar()
    from grpo_agents import lens
    from grpo_agents.run_folder import RunFolder

    found = lens.explain(
        run, trajectory, methods=method or None, step=step, file=file, weights=weights, overrides=set_ or ()
    )
    rows = found.table.to_pylist()
    turns = sorted({row["turn"] for row in rows})
    if turn is not None and turn not in turns:
        raise ValueError(f"--turn {turn}: trajectory {trajectory} has sampled tokens in turns {_listed(turns)}")
    saved = found.save(RunFolder(run).lens) if save else None
    if as_json:
        _print_json(found, [row for row in rows if turn in (None, row["turn"])])
    elif as_csv:
        _print_csv(found.table.column_names, [row for row in rows if turn in (None, row["turn"])])
    else:
        shown = turns[0] if turn is None and len(rows) > LONG and len(turns) > 1 else turn
        screen = console()
        for line in _header(found, gradient):
            screen.print(line, highlight=False, markup=False)
        screen.print(_legend(found))
        screen.print(_tokens(found, [row for row in rows if shown in (None, row["turn"])], gradient))
        if shown is not None:
            counts = Counter(row["turn"] for row in rows)
            others = ", ".join(f"--turn {number} ({counts[number]} tokens)" for number in turns if number != shown)
            screen.print(f"This was turn {shown}. Others: {others or 'none'}", highlight=False)
    if saved is not None:
        typer.echo(f"stored in {saved}", err=as_json or as_csv)


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _header(found: Explanation, gradient: bool) -> Iterator[str]:
    """What is seen."""
    rewards = ", ".join(f"{name} {_short(value)}" for name, value in found.trajectory.rewards.items())
    yield f"trajectory {found.trajectory.id} of {found.file.name}, one of a group of {found.group_size}: {rewards}"
    yield f"π: {found.policy}; π_ref: {found.reference}"
    yield ""
    yield "A method's column: how hard it pushes log π of the token, up or down, with this group as its batch,"
    scale = "" if gradient else " × |o| × trajectories (dpo: pairs)"
    yield f"−∂loss/∂log π{scale}. ρ = π/π_old; KL: k3 of π_ref; {CLIPPED}: the clip holds."
    yield ""
    for note in found.notes:
        yield f"({note})"


def _short(value: float | None) -> str:
    return "missing" if value is None else f"{value:.3g}"


def _legend(found: Explanation) -> Table:
    """A line a method: its data, its reward, its coefficient."""
    from rich.table import Table
    from rich.text import Text

    from grpo_agents.lens import OWN, PAPER

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("method", "data", "reward", "coefficient"):
        table.add_column(column, no_wrap=column != "coefficient")
    for name, reading in found.readings.items():
        called, _, settings = name.partition(",")
        words = Text(reading.formula.replace("``", ""))
        if settings := settings or ",".join(f"{key}={value}" for key, value in PAPER.get(name, {}).items()):
            words.append(f" ({settings})", "cyan")
        if reading.note:
            words.append(f" [{reading.note}]", "yellow")
        own = f"run: {reading.method.name}" if called == OWN else called
        table.add_row(Text(own), reading.source, reading.method.reward, words)
    return table


def _tokens(found: Explanation, rows: list[dict[str, Any]], gradient: bool) -> Table:
    """A row a token."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    first = next(iter(found.readings))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("token", overflow="ellipsis", max_width=16)  # the only one that gives way in a narrow terminal
    for name in ("log π", "ρ", "KL", f"Â\n{first}"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in found.readings:
        table.add_column(Text(_heading(name, list(found.readings))), justify="right", no_wrap=True)
    marked = {name for name in found.readings if any(row[f"{name}_clipped"] for row in rows)}
    for place, row in enumerate(rows):
        if place and row["turn"] != rows[place - 1]["turn"]:
            table.add_section()
        table.add_row(
            Text(visible(row["text"])),
            _number(row["logprob"]),
            _number(row["ratio"]),
            _number(row["kl"]),
            "—" if row["advantage"] is None else _number(row["advantage"], "+"),
            *(_coefficient(row, name, gradient, marked=name in marked) for name in found.readings),
        )
    return table


def _heading(name: str, names: list[str]) -> str:
    """A method's name in a narrow column; its settings, too, where another column has the same name."""
    called, _, settings = name.partition(",")
    alone = sum(other.partition(",")[0] == called for other in names) == 1
    return "\n".join([*called.split("_"), *([] if alone else settings.split(","))])


def _number(value: float, sign: str = "") -> str:
    """Three decimals, or three digits of what is large."""
    return format(value, f"{sign}z.3f" if abs(value) < 100 else f"{sign}.3g")


def _coefficient(row: dict[str, Any], name: str, gradient: bool, *, marked: bool) -> Text:
    """Coloured by its sign; where the column marks clipped tokens, with room for that."""
    from rich.text import Text

    value = row[f"{name}_gradient" if gradient else name]
    text = f"{value:+.2e}" if gradient else _number(value, "+")
    zero = not float(text)
    mark = (CLIPPED if row[f"{name}_clipped"] else " ") if marked else ""
    return Text(("0" if zero else text) + mark, "dim" if zero else "green" if value > 0 else "red")


def visible(text: str) -> str:
    r"""Text with its blanks and control characters to be seen.

    >>> visible(" a\tb\n")
    '␣a\\tb\\n'
    """
    return "".join(
        "␣" if char == " " else char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _print_json(found: Explanation, rows: list[dict[str, Any]]) -> None:
    import json

    typer.echo(json.dumps(found.as_dict() | {"tokens": rows}, indent=2, ensure_ascii=False))


def _print_csv(names: list[str], rows: list[dict[str, Any]]) -> None:
    import csv
    import sys

    writer = csv.DictWriter(sys.stdout, names)
    writer.writeheader()
    writer.writerows(rows)
