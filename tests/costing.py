"""What tests of the cost model share: tiny models, trajectories, and what torch counts."""

import numpy as np
import torch
from tiny import make_model, sampled
from torch.utils.flop_counter import FlopCounterMode

from grpo_agents.config import make_config
from grpo_agents.learner.learner import Learner
from grpo_agents.learner.model import add_lora
from grpo_agents.learner.settings import (
    LearnerConfig,
    LoraSettings,
    OptimizerConfig,
)
from grpo_agents.methods.grpo import Grpo
from grpo_agents.workload import (
    triangle,
)

SHAPES = {
    "qwen3": {"kind": "qwen3"},
    "llama": {"kind": "llama"},
    "wide heads": {"kind": "qwen3", "head_dim": 24},
    "of five layers": {"kind": "llama", "num_hidden_layers": 5, "intermediate_size": 100, "num_key_value_heads": 4},
}
CLOSE = 0.01
"""How far the operations may be from those that torch counts."""


def model_of(name, lora=False, **settings):
    model = make_model(**{**SHAPES[name], **settings})
    return add_lora(model, LoraSettings(rank=4)) if lora else model


def make_learner(model, method=None, *, optimizer="adamw", **settings):
    config = LearnerConfig(optimizer=OptimizerConfig(name=optimizer, lr=1e-3), **settings)
    return Learner(model, config, method or Grpo(), steps=10)


def ragged(count=6, advantages=None):
    """Trajectories of different lengths and turns."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        turns = [(int(rng.integers(1, 5)), int(rng.integers(1, 4))) for _ in range(rng.integers(1, 4))]
        advantage = float(rng.normal()) if advantages is None else advantages[number]
        found.append(sampled(rng, 97, int(rng.integers(1, 7)), turns, advantage=advantage, index=number))
    return found


def attention(query, key, value, dropout=0.0, causal=False, **_):
    """Operations of the flash kernel for CPUs, of which torch counts none: two products for each key attended."""
    batch, heads, asking, size = query
    pairs = triangle(asking, key[2] - asking) if causal else asking * key[2]
    return int(2 * batch * heads * pairs * (size + value[-1]))


def attention_backward(gradient, query, key, value, output, normaliser, dropout=0.0, causal=False, **_):
    """Its backward pass: the four products of gradients; scores, which the kernel computes again, are left out."""
    return 2 * attention(query, key, value, dropout, causal)


KERNELS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
}


def counted(work):
    """The operations of what is done, as torch counts them."""
    with FlopCounterMode(display=False, custom_mapping=KERNELS) as counter:
        work()
    return counter.get_total_flops()


def config_of(**settings):
    sections = {"model": {"path": "nowhere"}, "env": {"id": "grpo_agents/Math-v0"}}
    for key, value in settings.items():
        section, _, name = key.partition("__")
        if name:
            sections.setdefault(section, {})[name] = value
        else:
            sections[section] = value
    return make_config(sections)
