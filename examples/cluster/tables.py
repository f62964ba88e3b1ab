"""The tables of docs/cluster.md, from throughput.json and simulation.json and nothing else.

python examples/cluster/tables.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def throughput(measured: dict[str, Any]) -> str:
    """Groups a second by workers, beside what the tools allow; what is moved; the driver's work."""
    rows = [
        [
            f"{row['workers']}",
            f"{row['groups_a_second']:.2f}",
            f"{row['at_most']:.2f}",
            f"{row['bytes_a_group'] / 1000:.1f} kB",
            f"{row['bytes_of_weights'] / 1e6:.2f} MB",
            f"{row['update_seconds']:.2f} s",
            f"{row['driver_ms_a_group']:.1f} ms",
        ]
        for row in measured["rows"]
    ]
    head = ["workers", "groups a second", "at most", "a group", "weights", "until all have them", "driver, a group"]
    return markdown(head, rows)


def simulation(simulated: dict[str, Any]) -> str:
    """Episodes a second by GPUs, for everything that is turned."""
    size = simulated["job"]["group_size"]
    gpus = sorted({row["gpus"] for row in simulated["rows"]})
    names = list(dict.fromkeys(row["turned"] for row in simulated["rows"]))
    found = {(row["turned"], row["gpus"]): row for row in simulated["rows"]}
    rows = [
        [name, *(f"{found[name, count]['batch'] * size / found[name, count]['step_seconds']:.0f}" for count in gpus)]
        for name in names
    ]
    return markdown(["GPUs", *map(str, gpus)], rows)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Prints them."""
    for name, table in (("throughput", throughput), ("simulation", simulation)):
        print(table(json.loads((HERE / f"{name}.json").read_text())), end="\n\n")


if __name__ == "__main__":
    main()
