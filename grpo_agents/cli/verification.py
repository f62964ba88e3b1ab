"""``verify``: whether two answers of mathematics are the same."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from grpo_agents.cli.errors import console


def verify(
    gold: Annotated[str, typer.Argument(metavar="GOLD", help="The right answer, in LaTeX or plain.")],
    answer: Annotated[str, typer.Argument(metavar="ANSWER", help="The answer to judge.")],
    response: Annotated[
        bool, typer.Option("--response", help=r"ANSWER is a whole response: what is in its last \\boxed{} is judged.")
    ] = False,
    marker: Annotated[
        str | None, typer.Option(metavar="TEXT", help="In a response, what an answer may also follow, such as ####.")
    ] = None,
    digits: Annotated[int, typer.Option(min=1, help="Digits from which a rounded decimal stands for a number.")] = 6,
    percent: Annotated[
        Literal["either", "value", "number"], typer.Option(help="Whether 50 % is 1/2, 50, or either.")
    ] = "either",
    degrees: Annotated[Literal["unit", "radians"], typer.Option(help="Whether 90° is 90 or half of pi.")] = "unit",
    boxes: Annotated[
        Literal["last", "refuse", "adjacent"],
        typer.Option(help="Of several boxes the last counts, or none, or those side by side as a list."),
    ] = "last",
    prose: Annotated[bool, typer.Option("--prose", help="Look for answers inside their sentences.")] = False,
) -> None:
    r"""Show whether two answers of mathematics are the same, and why. Exit code 0 if they are, 1 if not.

    Example: grpo-agents verify '\frac12' '0.5'
    """
    from rich.table import Table

    from grpo_agents.rewards.math_answer import Conventions, extract
    from grpo_agents.rewards.math_answer import verify as compare

    conventions = Conventions(digits=digits, percent=percent, degrees=degrees, boxes=boxes, prose=prose)
    found: str | None = answer
    if response and (found := extract(answer, marker)) is None:
        typer.echo("no answer: the response has no \\boxed{}" + (f" and no {marker}" if marker else ""))
        raise typer.Exit(1)
    verdict = compare(gold, found, conventions)
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in (
        ("verdict", verdict.status), ("by", verdict.rule), ("gold", verdict.gold), ("answer", verdict.answer)
    ):  # fmt: skip
        table.add_row(name, value or "—")
    console().print(table)
    typer.echo(verdict.sentence)
    if not verdict:
        raise typer.Exit(1)
