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
            f"{bytes_a_step(row, measured['groups_a_step']) / 1e6:.2f} MB",
            f"{row['update_seconds']:.2f} s",
            f"{row['driver_ms_a_group']:.1f} ms",
        ]
        for row in measured["rows"]
    ]
    step = f"a step of {measured['groups_a_step']} groups"
    head = ["workers", "groups a second", "at most", "a group", "weights", step, "until all have them"]
    return markdown([*head, "driver, a group"], rows)


def bytes_a_step(row: dict[str, Any], groups: int) -> float:
    """What a step moves: its groups to the driver, the weights to each worker."""
    return groups * row["bytes_a_group"] + row["workers"] * row["bytes_of_weights"]


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


def weights(simulated: dict[str, Any]) -> str:
    """Seconds until all workers have new weights, by GPUs, for each way that was simulated."""
    found = {(row["collective"], row["gpus"]): row["weights_seconds"] for row in simulated["rows"]}
    gpus = sorted({count for _, count in found})
    ways = [("collective", True), ("store", False)]
    rows = [[f"`{name}`", *(f"{found[way, count]:.1f}" for count in gpus)] for name, way in ways]
    return markdown(["`cluster.weights`", *map(str, gpus)], rows)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Prints them."""
    measured, simulated = (json.loads((HERE / f"{name}.json").read_text()) for name in ("throughput", "simulation"))
    for table in (throughput(measured), simulation(simulated), weights(simulated)):
        print(table, end="\n\n")


if __name__ == "__main__":
    main()
