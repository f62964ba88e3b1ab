"""What an actor raised, and what Ray says of one that is gone, in words for a person."""

from __future__ import annotations

import re

from ray.exceptions import RayActorError, RayError, RaySystemError, RayTaskError, UnserializableException

REASONS = re.compile(r"exit code:? -?\d+|SIG[A-Z]+|its node has died|running low on memory|`ray.kill`")
"""What is of use of Ray's long reasons."""

GUESSES = "Some common causes"
"""So begins what Ray only supposes."""


def unloadable(error: RayError) -> str:
    """Which machine cannot load the code or what it was sent, why, and what to do; empty where it is not that."""
    if isinstance(error, RayActorError) and error.actor_init_failed:
        reason = str(error).strip().splitlines()[-1]
    elif (
        isinstance(error, RaySystemError) and isinstance(error, RayTaskError) and "No module named" in str(error.cause)
    ):
        reason = str(error.cause).partition("\n")[0]  # in what it was sent
    else:
        return ""
    where = re.search(r"\bip=([^\s,)]+)", str(error))
    return (
        f"the machine {where[1] if where else '(unknown)'} cannot load the code ({reason}). Install grpo-agents with "
        "the same versions on every machine of the cluster"
    )


def reason_of(error: RayError) -> str:
    """What ended an actor, in brackets; empty where Ray does not know."""
    found = REASONS.search(str(error).partition(GUESSES)[0])
    return f" ({found[0]})" if found else ""


def raised(error: RayError) -> Exception | None:
    """What code of an actor raised itself, as it can be raised here; None where it is Ray that has something to say."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(error, UnserializableException) or type(cause) is RayError:  # of a class that does not pickle
        lines = str(error).rstrip().splitlines()
        traced = max((number for number, line in enumerate(lines) if line.startswith(" ")), default=-1)
        return RuntimeError("\n".join(lines[traced + 1 :]))
    if isinstance(error, RayTaskError):
        return cause if isinstance(cause, Exception) else error
    return None
