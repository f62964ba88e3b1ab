"""A trajectory as a row of a table: the columns, and the way there and back.

Lists of structs throughout and no Arrow maps, which ``datasets`` refuses; what is free-form (tasks, tool schemas, the
arguments of a call, the notes of a group) is JSON text. The columns:

- ``run_step`` (the training step, or -1), ``phase`` (train, eval, rollout or frozen), ``group``, ``index``: its place
- ``env``, ``task``, ``seed``, ``preference``, ``prompt``, ``tools``: what was asked
- ``steps``, ``samples``: what was said (``advantage`` is NaN where a turn is not learned from), and which tokens it
  was; ``support`` and ``support_counts`` are those of
  :class:`~grpo_agents.support.Support`, null where nothing was cut
- ``rewards``: the vector; a null value is one that could not be computed, and ``missing`` says why
- ``stop_reason``, ``error``, ``masked``, ``advantage``, ``seconds``: how it went; ``usage``: the ``tokens`` that the
  policy wrote (null in files of versions before 4), and what they and its tools cost
- ``group_notes``: the notes of its group, the same on each of its rows; null where it was written without a group
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from grpo_agents.support import Support
from grpo_agents.trajectory import Message, Sample, Step, ToolRun, Trajectory

SCHEMA_VERSION = 5
"""Raised whenever a reader of the version before would misread the file."""

VERSION_KEY = b"grpo_agents.schema_version"
"""Where a file's metadata says it."""

SCORING_KEY = b"grpo_agents.scoring"
"""Where it says how its trajectories were scored: :class:`grpo_agents.scoring.Scoring` as JSON."""

_ARRAYS = {"ids": np.int32, "mask": np.bool_, "logprobs": np.float32}
_SUPPORT = {"support": "ids", "support_counts": "counts"}  # what its parts are called here; version 2 had none
_TEXT, _INT, _FLOAT, _BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()


def _list_of(**fields: pa.DataType) -> pa.DataType:
    return pa.list_(pa.struct(list(fields.items())))


_CALL_TEXTS = ("id", "type", "invalid", "text")
_MESSAGE_TEXTS = ("role", "content", "reasoning_content", "name", "tool_call_id")
_MESSAGE = {
    **dict.fromkeys(_MESSAGE_TEXTS, _TEXT),
    "tool_calls": _list_of(**dict.fromkeys(_CALL_TEXTS, _TEXT), name=_TEXT, arguments=_TEXT),
    "json": _TEXT,  # the whole message, where the fields before cannot hold it (parts instead of text, unknown keys)
}
_STEP_SCALARS = {
    "finish_reason": _TEXT,
    "sample": _INT,
    "version": _INT,
    "seconds": _FLOAT,
    "tokens": _INT,
    "advantage": _FLOAT,
    "read": _INT,
    "dollars": _FLOAT,
}
_STEP = {
    "message": pa.struct(list(_MESSAGE.items())),
    "observation": _list_of(**_MESSAGE),
    "rewards": _list_of(name=_TEXT, value=_FLOAT),
    "tools": _list_of(name=_TEXT, dollars=_FLOAT, latency=_FLOAT, error=_TEXT, called=_TEXT),
    "start": _INT,
    "stop": _INT,
    **_STEP_SCALARS,
}
_SAMPLE = {
    **{name: pa.list_(pa.from_numpy_dtype(dtype)) for name, dtype in _ARRAYS.items()},
    "shared": _INT,
    **dict.fromkeys(_SUPPORT, pa.list_(pa.int32())),
}
_PLACE = {"group": _INT, "index": _INT, "env": _TEXT, "seed": _INT}
_END = {"stop_reason": _TEXT, "error": _TEXT, "masked": _BOOL, "advantage": _FLOAT, "seconds": _FLOAT}
_SCALARS = (*_PLACE, *_END)

SCHEMA = pa.schema(
    {
        "run_step": _INT,
        "phase": _TEXT,
        **_PLACE,
        "task": _TEXT,
        "preference": _list_of(name=_TEXT, weight=_FLOAT),
        "prompt": _list_of(**_MESSAGE),
        "tools": _TEXT,
        "steps": _list_of(**_STEP),
        "samples": _list_of(**_SAMPLE),
        "rewards": _list_of(name=_TEXT, value=_FLOAT, missing=_TEXT),
        **_END,
        "usage": pa.struct({"tokens": _INT, "calls": _INT, "dollars": _FLOAT, "latency": _FLOAT}),
        "group_notes": _TEXT,
    },
    metadata={VERSION_KEY: str(SCHEMA_VERSION)},
)
"""The columns of schema version :data:`SCHEMA_VERSION`."""


