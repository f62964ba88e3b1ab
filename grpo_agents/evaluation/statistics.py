"""What a sample says of the whole: means with intervals, paired comparisons, pass@k, majorities and quantiles.

The rollouts of one task are not independent, so intervals are clustered by task.

>>> interval = mean_interval([1.0, 2.0, 6.0, 3.0])
>>> interval.mean, round(interval.low, 2), round(interval.high, 2)
(3.0, -0.44, 6.44)
>>> round(pass_at_k(4, 1, 2), 3), round(pass_hat_k(4, 3, 2), 3)
(0.5, 0.5)
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import nctdtr, stdtr, stdtrit

from grpo_agents.advantage import equal

POWER = 0.8
"""How often the smallest detectable difference would be found."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and where it may lie; low and high are NaN where they cannot be said (fewer than two clusters).

    Attributes:
        mean: The mean of the values; NaN where there are none.
        low: Lower end.
        high: Upper end.
        count: How many values.
        clusters: How many clusters (tasks) they come from.
    """

    mean: float
    low: float
    high: float
    count: int
    clusters: int


def mean_interval(
    values: Iterable[float], clusters: Iterable[Hashable] | np.ndarray | None = None, level: float = 0.95
) -> Interval:
    """The mean and its t-interval, robust to any dependence within clusters.

    With residual sums u_g = Σ_{i in g} (y_i − ȳ): Var ȳ = G/(G−1) · Σ_g u_g² / n², with G − 1 degrees of freedom (Liang
    and Zeger 1986). Where all values are equal it is a point, which is no sign of certainty.

    Args:
        values: The values.
        clusters: The cluster of each value, quickest as an array of integers; where None each is its own, which gives
            the plain t-interval.
        level: The share of such intervals that hold the true mean.

    Raises:
        ValueError: A value that is no finite number, or not one cluster a value.
    """
    sample = np.asarray(values, np.float64) if isinstance(values, np.ndarray) else np.fromiter(values, np.float64)
    if not np.isfinite(sample).all():
        raise ValueError("a mean of NaN or infinity was asked for: count missing values apart, and leave them out")
    count = len(sample)
    numbers, groups = _numbered(clusters, count)
    if len(numbers) != count:
        raise ValueError(f"{count} values have {len(numbers)} clusters: give one for each value")
    mean = float(sample.mean()) if count else math.nan
    if groups < 2:
        return Interval(mean, math.nan, math.nan, count, groups)
    sums = np.bincount(numbers, sample - mean)  # (clusters,)
    error = math.sqrt(groups / (groups - 1) * float(sums @ sums)) / count
    half = float(stdtrit(groups - 1, 0.5 + level / 2)) * error
    return Interval(mean, mean - half, mean + half, count, groups)


def _numbered(clusters: Iterable[Hashable] | np.ndarray | None, count: int) -> tuple[np.ndarray, int]:
    """The number of each value's cluster, and how many clusters there are."""
    if clusters is None:
        return np.arange(count), count
    if isinstance(clusters, np.ndarray):
        labels, numbers = np.unique(clusters, return_inverse=True)
        return numbers, len(labels)
    known: dict[Hashable, int] = {}
    numbers = np.array([known.setdefault(label, len(known)) for label in clusters], np.int64)
    return numbers, len(known)


