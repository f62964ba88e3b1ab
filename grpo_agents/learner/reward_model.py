"""A reward that was learned: a sequence classifier with one output, trained on pairs (Bradley and Terry)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from grpo_agents.learner.model import load_tensors, resolve_device
from grpo_agents.learner.settings import RewardModelConfig
from grpo_agents.rewards.component import Component
from grpo_agents.sources import as_messages
from grpo_agents.tasks import load_tasks
from grpo_agents.trajectory import Group, Message, Trajectory

Pair = tuple[list[int], list[int]]
"""Token ids of the better conversation and of the worse one."""

WEIGHTS_FILE = "reward_model.safetensors"
PAIRS_FILE = "reward_model_pairs.json"


class RewardModel:
    """Scores conversations, and learns from pairs of them.

    Args:
        config: Which model, and how it learns.
        device: Where it computes; ``auto`` takes the GPU where there is one.
        seed: Of its head, where it has none yet, and of the order of pairs.

    Raises:
        ValueError: It cannot be loaded, or has more than one output; names the path.
    """

    def __init__(self, config: RewardModelConfig, *, device: str = "auto", seed: int = 0):
        self.config = config
        self.seed = seed
        torch.manual_seed(seed)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(config.path, trust_remote_code=False)
            self.model = AutoModelForSequenceClassification.from_pretrained(
                config.path, num_labels=1, dtype=torch.float32, trust_remote_code=False
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"reward_model.path {config.path!r} could not be loaded: {error}") from error
        self.model.to(resolve_device(device)).eval()
        self.model.config.pad_token_id = self.tokenizer.pad_token_id or 0  # the score is that of the last token before
        self._new: list[Pair] = []
        self._old: list[Pair] = []

    def encode(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """The tokens of a conversation, as its own chat template writes it.

        Raises:
            ValueError: It is longer than ``max_tokens``.
        """
        text = self.tokenizer.apply_chat_template(list(messages), tools=list(tools) or None, tokenize=False)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) > self.config.max_tokens:
            raise ValueError(
                f"a conversation of {len(ids)} tokens is longer than reward_model.max_tokens = {self.config.max_tokens}"
            )
        return ids

    def encode_pairs(self, pairs: Sequence[tuple[Trajectory, Trajectory]]) -> list[Pair]:
        """The tokens of better and worse trajectories, without pairs of which one is longer than ``max_tokens``."""
        encoded = [(self._encode_whole(better), self._encode_whole(worse)) for better, worse in pairs]
        return [(better, worse) for better, worse in encoded if isinstance(better, list) and isinstance(worse, list)]

    def score(self, trajectories: Sequence[Trajectory]) -> list[float | ValueError]:
        """What each conversation is worth; of one that is longer than ``max_tokens`` the error that says so."""
        encoded = [self._encode_whole(trajectory) for trajectory in trajectories]
        sequences = [ids for ids in encoded if isinstance(ids, list)]
        size = self.config.batch
        with torch.no_grad():
            parts = [self.forward(sequences[start : start + size]) for start in range(0, len(sequences), size)]
        scores = iter([score for part in parts for score in part.tolist()])
        return [next(scores) if isinstance(ids, list) else ids for ids in encoded]

    def _encode_whole(self, trajectory: Trajectory) -> list[int] | ValueError:
        try:
            return self.encode(trajectory.messages(), trajectory.tools)
        except ValueError as error:
            return error

    def forward(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        """The score of each sequence, with a gradient, (sequences,)."""
        width = max(map(len, sequences))
        ids = torch.full((len(sequences), width), int(self.model.config.pad_token_id))
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        base = getattr(self.model, self.model.base_model_prefix)
        hidden = base(ids.to(self.model.device), attention_mask=mask.to(self.model.device)).last_hidden_state
        last = mask.sum(1).to(self.model.device) - 1  # (sequences,)
        return self.model.score(hidden[torch.arange(len(sequences), device=last.device), last])[:, 0].float()

    # Learning

    def observe(self, groups: Sequence[Group], vector: Iterable[Component]) -> dict[str, float]:
        """Notes a pair of each group: its best against its worst by ``label``; none where they are equal.

        Returns:
            ``reward_model/too_long``: how many pairs are left out, as one is longer than ``max_tokens``.
        """
        pairs = best_and_worst(groups, self.config.label, vector)
        noted = self.encode_pairs(pairs)
        self._new += noted
        return {"reward_model/too_long": float(len(pairs) - len(noted))}

    def learn(self, pairs: Sequence[Pair] = ()) -> dict[str, float]:
        """One pass over what was noted and the pairs given, older ones among them; −log σ(r_better − r_worse).

        Returns:
            Figures: ``loss`` and ``accuracy`` (pairs ordered rightly), both before each update, and ``pairs``.
        """
        new = [*self._new, *pairs]
        if not new:
            return {"reward_model/pairs": 0.0}
        rng = np.random.default_rng([self.seed, len(self._old), len(new)])
        share = self.config.replay
        wanted = min(len(self._old), round(len(new) * share / (1 - share)))
        replayed = [self._old[index] for index in rng.permutation(len(self._old))[:wanted]]
        mixed = [*new, *replayed]
        order = rng.permutation(len(mixed))
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.config.lr, weight_decay=0.0)
        losses, right = 0.0, 0
        for start in range(0, len(order), self.config.batch):
            some = [mixed[index] for index in order[start : start + self.config.batch]]
            scores = self.forward([ids for pair in some for ids in pair]).reshape(-1, 2)  # (pairs, 2)
            margins = scores[:, 0] - scores[:, 1]
            loss = -logsigmoid(margins).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses += float(loss.detach()) * len(some)
            right += int((margins > 0).sum())
        self._old = [*self._old, *new][-self.config.memory :]
        self._new = []
        count = len(mixed)
        return {
            "reward_model/loss": losses / count,
            "reward_model/accuracy": right / count,
            "reward_model/pairs": float(count),
        }

    # What is kept

    def save(self, folder: Path) -> None:
        """Its weights and pairs, into a checkpoint."""
        save_file({name: value.contiguous() for name, value in self.model.state_dict().items()}, folder / WEIGHTS_FILE)
        (folder / PAIRS_FILE).write_text(json.dumps({"new": self._new, "old": self._old}), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Takes over what :meth:`save` wrote."""
        self.model.load_state_dict(load_tensors(folder / WEIGHTS_FILE))
        pairs = json.loads((folder / PAIRS_FILE).read_text(encoding="utf-8"))
        self._new, self._old = ([(better, worse) for better, worse in pairs[name]] for name in ("new", "old"))

    def save_pretrained(self, folder: Path) -> None:
        """For ``from_pretrained``, and for ``reward_model.path``."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def best_and_worst(
    groups: Sequence[Group], label: str, vector: Iterable[Component]
) -> list[tuple[Trajectory, Trajectory]]:
    """The best and the worst trajectory of every group by a reward component, where they differ in it.

    Args:
        groups: Scored.
        label: The component.
        vector: Says whether more of it is better, or less; more, where it is not among these.

    Raises:
        ValueError: No trajectory has that component.
    """
    pairs = []
    sign = -1.0 if any(entry.name == label and entry.direction == "min" for entry in vector) else 1.0
    for group in groups:
        known = [
            (sign * value, entry) for entry in group.trajectories if (value := entry.rewards.get(label)) is not None
        ]
        if not known and group.trajectories and label not in group.trajectories[0].rewards:
            names = ", ".join(group.trajectories[0].rewards)
            raise ValueError(f"reward_model.label is {label!r}, which is not among the rewards: {names}")
        values = [value for value, _ in known]
        if values and min(values) < max(values):
            pairs.append((known[int(np.argmax(values))][1], known[int(np.argmin(values))][1]))
    return pairs


def read_pairs(reward_model: RewardModel, source: str) -> list[Pair]:
    """The pairs of a data source: dicts with ``prompt``, ``chosen``, ``rejected``, and ``tools`` where it has them.

    Raises:
        ValueError: One that lacks a part, or a source without an end; says which.
    """
    rows = load_tasks(source)
    if rows.count is None:
        raise ValueError(f"{source} makes pairs without end, and training wants a number of them: name a file")
    found = []
    for number in range(rows.count):
        row = rows[number]
        try:
            better, worse = (
                reward_model.encode(
                    [*as_messages(row["prompt"], "user"), *as_messages(row[name], "assistant")], row.get("tools") or ()
                )
                for name in ("chosen", "rejected")
            )
        except (KeyError, ValueError) as error:
            raise ValueError(f"pair {number} of {source}: {type(error).__name__}: {error}") from error
        found.append((better, worse))
    return found
