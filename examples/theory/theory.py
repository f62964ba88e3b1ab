"""The experiments behind docs/theory.md.

python examples/theory/theory.py                     rebuilds the page's tables and pictures from results/*.json
python examples/theory/theory.py --run 0 1 2 3 4     runs these seeds anew first, all experiments or those of --only

Each experiment takes a minute or two a seed on one core. Pictures need matplotlib, which the extra [train] has.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import costs
import landscapes
import off_policy
import pictures
import practice
import tables
import torch

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DOCS = HERE.parents[1] / "docs"
PAGE = DOCS / "theory.md"

EXPERIMENTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "off_policy": off_policy.run,
    "effective_samples": off_policy.effective_samples,
    "landscapes": landscapes.run,
    "practice": practice.run,
}


def main() -> None:
    """Runs seeds where asked, then writes tables and pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=int, nargs="+", metavar="SEED", default=[], help="seeds to run anew")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), help="these alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in arguments.run:
        for name in arguments.only:
            began = time.perf_counter()
            keep(f"{name}-{seed}", EXPERIMENTS[name](seed))
            print(f"{name}, seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
    if arguments.run:
        keep("costs", costs.run())
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    pictures.draw(read_results(), DOCS / "theory")


def keep(name: str, found: Any) -> None:
    """Writes what came out."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, ensure_ascii=False) + "\n", encoding="utf-8")


def read_results() -> dict[str, Any]:
    """What was kept: of each experiment its seeds in order, and the costs."""
    found: dict[str, Any] = {
        name: sorted(
            (json.loads(file.read_text(encoding="utf-8")) for file in RESULTS.glob(f"{name}-*.json")),
            key=lambda run: run["seed"],
        )
        for name in EXPERIMENTS
    }
    return found | {"costs": json.loads((RESULTS / "costs.json").read_text(encoding="utf-8"))}


def with_tables(page: str) -> str:
    """The page, with what stands between ``<!-- table NAME -->`` and ``<!-- end -->`` made anew of the results."""
    results = read_results()

    def anew(found: re.Match[str]) -> str:
        return f"<!-- table {found[1]} -->\n{tables.TABLES[found[1]](results)}\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", anew, page, flags=re.DOTALL)


if __name__ == "__main__":
    main()
