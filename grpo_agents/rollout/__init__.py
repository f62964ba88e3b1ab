"""Episodes and groups from an engine and environments: see :mod:`grpo_agents.rollout.rollout`."""

from grpo_agents.rollout.orders import Order, Orders
from grpo_agents.rollout.rollout import Rollout
from grpo_agents.rollout.sampler import Sampler
from grpo_agents.rollout.settings import RolloutConfig
from grpo_agents.rollout.truncation import apply_truncation

__all__ = ["Order", "Orders", "Rollout", "RolloutConfig", "Sampler", "apply_truncation"]
