"""Numbers from stored trajectories, without a model: rates with intervals, comparisons, Pareto fronts."""

from grpo_agents.evaluation.evaluation import Best, best_of, evaluate, scalar_rewards, worths_of

__all__ = ["Best", "best_of", "evaluate", "scalar_rewards", "worths_of"]
