r"""Figures as tables: for the terminal, and as Markdown.

>>> print(Table("Two", ("name", "value"), (("a|b", "1"),)).as_markdown())
**Two**
<BLANKLINE>
| name | value |
|---|---:|
| a\|b | 1 |
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from rich.console import Group
from rich.table import Table as Drawn
from rich.text import Text

from grpo_agents.evaluation.statistics import Interval

NOT_KNOWN = "n/a"
"""What stands for a figure that cannot be said."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts.

    Attributes:
        title: Says what it is about.
        head: Names of the columns; all but the first are aligned at the right.
        rows: A text for each column.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def drawn(self) -> Drawn:
        """For the terminal."""
        table = Drawn(title=Text(self.title), title_justify="left")
        for place, name in enumerate(self.head):
            table.add_column(name, justify="right" if place else "left")
        for row in self.rows:
            table.add_row(*map(Text, row))  # Text, since an error's brackets would be taken for markup
        return table

    def as_markdown(self) -> str:
        """As Markdown."""
        lines = [self.head, ["---", *["---:"] * (len(self.head) - 1)], *self.rows]
        marked = [f"|{'|'.join(line)}|" if at == 1 else _line(line) for at, line in enumerate(lines)]
        return "\n".join([f"**{_escaped(self.title)}**", "", *marked])


class Shown(ABC):
    """Figures, a dataclass, that are shown as tables."""

    __slots__ = ()

    @abstractmethod
    def tables(self) -> list[Table]:
        """What there is to say."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: plain values, None for what cannot be said."""
        return plain(self)

    def as_table(self) -> Group:
        """For the terminal, to be printed by a ``rich.console.Console``."""
        return drawn(self.tables())

    def as_markdown(self) -> str:
        """As Markdown."""
        return as_markdown(self.tables())


def drawn(tables: Iterable[Table]) -> Group:
    """Tables with something in them, for the terminal: to be printed by a ``rich.console.Console``."""
    return Group(*(table.drawn() for table in tables if table.rows))


def as_markdown(tables: Iterable[Table]) -> str:
    """Tables with something in them, as Markdown."""
    return "\n\n".join(table.as_markdown() for table in tables if table.rows)


def number(value: float) -> str:
    """Three digits, or all of a large number.

    >>> number(0.12345), number(12345.6), number(float("nan"))
    ('0.123', '12,346', 'n/a')
    """
    if math.isnan(value):
        return NOT_KNOWN
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def between(interval: Interval) -> str:
    """Where a mean may lie."""
    return NOT_KNOWN if math.isnan(interval.low) else f"{number(interval.low)} … {number(interval.high)}"


def with_interval(interval: Interval) -> str:
    """A mean and where it may lie."""
    return number(interval.mean) if math.isnan(interval.low) else f"{number(interval.mean)} ({between(interval)})"


def plain(value: Any) -> Any:
    """Figures as plain values for JSON: None for what is not finite."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    """Text that is only text in Markdown, on one line."""
    for mark in ("\\", "|", "<", "*", "_", "`", "["):
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
