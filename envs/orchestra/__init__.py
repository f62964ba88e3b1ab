"""Tools of any kind, offered as markets offer them, to be chosen among as this user prefers."""

from grpo_agents.envs.orchestra.market import Market
from grpo_agents.envs.orchestra.orchestra import OrchestraEnv
from grpo_agents.envs.orchestra.simulated import simulated_model

__all__ = ["Market", "OrchestraEnv", "simulated_model"]
