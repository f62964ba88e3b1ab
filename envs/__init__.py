"""The built-in environments, registered with Gymnasium when this package is imported."""

from gymnasium.envs.registration import register

register("grpo_agents/Math-v0", entry_point="grpo_agents.envs.math:MathEnv")
register("grpo_agents/ToolMath-v0", entry_point="grpo_agents.envs.tool_math:ToolMathEnv", max_episode_steps=8)
register("grpo_agents/Orchestra-v0", entry_point="grpo_agents.envs.orchestra:OrchestraEnv", max_episode_steps=6)
register("grpo_agents/LibraryDesk-v0", entry_point="grpo_agents.envs.library_desk:LibraryDeskEnv", max_episode_steps=40)
register("grpo_agents/FreeText-v0", entry_point="grpo_agents.envs.free_text:FreeTextEnv")
register("grpo_agents/Teacher-v0", entry_point="grpo_agents.envs.teacher:TeacherEnv")
