"""The criteria that physicians wrote for each conversation of HealthBench, with their points: gold, so only watched."""

from grpo_agents import RewardVector
from grpo_agents.rewards.rubric import rubric

watched = RewardVector([rubric(criteria="rubrics", name="gold_physicians")])
