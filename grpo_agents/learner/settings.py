"""The learner's settings. Apart from what they set, so that a config is read without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from grpo_agents.section import Section


class LoraSettings(Section):
    """LoRA through peft: the base model stays as it is, and is the reference policy."""

    rank: int = Field(default=16, ge=1, description="Rank of the adapters.")
    alpha: float = Field(default=32.0, gt=0, description="Their scale is alpha/rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on their input.")
    targets: str | list[str] = Field(default="all-linear", description="Which modules get one.")


class ModelConfig(Section):
    """Which model, and where and how it computes."""

    path: str = Field(description="Hub id or folder of the model and its tokenizer.")
    device: str = Field(default="auto", description="cpu, cuda, cuda:0 …; auto takes the GPU where there is one.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="What learner and engine compute in. Trained weights and optimiser states are float32 in any; "
        "float16 scales the loss, and engine and learner differ less in it than in bfloat16 (arXiv 2510.26788).",
    )
    lora: LoraSettings | None = Field(default=None, description="Train adapters instead of all weights.")
    threads: int | None = Field(default=None, ge=1, description="CPU threads of torch; all cores where not set.")
    trust_remote_code: bool = Field(
        default=False, description="Run code that comes with the model. Only for models you trust."
    )


class OptimizerConfig(Section):
    """How weights are moved."""

    name: Literal["adamw", "adamw8bit", "muon"] = Field(
        default="adamw",
        description="adamw8bit: AdamW of bitsandbytes, whose moments take a quarter of the memory. muon: torch's "
        "Muon on the matrices inside the layers, AdamW on the rest.",
    )
    lr: float = Field(default=1e-6, gt=0, description="Learning rate at its highest.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="How it falls after the warm-up."
    )
    lr_end: float = Field(default=0.0, ge=0, le=1, description="What share of lr it falls to.")
    warmup: int = Field(default=0, ge=0, description="Steps over which it rises from 0.")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="AdamW's.")
    weight_decay: float = Field(default=0.0, ge=0, description="On matrices; never on norms and biases.")
    clip: float = Field(default=1.0, gt=0, description="Largest norm of the whole gradient.")


class LearnerConfig(Section):
    """How a batch becomes an update."""

    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig, description="How weights are moved.")
    updates: int = Field(default=1, ge=1, description="μ: updates on each batch.")
    max_tokens: int = Field(default=16384, ge=1, description="Tokens that one micro-batch computes: bounds the memory.")
    old_logprobs: Literal["engine", "recompute"] = Field(
        default="engine", description="log π_old as the engine returned it, or computed again by the learner."
    )
    gradient_checkpointing: bool = Field(default=False, description="Compute activations again in the backward pass.")


class RewardModelConfig(Section):
    """A trained reward model: the component reward_model, and what it learns from while the policy trains."""

    path: str = Field(description="Hub id or folder of a sequence classifier with one output, or of a base model.")
    max_tokens: int = Field(default=4096, ge=1, description="Longest conversation it is shown.")
    batch: int = Field(default=8, ge=1, description="Conversations computed together; pairs in a batch of training.")
    lr: float = Field(default=1e-5, gt=0, description="Learning rate of its training.")
    retrain_every: int | None = Field(
        default=None, ge=1, description="Train it on new pairs every so many steps (iterative GRPO); never if not set."
    )
    label: str = Field(
        default="outcome", description="The reward component by which the best and the worst of a group make a pair."
    )
    replay: float = Field(default=0.1, ge=0, lt=1, description="Share of older pairs in its training.")
    memory: int = Field(default=4096, ge=1, description="How many older pairs are kept.")
