"""A million stored trajectories: how long an evaluation and a rescoring take, and how much memory at most.

Each runs as a person would run it, in a process of its own, which is watched with all that it starts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from many_trajectories import generate
from record import FOLDER, record

CHEAP = "cost,tool_calls,length"


def main() -> None:
    """Generates a file, evaluates it, and rescores it with three built-in components."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trajectories", type=int, default=1_000_000)
    count = parser.parse_args().trajectories
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        file, other, out = Path(folder, "some.parquet"), Path(folder, "other.parquet"), Path(folder, "out.parquet")
        for path, seed in ((file, 0), (other, 1)):
            generate(path, count, seed)
        rows = [
            measured(name, count, command)
            for name, command in {
                "evaluate": ["evaluate", file],
                "evaluate --against another": ["evaluate", file, "--against", other],
                "evaluate --by level": ["evaluate", file, "--by", "level"],
                f"rescore, {CHEAP}": ["rescore", file, "--out", out, "--reward", CHEAP],
            }.items()
        ]
        size = file.stat().st_size / 2**20
        record("store", f"{count:,} stored trajectories, {size:,.0f} MiB", rows, ["pyarrow"])


def measured(name: str, count: int, command: Sequence[str | Path]) -> dict[str, str | float]:
    """Runs a command; gives its seconds and the most memory of it and its processes together."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "grpo_agents", *map(str, command)], stdout=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        most = max(most, resident(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{name} failed")
    seconds = time.perf_counter() - began
    return {"command": name, "seconds": seconds, "trajectories a second": count / seconds, "MiB at most": most / 2**20}


def resident(pid: int) -> int:
    """Bytes in memory of a process and those below it (Linux)."""
    total, pids = 0, [pid]
    while pids:
        process = pids.pop()
        try:
            total += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for task in Path(f"/proc/{process}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
    return total


if __name__ == "__main__":
    main()
