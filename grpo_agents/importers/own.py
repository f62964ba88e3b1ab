"""What ``grpo-agents export`` wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from grpo_agents.importers.dialogue import BadRow, read_messages
from grpo_agents.jsonl import PLACE, VERSION, from_record
from grpo_agents.schema import SCHEMA_VERSION
from grpo_agents.trajectory import Trajectory

NAME = "our own trajectories"

ABOUT = (*PLACE, "scoring", "other_preference")
"""What a line says of the file that its trajectory came from."""


def fits(row: Any) -> bool:
    """Whether a line is one of ours."""
    return isinstance(row, dict) and VERSION in row


def read(row: Any, _about: Mapping[str, Any]) -> Iterator[tuple[Trajectory, str | None]]:
    """The trajectory of a line."""
    if not isinstance(row, dict) or not isinstance(row.get(VERSION), int):
        raise BadRow(f"it has no {VERSION!r}: it is none that `grpo-agents export` wrote")
    if row[VERSION] > SCHEMA_VERSION:
        raise BadRow(
            f"it is of version {row[VERSION]}, and this grpo-agents reads up to {SCHEMA_VERSION}: install a later one"
        )
    try:
        made = from_record({name: value for name, value in row.items() if name not in (VERSION, *ABOUT)})
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise BadRow(f"{error}: write it as `grpo-agents export` does") from error
    for message in made.messages():
        read_messages([message], "user", "its messages")
    yield made, None
