"""Whether the machines of a cluster have room for the processes of a run. It knows nothing of Ray."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence

Bundle = dict[str, float]
"""What one process takes of one machine: CPU, GPU."""


def make_bundle(cpus: float, gpus: float) -> Bundle:
    """What a process takes; nothing stands for no GPU."""
    return {"CPU": float(cpus), **({"GPU": float(gpus)} if gpus else {})}


def has_own_gpu(bundle: Bundle) -> bool:
    """Whether a process shares its GPU with no other: two on one cannot be in one group of NCCL's."""
    return bundle.get("GPU", 0.0) >= 1


def check_room(bundles: Sequence[Bundle], ranks: int, nodes: Sequence[Mapping[str, float]]) -> None:
    """Refuses more than the machines have.

    Args:
        bundles: What each process takes: those of the learner, then the workers.
        ranks: How many are of the learner.
        nodes: What each machine has in all.

    Raises:
        ValueError: Says what there is, and what would fit.
    """
    if _fit(bundles, nodes):
        return
    asked = [f"{len(bundles) - ranks} rollout workers of {' and '.join(amounts(bundles[-1]))} each"]
    if ranks:
        asked.insert(0, f"{ranks} ranks of the learner of {' and '.join(amounts(bundles[0]))} each")
    raise ValueError(
        f"[cluster] asks for {' and '.join(asked)}, and the Ray cluster has "
        f"{', '.join(amounts(total(nodes))) or 'no processors'} on {len(nodes)} machines. "
        f"{_fitting(bundles, ranks, nodes)}, or add machines (`ray start --address …`)"
    )


def _fitting(bundles: Sequence[Bundle], ranks: int, nodes: Sequence[Mapping[str, float]]) -> str:
    """What would fit of what does not."""
    learner, worker = bundles[0], bundles[-1]
    for process, bundle in (("worker", worker), ("learner", learner))[: 1 + bool(ranks)]:
        if not _fit([bundle], nodes):
            gpus = ", worker_gpus" if process == "worker" else ""
            return f"No machine has {' and '.join(amounts(bundle))} for one process: lower cluster.{process}_cpus{gpus}"
    if workers := _most(len(bundles) - ranks, lambda count: _fit([learner] * ranks + [worker] * count, nodes)):
        return f"At most cluster.workers = {workers} fit"
    if some := _most(ranks, lambda count: _fit([learner] * count + [worker], nodes)):
        return f"With one worker at most cluster.learner_ranks = {some} fit"
    least = "cluster.worker_cpus, worker_gpus" + (", learner_cpus" if ranks else "")
    return f"Not even {'one rank and ' if ranks else ''}one worker fit: ask for less with {least}"


def _most(count: int, fits: Callable[[int], bool]) -> int:
    """How many fit, fewer than so many; 0 where not even one does."""
    return bisect_left(range(1, count), True, key=lambda some: not fits(some))


def amounts(bundle: Mapping[str, float]) -> list[str]:
    """Processors and GPUs, in words."""
    some = {key: bundle.get(key, 0) for key in ("CPU", "GPU")}
    return [f"{amount:g} {key}s" if amount != 1 else f"1 {key}" for key, amount in some.items() if amount]


def total(bundles: Iterable[Mapping[str, float]]) -> Bundle:
    """The sum of some."""
    bundles = list(bundles)
    return {key: math.fsum(bundle.get(key, 0) for bundle in bundles) for key in ("CPU", "GPU")}


def _fit(bundles: Sequence[Bundle], nodes: Sequence[Mapping[str, float]]) -> bool:
    """Whether there is a place for all: the largest first, each where it leaves the least."""
    free = [dict(node) for node in nodes]
    for bundle in sorted(bundles, key=_size, reverse=True):
        fitting = [node for node in free if all(node.get(key, 0) >= need for key, need in bundle.items())]
        if not fitting:
            return False
        place = min(fitting, key=_size)
        for key, need in bundle.items():
            place[key] -= need
    return True


def _size(amount: Mapping[str, float]) -> tuple[float, float]:
    """GPUs count before processors."""
    return amount.get("GPU", 0), amount.get("CPU", 0)