def _texts_of(name: str, kind: pa.DataType) -> list[str]:
    """The paths of a column's texts, as Parquet writes them."""
    if pa.types.is_list(kind):
        return _texts_of(f"{name}.list.element", kind.value_type)
    if pa.types.is_struct(kind):
        return [path for entry in kind for path in _texts_of(f"{name}.{entry.name}", entry.type)]
    return [name] if pa.types.is_string(kind) else []


TEXTS: Any = [path for entry in SCHEMA for path in _texts_of(entry.name, entry.type)]
"""What repeats, and is stored as a dictionary of the different values; token ids and log-probs are larger as one."""

to_json = json.JSONEncoder(ensure_ascii=False).encode
"""A value as JSON text."""


def to_row(trajectory: Trajectory, before: tuple[Trajectory, dict[str, Any]] | None) -> dict[str, Any]:
    """The columns of a trajectory but those that the file gives: run_step, phase and group_notes.

    Args:
        trajectory: The trajectory.
        before: The one before it and its row: what they share, as the rollouts of a group do, is not encoded again.

    Raises:
        ValueError: Something that could not be read back as it is.
        TypeError: A task, tool schema or message that is no plain JSON.
    """
    if unknown := trajectory.missing.keys() - trajectory.rewards.keys():
        raise ValueError(f"`missing` gives a reason for {', '.join(unknown)}, which is not among its rewards")
    usage = trajectory.usage
    row = {name: getattr(trajectory, name) for name in _SCALARS}
    for name in ("task", "tools", "prompt"):
        value = getattr(trajectory, name)
        if before is not None and getattr(before[0], name) == value:
            row[name] = before[1][name]
        elif name == "prompt":
            row[name] = [_message_row(message) for message in value]
        else:
            row[name] = to_json(value)
    row["preference"] = [{"name": name, "weight": weight} for name, weight in trajectory.preference.items()]
    row["steps"] = [_step_row(step) for step in trajectory.steps]
    row["samples"] = [_sample_row(sample) for sample in trajectory.samples]
    missing = trajectory.missing
    row["rewards"] = [
        {"name": name, "value": value, "missing": missing.get(name)} for name, value in trajectory.rewards.items()
    ]
    row["usage"] = {
        "tokens": trajectory.sampled_tokens,
        "calls": usage.calls,
        "dollars": usage.dollars,
        "latency": usage.latency,
    }
    return row


def to_trajectory(row: dict[str, Any], samples: list[Sample]) -> Trajectory:
    """The trajectory of a row and its samples."""
    fields = {name: decode(row[column]) for name, (column, decode) in DECODERS.items()}
    return Trajectory(**{name: row[name] for name in _SCALARS}, **fields, samples=samples)


def _sample_row(sample: Sample) -> dict[str, Any]:
    row: dict[str, Any] = {"shared": sample.shared}
    for name, part in _SUPPORT.items():
        row[name] = None if sample.support is None else getattr(sample.support, part)
    for name, dtype in _ARRAYS.items():
        row[name] = array = getattr(sample, name)
        if array.dtype != dtype:
            raise ValueError(f"Sample.{name} is {array.dtype}, {np.dtype(dtype)} was expected")
    return row


def to_samples(column: pa.ListArray) -> list[list[Sample]]:
    """The samples of each row; arrays are cut from whole columns, since token by token would be slow."""
    columns = column.values
    parts: list[list[Any]] = [_arrays(columns.field(name), dtype) for name, dtype in _ARRAYS.items()]
    parts.append(columns.field("shared").to_pylist())
    supports = zip(*(_arrays(columns.field(name), np.int32) for name in _SUPPORT), strict=True)
    parts.append([Support(ids, counts) if len(counts) else None for ids, counts in supports])
    return _cut([Sample(*entry) for entry in zip(*parts, strict=True)], column.offsets)


def _arrays(column: pa.ListArray, dtype: Any) -> list[np.ndarray]:
    """The array of each list; empty where it is null."""
    # a copy, because Arrow's memory is read-only and torch.from_numpy warns about that
    return _cut(np.array(column.values.to_numpy(zero_copy_only=False), dtype), column.offsets)


