"""Where Ray puts an environment."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from grpo_agents.section import Section


class Place(Section):
    """What each of Ray's actors is given that environments live in; read where the id begins with ray:."""

    actors: int = Field(default=1, ge=1, description="Processes that the episodes are dealt to.")
    cpus: float = Field(
        default=0.0,
        ge=0,
        description="CPUs that Ray reserves for each; training and evaluation have actors of their own.",
    )
    gpus: float = Field(default=0.0, ge=0, description="GPUs that it reserves for each.")
    resources: dict[str, float] = Field(default={}, description="Resources of your cluster, as {browser = 1}.")
    runtime_env: dict[str, Any] = Field(default={}, description="Ray's own: working_dir, env_vars, pip, conda …")
