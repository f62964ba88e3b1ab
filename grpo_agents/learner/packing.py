"""Which rows are computed together, and how a decoder takes them: as a tree of prefixes, or padded side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch

from grpo_agents.learner.attention import Ancestry
from grpo_agents.learner.batch import Row
from grpo_agents.learner.tree import Tree, common, sort_key
from grpo_agents.support import Support

Unit = Literal["token", "trajectory", "group"]


@dataclass(frozen=True)
class Pack:
    """Rows as a decoder takes them.

    Attributes:
        arguments: The decoder's.
        places: Where, in its flattened output, the hidden state stands from which each target is predicted, (targets,).
        targets: Their token ids, (targets,); those of several rows after one prefix are one.
        order: Which target each trained token of the rows is, (trained,).
        support: What could have been sampled in place of each target, (targets,).
        tokens: How many the decoder computes.
    """

    arguments: dict[str, Any]
    places: torch.Tensor
    targets: torch.Tensor
    order: torch.Tensor
    support: Support | None
    tokens: int


def as_tree(rows: Sequence[Row], device: torch.device) -> Pack:
    """Rows as a tree: each different prefix is computed once. Last tokens are targets alone, and not computed."""
    tree = Tree.of([row.ids[:-1] for row in rows])
    places = np.concatenate([path[row.trained - 1] for path, row in zip(tree.paths, rows, strict=True)])
    targets = np.concatenate([row.ids[row.trained] for row in rows])
    support = Support.join([(row.support, len(row.trained)) for row in rows])
    order = np.arange(len(targets))
    if support is None:  # else the distributions after one prefix may be cut in different places
        pairs, order = np.unique(np.stack([places, targets]), axis=1, return_inverse=True)
        places, targets = pairs
    arguments = {
        "input_ids": _tensor(tree.ids, device)[None],
        "position_ids": _tensor(tree.depth, device)[None],
        "attention_mask": torch.empty(1, 1, 1, 1, device=device),  # of four dimensions, which no model touches
        "ancestry": Ancestry(tree, device),
    }
    places, targets, order = (_tensor(array, device) for array in (places, targets, order))
    return Pack(arguments, places, targets, order, support, len(tree.ids))


def padded(rows: Sequence[Row], device: torch.device) -> Pack:
    """Rows side by side, padded on the right, where causal attention never looks, so that no mask is needed."""
    width = max(len(row.ids) for row in rows)
    ids = np.zeros((len(rows), width), np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = row.ids
    at = np.concatenate([index * width + row.trained for index, row in enumerate(rows)])
    support = Support.join([(row.support, len(row.trained)) for row in rows])
    places, targets, order = (_tensor(array, device) for array in (at - 1, ids.ravel()[at], np.arange(len(at))))
    return Pack({"input_ids": _tensor(ids, device)}, places, targets, order, support, ids.size)


def _tensor(array: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.int64)).to(device)


def micro_batches(
    rows: Sequence[Row], max_tokens: int, unit: Unit = "token", *, shares: bool = True
) -> Iterator[list[Row]]:
    """Rows in parts of which each computes at most ``max_tokens`` tokens.

    Args:
        rows: The rows.
        max_tokens: The budget.
        unit: Rows of one trajectory, or of one group, stay together.
        shares: Whether a part is a tree, for which rows with common prefixes are put together; else it is padded, and
            they are of like length.

    Raises:
        ValueError: A row, or rows that belong together, beyond the budget; says how many tokens.
    """
    return (_trees if shares else _padded)(_bundles(rows, unit, shares), max_tokens, unit)


def deal(rows: Sequence[Row], max_tokens: int, unit: Unit, ranks: int, *, shares: bool = True) -> list[list[list[Row]]]:
    """The micro-batches of each rank, about as many tokens for each.

    Raises:
        ValueError: As :func:`micro_batches`.
    """
    bundles = _bundles(rows, unit, shares)
    if shares:  # neighbours share most: each rank has a stretch of them
        ends = np.cumsum([0, *(_new_tokens(before, bundle) for before, bundle in pairwise([[], *bundles]))])
        cuts = np.searchsorted(ends[:-1], np.arange(1, ranks) / ranks * ends[-1])  # the first rank has the first
        each = [bundles[start:stop] for start, stop in pairwise([0, *map(int, cuts), len(bundles)])]
    else:
        each = [bundles[rank::ranks] for rank in range(ranks)]
    return [list((_trees if shares else _padded)(own, max_tokens, unit)) for own in each]


def _bundles(rows: Sequence[Row], unit: Unit, shares: bool) -> list[list[Row]]:
    """Rows that belong together: neighbours by their tokens, or the longest first."""
    if unit == "token":
        bundles = [[row] for row in rows]
    else:
        together: dict[int, list[Row]] = {}
        for row in rows:
            together.setdefault(row.trajectory if unit == "trajectory" else row.group, []).append(row)
        bundles = list(together.values())
    if shares:
        bundles = [sorted(bundle, key=lambda row: sort_key(row.ids)) for bundle in bundles]
        return sorted(bundles, key=lambda bundle: sort_key(bundle[0].ids))
    return sorted(bundles, key=lambda bundle: -max(len(row.ids) for row in bundle))


def _trees(bundles: Sequence[list[Row]], max_tokens: int, unit: Unit) -> Iterator[list[Row]]:
    alone = [_new_tokens([], bundle) for bundle in bundles]
    for bundle, tokens in zip(bundles, alone, strict=True):
        _check(bundle, tokens, max_tokens, unit)
    new = [_new_tokens(before, bundle) for before, bundle in pairwise([[], *bundles])]
    for start, stop in cut(alone, new, max_tokens):
        yield [row for bundle in bundles[start:stop] for row in bundle]


def cut(alone: Sequence[int], new: Sequence[int], max_tokens: int) -> list[tuple[int, int]]:
    """Cuts a line of bundles where least is computed twice, and of such ways the one with the fewest parts.

    Args:
        alone: How many tokens each bundle comes to.
        new: How many of these the one before it does not have.
        max_tokens: Of a part; a bundle beyond is a part of its own.

    Returns:
        Where each part starts and stops.

    >>> cut([7, 7, 9, 9], [7, 3, 9, 3], max_tokens=15)  # not after the third, whose beginning the last one shares
    [(0, 2), (2, 4)]
    """
    before = np.cumsum([0, *new])
    twice = np.array(alone) - np.array(new)
    least, starts = np.zeros(len(new) + 1, np.int64), [0]
    for stop in range(1, len(new) + 1):
        first = min(int(np.searchsorted(before, before[stop] - max_tokens)), stop - 1)
        some = slice(first, stop)
        fits = before[stop] - before[some] + twice[some] <= max_tokens
        fits[-1] = True
        ways = np.where(fits, least[some] + twice[some] * len(new) + 1, np.iinfo(np.int64).max)
        least[stop] = ways.min()
        starts.append(first + int(ways.argmin()))
    parts, stop = [], len(new)
    while stop:
        parts.append((starts[stop], stop))
        stop = starts[stop]
    return parts[::-1]


def _padded(bundles: Sequence[list[Row]], max_tokens: int, unit: Unit) -> Iterator[list[Row]]:
    part: list[Row] = []
    for bundle in bundles:
        _check(bundle, _padded_tokens(bundle), max_tokens, unit)
        if part and _padded_tokens([*part, *bundle]) > max_tokens:
            yield part
            part = []
        part = part + bundle
    if part:
        yield part


def _check(bundle: Sequence[Row], tokens: int, max_tokens: int, unit: Unit) -> None:
    if tokens > max_tokens:
        name = bundle[0].name
        whole = f"group {name.partition('.')[0]}" if unit == "group" else f"trajectory {name}"
        what = f"{whole} comes" if len(bundle) == 1 else f"{len(bundle)} rows of {whole}, which belong together, come"
        raise ValueError(
            f"{what} to {tokens} tokens, more than learner.max_tokens = {max_tokens}. "
            "Raise it, or lower rollout.max_tokens."
        )


def _new_tokens(part: Sequence[Row], bundle: Sequence[Row]) -> int:
    """How many nodes sorted rows add to the tree of sorted ones before them, at most."""
    before = [part[-1].ids[:-1]] if part else []
    new = 0
    for row in bundle:
        ids = row.ids[:-1]
        new += len(ids) - max((common(other, ids) for other in before), default=0)
        before = [*before[:1], ids]
    return new


def _padded_tokens(rows: Sequence[Row]) -> int:
    return len(rows) * max(len(row.ids) for row in rows)
