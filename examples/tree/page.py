"""The picture and the tables of docs/tree.md.

    python examples/tree/page.py

draws docs/tree/tree.svg (a group of four rollouts as rows, as a tree, and who attends to whom), and writes the tables
anew from what ``make bench-learner`` leaves in runs/bench/. It needs matplotlib.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grpo_agents.learner.tree import Tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROMPT = list("pppppp")
ROLLOUTS = ["aaarrAA", "aaarrBBB", "bbbbrrCC", "cccDD"]
"""What follows the prompt: letters that rollouts share are tokens that they share; r is what a tool answered."""

COLOURS = {"p": "#BDBDBD", "r": "#E4E4E4"} | dict.fromkeys("aAB", "#7FB3D5") | dict.fromkeys("bC", "#F0B27A")
COLOURS |= dict.fromkeys("cD", "#7DCEA0")
INK = "#333333"

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "runs" / "bench"
DOCS = REPOSITORY / "docs"


def main() -> None:
    """Writes both."""
    import matplotlib as mpl

    page = DOCS / "tree.md"
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
    folder = DOCS / "tree"
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "tree"}):  # the same file every time
        draw().savefig(folder / "tree.svg", metadata={"Date": None})


def with_tables(page: str) -> str:
    """The page, with what stands between ``<!-- table NAME -->`` and ``<!-- end -->`` made anew of the results."""

    def anew(found: re.Match[str]) -> str:
        measured = json.loads((RESULTS / f"{found[1]}.json").read_text(encoding="utf-8"))
        versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items() if name != "numpy")
        about = f"*{measured['date']}; {measured['machine']}; {versions}.*"
        return f"<!-- table {found[1]} -->\n{TABLES[found[1]](measured['rows'])}\n\n{about}\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", anew, page, flags=re.DOTALL)


def beside_trl(rows: list[dict[str, Any]]) -> str:
    """Time and memory of a step beside TRL's, and time beside the limit."""
    return _table(
        ["groups", "TRL", "here", "faster", "TRL's memory", "here", "share", "limit", "of limit", "gradients apart"],
        [
            [
                row["work"], f"{row['TRL s']:.1f} s", f"{row['ours s']:.2f} s", f"**{row['faster']:.1f} ×**",
                f"{row['TRL MiB']:,.0f} MiB", f"{row['ours MiB']:,.0f} MiB", f"**{row['memory']:.2f}**",
                f"{row['limit s']:.2f} s", f"{row['of limit']:.2f}", f"{row['gradients apart']:.0e}",
            ]
            for row in rows
        ],
    )  # fmt: skip


def growth(rows: list[dict[str, Any]]) -> str:
    """Time by operations."""
    found = [
        [f"{row['prompt']:,}", str(row["groups"]), f"{row['operations'] / 1e9:,.0f} G", f"{row['seconds']:.2f} s"]
        for row in rows
    ]
    return (
        _table(["prompt", "groups", "operations", "time"], found)
        + f"\n\nR² of a line through them: {rows[0]['R² of all']:.4f}."
    )


def ways(rows: list[dict[str, Any]]) -> str:
    """Time of each way to compute the same."""
    found = [[row["work"], row["as"], f"{row['s']:.2f} s", f"{row['utilisation']:.2f}"] for row in rows]
    return _table(["groups", "computed as", "time", "utilisation"], found)


TABLES: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "learner": beside_trl,
    "learner_growth_cpu": growth,
    "learner_ways_cpu": ways,
}


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw() -> Figure:
    """Three panels."""
    from matplotlib.figure import Figure

    rows = [[*PROMPT, *rollout] for rollout in ROLLOUTS]
    tree = Tree.of([np.array([ord(letter) for letter in row]) for row in rows])
    figure = Figure((11, 4.6), dpi=150, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    _rows_and_tree(left, rows, tree)
    _attention(right, tree)
    return figure


def _cell(axes: Axes, x: float, y: float, letter: str, colour: str | None = None) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y), 0.92, 0.86, facecolor=colour or COLOURS[letter], edgecolor="none"))


def _rows_and_tree(axes: Axes, rows: list[list[str]], tree: Tree) -> None:
    width = max(map(len, rows))
    for number, row in enumerate(rows):
        for place in range(width):
            _cell(axes, place, -number, row[place] if place < len(row) else "", None if place < len(row) else "#F7F7F7")
    axes.text(0, 1.35, f"four rollouts, padded: {width * len(rows)} tokens", **_words(bold=True))
    top = -len(rows) - 2.6
    axes.text(0, top + 1.35, f"the same as a tree: {len(tree.ids)} tokens", **_words(bold=True))
    lines: dict[int, int] = {}  # which line each node stands on: a fork begins a new one
    free = 0
    for node, (ident, depth, parent) in enumerate(zip(tree.ids, tree.depth, tree.parent, strict=True)):
        follows = parent == node - 1 and node > 0
        if not follows and node:
            free += 1
        lines[node] = lines[node - 1] if follows else free
        _cell(axes, depth, top - lines[node], chr(ident))
        axes.text(depth + 0.46, top - lines[node] + 0.4, str(node), ha="center", va="center", fontsize=6.5, color=INK)
        if not follows and node:
            upper, lower = top - lines[int(parent)], top - lines[node] + 0.43
            axes.plot([depth - 0.54, depth - 0.54, depth - 0.05], [upper, lower, lower], color=INK, linewidth=0.9)
    axes.set_xlim(-0.3, width + 0.2)
    axes.set_ylim(top - free - 1.6, 2.3)
    labels = (("#BDBDBD", "prompt"), ("#E4E4E4", "a tool's answer"), ("#7FB3D5", "sampled, by rollout"))
    for number, (colour, label) in enumerate(labels):
        _cell(axes, 4.9 * number, top - free - 1.5, "", colour)
        axes.text(4.9 * number + 1.15, top - free - 1.1, label, va="center", **_words())
    axes.set_aspect("equal")
    axes.axis("off")


def _attention(axes: Axes, tree: Tree) -> None:
    nodes = len(tree.ids)
    shown = np.ones((nodes, nodes, 3))
    for start, stop, end in tree.segments:
        own = np.tri(stop - start, dtype=bool)
        shown[start:stop, start:stop][own] = (0.33, 0.45, 0.62)
        shown[stop:end, start:stop] = (0.68, 0.78, 0.89)
    axes.imshow(shown, extent=(0, nodes, nodes, 0), interpolation="none")
    for start, _, _ in tree.segments:
        axes.axhline(start, color="#DDDDDD", linewidth=0.6)
        axes.axvline(start, color="#DDDDDD", linewidth=0.6)
    axes.text(0, -1.9, "who attends (down) to whom (across)", **_words(bold=True))
    axes.text(0, -0.6, "dark: a stretch to itself; light: all that descend from it to it", **_words())
    ticks = [start for start, _, _ in tree.segments]
    axes.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=7, color=INK)
    axes.set_yticks(ticks, [str(tick) for tick in ticks], fontsize=7, color=INK)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_color("#BBBBBB")


def _words(*, bold: bool = False) -> dict[str, Any]:
    return {"color": INK, "fontsize": 9.5 if bold else 8.5, "fontweight": "bold" if bold else "normal"}


if __name__ == "__main__":
    main()
