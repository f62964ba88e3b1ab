"""Methods: what to learn from, and how strongly each token's log-probability is pushed.

A method is one file here (or one class of a user's own): a data source, and an objective that is a pure function of
per-token log-probabilities. The coefficient on a token is −∂loss/∂log π, which :func:`coefficients` takes by
differentiation.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from grpo_agents.methods.method import Episode, Method, Tokens, coefficients
from grpo_agents.section import problems
from grpo_agents.tasks import load_object

__all__ = ["Episode", "Method", "Tokens", "available", "coefficients", "make_method"]


def available() -> dict[str, type[Method]]:
    """Every method in this folder, by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return {cls.name: cls for cls in _all_of(Method) if cls.__module__.startswith(__name__)}


def _all_of(method: type[Method]) -> Iterator[type[Method]]:
    for cls in method.__subclasses__():
        yield cls
        yield from _all_of(cls)


def make_method(settings: Mapping[str, Any]) -> Method:
    """Makes a method of its settings.

    Args:
        settings: ``name`` (one of :func:`available`, or ``module:Class`` or ``file.py:Class``) and the method's own
            settings.

    Raises:
        ValueError: An unknown name or setting; names the nearest.
    """
    settings = dict(settings)
    name = str(settings.pop("name", "grpo"))
    if ":" in name:
        chosen: type[Method] = load_object(name)
    else:
        methods = available()
        if name not in methods:
            near = difflib.get_close_matches(name.lower(), methods, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"method.name: unknown method {name!r}.{hint} There are: {', '.join(sorted(methods))}")
        chosen = methods[name]
    try:
        return chosen(**settings)
    except ValidationError as error:
        lines = [*problems(error, chosen, "method"), *_settings_of_others(settings, chosen)]
        raise ValueError("\n".join(lines)) from None


def _settings_of_others(settings: Mapping[str, Any], chosen: type[Method]) -> Iterator[str]:
    """Which methods have the settings that the chosen one lacks, a line each."""
    for key in sorted(settings.keys() - chosen.model_fields.keys()):
        owners = [
            name for name, cls in sorted(available().items()) if key in cls.model_fields.keys() & cls.__annotations__
        ]
        if owners:
            yield f"{key} is a setting of {', '.join(owners)}, not of {chosen.name}"
