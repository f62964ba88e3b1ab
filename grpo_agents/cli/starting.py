"""``new`` and ``keys``: what one starts from."""

from __future__ import annotations

import keyword
import sys
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

import grpo_agents

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the file, NAME.py.")]


def new_env(name: Name) -> None:
    """An environment with a tool.

    Example: `grpo-agents new env shop` writes shop.py with the class Shop
    """
    words = name.split("_")
    made = "".join(word[:1].upper() + word[1:] for word in words)
    path = _write("environment", name, {"MyEnvironment": made, "FILE": f"{name}.py:{made}"})
    typer.echo(f"wrote {path}. Next: grpo-agents check {path}:{made}; grpo-agents play {path}:{made}")


def new_reward(name: Name) -> None:
    """A reward component and a vector.

    Example: `grpo-agents new reward brief` writes brief.py with the vector brief.py:vector
    """
    path = _write("reward", name, {"FILE": f"{name}.py"})
    typer.echo(f'wrote {path}. In a config: [rewards] with vector = "{path}:vector"')


def _write(template: str, name: str, names: dict[str, str]) -> Path:
    """Fills a template into NAME.py, which must not exist."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(
            f"{name!r} cannot name a Python module: use letters, digits and _, and no word of Python's own"
        )
    if name in sys.stdlib_module_names:
        raise ValueError(f"Python has a module {name!r} of its own, which {name}.py could hide: choose another name")
    path = Path(f"{name}.py")
    text = (resources.files(grpo_agents) / "templates" / f"{template}.py.txt").read_text(encoding="utf-8")
    for placeholder, value in names.items():
        text = text.replace(placeholder, value)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise FileExistsError(f"{path} exists; choose another name") from None
    return path


def keys(
    section: Annotated[str, typer.Argument(metavar="SECTION", help="As learner, or learner.optimizer; else all.")] = "",
) -> None:
    """List the keys of a config: what each takes, its default, and what it means.

    Example: `grpo-agents keys learner.optimizer`
    """
    from grpo_agents.config import list_keys

    for key in list_keys(section):
        typer.echo(f"{key.name}: {key.type} = {key.default}\n    {key.description}")
