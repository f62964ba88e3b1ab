"""Rewards computed anew for an evaluation, which writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from grpo_agents.evaluation.columns import NONE, Coded
from grpo_agents.evaluation.episodes import Episodes
from grpo_agents.rescoring.footer import Footer
from grpo_agents.rescoring.spans import Scorer, spans_of
from grpo_agents.rescoring.stored_rows import StoredRows, open_rows
from grpo_agents.rewards.component import Component, RewardVector


def with_rewards(episodes: Episodes, vector: RewardVector, given: Mapping[str, Component]) -> Episodes:
    """The same episodes with the rewards of a vector, and no others.

    Args:
        episodes: Read from files, which are read again: only the columns that the components look at.
        vector: What is computed anew; a component without a function is as it is stored, or as the steps give it.
        given: The components that need no function.

    Raises:
        ValueError: A component asks for what is not here, such as a model.
    """
    scorer = Scorer(vector, given, None)
    whole_groups = any(entry.per == "group" for entry in vector)
    values = {name: np.full(len(episodes), np.nan) for name in vector.names}
    codes = {name: np.full(len(episodes), NONE, np.int32) for name in vector.names}
    book: dict[str, int] = {}
    for number, path in enumerate(map(Path, episodes.file.values)):
        ours = np.flatnonzero(episodes.file.codes == number)
        place = dict(zip(episodes.row[ours].tolist(), ours.tolist(), strict=True))  # by row: others were left out
        footer = Footer(path)
        for span in spans_of(footer, path, whole_groups=whole_groups):
            with open_rows(path, footer.of_row_groups(span.groups)) as file:
                rows = StoredRows(file)
                scorer.score(rows)
            for row, trajectory in enumerate(rows.trajectories, span.first):
                if (at := place.get(row)) is None:
                    continue
                for name in vector.names:
                    value = trajectory.rewards[name]
                    if value is None:
                        reason = trajectory.missing.get(name, "no reason given")
                        codes[name][at] = book.setdefault(reason, len(book))
                    else:
                        values[name][at] = value
    missing = {name: Coded(column, list(book)) for name, column in codes.items()}
    return replace(episodes, rewards=values, missing=missing)
