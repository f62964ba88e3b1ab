"""What every benchmark leaves: a table on the terminal, and the same figures with machine and versions as JSON."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parents[2] / "runs" / "bench"


def record(name: str, title: str, rows: Sequence[dict[str, Any]], packages: Sequence[str] = ()) -> Path:
    """Prints rows as a table and writes ``runs/bench/<name>.json``; gives its path."""
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:,.4g}" for value in row.values()))
    Console(emoji=False).print(table)
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    versions = {package: metadata.version(package) for package in ("grpo-agents", "numpy", *packages)}
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {_processor()}",
        "python": platform.python_version(),
        "versions": versions,
    }
    path.write_text(json.dumps({"title": title, **about, "rows": list(rows)}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}")
    return path


def _processor() -> str:
    for line in (
        Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else ()
    ):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
