"""Tiny real parts that tests share: the demo's tokenizer, models of two layers, trajectories made by hand."""

import dataclasses
import functools
import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from grpo_agents.methods import Tokens
from grpo_agents.rewards.component import Component, RewardVector
from grpo_agents.trajectory import Group, Sample, Trajectory

REPOSITORY = Path(__file__).parents[1]
DEMO = REPOSITORY / "examples" / "demo"


@functools.cache
def demo_module(name):
    """A file of the demo, as a module."""
    spec = importlib.util.spec_from_file_location(f"demo_{name}", DEMO / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def make_tokenizer():
    return demo_module("tiny_model").make_tokenizer()


def make_model(kind="qwen3", *, vocab=97, seed=0, scale=0.6, **settings):
    """Random weights of width 32, larger than at birth: distributions are then far from uniform.

    ``kind`` is what transformers calls an architecture.
    """
    torch.manual_seed(seed)
    shape = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "tie_word_embeddings": kind == "qwen3",
        "initializer_range": scale / 4,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**shape, **settings})).eval()


def save_start(folder, seed=0, **settings):
    """A folder that ``from_pretrained`` loads: the demo's tokenizer and a tiny model."""
    tokenizer = make_tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = make_model(vocab=len(tokenizer), seed=seed, **{**ends, **settings})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def sampled(rng, vocab, prompt, turns, *, logprobs=None, **fields):
    """A trajectory of one sample: a prompt, then turns of ``(sampled, observed)`` tokens."""
    mask = [False] * prompt
    for said, seen in turns:
        mask += [True] * said + [False] * seen
    mask = np.array(mask)
    ids = rng.integers(0, vocab, len(mask)).astype(np.int32)
    values = rng.normal(-2, 0.5, len(mask)) if logprobs is None else np.full(len(mask), logprobs)
    sample = Sample(ids, mask, np.where(mask, values, 0).astype(np.float32))
    return Trajectory(samples=[sample], **fields)


def forking(rng, vocab, *, groups=4, size=4):
    """Groups of rollouts of one prompt each; some go on from the middle of one before, some say the same again."""
    found = []
    for group in range(groups):
        prompt, own = int(rng.integers(2, 9)), []
        for index in range(size):
            turns = [(int(rng.integers(1, 5)), int(rng.integers(1, 4))) for _ in range(rng.integers(1, 4))]
            own.append(sampled(rng, vocab, prompt, turns, advantage=float(rng.normal()), group=group, index=index))
            if index:
                (sample,), (before,) = own[-1].samples, own[rng.integers(index)].samples
                shared = int(rng.integers(prompt, min(len(sample.ids), len(before.ids)) + 1))
                for name in ("ids", "mask", "logprobs"):
                    getattr(sample, name)[:shared] = getattr(before, name)[:shared]
        found += own
    return found


def group_of(rows, *, preference=None, names=("outcome",), number=0):
    """A group whose trajectories have these reward vectors."""
    preference = preference or {}
    trajectories = [
        Trajectory(
            rewards=dict(zip(names, np.atleast_1d(row).tolist(), strict=True)),
            preference=preference,
            group=number,
            index=index,
        )
        for index, row in enumerate(rows)
    ]
    return Group({}, preference, trajectories)


def vector_of(**directions):
    """A reward vector of components that are given, each with its direction."""
    return RewardVector([Component(name, lambda _: 0.0, direction) for name, direction in directions.items()])


def advantages_of(group):
    return [trajectory.advantage for trajectory in group.trajectories]


def copy_weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def full_logprobs(model, ids, temperature=1.0):
    """log π of every token after the first, from the model's own forward pass, in float64."""
    tokens = torch.tensor([list(map(int, ids))])
    with torch.no_grad():
        logits = model(input_ids=tokens, use_cache=False).logits[0].double() / temperature
    return torch.log_softmax(logits[:-1], -1).gather(-1, tokens[0, 1:, None])[:, 0].numpy()


def plain(value):
    """Everything of a trajectory but measured time, as plain Python."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name != "seconds"}
    if isinstance(value, np.ndarray):
        return value.dtype.name, value.tolist()
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def ragged_tokens(lengths=(3, 1, 5, 2, 4, 3), *, seed=0, group_size=2, dtype=torch.float64, values=False):
    """Trajectories of random log-probabilities, side by side as a method's loss takes them; Â is theirs, or a token's.

    Args:
        lengths: |o| of each.
        seed: Of everything.
        group_size: Trajectories of a group.
        dtype: Of every number.
        values: With a critic's values; Â is then of each token.
    """
    rng = np.random.default_rng(seed)
    count = sum(lengths)

    def normal(around=0.0, spread=1.0):
        return torch.tensor(around + spread * rng.normal(size=count), dtype=dtype)

    def repeated(numbers, dtype=torch.int64):
        return torch.tensor(np.repeat(numbers, lengths), dtype=dtype)

    old = normal(-2.0)
    return Tokens(
        logprobs=(old + normal(0, 0.5)).requires_grad_(True),
        sampler=old,
        old=old,
        reference=old + normal(0, 0.7),
        entropy=normal().abs(),
        advantages=normal() if values else repeated(rng.normal(size=len(lengths)), dtype),
        lengths=repeated(lengths, dtype),
        turn_position=torch.tensor([place for length in lengths for place in range(length)]),
        trajectory=repeated(np.arange(len(lengths))),
        group=repeated(np.arange(len(lengths)) // group_size),
        batch_tokens=count,
        batch_trajectories=len(lengths),
        values=normal().requires_grad_(True) if values else None,
        old_values=normal() if values else None,
        returns=normal() if values else None,
    )


def part_of(tokens, chosen):
    """Those of the tokens that a mask chooses, groups and trajectories numbered anew."""
    taken = {
        field.name: value[chosen]
        for field in dataclasses.fields(Tokens)
        if isinstance(value := getattr(tokens, field.name), torch.Tensor)
    }
    for name in ("trajectory", "group"):
        taken[name] = torch.unique(taken[name], return_inverse=True)[1]
    return dataclasses.replace(tokens, **taken)
