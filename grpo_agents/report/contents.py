"""Conversations for a page: groups as plain data, packed and compressed, to be unpacked one block at a time."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grpo_agents.report.tokens import Vocabulary
from grpo_agents.trajectory import Message, Step, Trajectory

BLOCK = 400_000
"""Letters of JSON from which on a block is closed: large enough to compress well, small enough to open at once."""

THOUSANDTHS = 1000
"""Log-probs and coefficients are whole numbers of thousandths on a page."""


def to_json(value: Any) -> str:
    """JSON that may stand in a script element: in ASCII, and with no ``<`` that could end or open anything.

    Raises:
        ValueError: A number that is not finite.
    """
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def pack(text: str) -> str:
    """A text compressed with gzip, in base64."""
    # level 6 is within 2 % of 9 in size, in a third of the time
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


class Blocks:
    """Packs groups one after the other."""

    def __init__(self) -> None:
        self._packed: list[str] = []
        self._open: list[str] = []
        self._size = 0

    def add(self, group: Mapping[str, Any]) -> tuple[int, int]:
        """Takes a group; gives its block, and its place there."""
        text = to_json(group)
        place = len(self._packed), len(self._open)
        self._open.append(text)
        self._size += len(text)
        if self._size >= BLOCK:
            self._close()
        return place

    def finish(self) -> list[str]:
        """All blocks: each a JSON list of groups, compressed with gzip, in base64."""
        if self._open:
            self._close()
        return self._packed

    def _close(self) -> None:
        self._packed.append(pack(f"[{','.join(self._open)}]"))
        self._open, self._size = [], 0


def group_data(
    trajectories: Sequence[Trajectory],
    vocabulary: Vocabulary,
    lens: Sequence[Mapping[str, Mapping[tuple[int, int], float]]],
    notes: Mapping[str, Any],
) -> dict[str, Any]:
    """A group for the page.

    Args:
        trajectories: Its rollouts, of one task and preference.
        vocabulary: Takes up the tokens that occur.
        lens: The coefficients of each rollout, by method, sample and position; empty where there are none.
        notes: What group rewards left behind.
    """
    first = trajectories[0]
    return {
        "prompt": [message_data(message) for message in first.prompt],
        "task": _text(first.task),
        "tools": [str(schema.get("function", {}).get("name", "?")) for schema in first.tools],
        "preference": list(first.preference.items()),
        "notes": [note_data(name, note) for name, note in notes.items()],
        "rollouts": [
            _rollout(one, first, vocabulary, coefficients) for one, coefficients in zip(trajectories, lens, strict=True)
        ],
    }


def _rollout(
    trajectory: Trajectory,
    first: Trajectory,
    vocabulary: Vocabulary,
    lens: Mapping[str, Mapping[tuple[int, int], float]],
) -> dict[str, Any]:
    rewards = [[name, _finite(value), trajectory.missing.get(name)] for name, value in trajectory.rewards.items()]
    data: dict[str, Any] = {
        "index": trajectory.index,
        "rewards": rewards,
        "advantage": _finite(trajectory.advantage),
        "stop": trajectory.stop_reason,
        "error": trajectory.error,
        "masked": trajectory.masked,
        "seconds": _finite(trajectory.seconds),
        "steps": [_step(step, trajectory, vocabulary, lens) for step in trajectory.steps],
    }
    if trajectory.prompt != first.prompt:
        data["prompt"] = [message_data(message) for message in trajectory.prompt]
    return data


def _step(
    step: Step,
    trajectory: Trajectory,
    vocabulary: Vocabulary,
    lens: Mapping[str, Mapping[tuple[int, int], float]],
) -> dict[str, Any]:
    data: dict[str, Any] = {
        "message": message_data(step.message),
        "observation": [message_data(message) for message in step.observation],
        "rewards": [[name, _finite(value)] for name, value in step.rewards.items()],
        "tools": [[run.name, _finite(run.dollars), _finite(run.latency), run.error] for run in step.tools],
        "finish": step.finish_reason,
        "version": step.version,
        "advantage": _finite(step.advantage),
        "count": step.tokens,
        "dollars": _finite(step.dollars),
    }
    start, stop = step.span
    if stop > start:
        sample = trajectory.samples[step.sample]
        data["tokens"] = vocabulary.numbers(sample.ids[start:stop].tolist())
        logprobs = np.nan_to_num(sample.logprobs[start:stop], neginf=-THOUSANDTHS)
        data["logprobs"] = np.rint(logprobs * THOUSANDTHS).astype(int).tolist()
        places = [(step.sample, place) for place in range(start, stop)]
        data["coefficients"] = [
            [method, [None if (value := values.get(place)) is None else round(value * THOUSANDTHS) for place in places]]
            for method, values in lens.items()
        ]
    return data


def message_data(message: Message) -> dict[str, Any]:
    """A message as a role, a text, and the calls in it; content that is no text is shown as its JSON."""
    data: dict[str, Any] = {"role": _text(message.get("role")), "text": _text(message.get("content"))}
    if thought := message.get("reasoning_content"):
        data["thought"] = _text(thought)
    if name := message.get("name"):
        data["name"] = _text(name)
    if reply := message.get("tool_call_id"):
        data["reply"] = _text(reply)
    if calls := message.get("tool_calls"):
        data["calls"] = [_call(call) for call in calls]
    return data


def note_data(name: str, note: Any) -> dict[str, Any]:
    """A note of a group: of a label what it is and who agrees, of a rubric its criteria and verdicts, else its JSON."""
    keys = note.keys() if isinstance(note, Mapping) else set()
    label, rubric = {"answer", "answers", "agrees"} <= keys, {"criteria", "verdicts"} <= keys
    if not (label or rubric) or not {"text", "rollouts"} <= keys:
        return {"name": name, "text": _text(note)}
    data: dict[str, Any] = {"name": name, "text": _text(note["text"]), "rollouts": note["rollouts"]}
    data["took"] = [[word, note[word]] for word in ("calls", "read", "written") if note.get(word) is not None]
    if label:
        data["answer"], data["gold"] = _text(note["answer"]), note.get("gold")
        data["answers"] = [_text(answer) for answer in note["answers"]]
        data["agrees"] = note["agrees"]
    else:
        data["criteria"] = [[entry["criterion"], entry["points"]] for entry in note["criteria"]]
        data["verdicts"] = note["verdicts"]
    return data


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    arguments = function.get("arguments")
    return {
        "id": _text(call.get("id")),
        "name": _text(function.get("name")),
        "arguments": _text(call.get("text") if arguments is None else arguments),
        "invalid": call.get("invalid"),
    }


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _finite(value: float | None) -> float | None:
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None
