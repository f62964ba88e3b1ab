"""What the learner's benchmark gives both sides: a model, and groups of trajectories as token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from grpo_agents.trajectory import Sample, Step, Trajectory

Episode = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Ids of the prompt, ids of the rest, and which of the rest were sampled."""

Work = list[list[Episode]]
"""Groups of episodes."""

VOCABULARY = 2048


def small_model(**settings: Any) -> PreTrainedModel:
    """5.2 million random weights in the shape of Qwen2."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "eos_token_id": VOCABULARY - 1,
        "pad_token_id": 0,
    }
    return Qwen2ForCausalLM(Qwen2Config(**{**shape, **settings}))


def large_model() -> PreTrainedModel:
    """494 million random weights in the shape of Qwen2.5 0.5B."""
    return small_model(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, max_position_embeddings=32768,
    )  # fmt: skip


def one_turn(prompt: int, completion: int, groups: int, size: int) -> Work:
    """Groups whose episodes share all but the completion."""
    rng = np.random.default_rng(0)
    return [
        [(shared, _ids(rng, completion), np.ones(completion, bool)) for _ in range(size)]
        for shared in (_ids(rng, prompt) for _ in range(groups))
    ]


def tool_turns(prompt: int, least: int, most: int, groups: int, size: int, turns: int = 4) -> Work:
    """Ragged episodes: a shared prompt, then calls and what tools answer, ``least`` … ``most`` tokens long."""
    rng = np.random.default_rng(0)

    def episode(shared: np.ndarray) -> Episode:
        rest = int(rng.integers(least, most + 1)) - prompt
        ends = np.sort(rng.choice(np.arange(1, rest), 2 * turns - 2, replace=False))
        sampled = np.searchsorted(ends, np.arange(rest), side="right") % 2 == 0  # call, answer, …, the last turn
        return shared, _ids(rng, rest), sampled

    return [[episode(shared) for _ in range(size)] for shared in (_ids(rng, prompt) for _ in range(groups))]


def nothing_shared(least: int, most: int, groups: int, size: int) -> Work:
    """Groups whose episodes have prompts of their own, ``least`` … ``most`` tokens with the completion."""
    rng = np.random.default_rng(0)

    def episode() -> Episode:
        length = int(rng.integers(least, most + 1))
        prompt = int(rng.integers(least // 2, length - least // 4))
        return _ids(rng, prompt), _ids(rng, length - prompt), np.ones(length - prompt, bool)

    return [[episode() for _ in range(size)] for _ in range(groups)]


def _ids(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(2, VOCABULARY - 1, count).astype(np.int32)


WORKS: dict[str, tuple[Callable[[], Work], int]] = {
    "prompt 256, completion 64, 4 × 16": (lambda: one_turn(256, 64, 4, 16), 2048),
    "prompt 1,024, completion 64, 4 × 16": (lambda: one_turn(1024, 64, 4, 16), 2048),
    "4 turns with tools, 600 … 1,500, 4 × 8": (lambda: tool_turns(512, 600, 1500, 4, 8), 5120),
    "nothing shared, 64 … 512, 4 × 16": (lambda: nothing_shared(64, 512, 4, 16), 2048),
}
"""And how many tokens a micro-batch may compute: a group, a little more; TRL computes all groups at once."""

LARGE_WORKS: dict[str, tuple[Callable[[], Work], int]] = {
    "prompt 2,048, completion 256, 4 × 16": (lambda: one_turn(2048, 256, 4, 16), 1 << 14),
    "prompt 8,192, completion 256, 4 × 16": (lambda: one_turn(8192, 256, 4, 16), 1 << 14),
    "4 turns with tools, 2,500 … 6,000, 4 × 8": (lambda: tool_turns(2048, 2500, 6000, 4, 8), 1 << 15),
}


def rewards(work: Work) -> list[list[float]]:
    """A reward for each episode."""
    rng = np.random.default_rng(1)
    return [rng.random(len(group)).tolist() for group in work]


def advantages(work: Work) -> Iterator[float]:
    """(R − mean)/std of each episode in its group, as TRL computes it."""
    for group in rewards(work):
        values = torch.tensor(group)
        yield from ((values - values.mean()) / (values.std() + 1e-4)).tolist()


def trajectories(work: Work) -> list[Trajectory]:
    """The same as the learner takes them, sampled with log-probabilities of 0."""
    found = []
    scaled = advantages(work)
    for number, group in enumerate(work):
        for index, (prompt, rest, sampled) in enumerate(group):
            mask = np.concatenate([np.zeros(len(prompt), bool), sampled])
            sample = Sample(np.concatenate([prompt, rest]), mask, np.zeros(len(mask), np.float32))
            begins = np.flatnonzero(np.diff(mask.astype(int), prepend=0) == 1)
            stops = np.flatnonzero(np.diff(mask.astype(int), append=0) == -1) + 1
            steps = [Step({}, span=(int(start), int(stop))) for start, stop in zip(begins, stops, strict=True)]
            found.append(Trajectory(samples=[sample], steps=steps, group=number, index=index, advantage=next(scaled)))
    return found
