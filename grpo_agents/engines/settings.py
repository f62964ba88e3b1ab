"""The engines' settings. Apart from what they set, so that a config is read without torch or vLLM."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from grpo_agents.credentials import check_address
from grpo_agents.section import Section


class VllmConfig(Section):
    """How vLLM is run, where this run starts it."""

    process: Literal["own", "this"] = Field(
        default="own",
        description="own: in a process of its own, which is restarted when it dies or stalls. this: in the trainer's "
        "process, where nothing can be done about one that hangs.",
    )
    memory: float = Field(default=0.85, gt=0, le=1, description="Share of a GPU's memory that it may take.")
    cpu_cache_gib: int = Field(default=2, ge=1, description="GiB of KV cache, on a CPU.")
    context_length: int | None = Field(
        default=None, ge=2, description="The most tokens of prompt and completion; the model's own where not set."
    )
    eager: bool = Field(default=False, description="Without CUDA graphs: starts sooner, samples slower.")
    sleep: bool = Field(default=True, description="Give GPU memory back while the learner works.")


class ServerConfig(Section):
    """Which server samples, for the backends ``server`` and ``hosted``."""

    url: str | None = Field(default=None, description="Its address up to /v1, as http://localhost:8000/v1.")
    model: str | None = Field(
        default=None, description="What it calls the model; hosted needs it, of a `vllm serve` it is the first listed."
    )
    key_variable: str = Field(default="OPENAI_API_KEY", description="Environment variable that holds the key.")
    command: list[str] = Field(
        default=[], description="Starts the server, and again when it dies or stalls; else it is waited for."
    )
    sync: Literal["file", "nccl", "ipc"] = Field(
        default="file",
        description="How new weights reach it: through sync_folder; NCCL; or CUDA IPC where both share a GPU.",
    )
    sync_folder: str | None = Field(
        default=None, description="For 'file': a folder of this run that both see by one path."
    )
    concurrency: int = Field(default=256, ge=1, description="Requests under way at once.")

    @field_validator("url")
    @classmethod
    def _without_a_secret(cls, url: str | None) -> str | None:
        if url is not None:
            check_address(url, "server.url")
        return url

    @field_validator("key_variable")
    @classmethod
    def _a_name(cls, name: str) -> str:
        if not (name.isascii() and name.isidentifier()):
            raise ValueError(
                "server.key_variable is no name of an environment variable. The key itself does not go into a config: "
                "export it, as OPENAI_API_KEY say, and write that name here"
            )
        return name


class CheckConfig(Section):
    """Whether the engine samples from the policy that is trained."""

    every: int = Field(
        default=50,
        ge=1,
        description="Steps between probes: a few tokens sampled, and log-probs of engine and learner compared. Also "
        "when a run begins or goes on, and before each evaluation.",
    )
    tolerance: float | None = Field(
        default=None,
        gt=0,
        description="Largest difference that a probe may show; 1e-3 in float32 and 0.5 in bfloat16 where not set.",
    )
    mismatch: float = Field(
        default=0.1,
        gt=0,
        description="Stop where the mean over a batch or a probe of |log π of the learner − of the engine|, at equal "
        "weights, is above.",
    )

    def largest_difference(self, dtype: str) -> float:
        """``tolerance``, or what suits a dtype.

        In float32, implementations were seen to differ by some 1e-6, and a thousandth is beyond any rounding. In
        bfloat16, logits of 16 and more are 0.125 apart, so that a few such steps at a single token are rounding: what
        is wrong and smaller than that shows in the mean (``mismatch``).
        """
        return self.tolerance or {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.06}[dtype]


class EngineConfig(Section):
    """What samples tokens."""

    backend: Literal["transformers", "vllm", "server", "hosted"] = Field(
        default="transformers",
        description="transformers: the learner's own model, in lockstep. vllm: started by this run. server: a running "
        "`vllm serve`. hosted: any OpenAI-compatible chat model; for evaluation, as it gives no tokens.",
    )
    max_rows: int = Field(default=512, ge=1, description="Episodes computed together; lower it where memory is short.")
    patience: float = Field(
        default=120.0, gt=0, description="Seconds without any progress after which an engine counts as stalled."
    )
    restarts: int = Field(
        default=3, ge=0, description="How often in a row, without a completion between, it is started again."
    )
    vllm: VllmConfig = Field(default_factory=VllmConfig, description="How vLLM is run.")
    server: ServerConfig = Field(default_factory=ServerConfig, description="Which server.")
    check: CheckConfig = Field(default_factory=CheckConfig, description="Whether it samples from the policy.")


class ChatModelConfig(Section):
    """A model that rewards ask by its name: an anchor, a judge. It is never trained."""

    path: str | None = Field(
        default=None, description="Hub id or folder; the policy as it was before training (model.path) where not set."
    )
    backend: Literal["transformers", "vllm", "hosted"] = Field(
        default="transformers",
        description="transformers: in this process; the policy itself without its adapter, where path is not set and "
        "model.lora is. vllm: started by this run. hosted: any OpenAI-compatible endpoint, a `vllm serve` as well.",
    )
    max_tokens: int = Field(default=1024, ge=1, description="Tokens of an answer, at most.")
    temperature: float = Field(default=1.0, ge=0, description="0 takes the likeliest token.")
    template: str | None = Field(default=None, description="A Jinja file instead of the model's own chat template.")
    options: dict[str, Any] = Field(default={}, description="Handed to the template, as {enable_thinking = false}.")
    vllm: VllmConfig = Field(default_factory=VllmConfig, description="How vLLM is run.")
    server: ServerConfig = Field(default_factory=ServerConfig, description="Which endpoint, for hosted.")