def ratio_interval(numerators: np.ndarray, denominators: np.ndarray, clusters: np.ndarray) -> Interval:
    """A ratio of sums, and where it may lie: its error is that of the mean of (a − r·b) / b̄, the linearised ratio.

    Args:
        numerators: a, (values,).
        denominators: b, (values,), with a sum that is not 0.
        clusters: The cluster of each value, (values,), integers.
    """
    ratio = float(numerators.sum() / denominators.sum())
    error = mean_interval((numerators - ratio * denominators) / denominators.mean(), clusters)
    return replace(error, mean=ratio, low=ratio + error.low, high=ratio + error.high)


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired comparison.

    Attributes:
        interval: Of the mean difference over the shared tasks.
        p_value: Of the two-sided paired t-test; NaN where all differences are equal or there is but one.
        detectable: The smallest true difference that this many tasks of this spread would show, with p < 0.05, in
            :data:`POWER` of all such comparisons; NaN where there is no p-value.
        unpaired: How many tasks only one side has; they do not take part.
    """

    interval: Interval
    p_value: float
    detectable: float
    unpaired: int


def paired_difference(a: Mapping[Any, float], b: Mapping[Any, float], level: float = 0.95) -> Difference:
    """How much a is above b on the tasks that both have.

    Args:
        a: One value a task.
        b: The same for the other side.
        level: Of the interval; 1 − level is what p is compared with for the smallest detectable difference.

    Raises:
        ValueError: They share no task.
    """
    shared = [task for task in a if task in b]
    if not shared:
        raise ValueError("the two sides share no task: compare evaluations of the same tasks")
    differences = np.array([a[task] - b[task] for task in shared])  # (tasks,)
    interval = mean_interval(differences, level=level)
    p_value = detectable = math.nan
    if not equal(differences):
        freedom = len(shared) - 1
        error = float(differences.std(ddof=1)) / math.sqrt(len(shared))
        p_value = 2 * float(stdtr(freedom, -abs(interval.mean) / error))
        detectable = error * _noncentrality(freedom, level)
    return Difference(interval, p_value, detectable, len(a.keys() ^ b.keys()))


def _noncentrality(freedom: int, level: float) -> float:
    """How many standard errors a true difference has to be for a t-test to find it in :data:`POWER` of all cases."""
    critical = float(stdtrit(freedom, 0.5 + level / 2))
    low, high = 0.0, 4 * (critical + 4)  # bisection: the power rises with the non-centrality
    for _ in range(60):
        middle = (low + high) / 2
        found = 1 - nctdtr(freedom, middle, critical) + nctdtr(freedom, middle, -critical)
        low, high = (middle, high) if found < POWER else (low, middle)
    return (low + high) / 2


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased chance that one of k rollouts is right: 1 − C(n−c, k) / C(n, k) (Chen et al. 2021, eq. 1).

    Args:
        n: Rollouts of the task.
        c: How many of them were right.
        k: At most n.

    Raises:
        ValueError: Not 1 ≤ k ≤ n, or not 0 ≤ c ≤ n.
    """
    _check("pass@", n, c, k)
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def pass_hat_k(n: int, c: int, k: int) -> float:
    """Unbiased chance that all of k rollouts are right: C(c, k) / C(n, k) (Yao et al. 2024, tau-bench).

    Args:
        n: Rollouts of the task.
        c: How many of them were right.
        k: At most n.

    Raises:
        ValueError: Not 1 ≤ k ≤ n, or not 0 ≤ c ≤ n.
    """
    _check("pass^", n, c, k)
    return math.comb(c, k) / math.comb(n, k)


def _check(name: str, n: int, c: int, k: int) -> None:
    if not (1 <= k <= n and 0 <= c <= n):
        raise ValueError(f"{name}{k} of {n} rollouts with {c} right: sample at least k rollouts a task, k at least 1")


def majority_at_k(answers: Sequence[tuple[int, int]], k: int) -> float:
    """Chance that the commonest answer among k rollouts is right, over all ways to take k of them; ties are drawn for.

    Exact: for each answer and each number j of votes for it, the ways in which no other has more, by how many have as
    many. An answer that was judged both ways counts by the share that was right.

    Args:
        answers: Of each different answer, how many rollouts gave it, and how many of those were right; a rollout
            without an answer is an answer of its own.
        k: At most the number of rollouts.

    Raises:
        ValueError: Not 1 ≤ k ≤ n.
    """
    n = sum(count for count, _ in answers)
    _check("majority@", n, sum(right for _, right in answers), k)
    wins = _wins(tuple(sorted(count for count, _ in answers)), k)
    return sum(right / count * wins[count] for count, right in answers)


@lru_cache(1 << 16)
def _wins(counts: tuple[int, ...], k: int) -> dict[int, float]:
    """How likely an answer is to be the commonest of k rollouts, by how many of all gave it."""
    chances = {}
    for place, count in enumerate(counts):
        if count in chances:
            continue
        others = counts[:place] + counts[place + 1 :]
        ways = 0.0
        for votes in range(1, min(count, k) + 1):
            drawn_for = sum(way / (tied + 1) for tied, way in enumerate(_ways(others, votes, k - votes)))
            ways += math.comb(count, votes) * drawn_for
        chances[count] = ways / math.comb(sum(counts), k)
    return chances


def _ways(counts: Sequence[int], most: int, left: int) -> list[float]:
    """In how many ways ``left`` votes come from these answers, none with more than ``most``; by how many have most."""
    table = {(0, 0): 1.0}  # votes so far and answers with most → ways
    for count in counts:
        grown: dict[tuple[int, int], float] = {}
        for (votes, tied), way in table.items():
            for more in range(min(count, most, left - votes) + 1):
                at = votes + more, tied + (more == most)
                grown[at] = grown.get(at, 0.0) + way * math.comb(count, more)
        table = grown
    found = [0.0] * (len(counts) + 1)
    for (votes, tied), way in table.items():
        if votes == left:
            found[tied] += way
    return found
