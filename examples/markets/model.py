"""The tokenizer and the tiny model of the experiment: the demo's, with other texts.

python examples/markets/model.py FOLDER SEED
"""

from __future__ import annotations

import sys
from pathlib import Path

from setting import NAMES, make

from grpo_agents.tasks import load_object

HERE = Path(__file__).parent
DEMO = HERE.parent / "demo" / "tiny_model.py"
WHOLE = [
    "<think>",
    "</think>",
    *("outcome", "cost", "latency"),
    *(f" {name}" for name in NAMES),
    *(f'</think><tool_call>{{"name": "{name}' for name in NAMES),
    '", "arguments": {"expression": "',
    '"}}</tool_call>',
    '", "arguments": {}}</tool_call>',
]
"""Texts that are one token each: a tiny model spends its tokens on what it decides."""


def build(folder: Path, seed: int) -> None:
    """Writes both where ``from_pretrained`` finds them."""
    make_model, train, words = (load_object(f"{DEMO}:{name}") for name in ("make", "train_tokenizer", "WORDS"))
    env = make()
    texts = [f"last of {word}, {word}" for word in words] + list(words)
    texts += [env.reset(seed=number)[0][-1]["content"] for number in range(50)]
    texts += ["outcome", "cost", "latency", "Error: the tool call could not be read"] * 20
    make_model(folder, seed, train(texts, WHOLE, HERE / "chat_template.jinja"))


if __name__ == "__main__":
    build(Path(sys.argv[1]), int(sys.argv[2]))
