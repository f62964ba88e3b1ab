"""Where Ray puts an environment."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from grpo_agents.section import Section

SECRETS = ("KEY", "TOKEN", "SECRET", "PASSWORD")
"""How names of variables end that no file should hold."""


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

    @field_validator("runtime_env")
    @classmethod
    def _holds_no_secret(cls, runtime_env: dict[str, Any]) -> dict[str, Any]:
        for name in runtime_env.get("env_vars") or ():
            if name.upper().endswith(SECRETS):
                raise ValueError(
                    f"env_vars has {name}, and what a config holds is stored with the run: set it where `ray start` is "
                    "called on the actors' machines"
                )
        return runtime_env
