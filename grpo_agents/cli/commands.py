"""What commands have in common: how their help looks, and arguments that several take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's TOML file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Another value, as learner.optimizer.lr=1e-6.")
]
EnvName = Annotated[
    str, typer.Argument(metavar="ENV", help="A Gymnasium id, module:Class, file.py:Class, http://… or ray:ENV.")
]


def _plain(params: list[Any]) -> list[Any]:
    """Parameters whose help shows no type: a flag takes no value, and an argument's name says what it is."""
    for param in params:
        if isinstance(param, TyperArgument):
            param.display_type_rich = lambda ctx: None
        elif param.is_flag:
            param.metavar = ""
    return params


class Command(TyperCommand):
    """A command whose help shows no types."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its parameters, as they are shown."""
        return _plain(super().get_params(ctx))


class Group(TyperGroup):
    """Commands under one name, whose help shows no types."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its parameters, as they are shown."""
        return _plain(super().get_params(ctx))


def of_runs(files: Sequence[Path]) -> list[Path]:
    """Files and folders as they are, and of a run the folder of its trajectories."""
    return [folder if (folder := file / "trajectories").is_dir() else file for file in files]


def parse_weights(text: str) -> dict[str, float]:
    """The preference that a person writes.

    >>> parse_weights("outcome=1, cost=0.2")
    {'outcome': 1.0, 'cost': 0.2}
    """
    weights = {}
    for part in text.split(","):
        name, equals, weight = part.partition("=")
        try:
            weights[name.strip()] = float(weight)
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise ValueError(f"--preference {text}: write names and weights, as outcome=1,cost=0.2")
    return weights
