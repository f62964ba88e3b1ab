"""The tables of docs/cluster.md, from throughput.json, simulation.json and soak.json and nothing else.

python examples/cluster/tables.py
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
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


def faults(soak: dict[str, Any]) -> str:
    """How often each fault came, how often the run was whole again, and how long that took."""
    kinds = sorted({fault["kind"] for fault in soak["faults"]})
    took = {kind: [fault["recovered"] for fault in soak["faults"] if fault["kind"] == kind] for kind in kinds}
    back = {kind: [seconds for seconds in took[kind] if seconds is not None] for kind in kinds}
    rows = [
        [
            kind.replace("_", " "),
            f"{len(took[kind])}",
            f"{len(back[kind])}",
            f"{median(back[kind]):.0f} s",
            f"{max(back[kind]):.0f} s",
        ]
        for kind in kinds
    ]
    return markdown(["fault", "times", "recovered", "in the middle", "at most"], rows)


def slopes(soak: dict[str, Any]) -> str:
    """What the longest life of each process had, and how it changed by the hour."""
    found = {(one["role"], one["what"]): one for one in soak["slopes"]}
    units = {"own": ("MiB", 2**20), "descriptors": ("descriptors", 1), "threads": ("threads", 1)}
    rows = []
    for role in dict.fromkeys(role for role, _ in found):
        row = [role, f"{found[role, 'own']['hours']:.2f}"]
        for what, (_, unit) in units.items():
            one = found[role, what]
            first, last, low, high = (one[name] / unit for name in ("first", "last", "low", "high"))
            row.append(f"{first:.0f} → {last:.0f} ({low:+.1f} … {high:+.1f}, {one['verdict']})")
        rows.append(row)
    return markdown(["longest life", "hours", *(f"{name} (an hour)" for name, _ in units.values())], rows)


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
    names = ("throughput", "simulation", "soak")
    measured, simulated, soak = (json.loads((HERE / f"{name}.json").read_text()) for name in names)
    for table in (throughput(measured), simulation(simulated), weights(simulated), faults(soak), slopes(soak)):
        print(table, end="\n\n")


if __name__ == "__main__":
    main()
