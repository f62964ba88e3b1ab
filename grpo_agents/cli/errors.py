"""What was raised for a person to read, as one message on stderr."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from grpo_agents.alarms import LearningStopped
from grpo_agents.cli.commands import Group
from grpo_agents.engines import EngineFailure
from grpo_agents.stopping import Preempted

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

TERMINATED = 143
"""The same after SIGTERM."""

_EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "safetensors", "peft", "datasets", "tensorboard", "matplotlib"), "train"),
    **dict.fromkeys(("openai", "httpx2", "anyio"), "hosted"),
    **dict.fromkeys(("mcp", "jsonschema"), "mcp"),
    **dict.fromkeys(("ray", "psutil"), "ray"),
    "bm25s": "retrieval",
    **dict.fromkeys(("websockets", "starlette", "uvicorn"), "serve"),
}
_PACKAGE = Path(__file__).parents[1]


class Commands(Group):
    """All commands; what they raise for a person to read becomes one message on stderr."""

    def invoke(self, ctx: Any) -> Any:
        """Runs one of them."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            fail(str(stop) or "stopped", TERMINATED if isinstance(stop, Preempted) else INTERRUPTED)
        except BrokenPipeError:  # the reader of a pipe has seen enough
            raise
        except (ValueError, TypeError, OSError, FloatingPointError, LearningStopped, EngineFailure) as error:
            if ctx.params.get("debug"):
                raise
            fail(_message(error))
        except ImportError as error:
            if ctx.params.get("debug") or not (extra := _EXTRAS.get(str(error.name)) or _is_ours(error)):
                raise
            fail(
                f"{error.name} is not installed, and this command needs it: pip install 'grpo-agents[{extra}]'"
                if isinstance(extra, str)
                else str(error)
            )


def _message(error: Exception) -> str:
    """What to say of an error; where this package did not raise it itself, also how to see where it came from."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    if _is_ours(error):
        return text
    return f"{type(error).__name__}: {text}\n(`grpo-agents --debug …` shows where)"


def _is_ours(error: Exception) -> bool:
    """Whether this package raised it itself, in words for a person."""
    return Path(traceback.extract_tb(error.__traceback__)[-1].filename).is_relative_to(_PACKAGE)


def fail(message: str, code: int = 2) -> NoReturn:
    """Says what went wrong, and ends the program."""
    console(stderr=True).print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def console(*, stderr: bool = False) -> Console:
    """Where tables and messages are printed."""
    from rich.console import Console

    return Console(stderr=stderr, emoji=False)  # else Rich takes the :X: of `file.py:X: …` for one
