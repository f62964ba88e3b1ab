"""Train language models that use tools, with GRPO: environments, reward vectors, trajectories, numbers.

The names below are imported when they are first used, so that ``import grpo_agents`` stays quick and needs no torch.

>>> import gymnasium, grpo_agents
>>> env = gymnasium.make("grpo_agents/ToolMath-v0")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import grpo_agents.envs  # noqa: F401  registers the built-in environments with Gymnasium

if TYPE_CHECKING:
    from grpo_agents.config import Config, load_config
    from grpo_agents.env import AgentEnv, Reply, VectorReward, make_env
    from grpo_agents.evaluation import evaluate
    from grpo_agents.rewards.component import Component, RewardVector, component
    from grpo_agents.rewards.preference import Choices, Simplex
    from grpo_agents.spaces import tool_call
    from grpo_agents.tools import Tool, tool
    from grpo_agents.trainer import resume, train
    from grpo_agents.trajectory import Group, Trajectory

__version__ = "0.1.0"

_HOMES = {
    "config": ("Config", "load_config"),
    "env": ("AgentEnv", "Reply", "VectorReward", "make_env"),
    "evaluation": ("evaluate",),
    "rewards.component": ("Component", "RewardVector", "component"),
    "rewards.preference": ("Choices", "Simplex"),
    "spaces": ("tool_call",),
    "tools": ("Tool", "tool"),
    "trainer": ("resume", "train"),
    "trajectory": ("Group", "Trajectory"),
}
_HOME = {name: f"grpo_agents.{module}" for module, names in _HOMES.items() for name in names}

__all__ = [
    "AgentEnv",
    "Choices",
    "Component",
    "Config",
    "Group",
    "Reply",
    "RewardVector",
    "Simplex",
    "Tool",
    "Trajectory",
    "VectorReward",
    "component",
    "evaluate",
    "load_config",
    "make_env",
    "resume",
    "tool",
    "tool_call",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'grpo_agents' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
