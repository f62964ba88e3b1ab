"""What each method's step costs by the cost model of ``grpo-agents cost`` (docs/theory.md, section 5).

One config a method, which differ in the method alone: examples/gsm8k.toml, with the shape of Qwen3-0.6B from its
published config, so that nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from grpo_agents.config import load_config
from grpo_agents.cost import TEXTBOOK, Shape, estimate
from grpo_agents.learner.shape import shape_of
from grpo_agents.workload import budgeted

CONFIG = Path(__file__).parents[1] / "gsm8k.toml"
PROMPT = 512
"""Tokens of a prompt, as ``grpo-agents cost`` assumes."""

METHODS: dict[str, tuple[list[str], str]] = {
    "SFT": (["method={name='sft'}", "source={path='dialogues.jsonl'}"], "SFT"),
    "RFT": (["method={name='rft'}"], "RFT"),
    "online RFT": (["method={name='online_rft'}"], "RFT"),
    "DPO": (["method={name='dpo'}", "source={path='pairs.jsonl'}"], "DPO"),
    "PPO": (
        ["method={name='ppo', kl_weight=0.04, value_model='separate'}", "learner.old_logprobs=recompute"],
        "PPO",
    ),
    "GRPO": (["method={name='grpo', kl_weight=0.04}", "learner.old_logprobs=recompute"], "GRPO"),
    "GRPO, β = 0": (["method={name='grpo'}"], "GRPO, β = 0, rules, on-policy"),
}
"""Each method's lines of a config, and its row in the textbook's table."""


def run() -> list[dict[str, Any]]:
    """Of every method, the operations of a step by phase and the bytes of state, both in units of N."""
    shape = qwen3()
    return [of(name, settings, row, shape) for name, (settings, row) in METHODS.items()]


def of(name: str, settings: list[str], row: str, shape: Shape) -> dict[str, Any]:
    """One method's figures."""
    config = load_config(CONFIG, ["learner.gradient_checkpointing=false", *settings])
    found = estimate(config, shape, budgeted(config, shape, prompt=PROMPT, observation=64), prompt=PROMPT)
    tokens, weights = found.workload.tokens, found.parameters
    phases = {phase.name: phase.flops / (weights * tokens) for phase in found.phases if phase.name != "evaluation"}
    state = {part.name: part.bytes / weights for part in found.memory if part.when != "sampling"}
    recipe = TEXTBOOK[row]
    return {
        "method": name,
        "tokens": tokens,
        "weights": weights,
        "flops": phases,
        "bytes": state,
        "textbook_flops": recipe.flops,
        "textbook_bytes": recipe.bytes,
    }


def qwen3() -> Shape:
    """The shape of Qwen3-0.6B."""
    config = Qwen3Config(
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        return shape_of(AutoModelForCausalLM.from_config(config))
