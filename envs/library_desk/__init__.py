"""A library's desk: a small domain with a database, tasks with checked end states, and a member who talks back."""

from grpo_agents.envs.library_desk.env import LibraryDeskEnv

__all__ = ["LibraryDeskEnv"]
