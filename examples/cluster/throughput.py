"""Rollouts on 1, 2, 4 … workers of a Ray cluster on this machine: groups a second, what is moved, the driver's work.

The environment waits for a tool most of the time (slow_tool.py), so that workers, and not processors, are what there is
too little of, as long as there are processors left. Writes throughput.json::

    python examples/cluster/throughput.py
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).parent
GROUPS, GROUP_SIZE, THREADS = 24, 8, 8
WORKERS = (1, 2, 4, 8)


def measure(workers: int, model: str) -> dict[str, Any]:
    """One size of a cluster: a warm-up, then two batches."""
    import ray

    from grpo_agents.build import build
    from grpo_agents.config import make_config
    from grpo_agents.engines.weights import Weights
    from grpo_agents.learner.model import load_model

    config = make_config(
        {
            "model": {"path": model, "threads": 1},
            "env": {"id": f"{HERE / 'slow_tool.py'}:SlowTool"},
            "rollout": {"group_size": GROUP_SIZE, "threads": THREADS, "max_turn_tokens": 16, "stop": list("aeinorst ")},
            "cluster": {"kind": "ray", "address": "local", "workers": workers},
        }
    )
    ray.init("local", num_cpus=workers + 1, include_dashboard=False, log_to_driver=False)
    parts = build(config)
    rollout, tasks = parts.rollout()
    policy = load_model(config.model)
    named = {name: value.detach() for name, value in policy.named_parameters()}
    rollout.sample([tasks[number] for number in range(workers)], seed=0)
    update = 0.0
    began, worked = time.perf_counter(), time.process_time()
    groups = []
    for batch in range(2):
        start = time.perf_counter()
        parts.engine.update_weights(Weights(named, batch + 1))
        update += time.perf_counter() - start
        groups += rollout.sample([tasks[number] for number in range(GROUPS)], seed=1 + batch)
    seconds, driver = time.perf_counter() - began, time.process_time() - worked
    parts.close()
    ray.shutdown()
    return {
        "workers": workers,
        "groups_a_second": len(groups) / seconds,
        "at_most": workers * THREADS / (GROUP_SIZE * 3 * 0.5),
        "driver_ms_a_group": 1000 * driver / len(groups),
        "bytes_a_group": sum(len(pickle.dumps(group, protocol=5)) for group in groups) / len(groups),
        "bytes_of_weights": sum(4 * value.numel() for value in named.values()),
        "update_seconds": update / 2,
    }


def main() -> None:
    """Measures every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "throughput.json", help="Where the figures go.")
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with TemporaryDirectory() as folder:
        _make_model(folder)
        rows = [measure(workers, folder) for workers in WORKERS]
    machine = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "machine": platform.machine()}
    machine["groups_a_step"] = GROUPS
    arguments.out.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")
    print(arguments.out.read_text())


def _make_model(folder: str) -> None:
    """The demo's tokenizer and random weights of two layers."""
    import importlib.util
    import sys

    spec = importlib.util.spec_from_file_location("tiny_model", HERE.parent / "demo" / "tiny_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_model"] = module
    spec.loader.exec_module(module)
    module.make(Path(folder), 0)


if __name__ == "__main__":
    main()