def _cut(flat: Any, offsets: pa.Array) -> list[Any]:
    return [flat[start:stop] for start, stop in pairwise(offsets.to_pylist())]


def _step_row(step: Step) -> dict[str, Any]:
    return {
        **{name: getattr(step, name) for name in _STEP_SCALARS},
        "advantage": math.nan if step.advantage is None else step.advantage,
        "start": step.span[0],
        "stop": step.span[1],
        "message": _message_row(step.message),
        "observation": [_message_row(message) for message in step.observation],
        "rewards": [{"name": name, "value": value} for name, value in step.rewards.items()],
        "tools": [
            {name: getattr(run, name) for name in ("name", "dollars", "latency", "error", "called")}
            for run in step.tools
        ],
    }


def _to_step(row: dict[str, Any]) -> Step:
    advantage = row["advantage"] or 0.0  # the first version had none
    return Step(
        **{name: row[name] for name in _STEP_SCALARS if name not in ("dollars", "advantage")},
        advantage=None if math.isnan(advantage) else advantage,
        dollars=row["dollars"] or 0.0,  # versions before 5 had none
        span=(row["start"], row["stop"]),
        message=_to_message(row["message"]),
        observation=tuple(_to_message(message) for message in row["observation"]),
        rewards={entry["name"]: entry["value"] for entry in row["rewards"]},
        tools=[ToolRun(**run) for run in row["tools"]],
    )


def _texts(said: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: text if isinstance(text := said.get(name), str) else None for name in names}


def _message_row(message: Message) -> dict[str, Any]:
    row = _texts(message, _MESSAGE_TEXTS)
    calls = message.get("tool_calls")
    row["tool_calls"] = None if calls is None else [_call_row(call) for call in calls]
    row["json"] = None
    if _to_message(row) != message:
        row["json"] = to_json(message)
    return row


def _to_message(row: dict[str, Any]) -> Message:
    if row["json"] is not None:
        return json.loads(row["json"])
    message = {"role": row["role"], "content": row["content"]}
    message |= {name: row[name] for name in _MESSAGE_TEXTS[2:] if row[name] is not None}
    if row["tool_calls"] is not None:
        message["tool_calls"] = [_to_call(call) for call in row["tool_calls"]]
    return message


def _call_row(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", {})
    arguments = to_json(function.get("arguments"))
    return {**_texts(call, _CALL_TEXTS), **_texts(function, ("name",)), "arguments": arguments}


def _to_call(row: dict[str, Any]) -> dict[str, Any]:
    function = {"name": row["name"], "arguments": json.loads(row["arguments"])}
    marks = {name: row[name] for name in _CALL_TEXTS[2:] if row[name] is not None}
    return {"id": row["id"], "type": row["type"], "function": function, **marks}


DECODERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "task": ("task", json.loads),
    "preference": ("preference", lambda cell: {entry["name"]: entry["weight"] for entry in cell}),
    "prompt": ("prompt", lambda cell: tuple(_to_message(message) for message in cell)),
    "tools": ("tools", json.loads),
    "steps": ("steps", lambda cell: [_to_step(step) for step in cell]),
    "rewards": ("rewards", lambda cell: {entry["name"]: entry["value"] for entry in cell}),
    "missing": (
        "rewards",
        lambda cell: {entry["name"]: entry["missing"] for entry in cell if entry["missing"] is not None},
    ),
}
"""The fields of a trajectory that are not stored as they are: their column, and what makes them of its cells; but
``samples``, which :func:`to_samples` makes of the whole column."""


def to_table(rows: list[dict[str, Any]]) -> pa.Table:
    """The table of complete rows.

    Raises:
        pyarrow.ArrowException: A value does not fit its column.
        OverflowError: An integer is too large for it.
    """
    try:
        return pa.Table.from_pylist(rows, schema=SCHEMA)
    except UnicodeEncodeError:
        return pa.Table.from_pylist(_escaped(rows), schema=SCHEMA)


def _escaped(value: Any) -> Any:
    """The same rows with lone surrogates written out, which inside JSON text is their JSON escape."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {name: _escaped(entry) for name, entry in value.items()}
    return [_escaped(entry) for entry in value] if isinstance(value, list) else value
