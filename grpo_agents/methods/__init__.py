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
            near = difflib.get_close_matches(name, methods, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"method.name: unknown method {name!r}.{hint} There are: {', '.join(sorted(methods))}")
        chosen = methods[name]
    try:
        return chosen(**settings)
    except ValidationError as error:
        raise ValueError("\n".join(problems(error, chosen, "method"))) from None
