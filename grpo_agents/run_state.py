"""What of a run moves: what a checkpoint holds, and how a run goes on from it.

Nothing but the weights, the optimiser, the counts of a curriculum and of alarms and, with ``train.overlap``, the batch
that was sampled ahead is state: tasks, preferences and draws follow from the seed and the step, so a run that was
killed goes on from its last checkpoint as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grpo_agents import checkpoint, store
from grpo_agents.alarms import Alarms
from grpo_agents.build import Parts
from grpo_agents.config import Config, flat
from grpo_agents.curriculum import Curriculum
from grpo_agents.learner.learner import Learner
from grpo_agents.learner.saved import MODEL_FOLDER
from grpo_agents.sources import Batch, PolicySource, Source

if TYPE_CHECKING:
    from grpo_agents.cluster.learner import RemoteLearner

AHEAD_FILE = "ahead.parquet"
CURRICULUM_FILE = "curriculum.npy"

MOVABLE = ("run", "train.steps", "cluster.")
"""What a run is free to change when it goes on."""

SCORED = ("rewards.", "preference.", "advantage.gate")
"""What it must not, as evaluations before and after could not be compared."""


class RunState:
    """Saves what moves, and restores it in place.

    Args:
        parts: Of the run.
        learner: Its policy, critic, reference and optimiser are saved.
        source: Its curriculum is saved, where it has one that counts.
        alarms: What they count is saved.
        root: The folder of checkpoints.
        say: Told what a run goes on from.
    """

    def __init__(
        self,
        parts: Parts,
        learner: Learner | RemoteLearner,
        source: Source,
        alarms: Alarms,
        root: Path,
        say: Callable[[str], None],
    ):
        self.parts = parts
        self.config = parts.config.train
        self.learner = learner
        self.source = source
        self.alarms = alarms
        self.root = root
        self.say = say

    def save(self, done: int, ahead: Batch | None) -> None:
        """Writes a checkpoint.

        Args:
            done: How many steps have been done.
            ahead: The batch that was sampled ahead: its weights are gone, and it could not be sampled again.

        Raises:
            NotWritten: It could not be written (disk full …); the earlier ones are untouched.
        """

        def fill(folder: Path) -> None:
            self.learner.save(folder)
            self.parts.chat.tokenizer.save_pretrained(folder / MODEL_FOLDER)
            if (reward_model := self.parts.moving_reward_model) is not None:
                reward_model.save(folder)
            if ahead is not None:
                store.write(folder / AHEAD_FILE, ahead[0], step=done, phase="train", scoring=self.parts.scoring)
            if (counts := self.counts) is not None:
                np.save(folder / CURRICULUM_FILE, counts)

        state = {**self.learner.counts, "alarms": self.alarms.state, "config": _fixed(self.parts.config)}
        if ahead is not None:
            state["ahead"] = ahead[1]
        checkpoint.write(self.root, done, state, fill, self.config.keep)

    def restore(self) -> tuple[int, Batch | None]:
        """Brings back the last checkpoint that is whole.

        Returns:
            How many steps had been done, 0 where there is no such checkpoint; and the batch that was sampled ahead.

        Raises:
            ValueError: It is after more steps than the run is to have, or of a run that was scored in another way.
        """
        found = checkpoint.latest(self.root, self.say)
        if found is None:
            self.say(f"{self.root.parent} has no checkpoint that can be used; starting from the first step")
            return 0, None
        if found.step > self.config.steps:
            raise ValueError(
                f"train.steps is {self.config.steps}, and {found.folder} is after {found.step} steps: set "
                f"train.steps to at least {found.step}, or remove the checkpoints that come too late"
            )
        self._compare(found)
        self.learner.restore(found.folder, found.state)
        self.alarms.restore(found.state.get("alarms", {}))
        if (reward_model := self.parts.moving_reward_model) is not None:
            reward_model.load(found.folder)
        ahead = self._restore_ahead(found)
        self._restore_counts(found)
        self.say(f"going on from {found.folder}, after {found.step} steps")
        return found.step, ahead

    def _compare(self, found: checkpoint.Checkpoint) -> None:
        """Says what the config has that it had not when a checkpoint was written."""
        now = _fixed(self.parts.config)
        before = found.state.get("config", now)  # older checkpoints have none
        changed = [key for key in before | now if before.get(key) != now.get(key)]
        if scored := [key for key in changed if key.startswith(SCORED)]:
            was, new = before.get(scored[0]), now.get(scored[0])
            raise ValueError(
                f"{self.root.parent}: {scored[0]} was {was}, and is {new} now. A run goes on with the rewards that it "
                "began with, as its evaluations could not be compared. Set it back, or begin another run from this "
                "one's model (model.path)"
            )
        if changed:
            said = ", ".join(f"{key} (was {before.get(key)}, is {now.get(key)})" for key in changed)
            self.say(f"the config is not what it was after {found.step} steps: {said}")

    def _restore_ahead(self, found: checkpoint.Checkpoint) -> Batch | None:
        """The batch that was sampled ahead; one of a run that had overlap and has none now is left."""
        file = found.folder / AHEAD_FILE
        if not (self.config.overlap and file.exists()):
            return None
        assert isinstance(self.source, PolicySource)
        groups = store.read_groups(file)
        return groups, self.source.weigh(groups) | found.state.get("ahead", {})

    def _restore_counts(self, found: checkpoint.Checkpoint) -> None:
        """What a curriculum knows of pass rates."""
        if self.counts is None:
            return
        if (file := found.folder / CURRICULUM_FILE).exists():
            self.counts = np.load(file, allow_pickle=False)
        else:
            self.say(f"{found.folder} has no {CURRICULUM_FILE}: nothing is known of pass rates yet")

    @property
    def counts(self) -> np.ndarray | None:
        """What a curriculum has counted; None where there is nothing to count."""
        curriculum = self._curriculum
        return None if curriculum is None or curriculum.state is None else curriculum.state.copy()

    @counts.setter
    def counts(self, counts: np.ndarray | None) -> None:
        if counts is not None and self._curriculum is not None:
            self._curriculum.restore(counts)

    @property
    def _curriculum(self) -> Curriculum | None:
        return self.source.curriculum if isinstance(self.source, PolicySource) else None


def _fixed(config: Config) -> dict[str, Any]:
    """The keys of a config that stay as they are while a run goes on, with their values, as plain JSON."""
    keys = flat(config.model_dump(mode="json"))
    return {key: value for key, value in keys.items() if not key.startswith(MOVABLE)}
