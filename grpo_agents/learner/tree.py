"""Sequences that share prefixes as one tree of unique tokens, laid out depth first.

What follows a token lies right after it, so the tokens that attend to a stretch of the tree are the stretch itself and
one range behind it: attention needs no mask but a few rectangles. See docs/tree.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Tree:
    """Unique tokens, depth first.

    Attributes:
        ids: Token ids, (nodes,).
        depth: How many tokens come before each in its sequence, (nodes,): its position.
        parent: The node before each; −1 where a sequence begins, (nodes,).
        paths: Where the tokens of each sequence stand, in the order in which sequences were given, (tokens,) each.
    """

    ids: np.ndarray
    depth: np.ndarray
    parent: np.ndarray
    paths: list[np.ndarray]

    @classmethod
    def of(cls, sequences: Sequence[np.ndarray]) -> Tree:
        """The tree of some sequences of token ids, one node for each different prefix.

        >>> tree = Tree.of([np.array([7, 8, 1]), np.array([7, 8, 2, 3]), np.array([7, 8])])
        >>> tree.ids.tolist(), tree.depth.tolist()
        ([7, 8, 1, 2, 3], [0, 1, 2, 2, 3])
        >>> [path.tolist() for path in tree.paths]
        [[0, 1, 2], [0, 1, 3, 4], [0, 1]]
        """
        order = sorted(range(len(sequences)), key=lambda index: sort_key(sequences[index]))
        paths: list[np.ndarray] = [np.zeros(0, np.int64)] * len(sequences)
        ids, depth, parent = [], [], []
        nodes, before, path = 0, np.zeros(0, np.int64), np.zeros(0, np.int64)
        for index in order:
            sequence = sequences[index]
            shared = common(before, sequence)
            new = np.arange(nodes, nodes + len(sequence) - shared)
            path = np.concatenate([path[:shared], new])
            ids.append(sequence[shared:])
            depth.append(np.arange(shared, len(sequence)))
            parent.append(np.concatenate([path[shared - 1 : shared] if shared else [-1], new[:-1]])[: len(new)])
            nodes += len(new)
            before, paths[index] = sequence, path
        return cls(np.concatenate(ids).astype(np.int64), np.concatenate(depth), np.concatenate(parent), paths)

    @cached_property
    def ends(self) -> np.ndarray:
        """Where the descendants of each node end, (nodes,): they are what follows it up to there."""
        ends = np.empty(len(self.ids), np.int64)
        for start, stop, end in self.segments:
            ends[start:stop] = end
        return ends

    @cached_property
    def segments(self) -> list[tuple[int, int, int]]:
        """Stretches without a fork, as (start, stop, end): its descendants are the nodes from ``stop`` to ``end``."""
        nodes = len(self.ids)
        children = np.bincount(self.parent[self.parent >= 0], minlength=nodes)
        follows = np.arange(nodes) - 1
        alone = (self.parent == follows) & (children[follows] == 1)  # the first node's parent is none, not the last
        starts = np.flatnonzero(~(alone & (self.parent >= 0)))
        stops = np.append(starts[1:], nodes)
        ends = np.full(len(starts), nodes)
        under: list[int] = []  # the segments above the present one: each ends where one begins that is no deeper
        for index, start in enumerate(starts):
            while under and self.depth[starts[under[-1]]] >= self.depth[start]:
                ends[under.pop()] = start
            under.append(index)
        return list(zip(starts.tolist(), stops.tolist(), ends.tolist(), strict=True))

    def ancestry(self, window: int | None = None) -> np.ndarray:
        """Which node (row) attends to which (column): itself and what is before it, (nodes, nodes).

        Args:
            window: How many tokens back a node sees, itself among them; None is all.
        """
        seen = np.zeros((len(self.ids), len(self.ids)), bool)
        for start, stop, end in self.segments:
            seen[start:stop, start:stop] = np.tri(stop - start, dtype=bool)
            seen[stop:end, start:stop] = True
        return seen if window is None else seen & (self.depth[:, None] - self.depth < window)


def sort_key(sequence: np.ndarray) -> bytes:
    """By what sequences that share a prefix stand side by side, a shorter one before what goes on from it."""
    return sequence.astype(">u4").tobytes()


def common(one: np.ndarray, other: np.ndarray) -> int:
    """How many tokens two sequences begin with alike.

    >>> common(np.array([5, 6, 7]), np.array([5, 6, 8, 7]))
    2
    """
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if len(differ) else length
