"""What tests ask of sandboxes and of what they answer."""

from dataclasses import replace

import pytest

from grpo_agents.sandbox import Limits

LIMITS = Limits(memory=200 << 20, output=2_000)
HASTY = replace(LIMITS, wall=0.4)


def need(layers, *names):
    """Skips a test where the kernel lacks what contains any of these."""
    lacking = [name for name in names if not layers[name]]
    if lacking:
        pytest.skip(f"the kernel has nothing to contain {lacking}")


def zygote(sandbox):
    """The process of which its workers are forks, by pid."""
    sandbox.run("")
    return sandbox._pool._zygote._pid


def failure(result):
    """The last line of a traceback."""
    return result.stderr.strip().rpartition("\n")[2]
