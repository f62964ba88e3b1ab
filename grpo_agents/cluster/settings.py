"""Where a run computes: ``[cluster]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from grpo_agents.cluster.connection import check_address
from grpo_agents.section import Section


class ClusterConfig(Section):
    """Where a run computes: in this process, or on the machines of a Ray cluster."""

    kind: Literal["local", "ray"] = Field(
        default="local", description="local: in this process (and torchrun's). ray: workers and learner as Ray actors."
    )
    address: str = Field(
        default="auto",
        description="ray: auto, the cluster that this machine belongs to; local, one that the run starts here; or "
        "host:port.",
    )
    workers: int = Field(
        default=2, ge=1, description="ray: rollout workers, each with an engine and environments of its own."
    )
    worker_cpus: int = Field(default=1, ge=1, description="ray: processors of a worker.")
    worker_gpus: float | None = Field(
        default=None, ge=0, description="ray: GPUs of a worker; 1 where not set and the cluster has any."
    )
    worker_memory_gib: float | None = Field(
        default=None, gt=0, description="ray: a worker that has more memory than that is replaced when it is idle."
    )
    learner_ranks: int = Field(default=1, ge=1, description="ray: processes that share the learner, one a GPU.")
    learner_cpus: int = Field(default=1, ge=1, description="ray: processors of each of them.")
    max_staleness: int = Field(
        default=0,
        ge=0,
        description="ray: steps by which the weights that sampled may be older than those that learn. 0: learner and "
        "workers wait for each other. 1 and more sample ahead and take a correction (method.tis).",
    )
    weights: Literal["auto", "store", "collective"] = Field(
        default="auto",
        description="ray: how new weights reach the workers. store: Ray's object store. collective: sent to all at "
        "once, by NCCL or, without GPUs, Gloo; they need room on a worker's GPU. auto: collective on GPUs.",
    )
    restarts: int = Field(
        default=3,
        ge=0,
        description="ray: how often in a row, without a group from it, a worker is replaced; and the learner restored "
        "without a step.",
    )

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, address: str) -> str:
        check_address(address, "cluster.address")
        return address

    @model_validator(mode="after")
    def _says_of_which_kind(self) -> ClusterConfig:
        if self.model_fields_set and "kind" not in self.model_fields_set:
            raise ValueError(
                f"kind is not set, and without it {', '.join(sorted(self.model_fields_set))} would mean nothing: set "
                "cluster.kind = 'ray' (or 'local', to leave the section aside)"
            )
        return self
