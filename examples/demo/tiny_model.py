"""A tokenizer and a Qwen3-shaped model of half a million parameters, made from scratch.

    python examples/demo/tiny_model.py FOLDER

Any config trains it with ``--set model.path=FOLDER``: enough to see an environment of one's own at work.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from grpo_agents.envs.orchestra import OrchestraEnv
from grpo_agents.envs.orchestra.questions import WORDS

TEMPLATE = Path(__file__).with_name("chat_template.jinja")
MARKS = ["<|end|>", "<|tools|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|pad|>"]
PRIORITIES = ("outcome", "cost", "latency")
WHOLE = [
    "<think>",
    *(f"{priority}</think>" for priority in PRIORITIES),
    *(f'{priority}</think><tool_call>{{"name": "' for priority in PRIORITIES),
    '", "arguments": {"expression": "',
    '"}}</tool_call>',
    '", "arguments": {}}</tool_call>',
]
"""Texts that are one token each. A tiny model spends its tokens on what it decides; and as the name of the tool comes
right after what weighs most, the choice needs no attention to be found."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The demo's tokenizer, trained on its environment's own texts."""
    env = OrchestraEnv()
    names = list(env.choices({}))
    texts = [f"last of {word}, {word}" for word in WORDS] + list(WORDS) + [f" {name}" for name in names] + names
    texts += [env.reset(seed=seed)[0][-1]["content"] for seed in range(50)]
    texts += ["outcome", "cost", "latency", "Error: the tool call could not be read"] * 20
    return train_tokenizer(texts, WHOLE, TEMPLATE)


def train_tokenizer(texts: Sequence[str], whole: Sequence[str], template: Path) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which digits and operators stand alone.

    Args:
        texts: What it is trained on.
        whole: Texts that are one token each.
        template: The chat template.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[0-9+*()\-,:]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), min_frequency=1, show_progress=False
    )
    tokenizer.train_from_iterator([*texts] * 5, trainer)
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in whole])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    wrapped.chat_template = template.read_text(encoding="utf-8")
    return wrapped


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """Random weights: width 128, 3 layers, 4 heads."""
    torch.manual_seed(seed)
    vocabulary = tokenizer.get_vocab()
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(vocabulary),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            eos_token_id=vocabulary["<|end|>"],
            pad_token_id=vocabulary["<|pad|>"],
        )
    )


def make(folder: Path, seed: int, tokenizer: PreTrainedTokenizerFast | None = None) -> None:
    """Writes tokenizer, the demo's where none is given, and model where ``from_pretrained`` finds them."""
    tokenizer = tokenizer or make_tokenizer()
    make_model(tokenizer, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Makes it where the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where it is written")
    parser.add_argument("--seed", type=int, default=0, help="of its weights")
    arguments = parser.parse_args()
    folder = arguments.folder
    logging.disable_progress_bar()
    make(folder, arguments.seed)
    print(f"wrote {folder}. Next: grpo-agents train CONFIG --set model.path={folder}")


if __name__ == "__main__":
    main()
