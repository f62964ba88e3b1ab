"""What a config is made of: sections that refuse unknown keys, their problems in words, and the list of their keys."""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo


class Section(BaseModel):
    """A table of the file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a config, for people.

    Attributes:
        name: Its whole name, as ``learner.optimizer.lr``.
        type: What it takes.
        default: What it is where it is not set, as TOML has it; or ``required`` or ``not set``.
        description: What it means.
    """

    name: str
    type: str
    default: str
    description: str


def keys_of(section: type[BaseModel], name: str = "") -> Iterator[Key]:
    """Every key of a section and of the sections in it.

    Args:
        section: The section.
        name: What it is called; empty for the whole file.
    """
    for key, field in section.model_fields.items():
        whole = f"{name}.{key}" if name else key
        if named := _section_by_name(field.annotation):
            yield Key(whole, "sections by name", _default(field), field.description or "")
            yield from keys_of(named, f"{whole}.NAME")
            continue
        inner = _section_in(field.annotation)
        if inner is None or field.default is None:
            kind = _type_name(field.annotation) if inner is None else "section"
            yield Key(whole, kind, _default(field), field.description or "")
        if inner is not None:
            yield from keys_of(inner, whole)


def problems(error: ValidationError, section: type[BaseModel], name: str = "") -> list[str]:
    """What is wrong with a section, a line each: the key, what was expected, the nearest key there is.

    Args:
        error: What pydantic found.
        section: What was read.
        name: What the section is called; empty for the whole file.
    """
    return [line for entry in error.errors() for line in _explain(entry, section, name)]


def unknown_key(key: str, known: Sequence[str]) -> str:
    """That there is no such key, and the nearest one there is, or all of them."""
    near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1, cutoff=0.6)
    return f"unknown key {key}. " + (f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}")


def _explain(entry: Any, section: type[BaseModel], name: str) -> Iterator[str]:
    path = [str(part) for part in entry["loc"]]
    key = ".".join([name, *path] if name else path)
    message = entry["msg"].removeprefix("Value error, ")
    fields = _fields_at(section, path[:-1])
    if entry["type"] == "missing":
        field = fields.get(path[-1])
        inner = _section_in(field.annotation) if field else None
        within = [found for found in keys_of(inner, key) if found.default == "required"] if inner else []
        missing = {found.name: found.description for found in within} or {key: field and field.description}
        for whole, description in missing.items():
            yield f"{whole} is missing: {description or 'it has no default'}"
    elif entry["type"] == "extra_forbidden":
        yield unknown_key(key, list(fields))
    elif entry["type"] == "value_error":
        yield from message.splitlines()
    else:
        yield f"{key}: {message} (it is {entry['input']!r:.60})"


def _fields_at(section: type[BaseModel], path: Sequence[str]) -> dict[str, FieldInfo]:
    """The fields of the section at a path within another; empty where the path leads through a list or a table."""
    fields = section.model_fields
    parts = iter(path)
    for part in parts:
        annotation = fields[part].annotation if part in fields else None
        if (inner := _section_by_name(annotation)) and next(parts, None) is None:
            return {}
        inner = inner or _section_in(annotation)
        fields = inner.model_fields if inner else {}
    return fields


def _section_by_name(annotation: Any) -> type[BaseModel] | None:
    """What each section is where a key holds any number of them, each under a name of its own."""
    return _section_in(typing.get_args(annotation)[1]) if typing.get_origin(annotation) is dict else None


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds, also where it may be left out; None where it holds a value."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next((found for entry in typing.get_args(annotation) if (found := _section_in(entry))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _type_name(annotation: Any) -> str:
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(part) for part in parts if part is not types.NoneType)
    if origin is typing.Literal:
        return " or ".join(json.dumps(part) for part in parts)
    if origin in (list, tuple):
        return f"list of {', '.join(_type_name(part) for part in parts)}"
    named = {str: "text", int: "whole number", float: "number", bool: "true or false", dict: "table"}
    return named.get(origin or annotation, str(annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return "not set" if field.default is None else json.dumps(field.default, ensure_ascii=False)
