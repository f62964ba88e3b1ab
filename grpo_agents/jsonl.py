"""Trajectories as JSON, one a line: everything that is stored of them, to be read by any tool and back again.

What is not finite is written as Python has it (NaN, Infinity); everything else is JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from grpo_agents import store
from grpo_agents.rescoring.footer import Footer
from grpo_agents.rescoring.new_file import OTHER_PREFERENCE_KEY
from grpo_agents.rescoring.stored_rows import StoredRows, open_rows
from grpo_agents.schema import SCHEMA_VERSION, to_json
from grpo_agents.support import Support
from grpo_agents.trajectory import Sample, Step, ToolRun, Trajectory

VERSION = "grpo_agents"
"""The key of a line that says of which version of the schema it is."""

PLACE = ("run_step", "phase", "group_notes")
"""What a line says of a trajectory beside its own fields."""


def export(paths: str | Path | Iterable[str | Path], out: str | Path) -> int:
    """Writes stored trajectories as JSON, one a line; gives how many.

    Args:
        paths: Files of trajectories, or folders of them.
        out: The new file.

    Raises:
        FileExistsError: It is there already.
        ValueError: A file that cannot be read.
    """
    out, count = Path(out), 0
    if out.exists():
        raise FileExistsError(f"{out} exists; remove it, or choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("wb") as file:
            for path in map(Path, store.files(paths)):
                for record in records(path):
                    file.write(_line(record))
                    count += 1
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def records(path: Path) -> Iterator[dict[str, Any]]:
    """What is written of each trajectory of a file."""
    scoring = store.read_scoring(path)
    footer = Footer(path)
    about: dict[str, Any] = {"scoring": None if scoring is None else scoring.as_dict()}
    if OTHER_PREFERENCE_KEY in footer.notes:
        about["other_preference"] = True
    for group in footer.row_groups:
        with open_rows(path, footer.of_row_groups([group])) as file:
            rows = StoredRows(file)
            places = zip(*(rows.column(name).to_pylist() for name in PLACE), strict=True)
            for trajectory, (step, phase, notes) in zip(rows.trajectories, places, strict=True):
                place = {"run_step": step, "phase": phase, "group_notes": None if notes is None else json.loads(notes)}
                yield {VERSION: SCHEMA_VERSION, **place, **to_record(trajectory), **about}


def to_record(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory as plain JSON."""
    record = {field.name: getattr(trajectory, field.name) for field in fields(Trajectory)}
    record["steps"] = [
        {field.name: getattr(step, field.name) for field in fields(Step)}
        | {"tools": [asdict(run) for run in step.tools]}
        for step in trajectory.steps
    ]
    record["samples"] = [
        {
            "ids": sample.ids.tolist(),
            "mask": sample.mask.tolist(),
            "logprobs": sample.logprobs.tolist(),
            "shared": sample.shared,
            "support": None
            if sample.support is None
            else {"ids": sample.support.ids.tolist(), "counts": sample.support.counts.tolist()},
        }
        for sample in trajectory.samples
    ]
    return record


def from_record(record: Mapping[str, Any]) -> Trajectory:
    """The trajectory of which :func:`to_record` made a record; what it lacks is as it is where nobody says.

    Raises:
        TypeError: A key that no trajectory has.
        ValueError: A value of another kind.
    """
    given = dict(record)
    given["prompt"] = tuple(given.get("prompt", ()))
    given["steps"] = [_step(step) for step in given.get("steps", ())]
    given["samples"] = [_sample(sample) for sample in given.get("samples", ())]
    return Trajectory(**given)


def _step(record: Mapping[str, Any]) -> Step:
    given = dict(record)
    given["observation"] = tuple(given.get("observation", ()))
    start, stop = given.get("span", (0, 0))
    given["span"] = start, stop
    given["tools"] = [ToolRun(**run) for run in given.get("tools", ())]
    return Step(**given)


def _sample(record: Mapping[str, Any]) -> Sample:
    given = dict(record)
    support = given.pop("support", None)
    arrays = {"ids": np.int32, "mask": np.bool_, "logprobs": np.float32}
    given |= {name: np.array(given[name], dtype) for name, dtype in arrays.items()}
    made = Sample(**given)
    if support is not None:
        made.support = Support(*(np.array(support[name], np.int32) for name in ("ids", "counts")))
    return made


def _line(record: dict[str, Any]) -> bytes:
    try:
        return to_json(record).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, for which UTF-8 has no form
        return json.dumps(record).encode() + b"\n"
